//! An error of the kernel at any system call: an operation succeeds, or says what failed, and whatever is done next puts
//! everything right.

mod daemon;
mod strace;

use riklet_core::model::Workload;

use self::strace::{Call, Injected};
use crate::{
    operation::Operation,
    supervised::{HELLO, assert_answers, hello},
    world::{
        Firewall, NODE_LAN, World,
        command::Output,
        function::{exposure, function},
        on_every_firewall,
        records::workload,
        state::{SystemState, assert_same},
        traffic::tcp_ask,
        transport::Transport::Tcp,
    },
};

/// A command, and what it needs to have something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Up,
    Down,
    Repair,
    Check,
    Purge,
}

impl Command {
    /// The commands, and the number of system calls of each that are tried.
    const SAMPLES: [(Self, usize); 5] =
        [(Self::Up, 10), (Self::Down, 8), (Self::Repair, 6), (Self::Check, 3), (Self::Purge, 3)];

    fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::Up => vec!["up", "-"],
            Self::Down => vec!["down", "web"],
            Self::Repair => vec!["repair"],
            Self::Check => vec!["check"],
            Self::Purge => vec!["down", "--all", "--purge"],
        }
    }

    /// Makes something for the command to do.
    fn prepare(self, world: &World) {
        if self == Self::Up {
            world.riklet(&["down", "web"], "").success();
        } else {
            up(web()).start(world).wait().success();
        }
        if self == Self::Repair {
            world.node.tool(&["ip", "link", "set", "rik1", "down"]);
            match world.firewall {
                Firewall::Nftables => drop(world.node.tool(&["nft", "flush", "ruleset"])),
                _ => drop(world.program("iptables", &["-t", "nat", "-F"], "").success()),
            }
        }
    }

    /// Asserts that the command has done what it reports as done.
    fn assert_done(self, world: &World) {
        if self == Self::Purge {
            return;
        }
        let recorded = world.assert_in_step();
        let expected: &[&str] = if self == Self::Down { &["other"] } else { &["other", "web"] };
        assert_eq!(recorded.keys().collect::<Vec<_>>(), expected);
    }
}

fn web() -> Workload {
    workload("web", &["tcp 8000 3000", "udp 8000-8003 3000-3003"])
}

fn up(workload: Workload) -> Operation {
    Operation::Up(Box::new(workload))
}

/// Asserts that the command succeeded or said honestly what failed.
#[track_caller]
fn assert_honest(world: &World, call: &Call, injected: Injected, output: &Output) {
    if strace::missed(world) {
        return;
    }
    let said = &output.stderr;
    let is_error = matches!(output.code, Some(1..=3))
        && said.lines().any(|line| line.starts_with("error:"))
        && strace::names(said, injected);
    assert!(output.code == Some(0) || is_error, "{injected:?} at {call:?}: {output}");
    // SQLite reports damage where the device reports errors of its own.
    let is_damage = said.contains(" is corrupt: ") && injected.error != "EIO";
    assert!(!is_damage, "nothing is damaged: {injected:?} at {call:?}: {output}");
}

