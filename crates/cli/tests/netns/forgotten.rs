//! Old flows of a port are forgotten before the `up` that publishes it is confirmed, and nobody else waits for that.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::world::{
    Firewall, NODE_LAN, World,
    command::Running,
    daemon::{Daemon, Reply},
    function::{exposure, function},
    on_every_firewall,
    traffic::{PATIENCE, UdpClient},
    transport::Transport::{Tcp, Udp},
    wait_for,
};

/// The port that clients have flows to.
const PORT: u16 = 8001;
const WEB: &str = "/v1/functions/web";
/// The longest time until a thread is traced, or a request is begun.
const SOON: Duration = Duration::from_mins(1);

/// A running strace(1), which lets the thread that forgets flows send nothing.
struct Halted(Running);

impl Halted {
    #[track_caller]
    fn thread_of(world: &World, daemon: &Daemon) -> Self {
        // Only the end of strace ends it.
        Self::with_delay(world, daemon, Duration::from_hours(1))
    }

    /// Lets the thread wait so long before each message to the kernel.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "files of procfs")]
    fn with_delay(world: &World, daemon: &Daemon, delay: Duration) -> Self {
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("a process");
        let thread = threads
            .flatten()
            .map(|thread| thread.path())
            .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "flows\n"));
        let thread: PathBuf = thread.expect("a thread for flows");
        let number = thread.file_name().and_then(|name| name.to_str()).expect("a number");
        let record = world.directory.path().join("strace");
        let delay = format!("inject=sendto:delay_enter={}", delay.as_micros());
        let record = record.to_str().expect("UTF-8");
        let options = ["-qq", "-o", record, "-e", "trace=sendto", "-e", &delay, "-p", number];
        let running = world.program_in_background("strace", &options, "");
        let tracer = format!("TracerPid:\t{}", running.id());
        wait_for("strace to trace the thread", SOON, || {
            let status = fs::read_to_string(thread.join("status")).expect("a thread");
            status.contains(&tracer).then_some(())
        });
        Self(running)
    }

    /// Lets the thread go on.
    #[track_caller]
    fn end(self) {
        self.0.signal(Signal::INT);
        drop(self.0.wait());
    }
}

/// Returns the entries of connections to the port (conntrack(8)) that are not translated.
fn old_flows(world: &World) -> String {
    let (node, port) = (NODE_LAN.to_string(), PORT.to_string());
    let of_port = ["conntrack", "-L", "-p", "udp", "--orig-dst", &node, "--orig-port-dst", &port];
    let entries = world.node.tool(&of_port);
    let is_old = |entry: &&str| entry.contains(&format!("src={node} dst="));
    entries.lines().filter(is_old).collect()
}

/// Starts a daemon on a node that tracks a flow to the port, which nobody serves yet.
fn prepared(world: &World) -> Daemon {
    let daemon = world.daemon(&[]);
    let other = function("other", &[exposure(Tcp, 9090, 3000)]).to_string();
    assert_eq!(daemon.ask("PUT", "/v1/functions/other", &other).status, 200);
    daemon.wait_until_idle();
    let refused = UdpClient::new(&world.client, (NODE_LAN, PORT)).try_ask(PATIENCE);
    assert!(refused.is_err(), "{refused:?}");
    assert_ne!(old_flows(world), "");
    daemon
}

fn web() -> String {
    function("web", &[exposure(Udp, PORT, 3000)]).to_string()
}

fn names(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.get("/v1/functions");
    let names = listed.as_array().expect("a list").iter().map(|entry| entry["name"].to_string());
    names.collect()
}

fn put_web(daemon: &Daemon) -> impl FnOnce() -> Reply + use<> {
    let api = daemon.clone_api();
    move || api.ask("PUT", WEB, &web())
}

#[track_caller]
fn wait_until_begun(daemon: &Daemon) {
    wait_for("the request to be begun", SOON, || {
        names(daemon).contains(&"\"web\"".to_owned()).then_some(())
    });
}

