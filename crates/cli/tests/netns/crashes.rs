//! Killed runs: the traces that they leave, and the commands that remove them.

use std::net::Ipv4Addr;

use riklet_sdn::store::Lock;
use rustix::process::Pid;
use serde_json::Value;

use crate::{
    supervised::{HELLO, SECOND, assert_answers, hello, second},
    world::{
        Firewall, World,
        command::Running,
        function::{bound, exposure, function},
        on_every_firewall,
        runs::{is_alive, kill, pid},
        state::{SystemState, assert_same},
        traffic::PATIENCE,
        transport::{Transport::Tcp, assert_refused},
        wait_for,
    },
};

/// The processes to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    Guest,
    Supervisor,
    Both,
}

const ALL: [Victims; 3] = [Victims::Guest, Victims::Supervisor, Victims::Both];

impl Victims {
    /// Kills them, and waits until both the guest and its supervisor have ended: the kernel ends the guest with its
    /// supervisor, and a supervisor ends after its guest.
    #[track_caller]
    fn kill(self, run: &Value) {
        let (guest, supervisor) = (pid(&run["pid"]), pid(&run["supervisorPid"]));
        match self {
            Self::Guest => kill(guest),
            Self::Supervisor => kill(supervisor),
            Self::Both => {
                // The supervisor is first, since one whose guest has died begins to clean up.
                kill(supervisor);
                if is_alive(guest) {
                    rustix::process::kill_process(guest, rustix::process::Signal::KILL).ok();
                }
            }
        }
        wait_until_ended(&[guest, supervisor]);
    }
}

#[track_caller]
fn wait_until_ended(processes: &[Pid]) {
    wait_for("the end of guest and supervisor", PATIENCE, || {
        processes.iter().all(|process| !is_alive(*process)).then_some(())
    });
}

/// Returns the TAPs of the node, and whether the firewall has rules for the guests' addresses.
fn remains(world: &World) -> (String, bool) {
    let links = world.node.tool(&["ip", "-brief", "link"]);
    let taps =
        links.lines().filter(|line| line.starts_with("rik")).map(|line| line.to_owned() + "\n");
    let rules = world.node.tool(&["nft", "--stateless", "list", "ruleset"])
        + &world.program("iptables-save", &[], "").stdout;
    (taps.collect(), rules.contains("10.231.0.2"))
}

/// The warning of a run on an address that the node does not have, so that it is never ready.
const UNREACHED: &str = "warning: hello: tcp 192.0.2.99:8080 -> 3000 is not reached: this host does not have the address 192.0.2.99\n";

/// Asserts that the supervisor of `hello` is reported as dead, and that one `repair` removes everything it left.
#[track_caller]
fn assert_repaired(world: &World) {
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(1), "{check}");
    assert!(check.stdout.ends_with("! run hello: its supervisor died\n"), "{check}");
    let listed: Value =
        serde_json::from_str(&world.riklet(&["--output", "json", "list"], "").success()).unwrap();
    // A run that was killed early has no network.
    let mut listed = listed.as_array().into_iter().flatten();
    let lost = |entry: &Value| entry["name"] != "hello" || entry["link"] == "lost";
    assert!(listed.all(lost), "{check}");
    let check = world.riklet(&["--output", "json", "check"], "");
    let check: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!(check["lost"], Value::from(["hello"].as_slice()), "{check}");
    assert_eq!(world.state_of("hello").0, "lost");

    let repaired = world.riklet(&["repair"], "");
    assert_eq!(repaired.code, Some(0), "{repaired}");
    assert_eq!(repaired.stderr, "warning: hello: its supervisor died; cleared away what it left\n");
    world.riklet(&["check"], "").success();
    assert_refused(Tcp, &world.client, HELLO);
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "its supervisor died".to_owned()));
    assert_eq!(world.riklet(&["wait", "hello"], "").failure(1), "");
    let again = world.riklet(&["repair"], "");
    assert_eq!(again.stderr, "nothing to do\n", "{again}");
}

