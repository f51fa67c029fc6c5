//! The laws for a long-lived process: batches, reserved slots and background tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::prelude::*;
use riklet_core::flows::Flows;
use riklet_kernel::{
    fake::{FakeKernel, Fault, Stopped},
    process::ProcessId,
};
use riklet_sdn::{ListedInstance, Request, Selector, UpOptions, WarmNode, store::ReservedSlot};

use crate::node::{Operation, TestNode, function, operation};

/// One turn of a daemon.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// Does these requests together.
    Batch(Vec<Operation>),
    /// Does these requests together, and leaves flows to tasks, which are done after draining slots.
    Begin(Vec<Operation>),
    /// Creates this number of TAPs in advance.
    Reserve(usize),
    /// Deletes the interfaces of draining slots.
    Drain,
    /// Heals every slot, and the objects that all slots share.
    Heal,
}

fn turn() -> impl Strategy<Value = Turn> {
    let change = || {
        operation().prop_filter("of the records only", |operation| {
            !matches!(operation, Operation::DownAll { purge: true } | Operation::Repair)
        })
    };
    prop_oneof![
        3 => prop::collection::vec(change(), 1..6).prop_map(Turn::Batch),
        3 => prop::collection::vec(change(), 1..6).prop_map(Turn::Begin),
        2 => (1..4usize).prop_map(Turn::Reserve),
        2 => Just(Turn::Drain),
        1 => Just(Turn::Heal),
    ]
}

fn request(operation: &Operation) -> Request {
    match operation {
        Operation::Up(workloads) => Request::Up(workloads.clone(), UpOptions::default()),
        Operation::Down(name) => Request::Down(Selector::Named([name.clone()].into())),
        Operation::DownAll { .. } | Operation::Repair => Request::Down(Selector::All),
    }
}

/// Takes a turn. Returns the refusal of each request of a batch.
pub(crate) fn take(turn: &Turn, daemon: &mut WarmNode<FakeKernel>) -> Vec<Option<String>> {
    let kernel = &mut daemon.kernel().clone();
    let task = match turn {
        Turn::Batch(operations) => {
            let requests: Vec<_> = operations.iter().map(request).collect();
            let answers = daemon.apply(&requests).into_iter();
            return answers.map(|answer| answer.err().map(|error| error.to_string())).collect();
        }
        Turn::Begin(operations) => {
            let requests: Vec<_> = operations.iter().map(request).collect();
            return begin(&requests, daemon).into_iter().map(|(_, refusal)| refusal).collect();
        }
        Turn::Heal => {
            let slots = (0..12).map(riklet_core::model::Slot::new).collect();
            daemon.heal(&slots).unwrap();
            return vec![];
        }
        Turn::Reserve(count) => daemon.reserve(*count).unwrap(),
        Turn::Drain => daemon.drain().unwrap(),
    };
    if let Some(task) = task {
        let done = task.run(kernel);
        daemon.finish(&done).unwrap();
    }
    vec![]
}

/// Does these requests, and leaves flows to tasks, which are done after draining slots. Returns the index and the refusal
/// of each request, in the order in which they were done.
fn begin(requests: &[Request], daemon: &mut WarmNode<FakeKernel>) -> Vec<(usize, Option<String>)> {
    let kernel = &mut daemon.kernel().clone();
    let mut answers = Vec::new();
    let mut open: Vec<usize> = (0..requests.len()).collect();
    while !open.is_empty() {
        let asked: Vec<_> = open.iter().map(|&index| requests[index].clone()).collect();
        let begun = daemon.begin(&asked);
        take(&Turn::Drain, daemon);
        let mut failed = BTreeMap::new();
        for task in begun.tasks {
            let outcome = task.run(kernel);
            failed.extend(outcome.error().map(|error| (outcome.ticket(), error.to_string())));
            daemon.finish_flows(&outcome);
        }
        let asked = std::mem::take(&mut open);
        for (index, answer) in asked.into_iter().zip(begun.answers) {
            let refusal = match answer {
                None => {
                    open.push(index);
                    continue;
                }
                Some(Ok(report)) => report.ticket().and_then(|ticket| failed.get(&ticket).cloned()),
                Some(Err(error)) => Some(error.to_string()),
            };
            answers.push((index, refusal));
        }
    }
    answers
}

