//! Runs whose images are being downloaded, from a server that never answers.

use std::net::TcpListener;

use rustix::process::Pid;
use serde_json::{Value, json};

use crate::{
    program::Program,
    world::{
        Firewall, World,
        command::Running,
        function::function,
        runs::{kill, pid},
        traffic::PATIENCE,
        wait_for,
    },
};

/// A world in which a kernel never arrives.
struct Silent {
    world: World,
    _program: Program,
    /// The connections wait in its queue.
    _server: TcpListener,
}

impl Silent {
    fn new() -> Self {
        let world = World::new(Firewall::Nftables);
        let program = Program::install(&world, "qemu-system-x86_64", "");
        let server = world.node.run(|| TcpListener::bind("127.0.0.1:8099")).expect("a port");
        Self { world, _program: program, _server: server }
    }

    fn definition() -> String {
        let mut definition = function("hello", &[]);
        definition["spec"]["function"]["execution"] = json!({ "vmm": "qemu", "accelerator": "tcg", "kernel": "http://127.0.0.1:8099/kernel" });
        definition.to_string()
    }

    /// Begins a run, and waits until it is shown. Returns its starter and its supervisor.
    #[track_caller]
    fn begin(&self, arguments: &[&str]) -> (Running, Pid) {
        let running = self.world.riklet_in_background(arguments, &Self::definition());
        let run = wait_for("a run that prepares", PATIENCE, || {
            let all = self.world.riklet(&["--output", "json", "ps"], "").success();
            let all: Value = serde_json::from_str(&all).expect("JSON");
            (all[0]["state"] == "preparing").then(|| all[0].clone())
        });
        assert_eq!((&run["name"], &run["vmm"]), (&"hello".into(), &"qemu".into()), "{run}");
        assert!(run["pid"].is_null(), "{run}");
        (running, pid(&run["supervisorPid"]))
    }

    /// Stops the run.
    #[track_caller]
    fn stop(&self, running: Running) {
        let stopped = self.world.riklet(&["stop", "hello"], "");
        assert_eq!((stopped.code, &*stopped.stderr), (Some(0), "hello: SIGTERM\n"), "{stopped}");
        let starter = running.wait_within(PATIENCE);
        assert_ne!(starter.code, Some(0), "{starter}");
        if starter.code.is_some() {
            let words = "error: the supervisor of hello has ended: it was stopped or killed";
            assert!(starter.stderr.contains(words), "{starter}");
        }
        let run = self.world.ps("hello");
        assert_eq!((&run["state"], &run["reason"]), (&"ended".into(), &"stopped".into()), "{run}");
        assert_eq!(run["failed"], false, "{run}");
    }
}

const DETACHED: [&str; 3] = ["run", "--detach", "-"];

#[test]
fn run_that_downloads_is_shown_and_stopped() {
    let silent = Silent::new();
    let world = &silent.world;
    for arguments in [&DETACHED[..], &["run", "-"]] {
        let (running, _) = silent.begin(arguments);
        let other = world.riklet(&DETACHED, &Silent::definition());
        assert!(
            other.code == Some(1) && other.stderr.contains("hello is already running"),
            "{other}"
        );
        // It has no network that it could lose.
        world.riklet(&["down", "--all"], "").success();
        silent.stop(running);
    }
    world.riklet(&["check"], "").success();
}

#[test]
fn killed_download_blocks_no_run() {
    let silent = Silent::new();
    let world = &silent.world;
    let (running, supervisor) = silent.begin(&DETACHED);
    kill(supervisor);
    assert_ne!(running.wait_within(PATIENCE).code, Some(0));
    assert_eq!(world.state_of("hello").0, "lost");
    // The next run clears it away.
    let (running, _) = silent.begin(&DETACHED);
    silent.stop(running);
    // A daemon does so by itself, and does not take a run that is stopped for lost.
    let _daemon = world.daemon(&[]);
    let (running, supervisor) = silent.begin(&["--no-daemon", "run", "--detach", "-"]);
    kill(supervisor);
    assert_eq!(world.reason_of("hello"), "its supervisor died");
    drop(running);
    let (running, _) = silent.begin(&["--no-daemon", "run", "--detach", "-"]);
    silent.stop(running);
}

#[test]
fn download_that_fails_is_the_end_of_its_run() {
    let silent = Silent::new();
    let world = &silent.world;
    let definition = Silent::definition().replace("8099", "8098");
    world.riklet(&DETACHED, &definition).failure(1);
    let run = world.ps("hello");
    assert_eq!((&run["state"], &run["failed"]), (&"ended".into(), &true.into()), "{run}");
    assert!(run["reason"].as_str().is_some_and(|it| it.contains("http://127.0.0.1:8098")), "{run}");
    world.riklet(&["down", "--all", "--purge"], "").success();
}
