//! Connections that work by IPv6: to published ports with the client's address, to the Internet, and between each guest and its host.

use std::net::Ipv6Addr;

use super::{
    CLIENT, Dual, FAR, FIRST, GATEWAY, INTERNET, NODE_LAN, NODE_UPLINK, TARGET, pair, with,
};
use crate::{
    reach,
    world::{
        INTERNET_FAR, NODE_LAN as NODE_LAN_V4, NODE_UPLINK as NODE_UPLINK_V4, Namespace, World,
        state::SystemState,
        traffic::{tcp_ask, tcp_echo, tcp_server, udp_server},
        transport::Transport::{self, Tcp, Udp},
    },
};

#[track_caller]
fn assert_seen_as(
    from: &Namespace,
    to: (Ipv6Addr, u16),
    seen_as: Ipv6Addr,
    (server, port): (Ipv6Addr, u16),
) {
    for transport in [Tcp, Udp] {
        let answer = transport.ask(from, to);
        let answer = answer.unwrap_or_else(|error| panic!("{transport} to {to:?}: {error}"));
        let found = (answer.client.ip(), answer.server);
        assert_eq!(found, (seen_as.into(), (server, port).into()), "{transport} to {to:?}");
    }
}

#[track_caller]
fn ping(from: &Namespace, to: &str) {
    from.tool(&["ping", "-6", "-n", "-c", "1", "-W", "20", to]);
}

#[track_caller]
fn assert_published(world: &World, [first, second]: &[Dual; 2]) {
    let server = (first.address, TARGET);
    for to in [NODE_LAN, NODE_UPLINK] {
        assert_seen_as(&world.client, (to, FIRST), CLIENT, server);
        assert_seen_as(&world.node, (to, FIRST), to, server);
        assert_seen_as(second.namespace(), (to, FIRST), second.address, server);
        let gateway = Ipv6Addr::from(u128::from(first.address) - 1);
        assert_seen_as(first.namespace(), (to, FIRST), gateway, server);
    }
    assert_seen_as(&world.internet, (NODE_UPLINK, FIRST), INTERNET, server);
}

#[test]
fn a_published_port_answers_everybody() {
    let world = with();
    let pair = pair(&world);
    assert_published(&world, &pair);
    let bytes: Vec<u8> = (0..=250).cycle().take(300_001).collect();
    for from in [&world.client, &world.node, pair[1].namespace(), pair[0].namespace()] {
        assert!(
            tcp_echo(from, (NODE_LAN, FIRST), &bytes).unwrap() == bytes,
            "more than one packet"
        );
    }
    // IPv4 goes on beside it.
    let [first, second] = pair.map(|dual| dual.function);
    let _servers = [Tcp, Udp].map(|transport: Transport| {
        transport.serve(&first.guest.namespace, first.address(), reach::TARGET)
    });
    for from in [&world.client, &second.guest.namespace] {
        tcp_ask(from, (NODE_LAN_V4, FIRST)).unwrap();
    }
}

#[test]
fn a_guest_and_its_host_reach_each_other() {
    let world = with();
    let [first, _second] = pair(&world);
    let gateway = Ipv6Addr::from(u128::from(first.address) - 1);
    ping(first.namespace(), &gateway.to_string());
    ping(first.namespace(), &NODE_LAN.to_string());
    let own = first.address.to_string();
    let gateway_of_link = format!("{GATEWAY}%eth0");
    let ask = ["ping", "-6", "-n", "-c", "1", "-W", "20", "-I", &own, &gateway_of_link];
    first.namespace().tool(&ask);
    ping(&world.node, &first.address.to_string());
    assert_seen_as(&world.node, (first.address, TARGET), gateway, (first.address, TARGET));
    // The guest asked for its gateway: the host answers by the address that is the same on every node.
    let neighbours = first.namespace().tool(&["ip", "-6", "neighbour", "show", "dev", "eth0"]);
    assert!(neighbours.contains("fe80::1 lladdr 0a:52:49:4b:00:01"), "{neighbours}");
    world.riklet(&["check"], "").success();
}

#[test]
fn guests_reach_the_internet_as_the_node() {
    let world = with();
    let [first, _second] = pair(&world);
    let _servers = [
        tcp_server(&world.internet, (FAR, 80)),
        udp_server(&world.internet, (FAR, 80)),
        tcp_server(&world.internet, (INTERNET_FAR, 80)),
    ];
    assert_seen_as(first.namespace(), (FAR, 80), NODE_UPLINK, (FAR, 80));
    let seen = tcp_ask(first.namespace(), (INTERNET_FAR, 80)).unwrap();
    assert_eq!(seen.client.ip(), NODE_UPLINK_V4);
    let bytes: Vec<u8> = (0..=250).cycle().take(300_001).collect();
    let back = tcp_echo(first.namespace(), (FAR, 80), &bytes).unwrap();
    assert!(back == bytes, "more than one packet");
    ping(first.namespace(), &FAR.to_string());
}

#[test]
fn nothing_remains() {
    let world = with();
    let before = SystemState::take(&world.node);
    {
        let pair = pair(&world);
        assert_published(&world, &pair);
    }
    world.riklet(&["down", "--all", "--purge"], "").success();
    let differences = before.differences(&SystemState::take(&world.node));
    assert_eq!(differences, "", "{differences}");
}
