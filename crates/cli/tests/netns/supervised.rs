//! Supervision: `run --detach`, `ps`, `logs`, `stop` and `wait`, with the built-in guest.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getsid};
use serde_json::Value;

use crate::world::{
    Firewall, NODE_LAN, World,
    command::Running,
    function::{exposure, function},
    http::http_get,
    on_every_firewall,
    runs::{is_alive, kill, pid},
    state::{SystemState, assert_same},
    traffic::PATIENCE,
    transport::{Transport::Tcp, assert_refused},
    wait_for,
};

pub(crate) const HELLO: (Ipv4Addr, u16) = (NODE_LAN, 8080);
pub(crate) const SECOND: (Ipv4Addr, u16) = (NODE_LAN, 9090);

pub(crate) fn hello() -> Value {
    function("hello", &[exposure(Tcp, 8080, 3000)])
}

pub(crate) fn second() -> Value {
    function("second", &[exposure(Tcp, 9090, 3000)])
}

/// Asserts that the function of this name answers its client at this address.
#[track_caller]
pub(crate) fn assert_answers(world: &World, at: (Ipv4Addr, u16), name: &str) {
    assert_eq!(http_get(&world.client, at, "/")["function"], name);
}

/// Runs both functions in the foreground under one supervisor, and waits until they are ready.
fn both(world: &World) -> Running {
    let definitions = Value::from([hello(), second()]);
    let mut running = world.riklet_in_background(&["run", "-"], &definitions.to_string());
    running.wait_for_line("ready in");
    running
}

/// Returns the cgroup of version 2 of a process (cgroups(7)).
#[expect(clippy::disallowed_methods, reason = "files of procfs")]
fn cgroup_of(process: Pid) -> String {
    let path = format!("/proc/{}/cgroup", process.as_raw_nonzero());
    let text = fs::read_to_string(path).expect("a process");
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Returns the directory of the cgroups of version 2, if this test may make some.
pub(crate) fn cgroups() -> Option<PathBuf> {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
    let trial = root.join(format!("riklet-test-{}", std::process::id()));
    let made = fs::create_dir(&trial).is_ok();
    (made && fs::remove_dir(&trial).is_ok()).then_some(root)
}

#[test]
fn run_that_nobody_waits_for_is_started_and_not_ready() {
    let world = &World::new(Firewall::Nftables);
    let shown = |started: &str| {
        assert!(started.contains("\nstarted in ") && !started.contains("ready in"), "{started}");
        assert!(!started.contains("first answer"), "{started}");
        let run = world.ps("hello");
        assert_eq!((&run["state"], &run["readyAfterMs"]), (&"running".into(), &Value::Null));
        let table = world.riklet(&["ps"], "").success();
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row.last_chunk(), Some(&["-", "-"]), "{table}");
        world.riklet(&["stop", "hello"], "").success();
    };
    let definition = hello().to_string();
    shown(&world.riklet(&["run", "--detach", "--no-wait", "-"], &definition).success());
    // Nobody waits for a port that says so either.
    let mut silent = hello();
    silent["spec"]["function"]["exposure"][0]["ready"] = "none".into();
    shown(&world.riklet(&["run", "--detach", "-"], &silent.to_string()).success());
}

