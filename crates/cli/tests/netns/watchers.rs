//! Watchers of the daemon's events and functions are told of every change, whoever makes it.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    supervised::{HELLO, assert_answers, hello},
    world::{
        Firewall, World,
        function::{exposure, function},
        on_every_firewall,
        runs::{is_alive, kill, pid},
        transport::{Transport, assert_refused},
        wait_for,
    },
};

const SOON: Duration = Duration::from_secs(20);

/// A stream of server-sent events.
pub(crate) struct Stream {
    socket: UnixStream,
    told: String,
    /// Everything that was told, for a test that fails.
    all: String,
}

impl Drop for Stream {
    #[expect(clippy::print_stderr, reason = "a test that fails says why")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the stream told:\n{}", self.all);
        }
    }
}

impl Stream {
    /// Asks the daemon for the stream at this path.
    pub(crate) fn open(world: &World, path: &str) -> Self {
        let mut socket = UnixStream::connect(world.socket()).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is read");
        Self { socket, told: String::new(), all: String::new() }
    }

    /// Waits until the stream has these words after those that were seen before.
    #[track_caller]
    pub(crate) fn sees(&mut self, words: &str) {
        wait_for(words, SOON, || {
            self.read();
            self.told.find(words)
        });
        let end = self.told.find(words).expect("it was seen") + words.len();
        self.told.drain(..end);
    }

    /// Waits for the end of an event with these words, and returns its position.
    #[track_caller]
    fn position_of(&mut self, words: &str) -> String {
        wait_for(words, SOON, || {
            self.read();
            let event = self.told.split_inclusive("\n\n").find(|event| event.contains(words))?;
            let id = event.lines().find_map(|line| line.strip_prefix("id: "))?;
            event.ends_with("\n\n").then(|| id.to_owned())
        })
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        if let Ok(count) = self.socket.read(&mut buffer) {
            let more = String::from_utf8_lossy(&buffer[..count]);
            self.told.push_str(&more);
            self.all.push_str(&more);
        }
    }
}

