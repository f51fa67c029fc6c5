//! The cost of an operation does not depend on the number of instances.

use super::*;

#[test]
fn no_statement_of_an_up_or_a_down_scans_a_table() {
    let mut store = Store::in_memory().unwrap();
    let tx = store.transaction().unwrap();
    for number in 0..10_000 {
        let name = format!("f{number}");
        let record = tx.put(&function(&name, &[&format!("tcp {}", 1000 + number)]), CAPACITY);
        set_phase(&tx, record.unwrap().workload.name().as_str(), Phase::Up).unwrap();
    }
    tx.commit().unwrap();
    for statement in [
        sql::GET,
        sql::HOLDER,
        sql::HOLDS,
        sql::UNSETTLED,
        sql::PUT,
        sql::SET_PHASE,
        sql::FORGET,
        sql::FORGET_MANIFEST,
        sql::MANIFEST,
        sql::RECORDED,
        sql::LOWEST_FREE,
        sql::LOWEST_READY,
        sql::HIGHEST,
        sql::STATE,
        sql::RESERVED,
        sql::SET_RESERVED,
        sql::CHANGE_RESERVED,
        sql::CLASH,
        sql::TAKE_PORT,
        sql::RELEASE_PORTS,
        sql::ANNOUNCE,
        sql::PRUNE_CHANGES,
        sql::CHANGES,
        &runs::one(),
        runs::SUPERVISED,
    ] {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let mut query = store.connection.prepare(&explain).unwrap();
        let count = query.parameter_count();
        let rows = query.query_map(rusqlite::params_from_iter(vec![0; count]), |row| row.get(3));
        let steps: Vec<String> = rows.unwrap().collect::<Result<_, _>>().unwrap();
        let scans = steps.iter().filter(|step| step.contains("SCAN"));
        let scans: Vec<_> = scans.collect();
        assert!(scans.is_empty(), "{statement}: {scans:?}");
        assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{statement}: {steps:?}");
    }
}

#[test]
fn the_cost_of_up_and_down_does_not_depend_on_the_number_of_instances() {
    let supervisor = "10@100".parse().unwrap();
    let costs = [10, 10_000].map(|count| {
        let mut store = Store::in_memory().unwrap();
        let tx = store.transaction().unwrap();
        for number in 0..count {
            let text = format!("f{number}");
            tx.put(&function(&text, &[&format!("tcp {}", 1000 + number)]), CAPACITY).unwrap();
            set_phase(&tx, &text, Phase::Up).unwrap();
            tx.begin_run(&name(&text), "qemu", supervisor, 5_000).unwrap();
        }
        for number in 0..count {
            let slot = u16::try_from(count + number).unwrap();
            tx.set_reserved(Slot::new(slot), ReservedSlot::ALL[number % 3]).unwrap();
        }
        tx.commit().unwrap();
        let (steps, ()) = store.steps(|store| {
            let tx = store.transaction().unwrap();
            assert_eq!(tx.unsettled().unwrap(), Records::default());
            assert_eq!(tx.run(&name("new")).unwrap(), None);
            let record = tx.put(&function("new", &["tcp 500-509"]), 2 * CAPACITY).unwrap();
            let up = tx.set_phase(&record, Phase::Up).unwrap();
            assert_eq!(tx.unsettled().unwrap(), Records::default());
            assert_eq!(tx.get(&name("new")).unwrap(), up);
            let leaving = tx.set_phase(&up.unwrap(), Phase::Removing).unwrap().unwrap();
            assert!(tx.drain(&leaving).unwrap());
            tx.commit().unwrap();
        });
        steps
    });
    assert_eq!(costs[0], costs[1]);
}

#[test]
fn the_cost_of_an_up_again_grows_no_faster_than_the_number_of_single_ports() {
    let costs = [500, 4_000].map(|count| {
        let mut store = Store::in_memory().unwrap();
        let ports: Vec<_> =
            (0..count).map(|number| format!("tcp {}", 1_000 + 2 * number)).collect();
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        let many = [function("many", &ports)];
        let up = |store: &mut Store| {
            let tx = store.transaction().unwrap();
            tx.put_all(&many, CAPACITY).unwrap();
            set_phase(&tx, "many", Phase::Up).unwrap();
            tx.commit().unwrap();
        };
        up(&mut store);
        store.steps(up).0
    });
    assert!(costs[1] < 9 * costs[0], "{costs:?}");
}

/// Counts the pages that a daemon's operations write while a thousand functions are up and 64 slots are ready.
#[test]
fn an_operation_writes_few_pages() {
    let dir = Dir::new();
    let mut store = Store::open(&dir.0).unwrap();
    store.stay_open().unwrap();
    let tx = store.transaction().unwrap();
    for number in 0..1_000 {
        let text = format!("f{number}");
        tx.put(&function(&text, &[&format!("tcp {}", 10_000 + number)]), CAPACITY).unwrap();
        set_phase(&tx, &text, Phase::Up).unwrap();
    }
    for slot in tx.reserve(64, CAPACITY, |_| false).unwrap() {
        tx.set_ready(slot).unwrap();
    }
    tx.commit().unwrap();
    let frames = |store: &Store| -> i64 {
        let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
        store.connection.query_row(checkpoint, [], |row| row.get(1)).unwrap()
    };
    let truncate = |store: &Store| {
        store.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    // Each operation also records the outcome that the one before it deferred.
    let mut deferred: Option<Record> = None;
    let mut up = |number| {
        truncate(&store);
        let tx = store.transaction().unwrap();
        if let Some(before) = deferred.take() {
            tx.set_phase(&before, Phase::Up).unwrap();
        }
        let (name, port) = (format!("new{number}"), format!("tcp {}", 20_000 + number));
        deferred = Some(tx.put(&function(&name, &[&port]), CAPACITY).unwrap());
        tx.commit().unwrap();
        frames(&store)
    };
    let ups: Vec<_> = (0..20).map(&mut up).collect();
    let mut deferred: Option<Record> = None;
    let mut down = |number| {
        truncate(&store);
        let tx = store.transaction().unwrap();
        if let Some(before) = deferred.take() {
            tx.drain(&before).unwrap();
        }
        deferred = set_phase(&tx, &format!("new{number}"), Phase::Removing);
        tx.commit().unwrap();
        frames(&store)
    };
    let downs: Vec<_> = (0..20).map(&mut down).collect();
    let median = |mut pages: Vec<i64>| {
        pages.sort_unstable();
        pages[pages.len() / 2]
    };
    // The pages of the slot, of the index of names, of the index of slots that are not up, and of the port.
    assert_eq!((median(ups), median(downs)), (4, 4));
}
