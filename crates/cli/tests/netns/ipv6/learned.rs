//! Routes that are learned from router advertisements: the host keeps those of its uplink, and takes none from a guest.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, netdevice, sendto, socket_with,
    sockopt::{set_ipv6_multicast_hops, set_ipv6_unicast_hops},
};

use super::{pair, with, without};
use crate::world::{Namespace, World, wait_for};

/// A router advertisement without options (RFC 4861, section 4.2), which lasts 30 minutes. The kernel completes the checksum.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];

/// Sends an advertisement from the link-local address of `eth0`.
#[track_caller]
fn advertise(from: &Namespace) {
    from.run(|| {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6));
        let socket = socket.expect("a socket");
        set_ipv6_multicast_hops(&socket, 255).expect("hops");
        set_ipv6_unicast_hops(&socket, Some(255)).expect("hops");
        let index = netdevice::name_to_index(&socket, "eth0").expect("eth0");
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        sendto(&socket, &ADVERTISEMENT, SendFlags::empty(), &all).expect("an advertisement");
    });
}

fn learned(world: &World) -> String {
    world.node.tool(&["ip", "-6", "route", "show", "default", "proto", "ra"])
}

/// Has the router of the uplink advertise itself until the node has learned its route.
#[track_caller]
fn learn(world: &World) {
    wait_for("the route of the advertisement", Duration::from_secs(20), || {
        advertise(&world.internet);
        let route = learned(world);
        route.contains("via fe80::cb1 dev up0").then_some(())
    });
}

#[test]
fn the_uplink_keeps_the_route_that_it_learned() {
    let world = with();
    world.node.tool(&["ip", "-6", "route", "delete", "default"]);
    learn(&world);
    let kept = |when: &str| assert!(learned(&world).contains("dev up0"), "{when}");
    let _pair = pair(&world);
    kept("after up");
    world.riklet(&["repair"], "").success();
    kept("after repair");
    world.riklet(&["down", "second"], "").success();
    kept("after down");
    {
        let _daemon = world.daemon(&[]);
        let definition = crate::world::function::function("third", &[]);
        world.up(&[definition]);
        kept("with a daemon");
    }
    world.riklet(&["down", "--all", "--purge"], "").success();
    kept("after purge");
}

#[test]
fn a_switch_of_forwarding_would_lose_that_route() {
    // The reason why the switch `forwarding` of no TAP is written.
    let world = without();
    world.node.tool(&["ip", "-6", "route", "delete", "default"]);
    learn(&world);
    world.node.set_sysctl("net/ipv6/conf/oth0/force_forwarding", "1");
    assert!(learned(&world).contains("dev up0"));
    world.node.set_sysctl("net/ipv6/conf/oth0/forwarding", "1");
    assert_eq!(learned(&world), "");
}

#[test]
fn the_host_takes_no_route_from_a_guest() {
    let world = with();
    let [first, _second] = pair(&world);
    let tap = first.tap().to_owned();
    let taken = || {
        for _ in 0..3 {
            advertise(first.namespace());
        }
        // What the guest sent before is read by the host before its answer to this.
        let own = first.address.to_string();
        let ask = ["ping", "-6", "-n", "-c", "1", "-W", "20", "-I", &own, "fe80::1%eth0"];
        first.namespace().tool(&ask);
        learned(&world).contains(&tap)
    };
    assert!(!taken(), "with everything");
    world.node.tool(&["tc", "qdisc", "delete", "dev", &tap, "clsact"]);
    assert!(!taken(), "without the guard");
    world.node.set_sysctl(&format!("net/ipv6/conf/{tap}/accept_ra"), "2");
    assert!(!taken(), "by the rules alone");
    world.node.set_sysctl(&format!("net/ipv6/conf/{tap}/accept_ra"), "0");
    world.node.tool(&["nft", "flush", "ruleset"]);
    assert!(!taken(), "by the setting alone");
    // This shows that the test would notice.
    world.node.set_sysctl(&format!("net/ipv6/conf/{tap}/accept_ra"), "2");
    assert!(taken());
}
