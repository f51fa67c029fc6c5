//! A foreign chain that drops the packets of functions, in a table that another process owns.

use riklet_core::{
    firewall::{ForeignChain, ForeignFamily},
    manager::ManagerFile,
    plan::{Advice, CutOff},
};
use riklet_sdn::{Report, Request, Selector, UpOptions, Warning};

use crate::node::{TestNode, function};

fn firewalld() -> ForeignChain {
    let (table, chain) = ("firewalld".to_owned(), "filter_FORWARD".to_owned());
    ForeignChain::Nftables { family: ForeignFamily::Inet, table, chain }
}

fn with_firewalld() -> TestNode {
    let node = TestNode::new();
    let mut system = node.kernel.system();
    system.foreign_chains.insert(firewalld(), false);
    system.owned_chains.insert(firewalld());
    drop(system);
    node
}

fn is_warned(report: &Report, advice: Advice) -> bool {
    let cut_off = CutOff { foreign_chain: firewalld(), advice };
    report.warnings == [Warning::CutOff(cut_off)]
}

#[test]
fn every_up_and_repair_warns_and_no_operation_tries_to_change_the_table() {
    let node = with_firewalld();
    for number in [0, 1] {
        let report = node.node().up(&[function(number, &[])], UpOptions::default()).unwrap();
        assert!(is_warned(&report, Advice::Install), "{report:?}");
    }
    let (listings, request) = (node.kernel.system().listings, function(2, &[]));
    node.node().up(&[request], UpOptions::default()).unwrap();
    assert_eq!(node.kernel.system().listings, listings, "it looks at such tables only");
    assert!(is_warned(&node.node().repair().unwrap(), Advice::Install));
    let drift = node.node().check().unwrap();
    assert!(drift.plan.steps.is_empty() && !drift.is_empty(), "{drift:?}");
    let down = node.node().down(&Selector::All, false).unwrap();
    assert!(down.warnings.is_empty(), "{down:?}");
    let mut warm = node.warm();
    for number in [3, 4] {
        let up = Request::Up(vec![function(number, &[])], UpOptions::default());
        let report = warm.apply(&[up]).remove(0).unwrap();
        assert!(is_warned(&report, Advice::Install), "{report:?}");
    }
}

#[test]
fn the_files_of_firewalld_are_written_by_whatever_operation_meets_it_first() {
    let node = TestNode::new();
    let files = ManagerFile::ALL.map(|file| (file, None));
    node.kernel.system().manager_files = files.into();
    let written = || {
        let files = node.kernel.system().manager_files.clone();
        files.into_iter().filter(|(_, text)| text.is_some()).count()
    };
    let before = node.state();
    node.node().up(&[function(0, &[])], UpOptions::default()).unwrap();
    assert_eq!(written(), 2, "those of network managers");
    let mut system = node.kernel.system();
    system.foreign_chains.insert(firewalld(), false);
    system.owned_chains.insert(firewalld());
    drop(system);
    let report = node.node().up(&[function(1, &[])], UpOptions::default()).unwrap();
    assert!(is_warned(&report, Advice::Reload), "{report:?}");
    assert_eq!(written(), 5);
    node.kernel.system().foreign_chains.clear();
    node.kernel.system().owned_chains.clear();
    node.node().repair().unwrap();
    assert!(node.node().check().unwrap().is_empty());
    assert_eq!(written(), 5, "a firewalld that is stopped may start again");
    node.node().down(&Selector::All, true).unwrap();
    assert_eq!(node.state(), before);
}
