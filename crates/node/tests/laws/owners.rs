//! Law 3 between two state directories on one host: no operation on one touches an object of the other.

use proptest::prelude::*;
use riklet_core::{link::LinkState, model::Selector};
use riklet_kernel::fake::{Fault, System};
use riklet_sdn::{NodeError, RebuildOptions, Request, UpOptions, store::Store};

use crate::node::{Operation, TestNode, function, operation};

/// Returns the system without its count of listings.
fn held(node: &TestNode) -> System {
    System { listings: 0, probes: 0, searches: 0, ..node.kernel.system().clone() }
}

/// Runs every operation on the other state directory, and returns the outcomes.
fn every_operation(node: &TestNode) -> Vec<Result<(), NodeError>> {
    let workload = || function(9, &[9000]);
    let names = || Selector::Named([workload().name().clone()].into());
    let mut daemon = node.warm();
    vec![
        node.node().up(&[workload()], UpOptions::default()).map(drop),
        node.node().plan(&[workload()]).map(drop),
        node.node().down(&Selector::All, false).map(drop),
        node.node().down(&names(), false).map(drop),
        node.node().down(&Selector::All, true).map(drop),
        node.node().repair().map(drop),
        node.node().rebuild(RebuildOptions::default()).map(drop),
        node.node().rebuild(RebuildOptions::default().force(true)).map(drop),
        daemon.initialize(),
        daemon.repair().map(drop),
        daemon.apply(&[Request::Up(vec![workload()], UpOptions::default())]).remove(0).map(drop),
        daemon.apply(&[Request::Down(Selector::All)]).remove(0).map(drop),
    ]
}

#[track_caller]
fn assert_refused(node: &TestNode) {
    let before = held(node);
    for (index, outcome) in every_operation(node).into_iter().enumerate() {
        let claimed = matches!(outcome, Err(NodeError::Claimed { .. }));
        assert!(claimed, "operation {index}: {outcome:?}");
    }
    let drift = node.node().check().unwrap();
    assert!(!drift.plan.claims.is_empty() && drift.plan.steps.is_empty(), "{drift:?}");
    let mut daemon = node.warm();
    assert!(daemon.reserve(4).map_or(true, |task| task.is_none()));
    assert!(daemon.drain().map_or(true, |task| task.is_none()));
    assert!(daemon.heal(&[].into()).map_or(true, |report| report.done.is_empty()));
    assert!(held(node) == before, "not one effect");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever the first node has done, the second is refused while any object of the first exists, and its records
    /// stay empty. Once the first has purged, the second may use the host.
    #[test]
    fn objects_of_another_state_directory_are_not_touched(operations in prop::collection::vec(operation(), 1..6)) {
        let mut first = TestNode::new();
        let second = first.beside();
        for operation in operations {
            let _refused = first.run(&operation);
            let bare = first.kernel.system().firewall.is_empty();
            if !bare {
                assert_refused(&second);
                let listed = second.node().list();
                prop_assert!(matches!(listed, Err(NodeError::Claimed { .. })), "{listed:?}");
            }
        }
        first.node().down(&Selector::All, true).unwrap();
        second.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
        prop_assert!(second.node().check().unwrap().is_empty());
        assert_refused(&first);
    }
}

#[test]
fn adopted_functions_keep_their_taps_and_the_others_are_refused() {
    let first = TestNode::new();
    let second = first.beside();
    first.node().up(&[function(0, &[8000]), function(1, &[8001])], UpOptions::default()).unwrap();
    for link in first.kernel.system().links.values_mut() {
        (link.open, link.carrier) = (true, true);
    }
    let taps = |node: &TestNode| -> Vec<_> {
        let system = node.kernel.system();
        let unnamed = |link: &LinkState| LinkState { alias: None, ..link.clone() };
        system.links.values().map(unnamed).collect()
    };
    let (before, listed) = (taps(&first), first.node().list().unwrap());
    let adopted = second.node().adopt().unwrap();
    assert_eq!(adopted.recovered.len(), 2);
    assert!(adopted.report.failures.is_empty(), "{adopted:?}");
    assert_eq!(taps(&first), before);
    assert_eq!(second.node().list().unwrap(), listed);
    assert!(second.node().check().unwrap().is_empty());
    let refused = first.node().repair().unwrap_err();
    assert!(matches!(refused, NodeError::Claimed { .. }), "{refused}");
    let listed = first.node().list().unwrap_err();
    assert!(matches!(listed, NodeError::Claimed { .. }), "{listed}");
    // An adoption may be repeated, and may be reversed.
    assert!(second.node().adopt().unwrap().report.done.is_empty());
    first.node().adopt().unwrap();
    assert!(first.node().check().unwrap().is_empty());
    assert!(matches!(second.node().repair(), Err(NodeError::Claimed { .. })));
}

