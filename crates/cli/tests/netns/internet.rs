//! The destinations that a guest can reach, the address that they see, and the destinations it must not reach.

use std::net::Ipv4Addr;

use crate::{
    reach::{TARGET, assert_published, pair},
    world::{
        CLIENT, INTERNET, INTERNET_FAR, NODE_LAN, NODE_OTHER, NODE_UPLINK, OTHER, World,
        function::{Function, bound, exposure, function},
        on_every_firewall,
        traffic::{Ear, PATIENCE, assert_silence, ping, say, tcp_ask, tcp_server},
        transport::{Path, Transport, assert_no_way, assert_paths},
    },
};

const PORT: u16 = 7;
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Asserts that servers behind the uplink, near and far, see the uplink's address instead of the guest's. An answer to
/// a ping shows the same: no host there has a route to the guest.
#[track_caller]
pub(crate) fn assert_internet(world: &World, function: &Function) {
    let guest = &function.guest.namespace;
    for there in [INTERNET, INTERNET_FAR] {
        let _servers = Transport::ALL.map(|t| t.serve(&world.internet, there, PORT));
        let path =
            Path { from: guest, to: (there, PORT), seen_as: NODE_UPLINK, server: (there, PORT) };
        assert_paths("guest → Internet", &Transport::ALL, &[path]);
        assert!(ping(guest, there, PATIENCE), "ping {there}");
    }
}

/// Asserts that `check` finds what another program broke, and that `repair` restores it: both functions are reached,
/// and the second one reaches the Internet.
#[track_caller]
pub(crate) fn assert_repair_restores(world: &World, pair: &[Function; 2]) {
    let check = world.riklet(&["check"], "");
    assert_eq!(check.code, Some(1), "{check}");
    world.riklet(&["repair"], "").success();
    world.riklet(&["check"], "").success();
    assert_published(world, pair, &Transport::ALL);
    assert_internet(world, &pair[1]);
}

on_every_firewall!(internet_sees_guests_with_the_nodes_address, |world| {
    let [first, second] = pair(world);
    assert_internet(world, &first);
    assert_internet(world, &second);
});

on_every_firewall!(guests_reach_only_the_uplink_and_cannot_be_reached, |world| {
    // Forwarding is on, so that only our rules can close a path.
    world.node.set_sysctl("net/ipv4/ip_forward", "1");
    let [first, second] = pair(world);
    let guest = &first.guest.namespace;
    assert_internet(world, &first);

    let ears = [
        (Ear::new(&world.client, (CLIENT, PORT)), "the client"),
        (Ear::new(&world.other, (OTHER, PORT)), "the other network"),
        (Ear::new(&world.internet, (INTERNET, PORT)), "the Internet, from a foreign address"),
        (Ear::new(&second.guest.namespace, (second.address(), PORT)), "another guest"),
        (Ear::new(guest, (first.address(), PORT)), "a guest, from outside"),
    ];
    let foreign = Ipv4Addr::new(192, 0, 2, 77);
    guest.tool(&["ip", "address", "add", &format!("{foreign}/32"), "dev", "eth0"]);
    say(guest, foreign, (INTERNET, PORT), "from a foreign address");
    let servers = [(&world.client, CLIENT), (&world.other, OTHER)];
    let servers = servers.map(|(namespace, address)| tcp_server(namespace, (address, PORT)));
    let closed = [CLIENT, OTHER, second.address()];
    let mut tries: Vec<_> = closed.map(|to| (Transport::Tcp, guest, (to, PORT))).into();
    for to in closed {
        say(guest, ANY, (to, PORT), "from a guest");
    }
    let strangers =
        [(&world.client, NODE_LAN), (&world.internet, NODE_UPLINK), (&world.other, NODE_OTHER)];
    for (stranger, node) in strangers {
        let pool = format!("{}/24", Ipv4Addr::from(u32::from(first.address()) & !0xff));
        stranger.tool(&["ip", "route", "replace", &pool, "via", &node.to_string()]);
        assert!(ping(stranger, first.gateway(), PATIENCE), "the route leads to the node");
        say(stranger, ANY, (first.address(), PORT), "from outside");
        tries.push((Transport::Tcp, stranger, (first.address(), TARGET)));
    }
    assert_no_way(&tries);
    assert_silence(&ears);
    // The receivers work: each hears a datagram from the node.
    let addresses = [CLIENT, OTHER, INTERNET, second.address(), first.address()];
    for ((ear, who), address) in ears.iter().zip(addresses) {
        say(&world.node, ANY, (address, PORT), "from the node");
        assert!(ear.hear(PATIENCE).is_some(), "{who}");
    }
    for server in servers {
        tcp_ask(&world.node, server.address).unwrap();
    }
});

on_every_firewall!(neighbours_cannot_reach_the_nodes_loopback, |world| {
    let loopback = |last| Ipv4Addr::new(127, 0, 0, last);
    let private = [exposure(Transport::Tcp, 81, TARGET), exposure(Transport::Udp, 81, TARGET)];
    let private = private.map(|exposure| bound(Ipv4Addr::LOCALHOST, exposure));
    let serves = [(Transport::Tcp, TARGET), (Transport::Udp, TARGET)];
    let [private, hostile] =
        world.start([(function("private", &private), &serves), (function("hostile", &[]), &[])]);
    let by_loopback = Path {
        from: &world.node,
        to: (Ipv4Addr::LOCALHOST, 81),
        seen_as: private.gateway(),
        server: (private.address(), TARGET),
    };
    let transports = [Transport::Tcp, Transport::Udp];
    assert_paths("node → loopback", &transports, &[by_loopback]);

    // A service that the node runs for itself, and one for everyone that trusts 127.0.0.0/8.
    let _servers = transports.map(|transport| transport.serve(&world.node, loopback(1), PORT));
    let trusting = Ear::new(&world.node, (ANY, 9));
    let hostile = &hostile.guest;
    let neighbours = [
        (&hostile.namespace, hostile.nic.gateway),
        (&world.client, NODE_LAN),
        (&world.other, NODE_OTHER),
    ];
    let mut tries = Vec::new();
    for (neighbour, gateway) in neighbours {
        neighbour.send_loopback_to(gateway);
        assert!(ping(neighbour, gateway, PATIENCE), "ARP is done as a good neighbour");
        tries.extend(transports.map(|t| (t, neighbour, (Ipv4Addr::LOCALHOST, PORT))));
        tries.extend(transports.map(|t| (t, neighbour, (Ipv4Addr::LOCALHOST, 81))));
        neighbour.tool(&["ip", "address", "add", "127.0.0.9/32", "dev", "lo"]);
        say(neighbour, loopback(9), (gateway, 9), "from 127.0.0.9");
    }
    assert_no_way(&tries);
    assert_silence(&[(trusting, "a service of the node")]);
});