on_every_firewall!(remains_of_a_killed_run_are_repaired, |world| {
    let before = SystemState::take(&world.node);
    for victims in ALL {
        // One after the other, so that each has its slot.
        world.detach(&[hello()]);
        world.detach(&[second()]);
        victims.kill(&world.ps("hello"));
        if victims == Victims::Guest {
            // The guest's supervisor has cleaned up.
            assert_eq!(world.state_of("hello").1, "builtin was killed by signal 9");
            world.riklet(&["check"], "").success();
            assert_refused(Tcp, &world.client, HELLO);
        } else {
            assert_repaired(world);
        }
        // The surviving run was not touched.
        assert_answers(world, SECOND, "second");
        let (taps, rules) = remains(world);
        assert!(taps.starts_with("rik1 ") && taps.lines().count() == 1 && !rules, "{taps}");
        world.riklet(&["stop", "second"], "").success();
        assert_same(&before, &SystemState::take(&world.node));
    }
});

#[test]
fn next_run_cleans_up_after_a_killed_one() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    for victims in [Victims::Supervisor, Victims::Both] {
        for detached in [true, false] {
            world.detach(&[hello(), second()]);
            victims.kill(&world.ps("hello"));
            if detached {
                world.detach(&[hello()]);
                assert_answers(&world, HELLO, "hello");
            } else {
                // The next run cleans up, whatever its name is.
                world.detach(&[function("third", &[exposure(Tcp, 7070, 3000)])]);
                assert_eq!(world.state_of("hello").1, "its supervisor died");
                assert_refused(Tcp, &world.client, HELLO);
            }
            world.riklet(&["check"], "").success();
            assert_answers(&world, SECOND, "second");
            world.riklet(&["stop", "--all"], "").success();
            assert_same(&before, &SystemState::take(&world.node));
        }
    }
}

#[test]
fn only_one_process_cleans_up_a_lost_run() {
    let world = World::new(Firewall::Nftables);
    world.detach(&[hello()]);
    Victims::Both.kill(&world.ps("hello"));
    let state_dir = &world.environment["RIKLET_SDN_STATE_DIR"];
    let lock = Lock::exclusive(state_dir.as_ref()).expect("the lock");
    let repairing = world.riklet_in_background(&["repair"], "");
    wait_for("who clears away to say so", PATIENCE, || {
        (world.state_of("hello").0 != "lost").then_some(())
    });
    // A new run of `hello` now would lose its network to the cleanup.
    let complaint = world.riklet(&["run", "-"], &hello().to_string()).failure(1);
    assert!(complaint.starts_with("error: hello is already running: "), "{complaint}");
    let waiting = world.riklet_in_background(&["wait", "hello"], "");
    drop(lock);
    repairing.wait_within(PATIENCE).success();
    assert_eq!(waiting.wait_within(PATIENCE).code, Some(1));
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "its supervisor died".to_owned()));
    world.detach(&[hello()]);
    assert_answers(&world, HELLO, "hello");
    // A `repair` that is killed meanwhile leaves everything as it was.
    Victims::Both.kill(&world.ps("hello"));
    let lock = Lock::exclusive(state_dir.as_ref()).expect("the lock");
    let repairing = world.riklet_in_background(&["repair"], "");
    wait_for("who clears away to say so", PATIENCE, || {
        (world.state_of("hello").0 != "lost").then_some(())
    });
    drop(repairing);
    drop(lock);
    assert_repaired(&world);
}

#[test]
fn stop_cleans_up_a_lost_run() {
    let world = World::new(Firewall::Nftables);
    for all in [false, true] {
        world.detach(&[hello(), second()]);
        Victims::Both.kill(&world.ps("hello"));
        let selector = if all { "--all" } else { "hello" };
        world.riklet(&["stop", selector], "").success();
        assert_eq!(world.state_of("hello").0, "ended");
        world.riklet(&["check"], "").success();
        assert_refused(Tcp, &world.client, HELLO);
        if !all {
            assert_answers(&world, SECOND, "second");
            world.riklet(&["stop", "second"], "").success();
        }
    }
}