on_every_firewall!(a_detached_run_answers_until_it_is_stopped, |world| {
    let before = SystemState::take(&world.node);
    let printed = world.detach(&[hello()]);
    for words in
        ["http://203.0.113.2:8080/", "ready in ", "`riklet-sdn stop hello` takes it down\n"]
    {
        assert!(printed.contains(words), "{printed}");
    }
    assert_answers(world, HELLO, "hello");

    let run = world.ps("hello");
    assert_eq!((&run["state"], &run["vmm"]), (&"running".into(), &"builtin".into()), "{run}");
    assert!(run["readyAfterMs"].is_u64() && run["reason"].is_null(), "{run}");
    let (guest, supervisor) = (pid(&run["pid"]), pid(&run["supervisorPid"]));
    assert!(is_alive(guest) && is_alive(supervisor) && guest != supervisor);
    // It belongs to no terminal whose end could end it.
    assert_eq!(getsid(Some(supervisor)).unwrap(), supervisor);
    // Nor does it end with the cgroup of whoever started it.
    let cgroup = cgroups().map(|root| root.join(cgroup_of(supervisor).trim_matches('/')));
    if let Some(cgroup) = &cgroup {
        assert!(cgroup.ends_with("hello"), "{}", cgroup.display());
        assert_eq!(cgroup_of(guest), cgroup_of(supervisor));
    }
    let table = world.riklet(&["ps"], "").success();
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let number = guest.as_raw_nonzero().to_string();
    assert_eq!(row[..4], ["hello", "builtin", "running", &*number], "{table}");

    let stopped = world.riklet(&["stop", "hello"], "");
    assert_eq!((stopped.code, &*stopped.stderr), (Some(0), "hello: SIGTERM\n"), "{stopped}");
    assert!(!is_alive(guest));
    assert_refused(Tcp, &world.client, HELLO);
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    wait_for("the supervisor's end", PATIENCE, || (!is_alive(supervisor)).then_some(()));
    assert!(cgroup.is_none_or(|cgroup| !cgroup.exists()), "the cgroup goes with the run");
    assert_same(&before, &SystemState::take(&world.node));
});

#[test]
fn running_function_is_neither_run_again_nor_taken_down() {
    let world = World::new(Firewall::Nftables);
    world.detach(&[hello()]);
    let run = world.ps("hello");
    let process = format!("builtin, process {}", run["pid"]);
    let refusal = format!(
        "error: hello is already running: {process}\nhint: `riklet-sdn stop hello` ends it\n",
    );
    let of_down = format!(
        "error: cannot take hello down while it runs: {process}\n\
         hint: `riklet-sdn stop hello` ends it, and takes its network down\n",
    );
    let definition = hello().to_string();
    let commands: [&[&str]; 4] = [
        &["run", "-"],
        &["run", "--detach", "-"],
        &["down", "hello"],
        &["down", "--all", "--purge"],
    ];
    for command in commands {
        let complaint = world.riklet(command, &definition).failure(1);
        let expected = if command[0] == "down" { &of_down } else { &refusal };
        assert_eq!(complaint, *expected, "{command:?}");
        assert_answers(&world, HELLO, "hello");
    }
    // Neither of two is run if one of them cannot be.
    let both = Value::from([second(), hello()]).to_string();
    let complaint = world.riklet(&["run", "--detach", "-"], &both).failure(1);
    assert_eq!(complaint, refusal);
    assert_refused(Tcp, &world.client, SECOND);
    assert_eq!(world.ps("hello"), run);
    world.riklet(&["stop", "hello"], "").success();
}

#[test]
fn error_about_an_unknown_run_suggests_a_similar_name() {
    let world = World::new(Firewall::Nftables);
    world.detach(&[hello()]);
    for command in ["stop", "logs", "wait"] {
        let complaint = world.riklet(&[command, "helo"], "").failure(1);
        assert_eq!(complaint, "error: no run of helo is recorded\nhint: did you mean hello?\n");
    }
    // Nothing is stopped if one of the names is unknown.
    world.riklet(&["stop", "hello", "helo"], "").failure(1);
    assert_answers(&world, HELLO, "hello");
    world.riklet(&["stop", "hello"], "").success();
    let again = world.riklet(&["stop", "hello"], "");
    assert_eq!((again.code, &*again.stderr), (Some(0), "hello: had ended already\n"));
}

#[test]
fn stop_all_ends_every_run() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let printed = world.riklet(
        &["--output", "json", "run", "--detach", "-"],
        &Value::from([hello(), second()]).to_string(),
    );
    let printed: Value = serde_json::from_str(&printed.success()).unwrap();
    for (index, name) in ["hello", "second"].iter().enumerate() {
        let ready = &printed[index];
        assert_eq!(ready["instances"][0]["name"], *name, "{printed}");
        assert!(ready["readyMs"]["total"].as_f64().is_some_and(|ms| ms > 0.0), "{printed}");
    }
    // Each run has a supervisor of its own.
    assert_ne!(world.ps("hello")["supervisorPid"], world.ps("second")["supervisorPid"]);
    world.riklet(&["stop", "--all"], "").success();
    for (name, at) in [("hello", HELLO), ("second", SECOND)] {
        assert_eq!(world.state_of(name), ("ended".to_owned(), "stopped".to_owned()));
        assert_refused(Tcp, &world.client, at);
    }
    assert_same(&before, &SystemState::take(&world.node));
    // Their logs stay until a purge.
    world.riklet(&["logs", "hello"], "").success();
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_eq!(world.riklet(&["ps", "--output", "json"], "").success().trim(), "[]");
    assert!(
        world.riklet(&["logs", "hello"], "").failure(1).contains("no run of hello is recorded")
    );
}

