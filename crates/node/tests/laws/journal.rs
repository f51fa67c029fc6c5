//! Whoever follows the journal, and is told of the daemon's own operations, knows the instances that are up.

use std::collections::BTreeSet;

use proptest::prelude::*;
use riklet_core::model::InstanceName;
use riklet_kernel::fake::{FakeKernel, Fault};
use riklet_sdn::{
    Request, Selector, UpOptions, WarmNode,
    store::{JournalFollower, JournalKind, Store},
};

use crate::node::{Operation, TestNode, function, operation};

/// A watcher: the names that it was told are up.
#[derive(Default)]
struct Watcher {
    up: BTreeSet<InstanceName>,
    heard: u64,
}

impl Watcher {
    fn follow(&mut self, node: &TestNode) {
        let Some(store) = Store::open_existing(node.state_dir()).unwrap() else { return };
        let journal = store.changes_after(self.heard).unwrap();
        assert_eq!(journal.missed, Some(0));
        for entry in journal.entries {
            match (entry.kind, entry.name) {
                (JournalKind::Up, Some(name)) => drop(self.up.insert(name)),
                (JournalKind::Down, Some(name)) => drop(self.up.remove(&name)),
                (JournalKind::Down, None) => self.up.clear(),
                (JournalKind::Repaired, None) => {}
                other => unreachable!("{other:?}"),
            }
        }
        self.heard = journal.last;
    }

    /// Does this request in a daemon, which announces it after what others did before.
    fn change(&mut self, node: &TestNode, daemon: &mut WarmNode<FakeKernel>, request: &Request) {
        let done = daemon.apply(std::slice::from_ref(request)).remove(0);
        self.follow(node);
        let Ok(report) = done else { return };
        self.up.extend(report.instances.iter().map(|instance| instance.name().clone()));
        match request.taken_down() {
            Some(Selector::Named(names)) => self.up.retain(|name| !names.contains(name)),
            Some(Selector::All) => self.up.clear(),
            None => {}
        }
    }
}

fn recorded(node: &TestNode) -> BTreeSet<InstanceName> {
    node.node().list().unwrap().iter().map(|listed| listed.instance.name().clone()).collect()
}

/// Does these operations, the first of which to come to this effect is killed there, and a repair. Returns the names that a
/// watcher was told are up, and those that are recorded.
fn killed_at(
    operations: &[Operation],
    at: usize,
) -> (BTreeSet<InstanceName>, BTreeSet<InstanceName>) {
    let mut node = TestNode::new();
    let mut watcher = Watcher::default();
    node.kernel.system().fault = Some((at, Fault::Stop));
    for operation in operations {
        let _stopped = node.run_to_the_fault(operation);
        watcher.follow(&node);
    }
    node.kernel.system().fault = None;
    node.node().repair().unwrap();
    watcher.follow(&node);
    (watcher.up, recorded(&node))
}

/// An operation, and whether the daemon does it.
fn path() -> impl Strategy<Value = (bool, Operation)> {
    (any::<bool>(), operation())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn journal_of_operations_that_are_killed_anywhere_equals_the_records(
        operations in prop::collection::vec(operation(), 1..5),
        at in 0..40usize,
    ) {
        let (told, recorded) = killed_at(&operations, at);
        prop_assert_eq!(told, recorded);
    }

    #[test]
    fn watcher_of_the_daemon_and_of_the_journal_knows_the_records(
        operations in prop::collection::vec(path(), 1..12),
    ) {
        let mut node = TestNode::new();
        let mut daemon = node.warm();
        let mut watcher = Watcher::default();
        for (by_daemon, operation) in &operations {
            match operation {
                Operation::Up(workloads) if *by_daemon => {
                    let up = Request::Up(workloads.clone(), UpOptions::default());
                    watcher.change(&node, &mut daemon, &up);
                }
                Operation::Down(name) if *by_daemon => {
                    let down = Request::Down(Selector::Named([name.clone()].into()));
                    watcher.change(&node, &mut daemon, &down);
                }
                Operation::DownAll { purge: true } if *by_daemon => {
                    daemon.down(&Selector::All, true).unwrap();
                    watcher.follow(&node);
                }
                other => {
                    let _refused = node.run(other);
                }
            }
        }
        daemon.flush().unwrap();
        watcher.follow(&node);
        prop_assert_eq!(&watcher.up, &recorded(&node));
    }
}

#[test]
fn a_follower_is_woken_by_an_operation_of_another_process() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.initialize().unwrap();
    let mut follower = JournalFollower::open(node.state_dir());
    assert!(follower.as_fd().is_some());
    assert!(!follower.has_changed());
    daemon.apply(&[Request::Up(vec![function(0, &[])], UpOptions::default())]).remove(0).unwrap();
    daemon.flush().unwrap();
    assert!(!follower.has_changed(), "the daemon's own operations wake nobody");
    for round in 1..4 {
        node.node().up(&[function(round, &[])], UpOptions::default()).unwrap();
        assert!(follower.has_changed() && !follower.has_changed(), "{round}");
        // Nothing is announced if nothing changes.
        node.node().up(&[function(round, &[])], UpOptions::default()).unwrap();
        assert!(!follower.has_changed(), "{round}");
        let file = node.state_dir().join("journal");
        #[expect(clippy::disallowed_methods, reason = "somebody else removes it")]
        std::fs::remove_file(file).unwrap();
        assert!(follower.has_changed(), "the file was removed");
    }
}

/// The first of two TAPs is replaced by the second `up`, which may leave none.
#[test]
fn a_down_after_a_killed_operation_is_announced() {
    let with_queues = |queues: u8| {
        let text = format!(
            r#"{{"apiVersion": "v1", "kind": "Function", "name": "f1", "spec": {{"function": {{
            "execution": {{"queues": {queues}}}}}}}}}"#
        );
        riklet_core::definition::from_json(&text).unwrap()
    };
    let operations = [
        Operation::Up(vec![with_queues(2), function(2, &[])]),
        Operation::Up(vec![with_queues(1)]),
        Operation::Down("f1".parse().unwrap()),
    ];
    for at in 0..40 {
        let (told, recorded) = killed_at(&operations, at);
        assert_eq!(told, recorded, "{at}");
    }
}
