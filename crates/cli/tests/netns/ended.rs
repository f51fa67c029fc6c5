//! Flows that the rules in force do not allow end when the rules change, and no others.

use std::{
    io::{ErrorKind, Read, Write},
    net::Ipv4Addr,
};

use serde_json::json;

use crate::{
    attacks::flush,
    world::{
        Firewall, INTERNET, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World,
        function::{Function, every_transport, function},
        on_every_firewall,
        traffic::{Connection, SILENCE},
    },
};

/// A host behind the uplink in a private network.
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 1);
const PUBLISHED: u16 = 8080;
const TARGET: u16 = 3000;

/// Asserts that a guest's connection has ended: it is told so, but not by iptables.
#[track_caller]
fn assert_ended(world: &World, what: &str, connection: &Connection) {
    if world.firewall == Firewall::Nftables {
        return connection.assert_reset();
    }
    assert_unheard(what, connection);
}

/// Asserts that the server hears nothing of the client any more.
#[track_caller]
fn assert_unheard(what: &str, connection: &Connection) {
    let Connection { client, server } = connection;
    let (mut client, mut server) = (client, server);
    // It may have been reset already.
    client.write_all(b"alive?").ok();
    server.set_read_timeout(Some(SILENCE)).expect("a timeout above zero");
    let heard = server.read(&mut [0; 6]).map_err(|error| error.kind());
    let silent = [Err(ErrorKind::WouldBlock), Err(ErrorKind::ConnectionReset), Ok(0)];
    assert!(silent.contains(&heard), "{what}: {heard:?}");
}

/// Has the function connect to this address and port of the hosts behind the uplink.
#[track_caller]
fn to_internet(world: &World, from: &Function, to: (Ipv4Addr, u16)) -> Connection {
    Connection::new(&from.guest.namespace, to, &world.internet, to)
}

on_every_firewall!(what_began_in_a_gap_ends_with_the_repair, |world| {
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    world.internet.tool(&["ip", "address", "add", &format!("{PRIVATE}/32"), "dev", "lo"]);
    // Without masquerading, answers come back all the same.
    let route = format!("10.231.0.0/16 via {NODE_UPLINK}");
    world
        .internet
        .tool(&[&["ip", "route", "add"], &*route.split(' ').collect::<Vec<_>>()].concat());
    let open = function("open", &every_transport(PUBLISHED, TARGET));
    let [first, open] = world.start([(function("first", &[]), &[]), (open, &[])]);
    let held = to_internet(world, &first, (INTERNET, 7000));
    let at = (open.address(), TARGET);
    let published =
        Connection::new(&world.client, (NODE_LAN, PUBLISHED), &open.guest.namespace, at);
    let to_other =
        Connection::new(&first.guest.namespace, (NODE_LAN, PUBLISHED), &open.guest.namespace, at);

    flush(world);
    let rules = format!(
        "table ip others {{ chain translate {{ type nat hook prerouting priority -100; \
         ip daddr {INTERNET_FAR} tcp dport 7002 dnat to {PRIVATE}; }}; }}"
    );
    world.node.feed(&["nft", "-f", "-"], &rules).success();
    let private = to_internet(world, &first, (PRIVATE, 7001));
    let led = (PRIVATE, 7002);
    let led = Connection::new(&first.guest.namespace, (INTERNET_FAR, 7002), &world.internet, led);
    let host =
        Connection::new(&first.guest.namespace, (NODE_LAN, 7003), &world.node, (NODE_LAN, 7003));
    let of_host = (first.address(), 7005);
    let of_host = Connection::new(&world.node, of_host, &first.guest.namespace, of_host);
    let allowed = to_internet(world, &first, (INTERNET, 7006));

    world.riklet(&["repair"], "").success();
    for (what, connection) in [("private", &private), ("led", &led), ("the host", &host)] {
        assert_ended(world, what, connection);
    }
    for connection in [&held, &published, &to_other, &of_host, &allowed] {
        connection.assert_alive();
    }
    world.riklet(&["check"], "").success();
});

on_every_firewall!(a_narrower_reach_ends_what_it_refuses, |world| {
    let open = function("open", &every_transport(PUBLISHED, TARGET));
    let mut own = function("own", &[]);
    own["spec"]["function"]["network"] =
        json!({ "egress": { "allow": [format!("{INTERNET}:7002")] } });
    let [first, open, own] = world.start([(function("first", &[]), &[]), (open, &[]), (own, &[])]);
    let at = (open.address(), TARGET);
    let refused = to_internet(world, &first, (INTERNET, 7000));
    let of_open = to_internet(world, &open, (INTERNET, 7001));
    let by_policy = to_internet(world, &own, (INTERNET, 7002));
    let to_other =
        Connection::new(&first.guest.namespace, (NODE_LAN, PUBLISHED), &open.guest.namespace, at);
    let of_client =
        Connection::new(&world.client, (NODE_LAN, PUBLISHED), &open.guest.namespace, at);
    // Nothing changes, so nothing ends.
    world.riklet(&["repair", "--egress", "internet"], "").success();
    for connection in [&refused, &of_open, &by_policy, &to_other, &of_client] {
        connection.assert_alive();
    }
    world.riklet(&["repair", "--egress", "none"], "").success();
    assert_ended(world, "of the first", &refused);
    assert_ended(world, "of the other", &of_open);
    to_other.assert_alive();
    of_client.assert_alive();
    by_policy.assert_alive();
    world.riklet(&["check"], "").success();
});