#[test]
fn wait_reports_how_the_run_ended() {
    let world = World::new(Firewall::Nftables);
    for (json, how) in [(false, "killed"), (true, "killed"), (false, "stopped")] {
        world.detach(&[hello()]);
        let format = if json { "json" } else { "text" };
        let mut waiting = world.riklet_in_background(&["--output", format, "wait", "hello"], "");
        let following = world.riklet_in_background(&["logs", "--follow", "hello"], "");
        assert!(waiting.is_running());
        let code = if how == "stopped" {
            world.riklet(&["stop", "hello"], "").success();
            0
        } else {
            kill(pid(&world.ps("hello")["pid"]));
            1
        };
        let output = waiting.wait();
        assert_eq!(output.code, Some(code), "{output}");
        let reason = if code == 0 { "stopped" } else { "builtin was killed by signal 9" };
        if json {
            let said: Value = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!((&said["reason"], &said["failed"]), (&reason.into(), &true.into()));
        } else {
            assert_eq!(output.stdout, format!("{reason}\n"));
        }
        following.wait_within(PATIENCE).success();
        assert_refused(Tcp, &world.client, HELLO);
        // A later `wait` prints the same.
        assert_eq!(world.riklet(&["wait", "hello"], "").code, Some(code));
    }
}

#[test]
fn who_waits_for_a_run_does_not_wait_for_the_next_one() {
    let world = World::new(Firewall::Nftables);
    world.detach(&[hello()]);
    let waiting = world.riklet_in_background(&["wait", "hello"], "");
    // It looks at the run now and then: `stop` was there meanwhile.
    assert!(!waiting.ends_within(Duration::from_millis(300)));
    waiting.signal(Signal::STOP);
    world.riklet(&["stop", "hello"], "").success();
    world.detach(&[hello()]);
    waiting.signal(Signal::CONT);
    let complaint = waiting.wait_within(PATIENCE).failure(1);
    assert_eq!(complaint, "error: hello was run again: how its earlier run ended is not known\n");
    world.riklet(&["stop", "hello"], "").success();
}

