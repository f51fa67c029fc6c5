//! The reach of guests beyond published ports.

use std::net::Ipv4Addr;

use crate::{
    reach::{FIRST, SECOND, TARGET, pair},
    world::{
        INTERNET, NODE_LAN, NODE_OTHER, NODE_UPLINK, World,
        function::{Function, function},
        on_every_firewall,
        traffic::{PATIENCE, assert_tcp_refused, ping, tcp_ask, udp_ask},
        transport::{
            Transport::{self, Tcp, Udp},
            assert_no_way, assert_refused,
        },
    },
};

const NAMES: u16 = 53;
const MAIL: u16 = 25;
const SERVICE: u16 = 7000;

/// Addresses of hosts behind the uplink, one of each range that is not public, with a cloud's metadata service.
const PRIVATE: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 9, 0, 1),
    Ipv4Addr::new(100, 64, 0, 9),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 31, 5, 5),
    Ipv4Addr::new(192, 168, 99, 1),
];

/// Returns what guests reach by `egress = all` only.
fn closed(gateway: Ipv4Addr) -> Vec<(Transport, (Ipv4Addr, u16))> {
    let host = [NODE_LAN, NODE_UPLINK, NODE_OTHER, gateway];
    let services = PRIVATE.iter().chain(&host).map(|&address| (address, SERVICE));
    let both = services.flat_map(|to| [(Tcp, to), (Udp, to)]);
    both.chain([(Tcp, (INTERNET, MAIL))]).collect()
}

/// Returns what guests reach by `egress = internet`, and not by `none`.
fn open(gateway: Ipv4Addr) -> Vec<(Transport, (Ipv4Addr, u16))> {
    let names = [INTERNET, PRIVATE[0], NODE_LAN, gateway].map(|address| (address, NAMES));
    let both = names.into_iter().chain([(INTERNET, SERVICE)]);
    both.flat_map(|to| [(Tcp, to), (Udp, to)]).collect()
}

#[track_caller]
pub(crate) fn assert_way(guest: &Function, targets: &[(Transport, (Ipv4Addr, u16))]) {
    for (transport, to) in targets {
        let answer = transport.ask(&guest.guest.namespace, *to);
        answer.unwrap_or_else(|error| panic!("{transport} to {to:?}: {error}"));
    }
}

#[track_caller]
pub(crate) fn assert_none(guest: &Function, targets: &[(Transport, (Ipv4Addr, u16))]) {
    let tries = targets.iter().map(|(transport, to)| (*transport, &guest.guest.namespace, *to));
    assert_no_way(&tries.collect::<Vec<_>>());
}

/// Asserts what holds whatever the reach is.
#[track_caller]
fn assert_published(world: &World, [first, second]: &[Function; 2]) {
    for from in [first, second] {
        assert_way(from, &[(Tcp, (NODE_LAN, FIRST)), (Udp, (NODE_LAN, SECOND))]);
        assert!(ping(&from.guest.namespace, from.gateway(), PATIENCE), "the gateway answers");
    }
    assert_none(first, &[(Tcp, (second.address(), TARGET)), (Udp, (second.address(), TARGET))]);
    tcp_ask(&world.node, (first.address(), TARGET)).expect("the host reaches its guests");
    udp_ask(&world.client, (NODE_LAN, FIRST), PATIENCE).expect("others reach published ports");
}

on_every_firewall!(guests_reach_the_internet_and_neither_the_host_nor_private_networks, |world| {
    for address in PRIVATE {
        world.internet.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
    }
    let pair = pair(world);
    let guest = &pair[0];
    let (closed, open) = (closed(guest.gateway()), open(guest.gateway()));
    let is_outside = |address| address == INTERNET || PRIVATE.contains(&address);
    let serve = |(by, (address, port)): &(Transport, (Ipv4Addr, u16))| {
        let namespace = if is_outside(*address) { &world.internet } else { &world.node };
        by.serve(namespace, *address, *port)
    };
    let _servers: Vec<_> = closed.iter().chain(&open).map(serve).collect();

    assert_none(guest, &closed);
    assert_way(guest, &open);
    assert_published(world, &pair);
    for to in [(PRIVATE[2], SERVICE), (INTERNET, MAIL)] {
        assert_tcp_refused(&guest.guest.namespace, to);
    }
    assert_refused(Tcp, &guest.guest.namespace, (NODE_LAN, SERVICE));
    assert_refused(Udp, &guest.guest.namespace, (NODE_LAN, SERVICE));
    // Nobody listens there.
    assert_refused(Tcp, &guest.guest.namespace, (NODE_LAN, MAIL));
    assert_refused(Udp, &guest.guest.namespace, (NODE_LAN, MAIL));

    let third = function("third", &[]).to_string();
    let refused = world.riklet(&["--egress", "all", "up", "-"], &third).failure(2);
    assert!(refused.contains("hint: `riklet-sdn repair --egress all`"), "{refused}");
    world.riklet(&["repair", "--egress", "all"], "").success();
    assert_way(guest, &closed);
    assert_way(guest, &open);
    assert_published(world, &pair);
    world.riklet(&["up", "-"], &third).success();

    world.riklet(&["repair", "--egress", "none"], "").success();
    assert_none(guest, &closed);
    assert_none(guest, &open);
    assert_published(world, &pair);
    world.riklet(&["check"], "").success();
});