/// Starts `hello` so that it never becomes ready: its port is published at an address that nobody reaches.
fn start_never_ready(world: &World) -> (Running, Value) {
    let nowhere = bound(Ipv4Addr::new(192, 0, 2, 99), exposure(Tcp, 8080, 3000));
    let definition = function("hello", &[nowhere]).to_string();
    let starting =
        world.riklet_in_background(&["run", "--detach", "--ready-timeout", "50", "-"], &definition);
    let run = wait_for("the guest of a run that starts", PATIENCE, || {
        let runs = world.riklet(&["--output", "json", "ps"], "").success();
        let runs: Vec<Value> = serde_json::from_str(&runs).unwrap();
        runs.into_iter().find(|run| run["state"] == "starting" && run["pid"].is_u64())
    });
    (starting, run)
}

#[test]
fn run_killed_during_its_start_is_repaired() {
    let world = World::new(Firewall::Nftables);
    world.detach(&[second()]);
    world.wait_for_carrier("rik0");
    let before = SystemState::take(&world.node);
    for victims in ALL {
        let (starting, run) = start_never_ready(&world);
        victims.kill(&run);
        let output = starting.wait_within(PATIENCE);
        assert_eq!(output.code, Some(1), "{output}");
        if victims == Victims::Guest {
            let complaint =
                "error: hello ended before it was ready: builtin was killed by signal 9\n";
            assert_eq!(output.stderr, format!("{UNREACHED}{complaint}"));
            assert_eq!(world.reason_of("hello"), "builtin was killed by signal 9");
            world.riklet(&["check"], "").success();
        } else {
            assert_ne!(output.stderr, "", "who waits is told");
            assert_repaired(&world);
        }
        assert_answers(&world, SECOND, "second");
        assert_same(&before, &SystemState::take(&world.node));
    }
}

#[test]
fn run_can_be_stopped_during_its_start() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let (starting, run) = start_never_ready(&world);
    world.riklet(&["stop", "hello"], "").success();
    wait_until_ended(&[pid(&run["pid"]), pid(&run["supervisorPid"])]);
    let output = starting.wait_within(PATIENCE);
    let complaint = "error: hello ended before it was ready: stopped\n";
    assert_eq!((output.code, output.stderr), (Some(1), format!("{UNREACHED}{complaint}")));
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    assert_same(&before, &SystemState::take(&world.node));
}

/// Starts a run that cannot change the kernel yet, since the lock that it needs is held. Returns the lock, the program
/// and the run.
fn start_blocked(world: &World) -> (Lock, Running, Value) {
    // Creates the database.
    world.riklet(&["up", "-"], &second().to_string()).success();
    world.down(&["second"]);
    let state_dir = &world.environment["RIKLET_SDN_STATE_DIR"];
    let lock = Lock::exclusive(state_dir.as_ref()).expect("the lock");
    let begun = world.riklet_in_background(&["run", "--detach", "-"], &hello().to_string());
    let run = wait_for("a run that begins", PATIENCE, || {
        let runs = world.riklet(&["--output", "json", "ps"], "").success();
        serde_json::from_str::<Vec<Value>>(&runs).unwrap().pop()
    });
    assert_eq!((&run["state"], &run["pid"]), (&"starting".into(), &Value::Null));
    (lock, begun, run)
}

#[test]
fn run_without_a_vmm_can_be_stopped() {
    let world = World::new(Firewall::Nftables);
    let (lock, begun, _) = start_blocked(&world);
    // There is no log yet either.
    assert_eq!(world.riklet(&["logs", "hello"], "").success(), "");
    let following = world.riklet_in_background(&["logs", "--follow", "hello"], "");
    let stopping = world.riklet_in_background(&["stop", "hello"], "");
    wait_for("the record of it", PATIENCE, || {
        (world.state_of("hello").0 == "stopping").then_some(())
    });
    drop(lock);
    stopping.wait_within(PATIENCE).success();
    let complaint = begun.wait_within(PATIENCE).failure(1);
    assert_eq!(complaint, "error: hello ended before it was ready: stopped\n");
    following.wait_within(PATIENCE).success();
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    world.riklet(&["check"], "").success();
    assert_refused(Tcp, &world.client, HELLO);
}

#[test]
fn run_without_a_vmm_can_be_repaired() {
    let world = World::new(Firewall::Nftables);
    let (lock, begun, run) = start_blocked(&world);
    kill(pid(&run["supervisorPid"]));
    drop(lock);
    assert_eq!(begun.wait_within(PATIENCE).code, Some(1));
    assert_repaired(&world);
}
