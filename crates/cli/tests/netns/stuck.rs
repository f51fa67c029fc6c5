//! Locks that another process keeps: what needs none goes on, and what needs one says after a while who has it.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use riklet_sdn::{
    process::LockHolder,
    store::{BUSY_TIMEOUT, LOCK_TIMEOUT, Lock, daemon_lock},
};
use rustix::process::Signal;

use crate::world::{
    Firewall, World,
    command::Running,
    function::{exposure, function},
    on_every_firewall,
    transport::Transport::Tcp,
    wait_for,
};

/// The longest time that a change may take to be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(20);

fn definition(name: &str, port: u16) -> String {
    function(name, &[exposure(Tcp, port, 3000)]).to_string()
}

fn state_dir(world: &World) -> PathBuf {
    PathBuf::from(&world.environment["RIKLET_SDN_STATE_DIR"])
}

/// Starts a process that takes the lock of flock(2) on this file and keeps it.
#[track_caller]
fn hold_lock(world: &World, path: &Path) -> Running {
    let path = path.to_str().expect("UTF-8");
    // `exec` leaves one process, which has the lock and ends with it.
    let command = "exec 9<>\"$0\"; flock 9; echo held; exec sleep 60";
    let mut holder = world.program_in_background("sh", &["-c", command, path], "");
    holder.wait_for_line("held");
    holder
}

// A command of ours logs under the lock. Nobody reads what it logs.
on_every_firewall!(unread_log_keeps_no_lock, |world| {
    let daemon = world.daemon(&[]);
    let file = world.directory.path().join("first.json");
    let file = file.to_str().expect("UTF-8");
    world.program("tee", &[file], &definition("first", 8082)).success();
    let pipe = world.directory.path().join("pipe");
    // The pipe is full (pipe(7)) before the program begins.
    let command = "mkfifo \"$1\"; sleep 60 <\"$1\" >/dev/null & exec 2>\"$1\"; head -c 65536 /dev/zero >&2; \
        echo opened; exec \"$0\" --no-daemon -v up \"$2\"";
    let program = env!("CARGO_BIN_EXE_riklet-sdn");
    let arguments = ["-c", command, program, pipe.to_str().expect("UTF-8"), file];
    let mut unread = world.program_in_background("sh", &arguments, "");
    unread.wait_for_line("opened");
    wait_for("its function", SOON, || {
        (daemon.get("/v1/functions")[0]["name"] == "first").then_some(())
    });
    let reply = daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080));
    assert_eq!(reply.status, 200, "{reply:?}");
    world.riklet(&["--no-daemon", "up", "-"], &definition("other", 8081)).success();
    assert!(unread.is_running(), "it waits for its reader");
});

#[test]
fn held_lock_delays_only_what_needs_it() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let reply = daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080));
    assert_eq!(reply.status, 200, "{reply:?}");
    daemon.wait_until_idle();
    let lock = Lock::exclusive(&state_dir(world)).expect("the lock");
    thread::scope(|scope| {
        let api = daemon.clone_api();
        let put =
            scope.spawn(move || api.ask("PUT", "/v1/functions/late", &definition("late", 8081)));
        let health = wait_for("the daemon to be busy", SOON, || {
            let health = daemon.get("/v1/health");
            (health["status"] == "busy").then_some(health)
        });
        let waits_for = health["waitsFor"].as_str().expect("the holder");
        assert!(waits_for.contains(&format!("process {} (", std::process::id())), "{health}");
        assert!(health["busyMs"].is_u64() && health["functions"] == 1, "{health}");
        let names: Vec<_> = daemon.get("/v1/functions").as_array().expect("a list").clone();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(daemon.get("/v1/functions/web")["name"], "web");
        assert_eq!(daemon.ask("GET", "/v1/functions/nobody", "").status, 404);
        assert!(world.riklet(&["list"], "").success().contains("web"));
        assert!(world.riklet(&["inspect", "web"], "").success().contains("web"));
        assert!(world.riklet(&["--no-daemon", "list"], "").success().contains("web"));
        let metrics = daemon.ask("GET", "/metrics", "").body;
        assert!(metrics.contains("riklet_sdn_functions 1"), "{metrics}");
        let busy = metrics.lines().find_map(|l| l.strip_prefix("riklet_sdn_engine_busy_seconds "));
        assert!(busy.expect("it is told").parse::<f64>().expect("a number") > 0.0, "{metrics}");
        assert!(!put.is_finished(), "{:?}", put.join());
        drop(lock);
        assert_eq!(put.join().expect("no panic").status, 200);
    });
    assert_eq!(daemon.get("/v1/health")["status"], "ok");
}

