//! The allocation of slots and ports, compared with a model.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Put(u8, Option<u16>),
    PutAt(u8, u16),
    Remove(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = 0..12_u8;
    prop_oneof![
        3 => (name.clone(), proptest::option::of(1..6_u16)).prop_map(|(n, p)| Operation::Put(n, p)),
        1 => (name.clone(), 0..12_u16).prop_map(|(n, slot)| Operation::PutAt(n, slot)),
        2 => name.prop_map(Operation::Remove),
    ]
}

proptest! {
    /// Checks that the store agrees with a map from names to slots and ports.
    #[test]
    fn allocation_agrees_with_its_model(operations in proptest::collection::vec(operation(), 1..60)) {
        const SLOTS: u32 = 8;
        let mut store = Store::in_memory().unwrap();
        let mut model = BTreeMap::<String, (u16, Option<u16>)>::new();
        for operation in operations {
            let tx = store.transaction().unwrap();
            let taken: BTreeSet<u16> = model.values().map(|&(slot, _)| slot).collect();
            match operation {
                Operation::Put(number, port) => {
                    let name = format!("n{number}");
                    let exposures: Vec<_> = port.iter().map(|port| format!("tcp {port}")).collect();
                    let exposures: Vec<_> = exposures.iter().map(String::as_str).collect();
                    let put = tx.put(&function(&name, &exposures), SLOTS);
                    let lowest = (0..8).find(|slot| !taken.contains(slot));
                    let slot = model.get(&name).map(|&(slot, _)| slot).or(lowest);
                    let holds = |(other, &(_, held)): (&String, &(_, Option<u16>))| {
                        *other != name && held.is_some() && held == port
                    };
                    let clash = model.iter().any(holds);
                    match (slot, clash) {
                        (None, _) => {
                            let exhausted = matches!(put, Err(StoreError::PoolExhausted { .. }));
                            prop_assert!(exhausted);
                        }
                        (_, true) => {
                            let taken = matches!(put, Err(StoreError::PortTaken { .. }));
                            prop_assert!(taken);
                        }
                        (Some(slot), false) => {
                            prop_assert_eq!(put.unwrap().slot, Slot::new(slot));
                            model.insert(name, (slot, port));
                        }
                    }
                }
                Operation::PutAt(number, slot) => {
                    let name = format!("n{number}");
                    let put = tx.put_at(&function(&name, &[]), Slot::new(slot));
                    let held = model.get(&name).map(|&(held, _)| held);
                    let allowed = held.map_or(!taken.contains(&slot), |held| held == slot);
                    prop_assert_eq!(put.is_ok(), allowed);
                    if allowed {
                        model.insert(name, (slot, None));
                    }
                }
                Operation::Remove(number) => {
                    let text = format!("n{number}");
                    let removed = remove(&tx, &text);
                    prop_assert_eq!(removed, model.remove(&text).is_some());
                }
            }
            tx.commit().unwrap();
            let found = store.all().unwrap();
            let found = found.readable.iter().map(|record| {
                let port = record.workload.exposures().first().map(|e| e.host_ports().first());
                (record.workload.name().to_string(), (record.slot.number(), port))
            });
            prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), model.clone());
        }
    }
}