/// Asserts that there is no drift, and no interface but those of recorded instances and of reserved slots.
pub(crate) fn assert_sound(node: &TestNode, daemon: &mut WarmNode<FakeKernel>) {
    assert!(daemon.check().unwrap().is_empty(), "{:#?}", daemon.check().unwrap());
    let (_, reserved) = daemon.counts().unwrap();
    let count = |state| reserved.get(&state).copied().unwrap_or_default();
    let links = node.kernel.system().links.len();
    let recorded = daemon.list().unwrap().len();
    assert_eq!(
        links,
        recorded + count(ReservedSlot::Ready) + count(ReservedSlot::Draining),
        "{reserved:?}"
    );
    assert_eq!(count(ReservedSlot::Creating), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Laws 1 and 6 within one process: a batch gives the same result and answers as its requests one after another,
    /// and leaves no drift. Those that wait for flows are the later ones.
    #[test]
    fn a_batch_equals_its_requests_one_after_another(turns in prop::collection::vec(turn(), 1..10)) {
        let (together, mut apart) = (TestNode::new(), TestNode::new());
        let mut daemon = together.warm();
        for turn in &turns {
            let done: Vec<_> = match turn {
                Turn::Begin(operations) => {
                    let requests: Vec<_> = operations.iter().map(request).collect();
                    let done = begin(&requests, &mut daemon).into_iter();
                    done.map(|(index, refusal)| (requests[index].clone(), refusal)).collect()
                }
                Turn::Batch(operations) => {
                    operations.iter().map(request).zip(take(turn, &mut daemon)).collect()
                }
                turn => {
                    take(turn, &mut daemon);
                    vec![]
                }
            };
            let (done, answers): (Vec<_>, Vec<_>) = done.into_iter().unzip();
            let alone = done.into_iter().map(|request| {
                let mut node = apart.node();
                node.apply(&[request]).remove(0).err().map(|error| error.to_string())
            });
            let told = |text: Option<String>| text.map(|text| text.split(" is held").next().unwrap().to_owned());
            let alone: Vec<_> = alone.map(told).collect();
            let answers: Vec<_> = answers.into_iter().map(told).collect();
            prop_assert_eq!(answers, alone);
            assert_sound(&together, &mut daemon);
        }
        let recorded = |listed: Vec<ListedInstance>| -> BTreeMap<_, _> {
            let listed = listed.into_iter();
            listed.map(|l| (l.instance.name().clone(), l.instance.workload)).collect()
        };
        prop_assert_eq!(recorded(daemon.list().unwrap()), recorded(apart.node().list().unwrap()));
        prop_assert_eq!(together.exposed(), apart.exposed());
        apart.run(&Operation::Repair).unwrap();
    }

    /// Law 2: if a daemon is killed before any effect of a turn, or the kernel refuses one, the next daemon repairs the
    /// node, and nothing leaks.
    #[test]
    fn a_fault_anywhere_is_repaired_by_the_next_daemon(
        before in prop::collection::vec(turn(), 0..5),
        faulty in turn(),
        fault in prop_oneof![Just(Fault::Stop), Just(Fault::Refuse)],
    ) {
        let prepared = || {
            let node = TestNode::new();
            let mut daemon = node.warm();
            for turn in &before {
                take(turn, &mut daemon);
            }
            (node, daemon)
        };
        let (sound, mut daemon) = prepared();
        let start = sound.kernel.system().effects;
        take(&faulty, &mut daemon);
        let effects = sound.kernel.system().effects - start;
        for at in 0..effects {
            let (node, mut daemon) = prepared();
            node.kernel.system().fault = Some((start + at, fault));
            let caught = catch_unwind(AssertUnwindSafe(|| take(&faulty, &mut daemon)));
            if let Err(panic) = caught && !panic.is::<Stopped>() {
                std::panic::resume_unwind(panic);
            }
            node.kernel.system().fault = None;
            drop(daemon);
            let mut next = node.warm();
            next.repair().unwrap();
            assert_sound(&node, &mut next);
            next.down(&Selector::All, true).unwrap();
            prop_assert!(node.kernel.system().links.is_empty());
            prop_assert!(node.kernel.system().firewall.is_empty());
        }
    }
}

#[test]
fn a_ready_slot_costs_an_alias_and_one_transaction() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.initialize().unwrap();
    daemon.repair().unwrap();
    take(&Turn::Reserve(2), &mut daemon);
    let before = node.kernel.system().effects;
    let requests: Vec<_> = (0..2)
        .map(|number| {
            Request::Up(vec![function(number, &[8000 + number * 2])], UpOptions::default())
        })
        .collect();
    let answers = daemon.apply(&requests);
    let steps: Vec<_> = answers.iter().map(|a| a.as_ref().unwrap().done.len()).collect();
    assert_eq!(steps, [2, 2], "its own part of what was done together");
    assert_eq!(node.kernel.system().effects - before, 3, "two aliases, one transaction");
    assert_eq!(node.exposed(), 2);
    assert_sound(&node, &mut daemon);
}

