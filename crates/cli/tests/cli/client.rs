//! The commands as clients of a daemon: permissions, requests that are too large, runs, and events.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

use riklet_kernel::process::ProcessId;
use riklet_sdn::store::Store;
use serde_json::Value;

use crate::{
    daemon::Daemon,
    environment::{Environment, HELLO, Output},
};

/// Runs the program as a user without capabilities who is also in this group.
fn as_nobody(environment: &Environment, group: u32, arguments: &str) -> Output {
    // The program may be in a directory that only root can access.
    environment.shell(&format!(
        "[ -x riklet-sdn ] || cp $PROGRAM riklet-sdn; \
         exec setpriv --bounding-set -all --inh-caps -all --reuid 65534 --regid 65534 \
         --groups {group} env PATH=/nonexistent ./riklet-sdn {arguments}"
    ))
}

/// Writes three functions whose definitions are too long for one request. None of the files is too long by itself.
fn write_oversized_definitions(environment: &Environment) -> [&'static str; 3] {
    let files = ["long0.json", "long1.json", "long2.json"];
    for (name, port) in files.into_iter().zip(9000..) {
        let mut definition: Value = serde_json::from_str(HELLO).unwrap();
        definition["name"] = name.replace(".json", "").into();
        let function = &mut definition["spec"]["function"];
        function["exposure"]["port"] = Value::from(port);
        function["execution"]["rootfs"] = format!("file:///{}", "x".repeat(400_000)).into();
        environment.write(name, definition.to_string());
    }
    files
}

