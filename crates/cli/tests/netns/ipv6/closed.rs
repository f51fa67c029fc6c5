//! Packets of IPv6 that guests may not send, and those that nobody may send them.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use rustix::net::netdevice::name_to_index;

use super::{
    CLIENT, Dual, FAR, FIRST, GATEWAY, NODE_LAN, NODE_UPLINK, PRIVATE, TARGET, pair, with,
};
use crate::world::{
    Namespace, World,
    traffic::{SILENCE, assert_tcp_closed, assert_tcp_refused, tcp_ask, tcp_server, udp_server},
    transport::Transport::{Tcp, Udp},
};

/// The port of a service that nobody publishes.
const SERVICE: u16 = 7000;

#[track_caller]
fn assert_no_answer(from: &Namespace, to: impl Into<SocketAddr>) {
    let to = to.into();
    for transport in [Tcp, Udp] {
        let answer = transport.ask_within(SILENCE, from, to);
        assert!(answer.is_err(), "{transport} to {to}: {answer:?}");
    }
}

#[test]
fn guests_reach_only_public_addresses() {
    let world = with();
    let [first, second] = pair(&world);
    let _servers = [
        tcp_server(&world.other, (PRIVATE, SERVICE)),
        udp_server(&world.other, (PRIVATE, SERVICE)),
        tcp_server(&world.internet, (FAR, 25)),
        tcp_server(&world.internet, (FAR, 80)),
    ];
    let from = first.namespace();
    assert_no_answer(from, (PRIVATE, SERVICE));
    assert_no_answer(from, (second.address, TARGET));
    assert_tcp_closed(from, (FAR, 25));
    // Translators and tunnels would lead to private addresses of IPv4.
    let leads_to_v4 = ["64:ff9b::c0a8:702", "2002:c0a8:702::1", "2001::1", "fec0::1", "::c0a8:702"];
    for address in leads_to_v4 {
        let route = format!("route add {address}/128 via {PRIVATE} dev oth0\n");
        world.node.feed(&["ip", "-6", "-batch", "-"], &route).success();
        let address: Ipv6Addr = address.parse().unwrap();
        let own = format!("address add {address}/128 dev eth0 nodad\n");
        world.other.feed(&["ip", "-6", "-batch", "-"], &own).success();
        let _server = tcp_server(&world.other, (address, SERVICE));
        tcp_ask(&world.node, (address, SERVICE)).unwrap();
        assert_tcp_closed(from, (address, SERVICE));
    }
    tcp_ask(from, (FAR, 80)).unwrap();
}

#[test]
fn guests_reach_no_service_of_the_host() {
    let world = with();
    let [first, _second] = pair(&world);
    let any = Ipv6Addr::UNSPECIFIED;
    let _servers =
        [tcp_server(&world.node, (any, SERVICE)), udp_server(&world.node, (any, SERVICE))];
    let gateway = Ipv6Addr::from(u128::from(first.address) - 1);
    let link = |address| SocketAddrV6::new(address, SERVICE, 0, eth0(&first));
    let of_link = [GATEWAY, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)].map(link);
    for to in [NODE_LAN, NODE_UPLINK, gateway] {
        assert_tcp_refused(first.namespace(), (to, SERVICE));
        assert_no_answer(first.namespace(), (to, SERVICE));
    }
    for to in of_link {
        assert_no_answer(first.namespace(), to);
    }
    tcp_ask(&world.client, (NODE_LAN, SERVICE)).unwrap();
}

#[test]
fn nobody_reaches_a_guest_at_its_own_address() {
    let world = with();
    let [first, second] = pair(&world);
    for (namespace, via) in [(&world.client, NODE_LAN), (&world.internet, NODE_UPLINK)] {
        let route = format!("route add {}/128 via {via} dev eth0\n", first.address);
        namespace.feed(&["ip", "-6", "-batch", "-"], &route).success();
        assert_no_answer(namespace, (first.address, TARGET));
    }
    assert_no_answer(second.namespace(), (first.address, TARGET));
    let _server = tcp_server(second.namespace(), (second.address, FIRST));
    assert_no_answer(first.namespace(), (second.address, FIRST));
    tcp_ask(&world.client, (NODE_LAN, FIRST)).unwrap();
}

/// Sends datagrams from any address, which the guest has for that time, and reports whether the server has got one.
fn arrives(world: &World, guest: &Dual, from: Ipv6Addr) -> bool {
    let change = |verb: &str| {
        let own = format!("address {verb} {from}/128 dev eth0 nodad\n");
        let _there = guest.namespace().feed(&["ip", "-6", "-batch", "-"], &own);
    };
    let has_it = guest.address == from;
    if !has_it {
        change("add");
    }
    let server = world.internet.run(|| UdpSocket::bind((FAR, 0))).expect("a socket");
    let to = server.local_addr().expect("an address");
    let own =
        SocketAddrV6::new(from, 0, 0, if from.is_unicast_link_local() { eth0(guest) } else { 0 });
    let sent = guest.namespace().run(|| {
        let socket = UdpSocket::bind(own)?;
        (0..3).try_for_each(|_| socket.send_to(b"here", to).map(drop))?;
        io::Result::Ok(())
    });
    sent.expect("a datagram");
    if !has_it {
        change("delete");
    }
    server.set_read_timeout(Some(SILENCE)).expect("a timeout above zero");
    server.recv(&mut [0; 8]).is_ok()
}

/// Returns the number of the guest's NIC.
fn eth0(guest: &Dual) -> u32 {
    let index = guest.namespace().run(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a socket");
        name_to_index(&socket, "eth0")
    });
    index.expect("eth0")
}

#[test]
fn guests_send_from_their_own_address_only() {
    let world = with();
    let [first, second] = pair(&world);
    let gateway = Ipv6Addr::from(u128::from(first.address) - 1);
    let others =
        [second.address, CLIENT, "fe80::42".parse().unwrap(), "fd77::1".parse().unwrap(), gateway];
    for guarded in [true, false] {
        if !guarded {
            world.node.tool(&["tc", "qdisc", "delete", "dev", first.tap(), "clsact"]);
        }
        for other in others {
            assert!(!arrives(&world, &first, other), "{other}, guarded: {guarded}");
        }
        assert!(arrives(&world, &first, first.address), "guarded: {guarded}");
    }
}

#[test]
fn without_rules_guests_stay_apart() {
    let world = with();
    let [first, second] = pair(&world);
    tcp_ask(first.namespace(), (NODE_LAN, FIRST)).unwrap();
    world.node.tool(&["nft", "flush", "ruleset"]);
    assert_no_answer(first.namespace(), (second.address, TARGET));
    assert_no_answer(second.namespace(), (first.address, TARGET));
    assert!(!arrives(&world, &first, second.address));
    // The host and its guest reach each other still: this is routing, and not a cable that is cut.
    tcp_ask(&world.node, (first.address, TARGET)).unwrap();
    world.riklet(&["repair"], "").success();
    tcp_ask(first.namespace(), (NODE_LAN, FIRST)).unwrap();
    assert_no_answer(second.namespace(), (first.address, TARGET));
}
