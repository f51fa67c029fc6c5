//! If the database is removed while a process has it open, its functions and its records stay.

#![expect(clippy::disallowed_methods, reason = "the damage is the test's own")]

use std::{collections::BTreeSet, fs};

use riklet_core::model::{Selector, Slot};
use riklet_kernel::fake::FakeKernel;
use riklet_sdn::{Request, UpOptions, WarmNode};

use crate::node::{TestNode, function};

/// The ways to remove the database.
const REMOVALS: [fn(&TestNode); 4] = [
    |node| fs::remove_file(node.state_dir().join("riklet-sdn.db")).unwrap(),
    |node| {
        for entry in fs::read_dir(node.state_dir()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    },
    |node| fs::remove_dir_all(node.state_dir()).unwrap(),
    // An empty file replaces the database.
    |node| {
        fs::remove_file(node.state_dir().join("riklet-sdn.db")).unwrap();
        fs::write(node.state_dir().join("riklet-sdn.db"), "").unwrap();
    },
];

/// The next operation of the daemon.
const NEXT: [fn(&mut WarmNode<FakeKernel>); 7] = [
    |daemon| drop(daemon.list().unwrap()),
    |daemon| drop(daemon.check().unwrap()),
    |daemon| drop(daemon.counts().unwrap()),
    |daemon| drop(daemon.heal(&[].into()).unwrap()),
    |daemon| drop(daemon.heal(&[Slot::new(0)].into()).unwrap()),
    |daemon| drop(daemon.repair().unwrap()),
    |daemon| daemon.flush().unwrap(),
];

fn up(number: u16) -> Request {
    Request::Up(vec![function(number, &[8000 + number])], UpOptions::default())
}

fn names(node: &TestNode) -> Vec<String> {
    node.node().list().unwrap().iter().map(|l| l.instance.name().to_string()).collect()
}

#[test]
fn removed_records_are_written_again() {
    for (removed, next) in (0..).zip(REMOVALS).flat_map(|r| (0..).zip(NEXT).map(move |n| (r, n))) {
        let ((which, remove), (then, next)) = (removed, next);
        let node = TestNode::new();
        let mut daemon = node.warm();
        daemon.initialize().unwrap();
        daemon.repair().unwrap();
        daemon.apply(&[up(0), up(1)]);
        daemon.apply(&[Request::Down(Selector::Named([function(1, &[]).name().clone()].into()))]);
        let before = node.kernel.system().links.clone();
        remove(&node);
        next(&mut daemon);
        assert!(daemon.take_restored(), "{which}, {then}");
        assert!(!daemon.take_restored(), "it is said once");
        assert!(daemon.apply(&[up(2)])[0].as_ref().unwrap().failures.is_empty());
        let links = node.kernel.system().links.clone();
        let kept: BTreeSet<_> = before.keys().filter(|name| !links.contains_key(*name)).collect();
        assert_eq!(kept, [].into(), "{which}, {then}: nothing is deleted");
        assert!(daemon.check().unwrap().is_empty());
        drop(daemon);
        // The restored records last: another process finds all of them.
        assert_eq!(names(&node), ["f0", "f2"], "{which}, {then}");
        node.node().repair().unwrap();
        assert!(node.node().check().unwrap().is_empty());
    }
}

#[test]
fn a_file_that_replaces_the_database_is_kept_and_nothing_is_deleted() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.apply(&[up(0)]);
    let held = |node: &TestNode| {
        let system = node.kernel.system();
        (system.links.clone(), system.firewall.clone())
    };
    let before = held(&node);
    let path = node.state_dir().join("riklet-sdn.db");
    REMOVALS[1](&node);
    fs::write(&path, "no database at all").unwrap();
    for _ in 0..2 {
        assert!(daemon.repair().is_err() && daemon.heal(&[].into()).is_err());
        assert!(daemon.list().is_err() && daemon.apply(&[up(1)])[0].is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "no database at all");
        assert!(held(&node) == before, "nothing is deleted");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(daemon.list().unwrap().len(), 1);
    assert!(daemon.take_restored());
}

#[test]
fn an_unused_node_restores_no_records() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.repair().unwrap();
    fs::remove_dir_all(node.state_dir()).unwrap();
    daemon.repair().unwrap();
    assert!(!daemon.take_restored());
    assert_eq!(daemon.list().unwrap(), []);
}
