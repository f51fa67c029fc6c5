//! Errors at the system calls of a running daemon: the daemon and its functions go on, and it says what failed.

use riklet_core::model::Workload;
use rustix::process::Signal;

use super::{
    strace::{self, Injected},
    up, web,
};
use crate::world::{
    NODE_LAN, World,
    command::Running,
    daemon::Daemon,
    function::{exposure, function},
    on_every_firewall,
    state::{SystemState, assert_same},
    traffic::{PATIENCE, tcp_ask},
    transport::Transport::Tcp,
    wait_for,
};

/// The system calls that fail. An error of one that only wakes a thread could not occur, nor one of that by which the
/// standard library hears whether a program was started: `recvfrom`. The kernel refuses to unlock (fcntl(2)) if it has no memory.
const CALLS: [&str; 18] = [
    "accept4",
    "bind",
    "connect",
    "fcntl",
    "flock",
    "ftruncate",
    "getdents64",
    "ioctl",
    "mkdir",
    "newfstatat",
    "openat",
    "pipe2",
    "pread64",
    "pwrite64",
    "sendto",
    "setsockopt",
    "socket",
    "statx",
];
/// The number of errors of each daemon.
const SAMPLE: usize = 6;
/// An error occurs at one of so many first calls of each thread.
const FIRST: usize = 3;

/// A running strace(1) that makes one call of each thread of a process fail.
struct Tracer(Running);

impl Tracer {
    #[track_caller]
    fn attach(
        world: &World,
        daemon: &Daemon,
        call: &str,
        injected: Injected,
        number: usize,
    ) -> Self {
        let process = daemon.id();
        let options = strace::options(call, injected, number);
        let process_text = process.to_string();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let record = world.directory.path().join("strace");
        let first = ["-f", "-qq", "-o", record.to_str().expect("UTF-8"), "-p", &process_text];
        let running = world.program_in_background("strace", &[&first[..], &options].concat(), "");
        let tracer = format!("TracerPid:\t{}", running.id());
        wait_for("strace to trace all threads", PATIENCE, || {
            strace::statuses(process).iter().all(|status| status.contains(&tracer)).then_some(())
        });
        Self(running)
    }

    /// Lets the process go on without errors.
    #[track_caller]
    fn end(self) {
        self.0.signal(Signal::INT);
        drop(self.0.wait());
    }
}

/// Asks for something while a system call fails. Asserts that the answer, if one comes, is honest; tells whether it was done.
#[track_caller]
fn ask(daemon: &Daemon, method: &str, body: &str, what: &str) -> bool {
    let reply = daemon.try_ask(method, "/v1/functions/web", body);
    let Ok(reply) = reply else { return false };
    // The connection may have failed.
    if matches!(reply.status, 0 | 200) {
        return reply.status == 200;
    }
    let problem = reply.json();
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(!detail.is_empty(), "{what}: {reply:?}");
    assert!(!detail.contains(" is corrupt: ") || what.starts_with("EIO"), "{what}: {reply:?}");
    false
}

on_every_firewall!(error_at_a_system_call_of_a_daemon_is_survived, |world| {
    let mut random = strace::random();
    let before = SystemState::take(&world.node);
    let mut daemon = world.daemon(&[]);
    let other = function("other", &[exposure(Tcp, 9090, 3000)]);
    let bystander = world.start([(other, &[(Tcp, 3000)])]);
    daemon.wait_until_idle();
    let web = web();
    let definition = riklet_core::definition::to_value(&web).to_string();
    for (call, injected) in strace::chosen(&mut random, &CALLS, SAMPLE) {
        let what = format!("{} at {call}", injected.error);
        let method = *random.pick(&["PUT", "DELETE"]);
        if method == "DELETE" {
            assert_eq!(daemon.ask("PUT", "/v1/functions/web", &definition).status, 200, "{what}");
        }
        let number = 1 + random.below(FIRST);
        told(&format!("{method} with {what}, number {number}"));
        let tracer = Tracer::attach(world, &daemon, call, injected, number);
        let done = ask(&daemon, method, if method == "PUT" { &definition } else { "" }, &what);
        tracer.end();
        daemon = survivor(daemon, &what);
        daemon.wait_until_idle();
        let recorded = world.assert_in_step_beside_ready_slots();
        let is_up = recorded.contains_key("web");
        assert!(!done || is_up == (method == "PUT"), "{what}: {recorded:?}");
        tcp_ask(&world.client, (NODE_LAN, 9090)).unwrap_or_else(|error| panic!("{what}: {error}"));
        put(world, &web, &what);
        world.down(&["web"]);
    }
    drop(bystander);
    let reply = daemon.ask("DELETE", "/v1/functions?all=true&purge=true", "");
    assert_eq!(reply.status, 200, "{reply:?}");
    daemon.end(Signal::TERM);
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(a_thread_that_cannot_be_started_is_an_answer_of_the_daemon, |world| {
    let mut daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let definition = riklet_core::definition::to_value(&web()).to_string();
    // Long enough to be parsed on a thread of its own.
    let long = format!("{}{definition}", " ".repeat(1 << 17));
    let requests =
        [("GET", "/metrics", ""), ("POST", "/v1/repair", ""), ("PUT", "/v1/functions/web", &long)];
    for (method, path, body) in requests {
        let what = format!("{method} {path}");
        let injected = Injected::named("EAGAIN");
        let tracer = Tracer::attach(world, &daemon, "clone3", injected, 1);
        let reply = daemon.ask(method, path, body);
        tracer.end();
        assert_eq!(reply.status, 503, "{what}: {reply:?}");
        assert!(reply.body.contains("cannot start the thread"), "{what}: {reply:?}");
        daemon = survivor(daemon, &what);
        let reply = daemon.ask(method, path, body);
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
    }
});

/// Returns the daemon, which must still answer.
#[track_caller]
fn survivor(mut daemon: Daemon, what: &str) -> Daemon {
    let reply = daemon.try_ask("GET", "/v1/health", "");
    if daemon.is_running() && reply.is_ok_and(|reply| reply.status == 200) {
        return daemon;
    }
    let running = daemon.into_running();
    if !running.ends_within(PATIENCE) {
        running.signal(Signal::KILL);
    }
    panic!("{what} ends the daemon: {}", running.wait());
}

/// Brings a function up through the daemon.
#[track_caller]
fn put(world: &World, web: &Workload, what: &str) {
    let output = up(web.clone()).start(world).wait();
    assert_eq!(output.code, Some(0), "after {what}: {output}");
}

#[expect(clippy::print_stderr, reason = "what a failed test came through is worth knowing")]
fn told(what: &str) {
    eprintln!("{what}");
}
