//! The laws with a second kind: `cargo test -p riklet-sdn --features toy-kind kinds`.

use riklet_core::model::{Execution, Exposure, Kind, Protocol, Selector, Workload};
use riklet_core::workload::Toy;
use riklet_sdn::{RebuildOptions, UpOptions};

use crate::{
    name,
    node::{TestNode, function},
    warm::{Turn, assert_sound, take},
};

fn toy(text: &str, port: &str) -> Workload {
    let port = port.parse().unwrap();
    let exposure = Exposure::new(Protocol::Tcp, None, port, port).unwrap();
    let (name, execution) = (name(text), Execution::default());
    Workload::Toy(Toy { name, execution, exposures: vec![exposure] })
}

#[test]
fn instances_of_each_kind_come_are_recovered_and_go() {
    let node = TestNode::new();
    let workloads = [function(0, &[8000]), toy("top", "9000")];
    assert!(node.node().up(&workloads, UpOptions::default()).unwrap().failures.is_empty());
    assert!(node.node().check().unwrap().is_empty());
    let recorded = node.node().list().unwrap();
    let kinds: Vec<_> = recorded.iter().map(|listed| listed.instance.kind()).collect();
    assert_eq!(kinds, [Kind::Function, Kind::Toy]);
    let before = node.state();

    node.corrupt_the_store();
    let rebuilt = node.node().rebuild(RebuildOptions::default()).unwrap();
    assert_eq!(rebuilt.recovered, [name("f0"), name("top")]);
    assert_eq!((node.node().list().unwrap(), node.state()), (recorded, before));

    // A name belongs to one kind, which the definition decides.
    node.node().up(&[toy("f0", "8000")], UpOptions::default()).unwrap();
    assert!(node.node().check().unwrap().is_empty());
    assert!(node.node().list().unwrap().iter().all(|l| l.instance.kind() == Kind::Toy));
    node.node().down(&Selector::All, false).unwrap();
    assert!(node.kernel.system().links.is_empty());
}

#[test]
fn reserved_slots_are_for_the_kinds_that_begin_with_one() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    take(&Turn::Reserve(2), &mut daemon);
    daemon.up(&[toy("top", "9000"), function(1, &[8001])], UpOptions::default()).unwrap();
    let slots = daemon.list().unwrap().into_iter();
    let slots: Vec<_> = slots.map(|listed| listed.instance.slot.number()).collect();
    assert_eq!(slots, [0, 1, 3], "f0, f1 and top: 1 and 2 were reserved");
    assert_sound(&node, &mut daemon);
}