#[test]
fn stopped_process_that_holds_the_lock_is_named() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let holder = hold_lock(world, &state_dir(world).join("lock"));
    holder.signal(Signal::STOP);
    let pid = holder.id();
    let words = format!("lock stays locked by process {pid} (");
    let is_told = |text: &str| text.contains(&words) && text.contains("), which is stopped");
    let hint = format!("`kill -CONT {pid}` lets it go on; `kill -KILL {pid}` ends it");
    let refused = world.riklet(&["--no-daemon", "up", "-"], &definition("web", 8080)).failure(1);
    assert!(is_told(&refused) && refused.contains(&hint), "{refused}");
    // All that wait are refused together.
    thread::scope(|scope| {
        let put = |number: u16| {
            let name = format!("f{number}");
            let definition = definition(&name, 9000 + number);
            let daemon = daemon.clone_api();
            move || daemon.ask("PUT", &format!("/v1/functions/{name}"), &definition)
        };
        let puts: Vec<_> = (0..8).map(|number| scope.spawn(put(number))).collect();
        for put in puts {
            let reply = put.join().expect("no panic");
            assert_eq!(reply.status, 503, "{reply:?}");
            let problem = reply.json();
            assert!(is_told(problem["detail"].as_str().expect("a text")), "{problem}");
            assert_eq!(problem["hint"], hint);
        }
    });
    holder.signal(Signal::KILL);
    drop(holder);
    let reply = daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn open_transaction_of_another_process_is_named() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let path = state_dir(world).join("riklet-sdn.db");
    let foreign = rusqlite::Connection::open(path).expect("the database");
    foreign.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
    let process = &*format!("process {} (", std::process::id());
    let holder = &format!("stays locked by {process}");
    thread::scope(|scope| {
        // The request may come while the engine waits for the transaction already, and then waits for as long again.
        let socket = world.socket();
        let socket = socket.to_str().expect("UTF-8").to_owned();
        let definition = definition("a", 8080);
        let put = scope.spawn(move || {
            let json = "content-type: application/json";
            let url = "http://x/v1/functions/a";
            let what =
                ["-sS", "--unix-socket", &socket, "-X", "PUT", "-H", json, "-d", &definition, url];
            world.program("curl", &what, "").success()
        });
        let busy = wait_for("the daemon to be busy", SOON, || {
            let health = daemon.get("/v1/health");
            (health["status"] == "busy").then_some(health)
        });
        assert!(busy["waitsFor"].as_str().is_some_and(|text| text.starts_with(process)), "{busy}");
        let reply = put.join().expect("no panic");
        assert!(reply.contains("\"status\":503") && reply.contains(holder), "{reply}");
    });
    foreign.execute_batch("COMMIT").expect("its end");
    let reply = wait_for("the daemon to go on", REFUSED_WITHIN, || {
        let reply = daemon.ask("PUT", "/v1/functions/a", &definition("a", 8080));
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(reply.status, 200, "{reply:?}");
    world.riklet(&["check"], "").success();
}

/// Commands that change nothing, and that need the lock.
const LOOKS: [&[&str]; 3] = [&["plan", "-"], &["check"], &["top", "--once", "--interval", "0.1"]];
const EXPLAIN: [&str; 4] = ["explain", "web", "to", "192.0.2.1:443"];

/// Asserts that commands which read end in time behind a lock that this process keeps: those that need no lock with what they
/// read, and the others with its name.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the time that commands take")]
fn assert_reading_ends(world: &World, holder: u32, daemon: &[&str], within: Duration) {
    let start = Instant::now();
    let named = format!("stays locked by process {holder} (");
    thread::scope(|scope| {
        for command in [&["list"][..], &["inspect", "web"], &["--output", "json", "ps"]] {
            let command = [daemon, command].concat();
            scope.spawn(move || world.riklet(&command, "").success());
        }
        scope.spawn(move || {
            let explained = world.riklet(&[daemon, &EXPLAIN].concat(), "");
            assert!(explained.stdout.contains("192.0.2.1"), "{explained}");
        });
        for command in LOOKS {
            let (command, named) = ([daemon, command].concat(), &named);
            scope.spawn(move || {
                let refused = world.riklet(&command, &definition("web", 8080)).failure(1);
                assert!(refused.contains(named) && refused.contains("hint: "), "{refused}");
            });
        }
        let named = &named;
        scope.spawn(move || {
            let found = world.riklet(&[daemon, &["doctor"]].concat(), "");
            assert!(found.stdout.contains(named) && found.stdout.contains(" lock "), "{found}");
        });
    });
    assert!(start.elapsed() < within, "it took {:?}", start.elapsed());
}

#[test]
fn commands_that_read_end_behind_a_stopped_process() {
    let world = &World::new(Firewall::Nftables);
    world.riklet(&["up", "-"], &definition("web", 8080)).success();
    let holder = hold_lock(world, &state_dir(world).join("lock"));
    holder.signal(Signal::STOP);
    assert_reading_ends(world, holder.id(), &[], SOON);
    holder.signal(Signal::KILL);
    drop(holder);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let holder = hold_lock(world, &state_dir(world).join("lock"));
    holder.signal(Signal::STOP);
    assert_reading_ends(world, holder.id(), &[], SOON);
    assert_reading_ends(world, holder.id(), &["--no-daemon"], SOON);
    holder.signal(Signal::KILL);
}

#[test]
fn commands_that_read_end_behind_a_process_at_work() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    world.riklet(&["up", "-"], &definition("web", 8080)).success();
    daemon.wait_until_idle();
    let holder = hold_lock(world, &state_dir(world).join("lock"));
    thread::scope(|scope| {
        for daemon in [&[][..], &["--no-daemon"]] {
            let holder = holder.id();
            scope.spawn(move || assert_reading_ends(world, holder, daemon, LOCK_TIMEOUT + SOON));
        }
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that a command takes")]
fn commands_that_read_end_beside_an_open_transaction() {
    let world = &World::new(Firewall::Nftables);
    world.riklet(&["up", "-"], &definition("web", 8080)).success();
    let path = state_dir(world).join("riklet-sdn.db");
    let foreign = rusqlite::Connection::open(path).expect("the database");
    let named = format!("stays locked by process {} (", std::process::id());
    foreign.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
    for command in [&["list"][..], &["check"], &["doctor"], &["inspect", "web"]] {
        world.riklet(command, "").success();
    }
    let refused = world.riklet(&["plan", "-"], &definition("other", 8081)).failure(1);
    assert!(refused.contains(&named), "{refused}");
    foreign.execute_batch("COMMIT; BEGIN EXCLUSIVE").expect("a transaction");
    thread::scope(|scope| {
        let looks = [&["list"][..], &["inspect", "web"], &["ps"], &["logs", "web"], &EXPLAIN];
        for command in LOOKS.into_iter().chain(looks) {
            let named = &named;
            scope.spawn(move || {
                let refused = world.riklet(command, &definition("web", 8080)).failure(1);
                assert!(refused.contains(named), "{refused}");
            });
        }
        let (named, start) = (&named, Instant::now());
        scope.spawn(move || {
            let found = world.riklet(&["doctor"], "");
            assert!(found.stdout.contains(named), "{found}");
            assert!(start.elapsed() < BUSY_TIMEOUT + SOON, "it took {:?}", start.elapsed());
        });
    });
}

#[test]
fn daemon_is_left_out_where_that_is_safe() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    world.riklet(&["--no-daemon", "up", "-"], &definition("web", 8080)).success();
    daemon.wait_until_idle();
    assert_eq!(daemon.get("/v1/functions")[0]["name"], "web");
    for command in
        [&["--no-daemon", "repair", "--rebuild"][..], &["repair", "--adopt", "--no-daemon"]]
    {
        let refused = world.riklet(command, "").failure(1);
        let open = format!("is open in the daemon: process {} (", daemon.id());
        assert!(refused.contains(&open), "{refused}");
        assert!(refused.contains(&format!("`kill {}`", daemon.id())), "{refused}");
    }
    for command in [&["--no-daemon", "events"][..], &["--no-daemon", "serve"]] {
        let refused = world.riklet(command, "").failure(2);
        assert!(refused.contains("--no-daemon leaves"), "{refused}");
    }
    world.riklet(&["--no-daemon", "down", "--all"], "").success();
    daemon.wait_until_idle();
}

#[test]
fn holder_of_the_lock_of_iptables_is_named() {
    let world = &World::new(Firewall::IptablesLegacy);
    let path = PathBuf::from(&world.environment["XTABLES_LOCKFILE"]);
    let mut holder = world.program_in_background(
        "flock",
        &["--no-fork", path.to_str().expect("UTF-8"), "sh", "-c", "echo held; exec sleep 60"],
        "",
    );
    holder.wait_for_line("held");
    let refused = world.riklet(&["up", "-"], &definition("web", 8080)).failure(1);
    let words = format!("it is held by process {} (", holder.id());
    assert!(refused.contains(&words), "{refused}");
    drop(holder);
    world.riklet(&["repair"], "").success();
}

#[test]
fn stopped_daemon_is_named_at_once() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    daemon.signal(Signal::STOP);
    // It may have been stopped while it held the lock, for work of its own: then it goes on, and is stopped again.
    wait_for("the daemon to be stopped without the lock", SOON, || {
        let is_stopped = LockHolder::new(daemon.id()).is_some_and(|process| process.is_stopped);
        let holds = LockHolder::of(&[&state_dir(world).join("lock")]).is_some();
        if is_stopped && holds {
            daemon.signal(Signal::CONT);
            daemon.signal(Signal::STOP);
        }
        (is_stopped && !holds).then_some(())
    });
    let refused = world.riklet(&["list"], "").failure(1);
    let pid = daemon.id();
    assert!(refused.contains(&format!("does not answer: process {pid} (")), "{refused}");
    assert!(refused.contains(&format!("hint: `kill -CONT {pid}` lets it go on")), "{refused}");
    let doctor = world.riklet(&["doctor"], "");
    assert_eq!(doctor.code, Some(3), "{doctor}");
    let doctor = doctor.stdout;
    assert!(doctor.contains(&format!("process {pid} (")), "{doctor}");
    assert!(doctor.contains(&format!("-> `kill -CONT {pid}` lets it go on")), "{doctor}");
    world.riklet(&["--no-daemon", "up", "-"], &definition("web", 8080)).success();
    daemon.signal(Signal::CONT);
    assert!(world.riklet(&["list"], "").success().contains("web"));
}

/// Takes the locks of a daemon and of an operation, and keeps both.
const DAEMON_AT_WORK: &str = "
import fcntl, sys, time
files = [open(path, 'r+') for path in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
print('held', flush=True)
time.sleep(60)
";

#[test]
fn nobody_is_told_to_end_a_daemon_at_work() {
    let world = &World::new(Firewall::Nftables);
    world.daemon(&[]).end(Signal::TERM);
    let [daemon, lock] = [daemon_lock(&state_dir(world)), state_dir(world).join("lock")];
    let [daemon, lock] = [&daemon, &lock].map(|path| path.to_str().expect("UTF-8"));
    let mut holder =
        world.program_in_background("python3", &["-c", DAEMON_AT_WORK, daemon, lock], "");
    holder.wait_for_line("held");
    let found = world.riklet(&["doctor"], "").success();
    assert!(found.contains(&format!("stays locked by process {} (", holder.id())), "{found}");
    assert!(found.contains("it is the daemon") && !found.contains("kill"), "{found}");
}

/// Takes the lock and the socket of a daemon, and ends. A child keeps both for two seconds.
const KILLED_DAEMON: &str = "
import fcntl, os, socket, sys, time
lock = open(sys.argv[1], 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
print(os.getpid(), file=lock, flush=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
if os.fork() == 0:
    os.closerange(0, 3)
    time.sleep(2)
";

#[test]
fn daemon_starts_beside_the_last_child_of_a_killed_one() {
    let world = &World::new(Firewall::Nftables);
    world.daemon(&[]).end(Signal::TERM);
    let (lock, socket) = (daemon_lock(&state_dir(world)), world.socket());
    let [lock, socket] = [&lock, &socket].map(|path| path.to_str().expect("UTF-8"));
    world.program("python3", &["-c", KILLED_DAEMON, lock, socket], "").success();
    UnixStream::connect(world.socket()).expect("the child has the socket");
    let daemon = world.daemon(&[]);
    assert_eq!(daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080)).status, 200);
    let second = world.directory.path().join("second.sock");
    let second = ["serve", "--api", second.to_str().expect("UTF-8")];
    let refused = world.riklet(&second, "").failure(1);
    assert!(refused.contains(&format!(": process {}", daemon.id())), "{refused}");
}
