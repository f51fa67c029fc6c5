//! Laws 1 and 2 on the real kernel: whenever the program is killed, the next one completes its work.

use std::{collections::BTreeMap, fs::File, time::Duration};

use riklet_core::model::Workload;
use riklet_kernel::process::ProcessId;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal},
};

use crate::{
    operation::Operation,
    world::{
        Firewall, NODE_LAN, World,
        command::Running,
        held::{Held, HoldPoint},
        on_every_firewall,
        random::Random,
        records::{Recorded, assert_all_answer, definitions, workload},
        state::{SystemState, assert_same},
        traffic::{PATIENCE, UdpClient, assert_tcp_refused, udp_server},
        wait::duration_of,
        wait_for,
    },
};

/// The number of operations on each firewall: 200 on all of them.
const OPERATIONS: usize = 67;
/// The number of operations between two repairs.
const BETWEEN_REPAIRS: usize = 8;
const NAMES: [&str; 5] = ["f0", "f1", "f2", "f3", "f4"];

/// The possible records of each name: more than one if an operation was killed.
#[derive(Debug)]
struct Model(BTreeMap<String, Vec<Option<Workload>>>);

impl Model {
    fn new() -> Self {
        Self(NAMES.map(|name| (name.to_owned(), vec![None])).into())
    }

    /// Returns the names that an operation affects, and their records after it.
    fn effects(&self, operation: &Operation) -> Vec<(String, Option<Workload>)> {
        match operation {
            Operation::Up(function) => {
                vec![(function.name().to_string(), Some((**function).clone()))]
            }
            Operation::Down(name) => vec![(name.clone(), None)],
            Operation::DownAll | Operation::Purge => {
                self.0.keys().map(|name| (name.clone(), None)).collect()
            }
            Operation::Repair => vec![],
        }
    }

    fn killed(&mut self, operation: &Operation) {
        for (name, state) in self.effects(operation) {
            self.0.entry(name).or_default().push(state);
        }
    }

    fn done(&mut self, operation: &Operation) {
        self.0.extend(self.effects(operation).into_iter().map(|(name, state)| (name, vec![state])));
    }

    /// Asserts that the records are among the possible ones. From now on, only these are possible.
    #[track_caller]
    fn assert_possible(&mut self, recorded: &BTreeMap<String, Recorded>) {
        for (name, possible) in &mut self.0 {
            let found = recorded.get(name).map(|recorded| recorded.workload.clone());
            assert!(possible.contains(&found), "{name}: {found:?} is none of {possible:?}");
            *possible = vec![found];
        }
        assert!(recorded.keys().all(|name| self.0.contains_key(name)), "{recorded:?}");
    }
}

/// Repairs, and asserts that the records, the kernel and the guests' answers agree.
fn assert_sound(world: &World, model: &mut Model) {
    world.riklet(&["repair"], "").success();
    let recorded = world.assert_in_step();
    model.assert_possible(&recorded);
    assert_all_answer(world, &recorded);
}

on_every_firewall!(killed_operations_are_repaired, |world| {
    let mut random = Random::new();
    let before = SystemState::take(&world.node);
    let usual = usual_duration(world);
    assert_same(&before, &SystemState::take(&world.node));

    let mut model = Model::new();
    let mut killed = 0;
    for number in 1..=OPERATIONS {
        let operation = Operation::random(&mut random, &NAMES);
        let running = operation.start(world);
        if !running.ends_within(random.part_of(usual)) {
            running.signal(Signal::KILL);
        }
        let output = running.wait();
        if output.code.is_none() {
            killed += 1;
            model.killed(&operation);
        } else if operation.is_done(&output) {
            model.done(&operation);
            // The work of killed operations has been completed as well.
            assert_eq!(world.riklet(&["check"], "").success(), "");
        }
        if number % BETWEEN_REPAIRS == 0 || number == OPERATIONS {
            assert_sound(world, &mut model);
        }
    }
    assert!(killed > OPERATIONS / 8, "only {killed} of {OPERATIONS} were killed within {usual:?}");
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
    assert_tcp_refused(&world.client, (NODE_LAN, 8000));
});

/// Returns the time of an `up` that has everything to do, on a machine that is otherwise idle.
fn usual_duration(world: &World) -> Duration {
    let functions = [workload("f0", &["tcp 8000 3000"]), workload("f1", &["udp 8000 3000"])];
    let taken = (0..3).map(|_| {
        let taken = duration_of(|| world.try_up(&functions).success());
        world.riklet(&["down", "--all", "--purge"], "").success();
        taken
    });
    taken.min().unwrap()
}

/// Starts an operation, and kills it when an `iptables-restore` that it started, whose input contains this text, has
/// come to this point. Asserts that the program ends with it.
#[track_caller]
fn kill_at(world: &World, operation: &Operation, text: &str, place: HoldPoint) {
    let held = Held::restore(world, text, place);
    let running = operation.start(world);
    held.wait();
    kill_with_programs(running);
}

/// Kills a program that runs others, and asserts that these end with it, whatever they wait for.
#[track_caller]
fn kill_with_programs(running: Running) {
    let programs: Vec<_> = running.children().into_iter().filter_map(alive).collect();
    assert!(!programs.is_empty(), "no program runs");
    running.signal(Signal::KILL);
    assert_eq!(running.wait().code, None);
    for program in programs {
        wait_for("the end of a killed command's program", PATIENCE, || {
            (!program.is_alive().unwrap()).then_some(())
        });
    }
}