on_every_firewall!(only_who_needs_old_flows_forgotten_waits_for_that, |world| {
    let daemon = prepared(world);
    let halted = Halted::thread_of(world, &daemon);
    thread::scope(|scope| {
        let put = scope.spawn(put_web(&daemon));
        // That the list comes shows that the engine goes on.
        wait_until_begun(&daemon);
        for (name, port) in [("third", 9091), ("fourth", 9092)] {
            let path = format!("/v1/functions/{name}");
            let definition = function(name, &[exposure(Tcp, port, 3000)]).to_string();
            for (method, body) in [("PUT", &*definition), ("DELETE", "")] {
                let reply = daemon.ask(method, &path, body);
                assert_eq!(reply.status, 200, "{method} {name}: {reply:?}");
            }
        }
        // Whoever asks for the same again gets no earlier confirmation, and a `down` comes after the `up`.
        let again = scope.spawn(put_web(&daemon));
        assert_eq!(daemon.ask("GET", "/v1/functions/other", "").status, 200);
        assert_eq!(daemon.get("/v1/check")["unsettled"], serde_json::json!([]));
        assert_ne!(old_flows(world), "");
        assert!(!put.is_finished() && !again.is_finished());
        halted.end();
        for put in [put, again] {
            let reply = put.join().expect("no panic");
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(old_flows(world), "");
        }
    });
    assert_eq!(daemon.ask("DELETE", WEB, "").status, 200);
    daemon.wait_until_idle();
    world.assert_in_step_beside_ready_slots();
});

/// The number of clients whose requests leave flows to forget, each as soon as its last one is done.
const CLIENTS: u16 = 8;

#[test]
fn flows_that_are_forgotten_without_a_break_keep_no_command_from_the_lock() {
    let world = &World::new(Firewall::Nftables);
    let daemon = prepared(world);
    let (begun, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // The thread needs longer for each task than a client for the next request.
    let slow = Halted::with_delay(world, &daemon, Duration::from_millis(100));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (daemon, begun, is_over) = (daemon.clone_api(), &begun, &is_over);
            scope.spawn(move || {
                let name = format!("client{client}");
                let path = format!("/v1/functions/{name}");
                let definition = function(&name, &[exposure(Udp, 7000 + client, 3000)]).to_string();
                while !is_over.load(Ordering::Relaxed) {
                    for (method, body) in [("PUT", &*definition), ("DELETE", "")] {
                        let reply = daemon.ask(method, &path, body);
                        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        wait_for("all clients to be at it", SOON, || {
            (begun.load(Ordering::Relaxed) > 2 * usize::from(CLIENTS)).then_some(())
        });
        let third = function("third", &[exposure(Tcp, 9091, 3000)]).to_string();
        let output = world.riklet(&["--no-daemon", "up", "-"], &third);
        is_over.store(true, Ordering::Relaxed);
        output.success();
    });
    slow.end();
    daemon.wait_until_idle();
    world.assert_in_step_beside_ready_slots();
}

on_every_firewall!(
    flows_that_a_killed_daemon_was_to_forget_are_forgotten_by_the_next_command,
    |world| {
        let daemon = prepared(world);
        let halted = Halted::thread_of(world, &daemon);
        thread::scope(|scope| {
            let api = daemon.clone_api();
            let put = scope.spawn(move || api.try_ask("PUT", WEB, &web()));
            wait_until_begun(&daemon);
            daemon.signal(Signal::KILL);
            // strace(1) would keep the thread of the killed process.
            drop(halted);
            daemon.end(Signal::KILL);
            let reply = put.join().expect("no panic");
            assert!(reply.as_ref().map_or(true, |reply| reply.status == 0), "{reply:?}");
        });
        assert_ne!(old_flows(world), "");
        let third = function("third", &[exposure(Tcp, 9091, 3000)]).to_string();
        world.riklet(&["up", "-"], &third).success();
        assert_eq!(old_flows(world), "");
        world.assert_in_step_beside_ready_slots();
    }
);
