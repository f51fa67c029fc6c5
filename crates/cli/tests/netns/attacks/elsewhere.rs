//! Attacks by packets whose addresses are a guest's and whose interface is not, and by packets for many hosts.

use std::net::Ipv4Addr;

use super::{GATEWAY, NAMES, by_every_kind, flush, frame::Packet, own, unguard};
use crate::{
    reach::{FIRST, SECOND, TARGET},
    world::{
        CLIENT, INTERNET, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World,
        function::Function,
        traffic::{Ear, PATIENCE, SILENCE, assert_silence, say, udp_ask},
        wait_for,
    },
};

by_every_kind!(nobody_outside_is_a_guest, |world, pair| {
    let [first, second] = &pair;
    let ears = [
        (Ear::new(&world.node, (Ipv4Addr::UNSPECIFIED, 9)), "the host"),
        (Ear::new(&first.guest.namespace, (first.address(), 9)), "a guest"),
    ];
    // The neighbour has the address of a guest, of a guest's gateway, and of a slot that nobody has.
    let free = Ipv4Addr::from(u32::from(first.address()) + 400);
    for address in [second.address(), second.gateway(), free] {
        for (neighbour, node) in [(&world.internet, NODE_UPLINK), (&world.client, NODE_LAN)] {
            neighbour.tool(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
            say(neighbour, address, (node, 9), "as a guest");
            say(neighbour, address, (node, FIRST), "as a guest");
            let route = first.address().to_string();
            neighbour.tool(&["ip", "route", "replace", &route, "via", &node.to_string()]);
            say(neighbour, address, (first.address(), 9), "as a guest");
        }
    }
    assert_silence(&ears);
    say(&world.client, CLIENT, (NODE_LAN, 9), "as itself");
    assert!(ears[0].0.hear(PATIENCE).is_some(), "the host hears");
    udp_ask(&world.client, (NODE_LAN, FIRST), PATIENCE).expect("the published port answers");
    udp_ask(&world.node, (second.address(), TARGET), PATIENCE)
        .expect("the host reaches its guests");
    udp_ask(&world.node, (first.gateway(), SECOND), PATIENCE).expect("the host reaches itself");
});

/// Sends packets for many hosts to services of the host.
#[track_caller]
fn assert_for_one_host(world: &World, [attacker, _]: &[Function; 2]) {
    let ear = Ear::new(&world.node, (Ipv4Addr::UNSPECIFIED, NAMES));
    let guest = &attacker.guest;
    let of_lan = Ipv4Addr::from(u32::from(NODE_LAN) | 0xff);
    let of_link = Ipv4Addr::from(u32::from(attacker.address()) | 3);
    for to in [Ipv4Addr::BROADCAST, of_lan, of_link, Ipv4Addr::new(224, 0, 0, 1)] {
        guest.send(&own(guest, to, NAMES, "for many").frame());
    }
    assert_eq!(ear.hear(SILENCE), None);
    guest.send(&own(guest, NODE_LAN, NAMES, "for one").frame());
    assert!(ear.hear(PATIENCE).is_some(), "the host hears");
}

by_every_kind!(services_of_the_host_hear_no_packet_for_many, |world, pair| {
    assert_for_one_host(world, &pair);
    unguard(world, &pair[0].guest);
    assert_for_one_host(world, &pair);
});

/// Returns the path MTU by which the host sends to this address.
#[track_caller]
fn path_mtu(world: &World, to: Ipv4Addr) -> Option<String> {
    let route = world.node.tool(&["ip", "route", "get", &to.to_string()]);
    let mtu = route.split_whitespace().skip_while(|word| *word != "mtu").nth(1);
    mtu.map(str::to_owned)
}

by_every_kind!(no_guest_makes_the_hosts_packets_smaller, |world, pair| {
    let guest = &pair[0].guest;
    let send = || {
        for host in [NODE_UPLINK, NODE_LAN, pair[0].gateway()] {
            // An echo reply of the host: the kernel looks for no socket that sent it.
            let quoted = Packet::icmp((host, INTERNET_FAR), [0, 0], 0, b"a reply").bytes();
            let error = Packet::icmp((guest.nic.address, host), [3, 4], 600, &quoted);
            guest.send(&error.by(guest.nic.mac, GATEWAY).frame());
        }
    };
    let shrink = || {
        send();
        // What was sent before this has arrived.
        udp_ask(&guest.namespace, (NODE_LAN, SECOND), PATIENCE)
            .expect("the published port answers");
        path_mtu(world, INTERNET_FAR)
    };
    assert_eq!(path_mtu(world, INTERNET), None);
    assert_eq!(shrink(), None, "as it is");
    unguard(world, guest);
    assert_eq!(shrink(), None, "by the firewall alone");
    // This shows that the test would notice.
    flush(world);
    send();
    wait_for("the smaller path MTU", PATIENCE, || path_mtu(world, INTERNET_FAR));
});