#[test]
fn a_slot_is_not_used_again_before_its_tap_is_gone() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    let up = |number| Request::Up(vec![function(number, &[])], UpOptions::default());
    daemon.apply(&[up(0)]);
    daemon.apply(&[Request::Down(Selector::All)]);
    let task = daemon.drain().unwrap().unwrap();
    daemon.apply(&[up(1)]);
    let slots = |daemon: &mut WarmNode<FakeKernel>| -> Vec<_> {
        daemon.list().unwrap().iter().map(|l| l.instance.slot.number()).collect()
    };
    assert_eq!(slots(&mut daemon), [1]);
    assert!(daemon.drain().unwrap().is_none(), "a task is working on it");
    let done = task.run(&mut node.kernel.clone());
    daemon.finish(&done).unwrap();
    daemon.apply(&[up(2)]);
    assert_eq!(slots(&mut daemon), [1, 0]);
}

#[test]
fn flows_of_a_port_that_moves_are_forgotten_at_once() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    // An odd port uses UDP.
    let up = |number, port| Request::Up(vec![function(number, &[port])], UpOptions::default());
    daemon.apply(&[up(0, 8001), up(1, 8003)]);
    let guest = daemon.list().unwrap()[0].instance.addresses.v4.guest.into();
    node.kernel.system().forgotten.clear();
    daemon.apply(&[Request::Down(Selector::All)]);
    let forgotten = || -> BTreeSet<_> { node.kernel.system().forgotten.iter().copied().collect() };
    assert_eq!(forgotten(), [].into(), "it is answered before");
    daemon.apply(&[up(2, 8001)]);
    assert!(forgotten().contains(&Flows::Guest { guest }), "{:?}", forgotten());
    assert_eq!(forgotten().iter().filter(|f| matches!(f, Flows::Guest { .. })).count(), 1);
}

/// Returns an `up` of a function with one port. An odd port uses UDP.
fn up(number: u16, port: u16) -> Request {
    Request::Up(vec![function(number, &[port])], UpOptions::default())
}

fn down(number: u16) -> Request {
    Request::Down(Selector::Named([function(number, &[]).name().clone()].into()))
}