#[test]
fn members_of_the_sockets_group_need_no_root() {
    let environment = Environment::new();
    let daemon = Daemon::start(&environment, &["--api-group", "4242"]);
    let member = |arguments: &str| as_nobody(&environment, 4242, arguments);
    assert_eq!(
        member("plan hello.json").success(),
        environment.run(&["plan", "hello.json"]).success()
    );
    assert!(member("up hello.json").success().contains("rik0"));
    for command in [
        "list",
        "inspect hello",
        "inspect hello --format env",
        "events",
        "top --once --interval 0.1",
    ] {
        assert!(member(command).success().contains("hello"), "{command}");
    }
    assert_eq!(member("check").failure(0), "no drift\n");
    assert_eq!(member("repair").failure(0), "nothing to do\n");
    // Users outside the group get an error for every command.
    let stranger = |arguments: &str| as_nobody(&environment, 4243, arguments);
    let commands = [
        "up hello.json",
        "down hello",
        "list",
        "check",
        "plan hello.json",
        "inspect hello",
        "repair",
        "events",
        "top --once",
    ];
    for command in commands {
        insta::allow_duplicates! {
            insta::assert_snapshot!(stranger(command).failure(3), @r"
        error: cannot connect to the daemon at $DIR/state/api.sock: Permission denied (os error 13)
        hint: run it as root, or as a member of the socket's group
        ");
        }
    }
    assert!(stranger("up missing.json").failure(2).contains("missing.json"));
    assert_eq!(member("down hello").success(), "");
    assert_eq!(environment.run(&["list", "--output", "json"]).json(), Value::Array(vec![]));
    daemon.end();
}

#[test]
fn commands_work_without_a_daemon() {
    let environment = Environment::with_hello();
    let list = environment.run(&["list"]).success();
    let daemon = Daemon::start(&environment, &[]);
    assert_eq!(environment.run(&["list"]).success(), list);
    // A killed daemon leaves its socket.
    daemon.kill();
    assert!(environment.path("state/api.sock").exists());
    assert_eq!(environment.run(&["list"]).success(), list);
    insta::assert_snapshot!(environment.run(&["events"]).failure(1), @r"
        error: no daemon listens on $DIR/state/api.sock
        hint: start one with `riklet-sdn serve`
        ");
    // A path too long for a socket, a path below a file, and two paths that are not sockets.
    let long = "x".repeat(120);
    for socket in [&*long, "hello.json/api.sock", "hello.json", "/"] {
        assert_eq!(environment.run(&["--api", socket, "list"]).success(), list, "{socket}");
    }
    let other = environment.run(&["--state-dir", &long, "list"]).failure(1);
    assert!(other.contains("rik0 belongs to the records in $DIR/state"), "{other}");
}

#[test]
fn the_socket_is_chosen_by_flag_environment_and_file() {
    let environment = Environment::with_hello();
    let path = environment.path("elsewhere.sock");
    let socket = path.to_str().unwrap();
    environment.write("config.toml", format!("api = \"{socket}\"\n"));
    let daemon = Daemon::start_at(&environment, "elsewhere.sock", &[]);
    let events = |arguments: &[&str], variables: &[(&str, &str)]| {
        environment.run_with(&[arguments, &["events"]].concat(), variables, "").code
    };
    assert_eq!(events(&[], &[]), Some(0), "by the file");
    environment.write("config.toml", "");
    assert_eq!(events(&[], &[]), Some(1), "by nothing");
    assert_eq!(events(&[], &[("RIKLET_SDN_API", socket)]), Some(0), "by the environment");
    assert_eq!(
        events(&["--api", "other.sock"], &[("RIKLET_SDN_API", socket)]),
        Some(1),
        "the flag comes first"
    );
    assert_eq!(events(&["--api", socket], &[]), Some(0), "by the flag");
    daemon.end();
}

#[test]
fn oversized_request_needs_root_and_bypasses_the_daemon() {
    let environment = Environment::new();
    let files = write_oversized_definitions(&environment);
    let run = |command| environment.run(&[&[command], &files[..]].concat());
    let daemon = Daemon::start(&environment, &["--api-group", "4242", "--ready-slots", "4"]);
    let member = |arguments: &str| as_nobody(&environment, 4242, arguments);
    for command in ["plan", "up"] {
        let command = format!("{command} {}", files.join(" "));
        insta::allow_duplicates! {
            insta::assert_snapshot!(member(&command).failure(2), @r"
            error: the request is too large for the daemon at $DIR/state/api.sock
            hint: name fewer functions at once, or run it as root
            ");
        }
    }
    assert!(run("plan").success().contains("+ firewall: tcp 9002 -> "));
    run("up").success();
    // The daemon continues with the records of the other process.
    assert_eq!(environment.run(&["list", "--output", "json"]).json().as_array().unwrap().len(), 3);
    assert_eq!(member("check").failure(0), "no drift\n");
    member("down long0").success();
    // Too many names are refused as well: they do not fit in a path.
    let names: Vec<_> = (0..2000).map(|number| format!("function-{number}-of-so-many")).collect();
    let down = format!("down {}", names.join(" "));
    assert!(member(&down).failure(2).contains("too large for the daemon"));
    let arguments: Vec<_> = down.split(' ').collect();
    let unknown = environment.run(&arguments).failure(1);
    assert!(unknown.contains("no instance named function-0-of-so-many is recorded"), "{unknown}");
    environment.run(&["down", "--all"]).done();
    assert_eq!(environment.run(&["list", "--output", "json"]).json(), Value::Array(vec![]));
    let events = environment.run(&["events"]).success();
    assert!(!events.contains(" error ") && !events.contains(" failed "), "{events}");
    daemon.end();
}

#[test]
fn members_of_the_sockets_group_run_functions() {
    let environment = Environment::new();
    let daemon = Daemon::start(&environment, &["--api-group", "4242"]);
    let member = |arguments: &str| as_nobody(&environment, 4242, arguments);
    let started = member("run --detach hello.json").success();
    assert!(started.contains("hello  rik0") && started.contains("ready in "), "{started}");
    assert!(started.contains("`riklet-sdn stop hello` takes it down"), "{started}");
    let again = member("run --detach hello.json");
    assert!(again.stderr.contains("error: hello is already running: builtin, process "), "{again}");
    let runs = member("--output json ps").json();
    assert_eq!((&runs[0]["name"], &runs[0]["state"]), (&"hello".into(), &"running".into()));
    // Nobody's child: its supervisor's parent has ended.
    let supervisor = &runs[0]["supervisorPid"];
    let parent = environment.tool("ps", &["-o", "ppid=", "-p", &supervisor.to_string()]);
    assert_ne!(parent.trim(), daemon.id().to_string());
    environment.shell("echo its words >> state/machines/hello/console.log").done();
    assert_eq!(member("logs hello").success(), "its words\n");
    assert_eq!(
        member("logs helo").failure(1),
        "error: no run of helo is recorded\nhint: did you mean hello?\n"
    );
    let mut waiting = environment.spawn(&["wait", "hello"]);
    assert_eq!(member("stop hello").stderr, "hello: SIGTERM\n");
    assert!(waiting.wait().unwrap().success());
    assert_eq!(member("wait hello").success(), "stopped\n");
    assert_eq!(member("logs hello --follow").code, Some(0), "a run that has ended is not followed");
    let refused = member("run --detach none.json");
    assert_eq!(refused.code, Some(2), "{refused}");
    daemon.end();
}

#[test]
fn database_is_not_rebuilt_while_a_daemon_runs() {
    let environment = Environment::with_hello();
    let daemon = Daemon::start(&environment, &[]);
    insta::assert_snapshot!(environment.run(&["repair", "--rebuild"]).failure(1), @r"
    error: a daemon is running and has the database open; it listens on $DIR/state/api.sock
    hint: end it first (`systemctl stop riklet-sdn`)
    ");
    daemon.end();
    environment.run(&["repair", "--rebuild"]).done();
}

#[test]
fn runs_are_managed_through_a_daemon() {
    let environment = Environment::new();
    let daemon = Daemon::start(&environment, &[]);
    environment.run(&["run", "--detach", "hello.json"]).done();
    let runs = environment.run(&["ps", "--output", "json"]).json();
    let running = format!(
        "error: cannot take hello down while it runs: builtin, process {}\n\
         hint: `riklet-sdn stop hello` ends it, and takes its network down\n",
        runs[0]["pid"]
    );
    for down in ["down hello", "down --all", "down --all --purge", "down hello --purge"] {
        let arguments: Vec<_> = down.split(' ').collect();
        assert_eq!(environment.run(&arguments).failure(1), running, "{down}");
    }
    let supervisor = runs[0]["supervisorPid"].as_i64().unwrap();
    environment.tool("kill", &["-9", &supervisor.to_string()]);
    let ended = || environment.run(&["ps", "--output", "json"]).json()[0]["state"] == "ended";
    assert!((0..200).any(|_| ended()), "the daemon notices its death");
    let events = environment.run(&["events"]).success();
    assert!(events.contains("lost        hello its supervisor died"), "{events}");
    environment.run(&["check"]).done();
    assert_eq!(environment.run(&["list", "--output", "json"]).json(), Value::Array(vec![]));
    assert!(environment.path("state/machines/hello").exists());
    environment.run(&["down", "--all", "--purge"]).done();
    assert!(!environment.path("state/machines/hello").exists(), "what has ended is forgotten");
    assert_eq!(environment.run(&["ps", "--output", "json"]).json(), Value::Array(vec![]));
    daemon.end();
}

/// Records a run whose supervisor has died and whose VMM ignores SIGTERM.
#[expect(clippy::disallowed_methods, reason = "processes of the test's own")]
fn lost_run(environment: &Environment, name: &str) -> Child {
    let mut vmm = Command::new("/bin/sh");
    vmm.args(["-c", "trap '' TERM; echo; exec sleep 60"]).stdout(Stdio::piped());
    let mut vmm = vmm.spawn().unwrap();
    BufReader::new(vmm.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let mut supervisor = Command::new("/bin/true").spawn().unwrap();
    let dead = ProcessId::of_child(&supervisor).unwrap();
    supervisor.wait().unwrap();
    let mut store = Store::open(&environment.path("state")).unwrap();
    let (name, tx) = (name.parse().unwrap(), store.transaction().unwrap());
    tx.begin_run(&name, "builtin", dead, 0).unwrap();
    tx.set_run_process(&name, dead, ProcessId::of_child(&vmm).unwrap()).unwrap();
    tx.commit().unwrap();
    vmm
}

#[test]
fn daemon_answers_others_while_it_ends_a_lost_vmm() {
    let environment = Environment::new();
    let daemon = Daemon::start(&environment, &[]);
    let mut vmm = lost_run(&environment, "stubborn");
    let state = || environment.run(&["ps", "--output", "json"]).json()[0]["state"].clone();
    assert!((0..1000).any(|_| state() != "lost"), "the daemon takes it over");
    environment.run(&["up", "hello.json"]).success();
    environment.run(&["list"]).success();
    assert!(matches!(vmm.try_wait(), Ok(None)), "answered before the VMM has ended");
    assert!((0..10_000).any(|_| state() == "ended"), "the daemon clears it away");
    assert_eq!(vmm.wait().unwrap().signal(), Some(9));
    daemon.end();
}

#[test]
fn events_list_past_and_new_actions_of_the_daemon() {
    let environment = Environment::new();
    let daemon = Daemon::start(&environment, &[]);
    environment.run(&["up", "hello.json"]).success();
    let line = environment.run(&["events"]).success();
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(rest, "up          hello rik0: 10.231.0.2 tcp 8080 -> 3000\n");
    assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{time}");
    let event = environment.run(&["events", "--output", "json"]).json();
    assert_eq!((&event["kind"], &event["name"]), (&"up".into(), &"hello".into()));
    assert!(event["atMs"].as_u64().unwrap() > 1_700_000_000_000);
    // Read further events, until the daemon ends.
    let mut follower = environment.spawn_piped(&["events", "--follow"]);
    let output = BufReader::new(follower.stdout.take().unwrap());
    let mut lines = output.lines().map(|line| line.unwrap().split_once(' ').unwrap().1.to_owned());
    assert_eq!(lines.next().unwrap(), "up          hello rik0: 10.231.0.2 tcp 8080 -> 3000");
    environment.run(&["down", "hello"]).success();
    assert_eq!(lines.next().unwrap(), "down        hello taken down");
    daemon.end();
    assert_eq!(lines.next(), None);
    assert_eq!(follower.wait().unwrap().code(), Some(1));
    assert_eq!(environment.log(), "error: the daemon has ended\n");
}

#[test]
fn events_end_when_their_reader_goes_away() {
    let environment = Environment::with_hello();
    let daemon = Daemon::start(&environment, &[]);
    environment.run(&["down", "hello"]).success();
    let mut follower = environment.spawn_piped(&["events", "-f"]);
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    let ended = (0..200).find_map(|_| {
        environment.run(&["up", "hello.json"]).success();
        environment.run(&["down", "hello"]).success();
        follower.try_wait().unwrap()
    });
    if ended.is_none() {
        follower.kill().unwrap();
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    daemon.end();
}
