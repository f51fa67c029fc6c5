//! Law 6 for a long-lived process, beside others that change the same records: an outcome that it writes later applies
//! only to the state of the record that it knew, and no change that another process has acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};

use riklet_core::{
    flows::Flows,
    model::{InstanceName, Slot, Workload},
};
use riklet_kernel::fake::{FakeKernel, Fault};
use riklet_sdn::{Request, Selector, UpOptions, WarmNode, store::Store};

use crate::{
    node::{Operation, TestNode, function},
    warm::{Turn, assert_sound, take},
};

/// An operation of another process between two turns of the daemon.
#[derive(Debug, Clone)]
enum Beside {
    /// The operation completes.
    TaskOutcome(Operation),
    /// The process is killed before its first change of the kernel.
    Killed(Operation),
}

fn up(number: u16, ports: &[u16]) -> Operation {
    Operation::Up(vec![function(number, ports)])
}

fn down(number: u16) -> Operation {
    Operation::Down(function(number, &[]).name().clone())
}

/// Applies an operation to the model of the records, whether or not the kernel follows them yet.
fn note(operation: &Operation, model: &mut BTreeMap<InstanceName, Workload>) {
    if let Operation::Up(workloads) = operation {
        model.extend(workloads.iter().map(|w| (w.name().clone(), w.clone())));
    }
    operation.remove_from(model);
}

fn recorded(daemon: &mut WarmNode<FakeKernel>) -> BTreeMap<InstanceName, Workload> {
    let listed = daemon.list().unwrap().into_iter();
    listed.map(|l| (l.instance.name().clone(), l.instance.workload)).collect()
}

/// Returns the histories of one name that another process may cause while an outcome is deferred.
fn histories() -> Vec<Vec<Beside>> {
    use Beside::{Killed, TaskOutcome};
    vec![
        vec![],
        vec![TaskOutcome(up(0, &[8000]))],
        vec![TaskOutcome(up(0, &[8003]))],
        vec![TaskOutcome(down(0))],
        vec![TaskOutcome(down(0)), TaskOutcome(up(0, &[8000]))],
        vec![TaskOutcome(up(0, &[8000])), TaskOutcome(down(0)), TaskOutcome(up(0, &[8001]))],
        vec![TaskOutcome(down(0)), TaskOutcome(up(1, &[8000]))],
        vec![TaskOutcome(up(1, &[8002]))],
        vec![TaskOutcome(Operation::Repair), TaskOutcome(up(0, &[8000]))],
        vec![TaskOutcome(Operation::DownAll { purge: false }), TaskOutcome(up(0, &[]))],
        vec![TaskOutcome(Operation::DownAll { purge: true }), TaskOutcome(up(0, &[8001]))],
        vec![Killed(up(0, &[8003]))],
        vec![Killed(down(0))],
        vec![TaskOutcome(up(0, &[8000])), Killed(down(0))],
        vec![TaskOutcome(down(0)), Killed(up(0, &[8003]))],
        vec![Killed(down(0)), Killed(up(0, &[8003]))],
    ]
}

#[test]
fn a_deferred_outcome_does_not_overwrite_another_process() {
    let later = [
        vec![],
        vec![Turn::Batch(vec![up(2, &[8000])])],
        vec![Turn::Batch(vec![down(0)])],
        vec![Turn::Batch(vec![up(0, &[8005])])],
        vec![Turn::Reserve(2), Turn::Batch(vec![up(2, &[8004])])],
        vec![Turn::Drain, Turn::Batch(vec![up(2, &[8004])])],
        vec![Turn::Heal],
    ];
    let first = [
        vec![Turn::Batch(vec![up(0, &[8000])])],
        vec![Turn::Batch(vec![up(0, &[8000])]), Turn::Batch(vec![down(0)])],
        vec![Turn::Batch(vec![up(0, &[8000]), up(1, &[])]), Turn::Batch(vec![down(0)])],
        vec![Turn::Batch(vec![up(0, &[8000])]), Turn::Batch(vec![down(0), up(3, &[])])],
        vec![
            Turn::Reserve(2),
            Turn::Batch(vec![up(0, &[8000])]),
            Turn::Batch(vec![up(0, &[8001])]),
        ],
    ];
    for first in &first {
        for history in histories() {
            for later in &later {
                one_history(first, &history, later);
            }
        }
    }
}

fn one_history(first: &[Turn], history: &[Beside], later: &[Turn]) {
    let mut node = TestNode::new();
    let mut daemon = node.warm();
    let mut model = BTreeMap::new();
    let turn = |turn: &Turn, daemon: &mut WarmNode<FakeKernel>, model: &mut _| {
        let refused = take(turn, daemon);
        if let Turn::Batch(operations) = turn {
            let done = operations.iter().zip(refused).filter(|(_, refused)| refused.is_none());
            done.for_each(|(operation, _)| note(operation, model));
        }
    };
    for first in first {
        turn(first, &mut daemon, &mut model);
    }
    for beside in history {
        let (operation, killed) = match beside {
            Beside::TaskOutcome(operation) => (operation, false),
            Beside::Killed(operation) => (operation, true),
        };
        let at = node.kernel.system().effects;
        node.kernel.system().fault = killed.then_some((at, Fault::Stop));
        let done = node.run_to_the_fault(operation);
        node.kernel.system().fault = None;
        if done.is_none_or(|done| done.is_ok()) {
            note(operation, &mut model);
        }
    }
    for later in later {
        turn(later, &mut daemon, &mut model);
    }
    daemon.flush().unwrap();
    let told = format!("{first:?}, beside it {history:?}, then {later:?}");
    // A killed process leaves its work to the next repair.
    daemon.repair().unwrap();
    assert_eq!(recorded(&mut daemon), model, "{told}");
    assert_sound(&node, &mut daemon);
    let exposures = model.values().map(|workload| workload.exposures().len());
    assert_eq!(node.exposed(), exposures.sum::<usize>(), "{told}");
}