#[test]
fn records_that_were_taken_over_bring_nothing_up_again() {
    let first = TestNode::new();
    let second = first.beside();
    let mut daemon = first.warm();
    let up = |number, port| Request::Up(vec![function(number, &[port])], UpOptions::default());
    daemon.apply(&[up(0, 8000)]).remove(0).unwrap();
    second.node().adopt().unwrap();
    second.node().down(&Selector::All, true).unwrap();
    let bare = held(&second);
    // Neither a daemon with deferred outcomes nor a new process has anything to bring up.
    assert!(daemon.repair().unwrap().done.is_empty());
    assert!(first.node().repair().unwrap().done.is_empty());
    assert!(first.node().list().unwrap().is_empty());
    assert!(held(&second) == bare, "no effect");
    let copy = Store::open_existing(first.state_dir()).unwrap().unwrap();
    assert!(copy.path().with_extension("db.adopted-1").exists(), "the former records are kept");
    // The directory can be used again.
    daemon.apply(&[up(1, 9000)]).remove(0).unwrap();
    let names: Vec<_> = first.node().list().unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(first.node().check().unwrap().is_empty());
}

#[test]
fn adoption_does_not_give_an_open_tap_to_another_function() {
    let first = TestNode::new();
    let second = first.beside();
    second.node().up(&[function(0, &[8000])], UpOptions::default()).unwrap();
    // The second node loses its kernel objects, and keeps its records.
    *second.kernel.system() = System::default();
    first.node().up(&[function(1, &[8001])], UpOptions::default()).unwrap();
    for link in first.kernel.system().links.values_mut() {
        link.open = true;
    }
    let before = first.kernel.system().links.clone();
    let adopted = second.node().adopt().unwrap();
    let failures: Vec<_> = adopted.report.failures.iter().map(|f| f.name.to_string()).collect();
    assert_eq!(failures, ["f0"], "whose slot it is by the second's records");
    assert_eq!(first.kernel.system().links, before, "it stays with who has it open");
}

#[test]
fn an_interrupted_adoption_is_completed_by_the_next() {
    let prepared = || {
        let first = TestNode::new();
        let workloads = [function(0, &[8000]), function(1, &[8001])];
        first.node().up(&workloads, UpOptions::default()).unwrap();
        first
    };
    let sound = prepared();
    let start = sound.kernel.system().effects;
    let adopter = sound.beside();
    adopter.node().adopt().unwrap();
    let effects = sound.kernel.system().effects - start;
    assert!(effects > 0);
    for at in 0..effects {
        let first = prepared();
        let second = first.beside();
        first.kernel.system().fault = Some((start + at, Fault::Refuse));
        let _refused = second.node().adopt();
        first.kernel.system().fault = None;
        second.node().adopt().unwrap();
        assert!(second.node().check().unwrap().is_empty(), "stopped at {at} of {effects}");
        assert_eq!(second.state(), adopter.state(), "stopped at {at} of {effects}");
    }
}

#[test]
fn records_of_an_earlier_version_mark_their_objects() {
    let mut node = TestNode::new();
    let workloads = [function(0, &[8000]), function(1, &[8001])];
    node.node().up(&workloads, UpOptions::default()).unwrap();
    let sound = node.state();
    {
        let mut system = node.kernel.system();
        for link in system.links.values_mut() {
            let alias = link.alias.take().unwrap();
            let (_, rest) = alias.split_once(':').unwrap();
            let rest = rest.split_once(" /").unwrap().0;
            link.alias = Some(format!("riklet-sdn:{rest}"));
        }
        for ruleset in system.firewall.values_mut() {
            ruleset.base_ruleset.owner = None;
        }
    }
    let stranger = node.beside();
    let refused = stranger.node().repair().unwrap_err();
    assert!(refused.hint().unwrap().contains("--rebuild"), "{refused}");
    let report = node.run(&Operation::Up(workloads.to_vec())).unwrap();
    assert!(report.failures.is_empty());
    assert_eq!(node.state(), sound);
}

/// A look finds what the first operation makes with its records, or does not find it.
#[test]
fn a_look_beside_the_first_operation_finds_no_lost_records() {
    for _ in 0..100 {
        let test = TestNode::new();
        let (mut user, mut reader) = (test.node(), test.node());
        std::thread::scope(|scope| {
            let up = scope.spawn(move || user.up(&[function(1, &[8000])], UpOptions::default()));
            while !up.is_finished() {
                let plan = reader.check().unwrap().plan;
                assert!(plan.claims.is_empty(), "{:?}", plan.claims);
                reader.list().unwrap();
            }
            up.join().unwrap().unwrap();
        });
    }
}
