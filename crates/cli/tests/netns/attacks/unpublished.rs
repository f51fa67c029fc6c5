//! Attacks on what is not published: a guest forges one half of a connection, so that the other half is an answer.

use std::net::Ipv4Addr;

use super::{
    GATEWAY, NAMES, by_every_kind,
    frame::{IPV4, Packet, SYN},
    own, unguard,
};
use crate::{
    reach::{FIRST, SECOND, TARGET},
    world::{
        CLIENT, Firewall, INTERNET, NODE_LAN, World,
        function::Function,
        sniffer::Sniffer,
        traffic::{Ear, PATIENCE, SILENCE, assert_silence, tcp_ask, udp_ask},
    },
};

/// A port of the victim that is not published.
const PRIVATE: u16 = 4000;

/// Has the attacker pretend that the victim asked it by its published port, and then answer.
fn open_simultaneously(attacker: &Function, victim: &Function) {
    let (own, asked) = (attacker.address(), (NODE_LAN, FIRST));
    let from = (victim.address(), PRIVATE);
    let answer = ((own, TARGET), from);
    for mac in [attacker.guest.nic.mac, victim.guest.nic.mac] {
        for packet in [
            Packet::tcp(from, asked, SYN),
            Packet::tcp(answer.0, answer.1, SYN),
            Packet::udp(from, asked, "asked"),
            Packet::udp(answer.0, answer.1, "answered"),
        ] {
            attacker.guest.send(&packet.by(mac, GATEWAY).frame());
        }
    }
    // The answer once more, by the attacker's own MAC address.
    for packet in
        [Packet::tcp(answer.0, answer.1, SYN), Packet::udp(answer.0, answer.1, "answered")]
    {
        attacker.guest.send(&packet.by(attacker.guest.nic.mac, GATEWAY).frame());
    }
}

/// Asserts that nothing arrives at the victim's ports that are not published, while the published ones answer.
#[track_caller]
fn assert_private(world: &World, [attacker, victim]: &[Function; 2]) {
    let ear = Ear::new(&victim.guest.namespace, (victim.address(), PRIVATE));
    let sniffer = Sniffer::new(&victim.guest.namespace, IPV4);
    open_simultaneously(attacker, victim);
    assert_eq!(ear.hear(SILENCE), None);
    let for_private = |frame: &Vec<u8>| frame.get(36..38) == Some(&PRIVATE.to_be_bytes()[..]);
    assert!(!sniffer.heard().iter().any(for_private));
    let guest = &attacker.guest.namespace;
    udp_ask(guest, (NODE_LAN, SECOND), PATIENCE).expect("the published port answers");
    tcp_ask(guest, (NODE_LAN, SECOND)).expect("the published port answers");
    udp_ask(&world.client, (NODE_LAN, FIRST), PATIENCE).expect("the published port answers");
}

by_every_kind!(an_unpublished_port_is_not_reached_by_a_forged_question, |world, pair| {
    assert_private(world, &pair);
    unguard(world, &pair[0].guest);
    assert_private(world, &pair);
});

/// Sends a datagram as each of these to a published port, to the Internet and to the host, and asserts that only the one
/// with the guest's own address arrives.
#[track_caller]
fn assert_sources(world: &World, [attacker, victim]: &[Function; 2]) {
    let ears = [
        (Ear::new(&world.internet, (INTERNET, 9)), "the Internet"),
        (Ear::new(&world.node, (Ipv4Addr::UNSPECIFIED, NAMES)), "the host"),
    ];
    let sniffer = Sniffer::new(&victim.guest.namespace, IPV4);
    let sources = [
        victim.address(),
        victim.gateway(),
        attacker.gateway(),
        NODE_LAN,
        INTERNET,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(198, 51, 100, 77),
        Ipv4Addr::new(192, 168, 7, 77),
    ];
    let guest = &attacker.guest;
    let send = |from: Option<Ipv4Addr>, words: &str| {
        for (to, port) in [(INTERNET, 9), (NODE_LAN, NAMES), (NODE_LAN, SECOND)] {
            let packet = own(guest, to, port, words);
            let packet = Packet { from: from.unwrap_or(packet.from), ..packet };
            guest.send(&packet.frame());
        }
    };
    for from in sources {
        send(Some(from), "forged");
    }
    assert_silence(&ears);
    send(None, "own");
    for (ear, who) in &ears {
        let heard = ear.hear(PATIENCE).map(|(words, _)| words);
        assert_eq!(heard.as_deref(), Some("own"), "{who}");
    }
    let with = |words: &str| {
        let heard = sniffer.heard();
        heard.iter().filter(|frame| frame.ends_with(words.as_bytes())).count()
    };
    assert_eq!(with("forged"), 0);
}

// Neither the guard nor the check of sources by routing is there: anybody may set `rp_filter`.
by_every_kind!(forged_sources_make_no_entry_by_the_firewall_alone, |world, pair| {
    let [attacker, victim] = pair;
    let guest = &attacker.guest;
    unguard(world, guest);
    for name in ["all", &guest.nic.interface] {
        world.node.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0");
    }
    let outside = [198, 51, 100, 77].into();
    let mut sources = vec![outside, Ipv4Addr::new(192, 168, 7, 77), CLIENT, INTERNET];
    if world.firewall == Firewall::Nftables {
        // With iptables, each address of a guest would be a rule.
        let free = Ipv4Addr::from(u32::from(attacker.address()) + 400);
        sources.extend([victim.address(), free]);
    }
    let ear = Ear::new(&world.node, (NODE_LAN, NAMES));
    let send = |from: Ipv4Addr, words: &str| {
        for (to, port) in [(INTERNET, 9), (NODE_LAN, SECOND), (NODE_LAN, NAMES)] {
            guest.send(&Packet { from, ..own(guest, to, port, words) }.frame());
        }
    };
    for &from in &sources {
        send(from, "forged");
    }
    send(guest.nic.address, "own");
    assert_eq!(ear.hear(PATIENCE).map(|(words, _)| words).as_deref(), Some("own"));
    let entries = |from: Ipv4Addr| {
        let from = from.to_string();
        world.node.tool(&["conntrack", "-L", "-p", "udp", "--orig-port-src", "7000", "-s", &from])
    };
    for from in sources {
        assert_eq!(entries(from), "", "{from}");
    }
    assert_eq!(entries(guest.nic.address).lines().count(), 3);
});

by_every_kind!(a_guest_with_another_address_reaches_nobody, |world, pair| {
    assert_sources(world, &pair);
    unguard(world, &pair[0].guest);
    assert_sources(world, &pair);
});