on_every_firewall!(watchers_are_told_of_changes_by_every_path, |world| {
    let daemon = world.daemon(&[]);
    daemon.wait_until_idle();
    let mut functions = Stream::open(world, "/v1/functions?watch=true");
    let before = functions.position_of("event: list\n");
    let mut events = Stream::open(world, &format!("/v1/events?since={before}"));
    let definition = function("web", &[exposure(Transport::Tcp, 8081, 3000)]).to_string();
    let alone = |arguments: &[&str]| {
        world.riklet(&[&["--no-daemon"], arguments].concat(), &definition).success()
    };
    let by_api = |method: &str| {
        let reply = daemon.ask(method, "/v1/functions/web", &definition);
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    // One after another, so that what one path did is not told after what the next one did.
    for _ in 0..3 {
        alone(&["up", "-"]);
        by_api("DELETE");
        by_api("PUT");
        alone(&["down", "web"]);
    }
    for _ in 0..6 {
        functions.sees("event: up\n");
        functions.sees("event: down\ndata: {\"name\":\"web\"}");
        events.sees("event: up\ndata: {\"");
        events.sees("\"name\":\"web\"");
        events.sees("event: down\n");
        events.sees("\"name\":\"web\"");
    }

    // By a run.
    world.detach(&[hello()]);
    assert_answers(world, HELLO, "hello");
    for stream in [&mut functions, &mut events] {
        for kind in ["started", "up", "ready"] {
            stream.sees(&format!("event: {kind}\n"));
            stream.sees("\"name\":\"hello\"");
        }
    }
    world.riklet(&["stop", "hello"], "").success();
    for stream in [&mut functions, &mut events] {
        for kind in ["stopping", "down", "ended"] {
            stream.sees(&format!("event: {kind}\n"));
            stream.sees("\"name\":\"hello\"");
        }
    }
    daemon.wait_until_idle();
    // None of it was taken for somebody else's doing.
    let path = format!("/v1/events?recent=true&since={before}");
    let told = daemon.ask("GET", &path, "").body;
    for kind in ["repaired", "noticed", "backing-off", "error", "missed"] {
        assert!(!told.contains(&format!("event: {kind}\n")), "{told}");
    }

    // By a purge, which takes everything down.
    for by_daemon in [false, true] {
        by_api("PUT");
        functions.sees("event: up\n");
        if by_daemon {
            let reply = daemon.ask("DELETE", "/v1/functions?all=true&purge=true", "");
            assert_eq!(reply.status, 200, "{reply:?}");
        } else {
            alone(&["down", "--all", "--purge"]);
        }
        functions.sees("event: list\ndata: []");
        events.sees("event: down\n");
        events.sees("all taken down");
    }
});

#[test]
fn watcher_that_comes_back_is_told_what_it_missed() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let put = |name: &str, port| {
        let definition = function(name, &[exposure(Transport::Tcp, port, 3000)]).to_string();
        let reply = daemon.ask("PUT", &format!("/v1/functions/{name}"), &definition);
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    let mut first = Stream::open(world, "/v1/functions?watch=true");
    let listed = first.position_of("event: list\n");
    put("one", 8081);
    let one = first.position_of("\"name\":\"one\"");
    drop(first);
    put("two", 8082);
    world.riklet(&["--no-daemon", "down", "one"], "").success();

    // From the list on, and from an event on.
    let mut again = Stream::open(world, &format!("/v1/functions?watch=true&since={listed}"));
    for told in ["event: up\ndata: {\"name\":\"one\"", "event: up\ndata: {\"name\":\"two\""] {
        again.sees(told);
    }
    again.sees("event: down\ndata: {\"name\":\"one\"}");
    let mut later = Stream::open(world, &format!("/v1/functions?watch=true&since={one}"));
    let last = later.position_of("event: down\n");
    later.sees("event: up\ndata: {\"name\":\"two\"");
    assert!(!again.told.contains("event: list") && !later.told.contains("event: list"));
    let events = daemon.ask("GET", &format!("/v1/events?recent=true&since={one}"), "").body;
    assert_eq!(events.matches("event: ").count(), 2, "{events}");
    let none = daemon.ask("GET", &format!("/v1/events?recent=true&since={last}"), "").body;
    assert_eq!(none.matches("event: ").count(), 0, "{none}");
    let refused = daemon.ask("GET", "/v1/events?recent=true&since=now", "");
    assert_eq!(refused.status, 400, "{refused:?}");
    let printed = world.riklet(&["--output", "json", "events", "--since", &one], "").success();
    assert!(printed.starts_with("{\"token\":"), "{printed}");

    // The next daemon does not know what its predecessor told.
    daemon.end(Signal::TERM);
    let _daemon = world.daemon(&[]);
    let mut anew = Stream::open(world, &format!("/v1/functions?watch=true&since={last}"));
    anew.sees("event: missed\ndata: {\"count\":null}");
    anew.sees("event: list\ndata: [{\"name\":\"two\"");
}

on_every_firewall!(daemon_clears_a_lost_run_away_at_once, |world| {
    let mut daemon = world.daemon(&[]);
    // Those of before its start are cleared as well.
    for restarts in [false, true] {
        let mut events = Stream::open(world, "/v1/events");
        world.detach(&[hello()]);
        events.sees("event: ready\n");
        let run = world.ps("hello");
        let (supervisor, guest) = (pid(&run["supervisorPid"]), pid(&run["pid"]));
        if restarts {
            daemon.end(Signal::KILL);
            kill(supervisor);
            daemon = world.daemon(&[]);
            events = Stream::open(world, "/v1/events");
        } else {
            kill(supervisor);
        }
        events.sees("event: down\n");
        events.sees("event: lost\n");
        events.sees("\"name\":\"hello\",\"text\":\"its supervisor died\"");
        assert!(!is_alive(guest));
        assert_refused(Transport::Tcp, &world.client, HELLO);
        assert_eq!(world.state_of("hello"), ("ended".to_owned(), "its supervisor died".to_owned()));
        world.riklet(&["check"], "").success();
    }
    daemon.signal(Signal::TERM);
    let log = daemon.into_running().wait().stderr;
    assert!(log.contains("lost: hello: its supervisor died"), "{log}");
});

on_every_firewall!(run_by_the_daemon_outlives_it, |world| {
    let mut daemon = world.daemon(&[]);
    let started = daemon.ask("POST", "/v1/runs", &hello().to_string());
    assert_eq!(started.status, 200, "{started:?}");
    let started = started.json();
    assert_eq!(started["failed"], json!([]), "{started}");
    assert_eq!(started["ready"][0]["instances"][0]["name"], "hello", "{started}");
    assert_answers(world, HELLO, "hello");
    let run = daemon.get("/v1/runs/hello");
    assert_eq!((&run["state"], &run["vmm"]), (&"running".into(), &"builtin".into()), "{run}");
    for signal in [Signal::TERM, Signal::KILL] {
        daemon.end(signal);
        assert_answers(world, HELLO, "hello");
        daemon = world.daemon(&[]);
        assert_eq!(daemon.get("/v1/runs/hello"), run);
    }
    let refused = daemon.ask("POST", "/v1/runs", &hello().to_string());
    assert_eq!(refused.status, 409, "{refused:?}");
    let taken = function("thief", &[exposure(Transport::Tcp, 8080, 3000)]);
    let failed = daemon.ask("POST", "/v1/runs", &taken.to_string()).json();
    assert_eq!(failed["failed"][0]["name"], "thief", "{failed}");
    let detail = failed["failed"][0]["detail"].as_str().expect("a text");
    assert!(detail.contains("hello has tcp 8080"), "{failed}");
    assert!(!detail.contains(['{', '\n']), "a sentence for people: {failed}");
    assert!(failed["failed"][0]["hint"].is_string(), "{failed}");
    let log = daemon.ask("GET", "/v1/runs/hello/logs", "");
    assert_eq!(log.status, 200, "{log:?}");
    let mut following = Stream::open(world, "/v1/runs/hello/logs?follow=true");
    following.sees("200 OK");
    let stopped = daemon.ask("DELETE", "/v1/runs/hello", "");
    assert_eq!((stopped.status, &stopped.json()["how"]), (200, &"SIGTERM".into()), "{stopped:?}");
    following.sees("\r\n0\r\n\r\n");
    assert_refused(Transport::Tcp, &world.client, HELLO);
    assert_eq!(daemon.get("/v1/runs/hello?wait=5")["reason"], "stopped");
    assert_eq!(daemon.ask("GET", "/v1/runs/nobody", "").status, 404);
});