/// Tells whether a connection is refused at once. A packet to a guest that has just ended is lost, and sent again only
/// after a second (RFC 6298): this does not wait for that.
fn is_refused(world: &World, at: (Ipv4Addr, u16)) -> bool {
    let connect = || TcpStream::connect_timeout(&at.into(), Duration::from_millis(20));
    let result = world.client.run(connect);
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

on_every_firewall!(port_of_a_dead_guest_is_withdrawn_and_no_other, |world| {
    let before = SystemState::take(&world.node);
    let mut running = both(world);
    let following = world.riklet_in_background(&["logs", "--follow", "second"], "");
    let victim = pid(&world.ps("second")["pid"]);
    let died = now();
    kill(victim);
    wait_for("the port of the dead to refuse", PATIENCE, || {
        is_refused(world, SECOND).then_some(())
    });
    let passed = died.elapsed();
    #[expect(clippy::print_stdout, reason = "who measures wants to see it")]
    {
        println!("the port refused {passed:?} after the death of its guest");
    }
    // Nobody looks for it less often than that.
    assert!(passed.as_secs() < 10, "{passed:?}");

    assert_answers(world, HELLO, "hello");
    assert_eq!(world.reason_of("second"), "builtin was killed by signal 9");
    assert_eq!(world.ps("second")["failed"], true);
    assert_eq!(world.state_of("hello").0, "running");
    // The supervisor continues; the command that follows its log has ended.
    following.wait_within(PATIENCE).success();
    assert!(running.is_running());
    world.riklet(&["check"], "").success();

    running.signal(Signal::TERM);
    let complaint = running.wait().failure(1);
    assert_eq!(complaint, "second: builtin was killed by signal 9\n");
    assert_eq!(world.state_of("hello").1, "stopped");
    assert_same(&before, &SystemState::take(&world.node));
});

#[test]
fn a_run_ends_with_its_last_guest() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let mut running = both(&world);
    world.riklet(&["stop", "hello"], "").success();
    assert_refused(Tcp, &world.client, HELLO);
    assert_answers(&world, SECOND, "second");
    assert!(running.is_running());
    world.riklet(&["stop", "second"], "").success();
    let output = running.wait();
    assert_eq!((output.code, &*output.stderr), (Some(0), "hello: stopped\nsecond: stopped\n"));
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn ending_supervisor_leaves_functions_of_others_alone() {
    let world = World::new(Firewall::Nftables);
    for again in ["run", "up"] {
        let first = both(&world);
        world.riklet(&["stop", "second"], "").success();
        // From here on, the function belongs to another process.
        match again {
            "run" => drop(world.detach(&[second()])),
            _ => drop(world.riklet(&["up", "-"], &second().to_string()).success()),
        }
        first.signal(Signal::TERM);
        first.wait().success();
        assert_refused(Tcp, &world.client, HELLO);
        world.riklet(&["check"], "").success();
        if again == "run" {
            assert_answers(&world, SECOND, "second");
            assert_eq!(world.state_of("second").0, "running");
            world.riklet(&["stop", "second"], "").success();
        } else {
            world.riklet(&["inspect", "second"], "").success();
            world.down(&["second"]);
        }
    }
}

#[test]
fn warnings_of_a_supervisor_are_shown() {
    let world = World::new(Firewall::Nftables);
    let _listener = world.node.run(|| TcpListener::bind(HELLO)).expect("a port");
    let mut hello = hello();
    hello["spec"]["function"]["exposure"][0]["shadow"] = true.into();
    let run = |format: &str| {
        let output =
            world.riklet(&["--output", format, "run", "--detach", "-"], &hello.to_string());
        world.riklet(&["stop", "hello"], "").success();
        assert_eq!(output.code, Some(0), "{output}");
        output
    };
    let said = run("text").stderr;
    assert!(said.starts_with("warning: hello: tcp 8080 -> 3000 shadows "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let output = run("json");
    let printed: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(format!("warning: {}\n", printed[0]["warnings"][0].as_str().unwrap()), said);
    assert_eq!(output.stderr, "");
}

#[test]
fn supervisor_inherits_the_settings_of_its_starter() {
    let world = World::new(Firewall::Nftables);
    let path = |name: &str| world.directory.path().join(name);
    let mut other = File::create(&world.environment["RIKLET_SDN_CONFIG"]).expect("a file");
    other.write_all(b"pool = \"10.9.0.0/16\"\nmtu = 1400\n").expect("a short file");
    let mut chosen = File::create(path("chosen.toml")).expect("a file");
    chosen.write_all(b"mtu = 1300\n").expect("a short file");
    let chosen = path("chosen.toml");
    let chosen = chosen.to_str().expect("UTF-8");
    world.riklet(&["--config", chosen, "run", "--detach", "-"], &hello().to_string()).success();
    let hello =
        world.riklet(&["--config", chosen, "--output", "json", "inspect", "hello"], "").success();
    let hello: Value = serde_json::from_str(&hello).unwrap();
    assert_eq!((&hello["guest"]["address"], &hello["mtu"]), (&"10.231.0.2".into(), &1300.into()));
    world.riklet(&["--config", chosen, "stop", "hello"], "").success();
}

#[test]
fn failed_run_does_not_affect_the_others() {
    let world = World::new(Firewall::Nftables);
    let thief = function("thief", &[exposure(Tcp, 8080, 3000)]);
    world.detach(&[hello()]);
    let output = world.try_detach(&[thief, second()]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("hello"), "the holder of the port is named: {output}");
    assert_answers(&world, HELLO, "hello");
    assert_answers(&world, SECOND, "second");
    world.riklet(&["stop", "--all"], "").success();
}

#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn now() -> Instant {
    Instant::now()
}
