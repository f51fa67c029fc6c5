//! Refusals of guests are told of, and counted.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    reach::{TARGET, pair},
    world::{
        Firewall, INTERNET, NODE_LAN, World,
        daemon::Daemon,
        function::{Function, every_transport, function},
        on_every_firewall,
        traffic::{PATIENCE, SILENCE, UdpClient, ping, tcp_ask},
        transport::Transport::{Tcp, Udp},
        wait_for,
    },
};

/// An address that the node's guests do not reach, and one that is denied to a function.
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 1);
const SERVICE: u16 = 7000;

/// Waits for the event of a packet that was refused.
#[track_caller]
fn assert_told(world: &World, name: &str, rule: &str, protocol: &str, to: (Ipv4Addr, Option<u16>)) {
    let told = |event: &Value| {
        let found = &event["refused"];
        event["kind"] == "refused"
            && event["name"] == name
            && (&found["rule"], &found["protocol"]) == (&json!(rule), &json!(protocol))
            && (&found["destination"], &found["port"]) == (&json!(to.0), &json!(to.1))
    };
    let what = format!("an event of {name}: {protocol} to {to:?} is refused by {rule}");
    wait_for(&what, PATIENCE, || events(world).iter().any(told).then_some(()));
}

/// Returns the refused packets that the daemon tells of.
#[track_caller]
fn events(world: &World) -> Vec<Value> {
    let lines = world.riklet(&["--output", "json", "events", "--refused"], "").success();
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Returns the number of a function's packets that were refused, by every rule.
#[track_caller]
fn count(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.ask("GET", "/metrics", "").body;
    let of_function =
        format!("riklet_sdn_function_refused_packets_total{{function=\"{name}\",rule=\"");
    let values = metrics.lines().filter(|line| line.starts_with(&of_function));
    values.map(|line| line.rsplit(' ').next().expect("a value").parse::<u64>().expect("one")).sum()
}

/// Tries to connect. Whether the answer is an error or silence is of no interest here.
fn try_tcp(from: &Function, to: (Ipv4Addr, u16)) {
    let answer = Tcp.ask_within(SILENCE, &from.guest.namespace, to.into());
    assert!(answer.is_err(), "{to:?} answers: {answer:?}");
}

on_every_firewall!(what_is_refused_is_told_with_function_destination_and_rule, |world| {
    let daemon = world.daemon(&[]);
    let [first, second] = &pair(world);
    let _server = Tcp.serve(&world.node, NODE_LAN, SERVICE);
    try_tcp(first, (INTERNET, 25));
    assert_told(world, "first", "mail", "tcp", (INTERNET, Some(25)));
    try_tcp(first, (NODE_LAN, SERVICE));
    assert_told(world, "first", "host", "tcp", (NODE_LAN, Some(SERVICE)));
    UdpClient::new(&second.guest.namespace, (PRIVATE, SERVICE)).send_to((PRIVATE, SERVICE));
    assert_told(world, "second", "egress", "udp", (PRIVATE, Some(SERVICE)));
    assert!(!ping(&second.guest.namespace, PRIVATE, SILENCE));
    assert_told(world, "second", "egress", "icmp", (PRIVATE, None));
    try_tcp(second, (first.address(), TARGET));
    assert_told(world, "second", "guest", "tcp", (first.address(), Some(TARGET)));
    let told = world.riklet(&["events", "--refused"], "").success();
    let line = format!("refused     first tcp {INTERNET}:25: guests do not send mail\n");
    assert!(told.contains(&line), "{told}");
    assert!(!daemon.events().contains("refused"), "other events are told without these");
    assert_eq!(tcp_ask(&first.guest.namespace, (NODE_LAN, 9090)).map(drop).ok(), Some(()));

    // The next daemon hears as well.
    daemon.end(Signal::TERM);
    try_tcp(first, (INTERNET, 25));
    let daemon = world.daemon(&[]);
    wait_for("an event of the next daemon", PATIENCE, || {
        try_tcp(second, (INTERNET, 25));
        let is_it = |event: &Value| event["name"] == "second" && event["refused"]["rule"] == "mail";
        events(world).iter().any(is_it).then_some(())
    });
    drop(daemon);
    world.riklet(&["check"], "").success();
});

on_every_firewall!(what_a_policy_refuses_is_told, |world| {
    let _daemon = world.daemon(&[]);
    let mut definition = function("f", &[]);
    definition["spec"]["function"]["network"] = json!({ "egress": { "default": "none", "allow": ["10.9.0.0/16"], "deny": ["10.9.5.1:7000", "host"] } });
    let open = function("open", &every_transport(8080, TARGET));
    let [f, _open] = world.start([(definition, &[]), (open, &[(Tcp, TARGET), (Udp, TARGET)])]);
    try_tcp(&f, (PRIVATE, SERVICE));
    assert_told(world, "f", "policy", "tcp", (PRIVATE, Some(SERVICE)));
    try_tcp(&f, (INTERNET, SERVICE));
    assert_told(world, "f", "default", "tcp", (INTERNET, Some(SERVICE)));
    try_tcp(&f, (NODE_LAN, SERVICE));
    assert_told(world, "f", "policy", "tcp", (NODE_LAN, Some(SERVICE)));
});

on_every_firewall!(of_many_refused_packets_few_are_told_and_all_are_counted, |world| {
    const PACKETS: u64 = 10_000;
    let daemon = world.daemon(&[]);
    let [first, second] = &pair(world);
    let rules = world.node.feed(
        &["nft", "-f", "-"],
        "table ip seen { chain seen { type filter hook prerouting priority -500; \
         iifname rik* udp dport 7000 counter; }; }",
    );
    rules.success();
    #[expect(clippy::disallowed_methods, reason = "the test bounds a rate")]
    let begin = Instant::now();
    // A socket that is not connected is not told of refusals.
    let socket = first.guest.namespace.run(|| UdpSocket::bind((first.address(), 0)));
    let socket = socket.expect("a socket");
    while seen(world) < PACKETS {
        for _ in 0..500 {
            socket.send_to(&[7], (PRIVATE, SERVICE)).expect("it is sent");
        }
    }
    UdpClient::new(&second.guest.namespace, (PRIVATE, 7001)).send_to((PRIVATE, 7001));
    assert_told(world, "second", "egress", "udp", (PRIVATE, Some(7001)));
    let took = begin.elapsed() + Duration::from_secs(1);
    let told = events(world).iter().filter(|event| event["name"] == "first").count();
    // A burst of 10, and one a second. The table of policies counts beside iptables, which refuses flows that begin too fast.
    let tables = if world.firewall == Firewall::Nftables { 1 } else { 2 };
    assert!(
        told > 0 && u64::try_from(told).expect("few") <= tables * (11 + took.as_secs()),
        "{told}, {took:?}"
    );
    if world.firewall == Firewall::Nftables {
        let (mut refused, mut arrived) = (0, 1);
        wait_for("the last packets", PATIENCE, || {
            (refused, arrived) = (count(&daemon, "first"), seen(world));
            (refused == arrived).then_some(())
        });
        assert!(refused >= PACKETS, "{refused} of {arrived}");
        // The next function in the slot has none of them.
        world.down(&["first"]);
        daemon.wait_until_idle();
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let nics = world.up(&names.map(|name| function(name, &[])));
        let mut pairs = names.iter().zip(&nics);
        let next = pairs.find(|(_, nic)| nic.interface == first.guest.nic.interface);
        let (name, _) = next.expect("one of many has the slot");
        assert_eq!(count(&daemon, name), 0);
    }
    world.riklet(&["check"], "").success();
});

/// Returns the number of packets that the node has seen.
#[track_caller]
fn seen(world: &World) -> u64 {
    let rules = world.node.tool(&["nft", "list", "table", "ip", "seen"]);
    let count = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count: {rules}"))
}

#[test]
fn a_listener_of_others_is_told_of() {
    let world = &World::new(Firewall::Nftables);
    let other = world.node.run(|| riklet_kernel::linux::refusals::Refusals::listen().unwrap());
    let daemon = world.daemon(&[]);
    let words = "cannot hear of what guests are refused";
    wait_for(words, PATIENCE, || daemon.events().contains(words).then_some(()));
    drop(other);
    let [first, _second] = &pair(world);
    wait_for("an event, once nobody else listens", PATIENCE, || {
        try_tcp(first, (INTERNET, 25));
        (!events(world).is_empty()).then_some(())
    });
}