fn alive(process: Pid) -> Option<ProcessId> {
    ProcessId::of(process.as_raw_nonzero().get().try_into().ok()?).unwrap()
}

/// Has somebody else hold the lock of iptables-legacy, so that `iptables-restore` waits for it.
fn hold_xtables_lock(world: &World) -> File {
    let lock = File::create(world.directory.path().join("xtables.lock")).expect("a file");
    flock(&lock, FlockOperation::LockExclusive).expect("flock");
    lock
}

#[track_caller]
fn wait_for_restore(running: &Running) {
    wait_for("iptables-restore to run", PATIENCE, || running.runs("restore").then_some(()));
}

#[test]
fn killed_command_leaves_no_program_that_waits_for_the_lock_of_iptables() {
    let world = &World::new(Firewall::IptablesLegacy);
    world.try_up(&[workload("f0", &["tcp 8000 3000"])]).success();
    let lock = hold_xtables_lock(world);
    let running = Operation::Up(Box::new(workload("f1", &["tcp 8001 3001"]))).start(world);
    wait_for_restore(&running);
    kill_with_programs(running);
    drop(lock);
    world.riklet(&["repair"], "").success();
    world.assert_in_step();
}

#[test]
fn killed_daemon_leaves_no_program_that_waits_for_the_lock_of_iptables() {
    let world = &World::new(Firewall::IptablesLegacy);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let daemon = daemon.into_running();
    let lock = hold_xtables_lock(world);
    let asking = Operation::Up(Box::new(workload("f0", &["tcp 8000 3000"]))).start(world);
    wait_for_restore(&daemon);
    kill_with_programs(daemon);
    drop((lock, asking));
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
}

/// The next operation begins at once, and completes the work.
fn next_operation_completes_the_work_of_a_killed_one(firewall: Firewall, place: HoldPoint) {
    let world = &World::new(firewall);
    world.try_up(&[workload("f0", &["tcp 8000 3000"])]).success();
    let up = Operation::Up(Box::new(workload("f1", &["tcp 8001 3001"])));
    kill_at(world, &up, "-A RIKLET -p tcp", place);
    world.riklet(&["down", "f1"], "").success();
    let recorded = world.assert_in_step();
    assert_eq!(recorded.keys().collect::<Vec<_>>(), ["f0"], "{firewall:?} {place:?}");
}

#[test]
fn next_operation_completes_the_work_of_a_killed_one_on_iptables_nft() {
    for place in [HoldPoint::Before, HoldPoint::After] {
        next_operation_completes_the_work_of_a_killed_one(Firewall::IptablesNft, place);
    }
}

#[test]
fn next_operation_completes_the_work_of_a_killed_one_on_iptables_legacy() {
    for place in [HoldPoint::Before, HoldPoint::After] {
        next_operation_completes_the_work_of_a_killed_one(Firewall::IptablesLegacy, place);
    }
}

/// Calling iptables-nft creates tables; the next purge removes them.
#[test]
fn next_purge_removes_empty_tables_of_a_killed_one() {
    let world = &World::new(Firewall::IptablesNft);
    let before = SystemState::take(&world.node);
    world.try_up(&[workload("f0", &["tcp 8000 3000"])]).success();
    kill_at(world, &Operation::Purge, "-X RIKLET-FORWARD", HoldPoint::After);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

/// An established flow keeps its first translation until the kernel is told to forget it.
#[test]
fn stale_flow_of_a_killed_change_is_deleted() {
    let world = &World::new(Firewall::IptablesLegacy);
    let target = (NODE_LAN, 8000);
    world.try_up(&[workload("f0", &["udp 8000 3000"])]).success();
    let played = world.play(&world.recorded()["f0"]);
    let address = played.recorded.guest;
    let _changed = udp_server(&played.guest.namespace, (address, 3100));
    let mut client = UdpClient::new(&world.client, target);
    assert_eq!(client.ask(PATIENCE).unwrap().server, (address, 3000).into());

    let up = Operation::Up(Box::new(workload("f0", &["udp 8000 3100"])));
    kill_at(world, &up, "-A RIKLET -p udp", HoldPoint::After);
    world.riklet(&["repair"], "").success();
    assert_eq!(client.ask(PATIENCE).unwrap().server, (address, 3100).into());
    assert_eq!(world.assert_in_step().len(), 1);
}

#[test]
fn killed_run_ends_its_guests_and_repair_removes_its_functions() {
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let functions = [workload("f0", &["tcp 8000 3000"]), workload("f1", &["tcp 8001 3000"])];
    let mut run = world.riklet_in_background(&["run", "-"], &definitions(&functions));
    run.wait_for_line("ready in ");
    assert_eq!(run.children().len(), 2);
    run.signal(Signal::KILL);
    assert_eq!(run.wait().code, None);
    for tap in ["rik0", "rik1"] {
        wait_for("the guest to let go of its TAP", PATIENCE, || {
            world.node.tool(&["ip", "link", "show", tap]).contains("NO-CARRIER").then_some(())
        });
    }
    let lost = world.riklet(&["check"], "");
    assert_eq!(
        (lost.code, lost.stdout.matches("its supervisor died").count()),
        (Some(1), 2),
        "{lost}"
    );
    world.riklet(&["repair"], "").success();
    assert_eq!(world.assert_in_step().len(), 0);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}