#[test]
fn a_request_that_meets_flows_left_to_a_task_waits_and_others_do_not() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    let forgotten = || node.kernel.system().forgotten.len();
    daemon.apply(&[up(0, 8001), up(1, 8003)]);
    let before = forgotten();
    // The second is for the same instance as the first, which withdraws a port and publishes another.
    // The fourth would take a port of the third, which waits for the first.
    let requests = [up(0, 8005), down(0), up(0, 8004), up(3, 8004), up(2, 8002)];
    let begun = daemon.begin(&requests);
    let [Some(Ok(first)), None, None, None, Some(Ok(other))] = &begun.answers[..] else {
        panic!("{begun:?}")
    };
    assert!(first.ticket().is_some() && other.ticket().is_none(), "{begun:?}");
    assert_eq!(forgotten(), before, "this is left to the task");
    let meets = |daemon: &mut WarmNode<FakeKernel>, request: Request| {
        let begun = daemon.begin(&[request]);
        assert!(begun.tasks.is_empty());
        begun.answers[0].is_none()
    };
    assert!(meets(&mut daemon, up(0, 8005)), "the same again would be confirmed too early");
    assert!(meets(&mut daemon, up(3, 8001)), "old flows of the port lead elsewhere");
    assert!(meets(&mut daemon, Request::Down(Selector::All)));
    assert!(!meets(&mut daemon, up(3, 8006)));
    assert!(!meets(&mut daemon, down(1)));
    assert!(daemon.check().unwrap().is_empty());
    for task in begun.tasks {
        daemon.finish_flows(&task.run(&mut node.kernel.clone()));
    }
    assert!(forgotten() > before);
    assert!(!meets(&mut daemon, down(0)));
    assert_sound(&node, &mut daemon);
}

/// Law 2: flows that a daemon left to a task are forgotten by the next operation, whoever does it and whatever it is for.
#[test]
fn flows_left_to_a_task_of_a_killed_daemon_are_forgotten_by_the_next_operation() {
    for fails in [false, true] {
        let node = TestNode::new();
        let mut daemon = node.warm();
        daemon.apply(&[up(0, 8001)]);
        daemon.apply(&[Request::Down(Selector::All)]);
        let begun = daemon.begin(&[up(1, 8001)]);
        assert_eq!(begun.tasks.len(), 1, "{begun:?}");
        // Outcomes are committed with whatever comes next.
        assert!(daemon.begin(&[up(2, 8002)]).tasks.is_empty());
        daemon.flush().unwrap();
        for task in begun.tasks.into_iter().filter(|_| fails) {
            let effects = node.kernel.system().effects;
            node.kernel.system().fault = Some((effects, Fault::Refuse));
            let outcome = task.run(&mut node.kernel.clone());
            node.kernel.system().fault = None;
            assert!(outcome.error().is_some());
            daemon.finish_flows(&outcome);
            daemon.flush().unwrap();
        }
        drop(daemon);
        node.kernel.system().forgotten.clear();
        node.node().up(&[function(3, &[])], UpOptions::default()).unwrap();
        let forgotten = node.kernel.system().forgotten.clone();
        let of_port = |flows: &Flows| matches!(flows, Flows::Untranslated { ports, .. } if ports.first() == 8001);
        assert!(forgotten.iter().any(of_port), "{forgotten:?}");
        let guests = forgotten.iter().filter(|flows| matches!(flows, Flows::Guest { .. }));
        assert_eq!(
            guests.count(),
            2,
            "the former guest of the port, and the new one: {forgotten:?}"
        );
        assert!(node.node().check().unwrap().is_empty());
    }
}

#[test]
fn a_slot_is_not_used_again_before_its_flows_are_forgotten() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.apply(&[up(0, 8001)]);
    daemon.apply(&[Request::Down(Selector::All)]);
    let draining = daemon.drain().unwrap().unwrap();
    // The port leads elsewhere while the slot drains.
    let begun = daemon.begin(&[up(1, 8001)]);
    let done = draining.run(&mut node.kernel.clone());
    daemon.finish(&done).unwrap();
    drop(done);
    let draining = |daemon: &mut WarmNode<FakeKernel>| {
        daemon.counts().unwrap().1.get(&ReservedSlot::Draining).copied()
    };
    assert_eq!(draining(&mut daemon), Some(1), "a task forgets its flows");
    assert!(daemon.drain().unwrap().is_none());
    daemon.repair().unwrap();
    assert_eq!(draining(&mut daemon), Some(1), "a task forgets its flows");
    for task in begun.tasks {
        daemon.finish_flows(&task.run(&mut node.kernel.clone()));
    }
    take(&Turn::Drain, &mut daemon);
    assert_eq!(draining(&mut daemon), None);
    assert_sound(&node, &mut daemon);
}