on_every_firewall!(error_at_a_system_call_is_reported_and_leaves_nothing, |world| {
    let mut random = strace::random();
    let before = SystemState::take(&world.node);
    let other = || function("other", &[exposure(Tcp, 9090, 3000)]);
    let mut bystander = world.start([(other(), &[(Tcp, 3000)])]);
    for (command, sample) in Command::SAMPLES {
        up(web()).start(world).wait().success();
        command.prepare(world);
        let arguments = command.arguments();
        let input = if command == Command::Up { up(web()).input() } else { String::new() };
        let calls = strace::calls(world, &arguments, &input);
        if command == Command::Purge {
            drop(bystander);
            bystander = world.start([(other(), &[(Tcp, 3000)])]);
        }
        for (call, injected) in strace::chosen(&mut random, &calls, sample) {
            if command == Command::Purge {
                drop(bystander);
                bystander = world.start([(other(), &[(Tcp, 3000)])]);
            }
            command.prepare(world);
            let output = strace::inject(world, &call, injected, &arguments, &input);
            assert_honest(world, &call, injected, &output);
            if output.code == Some(0) {
                command.assert_done(world);
            }
            // Any of these completes or undoes what was begun.
            let next = match random.below(3) {
                0 => Operation::Repair,
                1 if command == Command::Purge => Operation::Purge,
                _ => up(web()),
            };
            let output = next.start(world).wait();
            assert_eq!(output.code, Some(0), "after {injected:?} at {call:?}: {output}");
            if command != Command::Purge {
                world.assert_in_step();
                tcp_ask(&world.client, (NODE_LAN, 9090)).expect("the other function");
            }
            up(web()).start(world).wait().success();
        }
    }
    drop(bystander);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(a_look_that_fails_is_no_drift, |world| {
    let _function = world.start([(function("web", &[exposure(Tcp, 8000, 3000)]), &[(Tcp, 3000)])]);
    let check = ["check"];
    let asks = |call: &Call| matches!(&*call.name, "sendto" | "recvfrom" | "recvmsg" | "sendmsg");
    let calls = strace::calls(world, &check, "");
    let mut failed = 0;
    for call in calls.iter().filter(|call| asks(call)) {
        let injected = Injected::named("EIO");
        let output = strace::inject(world, call, injected, &check, "");
        assert_honest(world, call, injected, &output);
        failed += u32::from(output.code != Some(0));
    }
    assert!(failed > 0, "no question to the kernel failed");
});

on_every_firewall!(a_thread_that_cannot_be_started_ends_no_command, |world| {
    let (web, injected) = (up(web()), Injected::named("EAGAIN"));
    // The first `up` has more to do. Its record is there when that of the next one is looked for.
    let _calls = strace::calls(world, &web.arguments(), &web.input());
    world.down(&["web"]);
    for number in 1..=4 {
        let call = Call { name: "clone3".to_owned(), number };
        let output = strace::inject(world, &call, injected, &web.arguments(), &web.input());
        assert_honest(world, &call, injected, &output);
        web.start(world).wait().success();
        world.assert_in_step();
        world.down(&["web"]);
    }
});

#[test]
fn a_thread_that_cannot_be_started_ends_a_run_with_an_error() {
    let world = &World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let (definition, injected) = (hello().to_string(), Injected::named("EAGAIN"));
    let is_up = || {
        let runs = world.riklet(&["--output", "json", "ps"], "").success();
        runs.contains("\"running\"")
    };
    let mut refused = 0;
    for number in 1..=8 {
        let call = Call { name: "clone3".to_owned(), number };
        let injection = (&call, injected);
        let output = strace::inject_until(world, injection, &["run", "-"], &definition, is_up);
        assert_honest(world, &call, injected, &output);
        refused += u32::from(output.code != Some(0));
        world.riklet(&["repair"], "").success();
        assert_eq!(world.assert_in_step().len(), 0, "after {injected:?} at {call:?}: {output}");
    }
    assert!(refused > 0, "no thread was refused that a run needs");
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

/// The number of system calls of a `run` that are tried.
const RUNS: usize = 6;

#[test]
fn error_at_a_system_call_of_a_run_is_reported_and_leaves_nothing() {
    let world = &World::new(Firewall::Nftables);
    let mut random = strace::random();
    let before = SystemState::take(&world.node);
    let definition = hello().to_string();
    let arguments = ["run", "-"];
    let is_up = || {
        let runs = world.riklet(&["--output", "json", "ps"], "").success();
        runs.contains("\"running\"")
    };
    let calls = strace::calls_until(world, &arguments, &definition, is_up);
    for (call, injected) in strace::chosen(&mut random, &calls, RUNS) {
        let injection = (&call, injected);
        let output = strace::inject_until(world, injection, &arguments, &definition, is_up);
        assert_honest(world, &call, injected, &output);
        world.riklet(&["repair"], "").success();
        assert_eq!(world.assert_in_step().len(), 0, "after {injected:?} at {call:?}: {output}");
        world.detach(&[hello()]);
        assert_answers(world, HELLO, "hello");
        world.riklet(&["stop", "hello"], "").success();
    }
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}
