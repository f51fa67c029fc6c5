//! `run`: functions in the foreground, with the built-in guest.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    internet::assert_internet,
    world::{
        CLIENT, Firewall, INTERNET, NODE_LAN, NODE_UPLINK, OTHER, World,
        command::Running,
        function::{bound, exposure, function},
        http::{http_get, http_server},
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{Endpoints, tcp_ask, udp_echo, udp_server},
        transport::{
            Transport::{Tcp, Udp},
            assert_refused,
        },
    },
};

const HELLO: (Ipv4Addr, u16) = (NODE_LAN, 8080);

/// Starts two functions, and waits until they are ready. The first one also takes datagrams.
fn start(world: &World) -> Running {
    let definitions = Value::from([
        function("hello", &[exposure(Tcp, 8080, 3000), exposure(Udp, 5353, 53)]),
        function("second", &[exposure(Tcp, 9090, 3000)]),
    ]);
    let mut running = world.riklet_in_background(&["run", "-"], &definitions.to_string());
    let printed = running.wait_for_line("ready in");
    for url in ["http://127.0.0.1:8080/", "http://203.0.113.2:8080/", "http://127.0.0.1:9090/"] {
        assert!(printed.contains(url), "{printed}");
    }
    running
}

/// Returns the client's address in an answer of the built-in guest.
fn client(answer: &Value) -> IpAddr {
    let client: SocketAddr = answer["client"].as_str().and_then(|c| c.parse().ok()).expect("one");
    client.ip()
}

/// Returns the address that a server saw when the built-in guest sent it a request.
fn seen(answer: &Value) -> IpAddr {
    let body = answer["body"].as_str().expect("a body");
    let answer: Endpoints = body.parse().unwrap_or_else(|error| panic!("{body}: {error}"));
    answer.client.ip()
}

on_every_firewall!(run_shows_functions_until_it_is_told_to_end, |world| {
    let before = SystemState::take(&world.node);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let running = start(world);
        for (from, to, seen_as) in [
            (&world.client, NODE_LAN, CLIENT),
            (&world.internet, NODE_UPLINK, INTERNET),
            (&world.other, NODE_LAN, OTHER),
            (&world.node, NODE_LAN, NODE_LAN),
        ] {
            let answer = http_get(from, (to, 8080), "/");
            assert_eq!((&answer["function"], &answer["port"]), (&"hello".into(), &3000.into()));
            assert_eq!(client(&answer), seen_as);
        }
        let hello = http_get(&world.client, HELLO, "/");
        assert_eq!(udp_echo(&world.client, (NODE_LAN, 5353), "ahoy"), Some("ahoy".to_owned()));

        let _servers = (
            http_server(&world.internet, (INTERNET, 80)),
            udp_server(&world.internet, (INTERNET, 53)),
        );
        let answer = http_get(&world.client, HELLO, &format!("/connect/{INTERNET}:80"));
        assert_eq!(seen(&answer), NODE_UPLINK);
        let answer = http_get(&world.client, HELLO, &format!("/udp/{INTERNET}:53/ahoy"));
        assert!(answer["body"].to_string().contains(&format!("ahoy {NODE_UPLINK}:")), "{answer}");
        // From one function to the other, and to itself.
        for (port, function, seen_as) in
            [(9090, "second", &hello["address"]), (8080, "hello", &hello["gateway"])]
        {
            let answer = http_get(&world.client, HELLO, &format!("/connect/{NODE_LAN}:{port}"));
            let answer: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
            assert_eq!(answer["function"], function);
            assert_eq!(client(&answer).to_string(), seen_as.as_str().unwrap());
        }

        running.signal(signal);
        let output = running.wait();
        assert_eq!((output.code, &*output.stderr), (Some(0), ""), "{output}");
        assert_refused(Tcp, &world.client, HELLO);
        assert_same(&before, &SystemState::take(&world.node));
    }
});

on_every_firewall!(options_describe_a_function_without_a_file, |world| {
    let before = SystemState::take(&world.node);
    let described: [(&[&str], &str, u16); 2] = [
        (&["run"], "hello", 8080),
        (&["run", "--name", "web", "-p", "5353:53/udp", "-p", "9090:3000"], "web", 9090),
    ];
    for (arguments, name, port) in described {
        let mut running = world.riklet_in_background(arguments, "");
        running.wait_for_line("ready in");
        let answer = http_get(&world.client, (NODE_LAN, port), "/");
        assert_eq!((&answer["function"], &answer["port"]), (&name.into(), &3000.into()));
        running.signal(Signal::INT);
        running.wait().success();
    }
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(run_leaves_alone_what_was_up_before, |world| {
    let resident = function("resident", &[exposure(Tcp, 7070, 3000)]);
    let [resident] = world.start([(resident, &[(Tcp, 3000)])]);
    world.wait_for_carrier(&resident.guest.nic.interface);
    let before = SystemState::take(&world.node);
    let running = start(world);
    tcp_ask(&world.client, (NODE_LAN, 7070)).unwrap();
    running.signal(Signal::TERM);
    running.wait().success();
    assert_same(&before, &SystemState::take(&world.node));
    tcp_ask(&world.client, (NODE_LAN, 7070)).unwrap();
    assert_internet(world, &resident);
});

/// Runs a function that is never ready, with these words before and after `run`. Returns its whole output, of a terminal of
/// script(1) or not.
#[track_caller]
fn never_ready(world: &World, words: &str, in_terminal: bool) -> String {
    let nowhere = bound(Ipv4Addr::new(192, 0, 2, 99), exposure(Tcp, 8080, 3000));
    let path = world.directory.path().join("hello.json");
    let path = path.to_str().expect("UTF-8");
    world.program("tee", &[path], &function("hello", &[nowhere]).to_string()).success();
    let program = env!("CARGO_BIN_EXE_riklet-sdn");
    let command = format!("export TERM=xterm; exec {program} {words} run --ready-timeout 2 {path}");
    let output = if in_terminal {
        world.program("script", &["--quiet", "--command", &command, "/dev/null"], "")
    } else {
        world.program("sh", &["-c", &command], "")
    };
    let said = output.stdout + &output.stderr;
    assert!(said.contains("not ready after 2 s"), "{said:?}");
    said
}

#[test]
fn progress_of_a_boot_is_shown_on_a_terminal_alone() {
    let world = World::new(Firewall::Nftables);
    let waits = "waiting for hello: the guest at 10.231.0.2 does not answer";
    let said = never_ready(&world, "", true);
    let (_, after) = said.rsplit_once(waits).unwrap_or_else(|| panic!("{waits:?} in {said:?}"));
    // The line is erased before the error.
    let (erased, _) = after.split_once("error: not ready").unwrap_or_else(|| panic!("{said:?}"));
    assert!(erased.contains("\u{1b}[2K"), "{said:?}");
    assert!(said.contains("starting hello"), "{said:?}");
    for (words, in_terminal) in [("--output json", true), ("", false)] {
        let said = never_ready(&world, words, in_terminal);
        assert!(!said.contains("waiting for"), "{said:?}");
    }
}