#[test]
fn flows_of_an_instance_that_reuses_the_slot_are_kept() {
    let mut node = TestNode::new();
    let mut daemon = node.warm();
    // An odd port uses UDP.
    take(&Turn::Batch(vec![up(0, &[8001])]), &mut daemon);
    take(&Turn::Batch(vec![down(0)]), &mut daemon);
    daemon.flush().unwrap();
    node.run(&Operation::Repair).unwrap();
    node.run(&up(1, &[])).unwrap();
    let listed = daemon.list().unwrap();
    assert_eq!(listed[0].instance.slot, Slot::new(0), "the slot that the daemon's had");
    let guest = listed[0].instance.addresses.v4.guest.into();
    node.kernel.system().forgotten.clear();
    take(&Turn::Batch(vec![up(2, &[8001])]), &mut daemon);
    let forgotten: BTreeSet<_> = node.kernel.system().forgotten.iter().copied().collect();
    assert!(!forgotten.contains(&Flows::Guest { guest }), "{forgotten:?}");
}

#[test]
fn a_failed_repair_is_retried_after_another_process_changes_the_record() {
    let mut node = TestNode::new();
    let mut daemon = node.warm();
    take(&Turn::Batch(vec![up(0, &[8000])]), &mut daemon);
    let interface = Slot::new(0).interface();
    let alias = node.kernel.system().links.get_mut(&interface).unwrap().alias.take();
    assert_eq!(daemon.repair().unwrap().failures.len(), 1);
    node.kernel.system().links.get_mut(&interface).unwrap().alias = alias;
    let at = node.kernel.system().effects;
    node.kernel.system().fault = Some((at, Fault::Stop));
    assert!(node.run_to_the_fault(&up(0, &[8002])).is_none());
    node.kernel.system().fault = None;
    let other = Request::Up(vec![function(1, &[])], UpOptions::default());
    daemon.apply(&[other]).remove(0).unwrap();
    assert_sound(&node, &mut daemon);
    daemon.down(&Selector::All, true).unwrap();
}

/// Returns the instances that the definition file owns, by name.
fn owned(numbers: &[u16]) -> BTreeMap<InstanceName, String> {
    let name = |number: &u16| function(*number, &[]).name().clone();
    numbers.iter().map(|number| (name(number), "file.json".to_owned())).collect()
}

fn claims(numbers: &[u16]) -> BTreeMap<InstanceName, Option<String>> {
    owned(numbers).into_iter().map(|(name, file)| (name, Some(file))).collect()
}

#[test]
fn a_file_withdraws_only_the_instances_that_it_still_owns() {
    let mut node = TestNode::new();
    let mut daemon = node.warm();
    assert!(daemon.set_manifests(&claims(&[0, 1])).unwrap().is_empty());
    take(&Turn::Batch(vec![up(0, &[8000]), up(1, &[])]), &mut daemon);
    // The file no longer exists, and the daemon is about to take both instances down.
    node.run(&down(0)).unwrap();
    node.run(&up(0, &[8000])).unwrap();
    let refused = daemon.apply(&[Request::Withdraw(owned(&[0, 1]))]).remove(0).unwrap_err();
    assert_eq!(refused.to_string(), "file.json no longer owns f0");
    assert_eq!(recorded(&mut daemon).len(), 2, "all or none");
    daemon.apply(&[Request::Withdraw(owned(&[1]))]).remove(0).unwrap();
    let left: Vec<_> = recorded(&mut daemon).into_keys().map(|name| name.to_string()).collect();
    assert_eq!(left, ["f0"]);
    assert_sound(&node, &mut daemon);
    let unknown = TestNode::new().warm().apply(&[Request::Withdraw(owned(&[0]))]).remove(0);
    assert_eq!(unknown.unwrap_err().to_string(), "no instance named f0 is recorded");
}

#[test]
fn a_file_cannot_claim_an_instance_that_is_already_up() {
    let mut node = TestNode::new();
    let mut daemon = node.warm();
    // The daemon has read that the names are not recorded; another process then takes one of them.
    node.run(&up(0, &[8000])).unwrap();
    let refused = daemon.set_manifests(&claims(&[0, 1])).unwrap();
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        owned(&[0]).into_keys().collect::<Vec<_>>()
    );
    let owners = daemon.look_at_records(Store::manifests).unwrap().unwrap();
    assert_eq!(owners, owned(&[1]));
}