#[test]
fn flows_of_a_draining_slot_are_forgotten_once() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    daemon.apply(&[Request::Up(vec![function(0, &[8001, 8003])], UpOptions::default())]);
    daemon.apply(&[Request::Down(Selector::All)]);
    for (number, port, guests) in [(1, 8001, 1), (2, 8003, 0)] {
        node.kernel.system().forgotten.clear();
        for task in daemon.begin(&[up(number, port)]).tasks {
            daemon.finish_flows(&task.run(&mut node.kernel.clone()));
        }
        let forgotten = node.kernel.system().forgotten.clone();
        let of_guests = forgotten.iter().filter(|flows| matches!(flows, Flows::Guest { .. }));
        assert_eq!(of_guests.count(), guests, "{port}: {forgotten:?}");
    }
    assert_eq!(daemon.counts().unwrap().1, [(ReservedSlot::Draining, 1)].into());
    take(&Turn::Drain, &mut daemon);
    assert_sound(&node, &mut daemon);
}

#[test]
fn an_instance_that_cannot_be_repaired_does_not_slow_the_others() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    let up = |number: u16| {
        Request::Up(vec![function(number, &[8000 + number * 2])], UpOptions::default())
    };
    daemon.apply(&[up(0)]);
    let name = riklet_core::model::Slot::new(0).interface();
    node.kernel.system().links.get_mut(&name).unwrap().alias = None;
    assert_eq!(daemon.repair().unwrap().failures.len(), 1);
    daemon.apply(&[up(1)]);
    let listings = node.kernel.system().listings;
    let answers = daemon.apply(&[up(2)]);
    assert!(answers[0].as_ref().unwrap().failures.is_empty());
    // The one listing is that of the foreign forward chains, which a watched kernel has in memory.
    assert_eq!(node.kernel.system().listings - listings, 1);
    node.kernel.system().links.remove(&name);
    daemon.heal(&[riklet_core::model::Slot::new(0)].into()).unwrap();
    assert_sound(&node, &mut daemon);
}

#[test]
fn counting_slots_writes_nothing() {
    let node = TestNode::new();
    let mut daemon = node.warm();
    let up = |number| Request::Up(vec![function(number, &[])], UpOptions::default());
    daemon.apply(&[up(0), up(1)]);
    daemon.apply(&[Request::Down(Selector::Named([function(0, &[]).name().clone()].into()))]);
    let counted = daemon.counts().unwrap();
    assert!(daemon.has_deferred());
    assert_eq!(counted, (1, [(ReservedSlot::Draining, 1)].into()));
    daemon.flush().unwrap();
    assert_eq!(daemon.counts().unwrap(), counted);
}

/// Law 2: what a killed daemon was about to create or to delete goes with the next operation, whoever does it and whatever
/// it is for.
#[test]
fn next_operation_completes_what_a_killed_daemon_left() {
    for drains in [true, false] {
        let node = TestNode::new();
        let mut daemon = node.warm();
        let workload = function(0, &[8000]);
        daemon.initialize().unwrap();
        daemon.repair().unwrap();
        node.kernel.system().processes.insert(ProcessId::current().unwrap());
        let task = if drains {
            let up = Request::Up(vec![workload.clone()], UpOptions::default());
            let down = Request::Down(Selector::Named([workload.name().clone()].into()));
            for request in [up, down] {
                daemon.apply(&[request]).remove(0).unwrap();
            }
            daemon.flush().unwrap();
            daemon.drain().unwrap()
        } else {
            daemon.reserve(3).unwrap()
        };
        // Of those to be created, the kernel has none, some or all.
        drop(task.filter(|_| !drains).map(|task| task.run(&mut node.kernel.clone())));
        let links = || node.kernel.system().links.len();
        assert_eq!(links(), if drains { 1 } else { 3 });

        // Beside a daemon that lives, it stays the daemon's.
        node.node().up(&[function(1, &[])], UpOptions::default()).unwrap();
        let before = links();
        assert_eq!(before, if drains { 2 } else { 4 });
        drop(daemon);
        node.kernel.system().processes.clear();
        node.node().up(&[function(2, &[])], UpOptions::default()).unwrap();
        assert_eq!(links(), 2, "drains: {drains}");
        assert!(node.node().check().unwrap().is_empty());
    }
}
