//! Only its supervisor takes a running function down.

use riklet_core::model::Selector;
use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    NodeError, Report, Request, UpOptions,
    store::{End, Store},
};

use crate::{
    name,
    node::{TestNode, function},
};

/// Returns a node with `f0`, `f1` and `f2`, of which this supervisor runs the first.
fn with_a_run(supervisor: ProcessId) -> TestNode {
    let node = TestNode::new();
    node.kernel.system().processes.insert(supervisor);
    let functions: Vec<_> = (0..3).map(|n| function(n, &[8000 + n])).collect();
    node.node().up(&functions, UpOptions::default()).unwrap();
    records(&node, |store| {
        let tx = store.transaction().unwrap();
        tx.begin_run(&name("f0"), "firecracker", supervisor, 1).unwrap();
        tx.commit().unwrap();
    });
    node
}

fn records<T>(node: &TestNode, work: impl FnOnce(&mut Store) -> T) -> T {
    work(&mut Store::open(node.state_dir()).unwrap())
}

fn process(text: &str) -> ProcessId {
    text.parse().unwrap()
}

fn named(names: &[&str]) -> Selector {
    Selector::Named(names.iter().map(|text| name(text)).collect())
}

#[track_caller]
fn assert_refused(outcome: Result<Report, NodeError>, told: &str) {
    let text = outcome.map_err(|error| error.to_string()).unwrap_err();
    assert_eq!(text, "cannot take f0 down while it runs: firecracker, process 700", "{told}");
}

#[test]
fn a_down_that_names_a_running_function_changes_nothing() {
    let node = with_a_run(process("700@1"));
    let before = node.state();
    for selector in [named(&["f0"]), named(&["f1", "f0"]), Selector::All] {
        let told = format!("{selector:?}");
        assert_refused(node.node().down(&selector, false), &told);
        assert_refused(node.node().down(&selector, true), &format!("{told} with purge"));
        let another = node.node().down_as(process("701@1"), &selector, false);
        assert_refused(another, &format!("{told} by another supervisor"));
    }
    assert_eq!(
        node.node().down(&named(&["f0"]), false).unwrap_err().hint().unwrap(),
        "`riklet-sdn stop f0` ends it, and takes its network down"
    );
    assert_eq!(node.state(), before);
    assert!(node.node().check().unwrap().is_empty());

    let mut daemon = node.warm();
    let requests = [named(&["f1"]), named(&["f0"]), named(&["f2"])].map(Request::Down);
    let [first, running, last] = daemon.apply(&requests).try_into().unwrap();
    assert_refused(running, "among others");
    assert!(first.is_ok() && last.is_ok(), "they are not concerned");
    assert_refused(daemon.down(&Selector::All, true), "a purge by the daemon");
    assert_eq!(daemon.list().unwrap().len(), 1);
}

#[test]
fn a_supervisor_takes_down_its_running_function() {
    let supervisor = process("700@1");
    let node = with_a_run(supervisor);
    let report = node.node().down_as(supervisor, &named(&["f0", "f1"]), false).unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(node.node().list().unwrap().len(), 1);
    assert!(node.node().check().unwrap().is_empty());
}

#[test]
fn a_run_without_a_live_supervisor_does_not_block_down() {
    let supervisor = process("700@1");
    let node = with_a_run(supervisor);
    node.kernel.system().processes = [process("700@2")].into();
    node.node().down(&named(&["f0"]), false).unwrap();

    let node = with_a_run(supervisor);
    let end = End::new(2, "stopped".to_owned(), false);
    records(&node, |store| {
        let tx = store.transaction().unwrap();
        tx.end_run(&name("f0"), supervisor, &end).unwrap();
        tx.commit().unwrap();
    });
    node.node().down(&Selector::All, true).unwrap();
    assert!(node.kernel.system().links.is_empty());
}

#[test]
fn a_run_whose_network_is_not_up_yet_blocks_down() {
    let node = TestNode::new();
    let supervisor = process("700@1");
    node.kernel.system().processes.insert(supervisor);
    records(&node, |store| {
        let tx = store.transaction().unwrap();
        tx.begin_run(&name("f0"), "firecracker", supervisor, 1).unwrap();
        tx.commit().unwrap();
    });
    assert_refused(node.node().down(&Selector::All, false), "all");
    assert_refused(node.node().down(&Selector::All, true), "a purge");
    assert_refused(node.node().down(&named(&["f0"]), false), "by name");
}
