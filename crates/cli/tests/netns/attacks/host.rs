//! Attacks on the host itself: frames that its protocols must not get, with and without a firewall.

use std::net::Ipv4Addr;

use riklet_core::model::{MacAddress, Slot};

use super::{
    GATEWAY, by_every_kind, flush,
    frame::{ARP, Arp, BROADCAST, IPV4, IPV6, LLDP, PPPOE, Packet, VLAN, frame},
    neighbours, own, unguard,
};
use crate::world::{
    INTERNET, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World, function::Function, guest::Guest,
    sniffer::Sniffer, traffic::PATIENCE, wait_for,
};

const ATTACK: &str = "attack";
const ALLOWED: &str = "allowed";

/// The wish of an attacker, and the frame for it.
type Attack = (&'static str, Vec<u8>);

/// Returns frames that bear somebody else's address.
fn forged(attacker: &Guest, victim: &Guest) -> Vec<Attack> {
    let packet = own(attacker, NODE_LAN, 9, ATTACK);
    let sources = [
        ("to be another guest", victim.nic.address),
        ("to be the gateway", attacker.nic.gateway),
        ("to be another guest's gateway", victim.nic.gateway),
        ("to be the host", NODE_LAN),
        ("to be the host at its uplink", NODE_UPLINK),
        ("to be a process of the host", Ipv4Addr::LOCALHOST),
        ("to be a router of the host", INTERNET),
        ("to be somebody on the Internet", INTERNET_FAR),
        ("to be nobody", Ipv4Addr::UNSPECIFIED),
        ("to be everybody", Ipv4Addr::BROADCAST),
        ("to be a group", Ipv4Addr::new(224, 0, 0, 1)),
        ("to be a second guest", Ipv4Addr::from(u32::from(attacker.nic.address) + 1)),
        ("to be a host of the LAN", Ipv4Addr::new(192, 168, 7, 77)),
        ("to be the metadata service", Ipv4Addr::new(169, 254, 169, 254)),
    ];
    let by_source = sources.map(|(wish, from)| (wish, Packet { from, ..packet.clone() }.frame()));
    let [.., last] = attacker.nic.mac.octets();
    let macs = [
        ("to have another guest's MAC address", victim.nic.mac),
        ("to have the gateway's MAC address", GATEWAY),
        ("to have no guest's MAC address", MacAddress::new([6, 0, 0, 0, 0, last])),
        ("to have a group's MAC address", BROADCAST),
        ("to be a slot that nobody has", Slot::new(999).guest_mac()),
    ];
    let by_mac = macs.map(|(wish, mac)| (wish, packet.clone().by(mac, GATEWAY).frame()));
    let whole = Packet { from: victim.nic.address, ..packet.clone() }.by(victim.nic.mac, GATEWAY);
    let fragment = |fragment| Packet { fragment, from: victim.nic.address, ..packet.clone() };
    let rest = [
        ("to be another guest altogether", whole.frame()),
        ("to be another guest in a first fragment", fragment(0x2000).frame()),
        ("to be another guest in a later fragment", fragment(1).frame()),
    ];
    by_source.into_iter().chain(by_mac).chain(rest).collect()
}

/// Returns messages of ARP that claim somebody else's address.
fn of_arp(attacker: &Guest, victim: &Guest) -> Vec<Attack> {
    let (mac, address) = (attacker.nic.mac, attacker.nic.address);
    let ask =
        Arp { operation: 1, frame_from: mac, sender: (mac, address), target: attacker.nic.gateway };
    let claims = [
        ("to take another guest's address", (mac, victim.nic.address)),
        ("to take the gateway's address", (mac, attacker.nic.gateway)),
        ("to take the router's address", (mac, INTERNET)),
        ("to lead its own address elsewhere", (victim.nic.mac, address)),
        ("to fill the table of neighbours", (mac, Ipv4Addr::new(192, 0, 2, 1))),
    ];
    let each = claims.into_iter().flat_map(|(wish, sender)| {
        [1, 2].map(|operation| (wish, Arp { operation, sender, ..ask }.frame()))
    });
    let frame_from = victim.nic.mac;
    each.chain([("to ask as another guest", Arp { frame_from, ..ask }.frame())]).collect()
}

/// Returns frames that are for nobody, for many, or of a kind that guests have no use for.
fn misplaced(attacker: &Guest) -> Vec<Attack> {
    let mac = attacker.nic.mac;
    let packet = own(attacker, NODE_LAN, 9, ATTACK);
    let to = |to, port| own(attacker, to, port, ATTACK);
    let packet_6 = [&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &[0xfe; 32], &[0; 8]].concat();
    let other = |ether_type, payload: &[u8]| {
        frame(GATEWAY, mac, ether_type, &[payload, ATTACK.as_bytes()].concat())
    };
    vec![
        ("a process that trusts 127.0.0.1", to(Ipv4Addr::LOCALHOST, 9).frame()),
        ("the host's resolver", to(Ipv4Addr::new(127, 0, 0, 53), 53).frame()),
        ("every host", to(Ipv4Addr::BROADCAST, 9).frame()),
        ("every host by its frame", packet.clone().by(mac, BROADCAST).frame()),
        ("a group", to(Ipv4Addr::new(224, 0, 0, 251), 5353).frame()),
        ("the host's server of DHCP", to(NODE_LAN, 67).frame()),
        ("to give the host an address", to(NODE_LAN, 68).frame()),
        ("a server of DHCP", {
            let from = Ipv4Addr::UNSPECIFIED;
            Packet { from, ..to(Ipv4Addr::BROADCAST, 67) }.by(mac, BROADCAST).frame()
        }),
        ("a VLAN", packet.tagged(&[7])),
        ("a priority", packet.tagged(&[0])),
        ("a VLAN in a VLAN", packet.tagged(&[7, 8])),
        ("IPv6", other(IPV6, &packet_6)),
        ("to be a neighbour switch", other(LLDP, &[2, 7, 4])),
        ("to be a modem", other(PPPOE, &[0x11, 9])),
    ]
}

/// Returns messages of ICMP that change how the host sends.
fn of_icmp(attacker: &Guest) -> Vec<Attack> {
    let ends = (attacker.nic.address, NODE_LAN);
    // The kernel believes an error about an echo reply of its own without looking for a socket (`icmp_err` of
    // net/ipv4/icmp.c).
    let reply = Packet::icmp((NODE_LAN, INTERNET_FAR), [0, 0], 0, ATTACK.as_bytes()).bytes();
    let redirected = INTERNET_FAR.into();
    let message = |kind: [u8; 2], header: u32| {
        Packet::icmp(ends, kind, header, &reply).by(attacker.nic.mac, GATEWAY)
    };
    let in_pieces = Packet { fragment: 0x2000, ..message([3, 4], 600) };
    vec![
        ("smaller packets to somebody else", message([3, 4], 600).frame()),
        ("smaller packets, in pieces", in_pieces.frame()),
        ("the end of somebody else's flow", message([3, 3], 0).frame()),
        ("somebody else's flow to slow down", message([4, 0], 0).frame()),
        ("somebody else's flow to have no route", message([11, 0], 0).frame()),
        ("another route", message([5, 1], redirected).frame()),
        ("to be a router", message([9, 0], 0x0102_0708).frame()),
    ]
}

/// The sockets of the host's protocols.
struct Host([Sniffer; 6]);

impl Host {
    fn new(world: &World) -> Self {
        Self([IPV4, ARP, IPV6, LLDP, PPPOE, VLAN].map(|kind| Sniffer::new(&world.node, kind)))
    }

    /// Sends the frames, and returns the wishes of those that arrived before a packet that is allowed.
    fn hears(&self, attacker: &Guest, attacks: &[Attack]) -> Vec<&'static str> {
        for (_, frame) in attacks {
            attacker.send(frame);
        }
        let allowed = own(attacker, NODE_LAN, 9, ALLOWED).frame();
        attacker.send(&allowed);
        let mut heard = Vec::new();
        wait_for("the packet that is allowed", PATIENCE, || {
            heard.extend(self.0.iter().flat_map(Sniffer::heard));
            heard.contains(&allowed).then_some(())
        });
        // Frames that another processor still had in its queue.
        let again = own(attacker, NODE_LAN, 9, "again").frame();
        attacker.send(&again);
        wait_for("another packet", PATIENCE, || {
            heard.extend(self.0.iter().flat_map(Sniffer::heard));
            heard.contains(&again).then_some(())
        });
        let arrived = |frame: &Vec<u8>| heard.contains(frame) || heard.contains(&untagged(frame));
        attacks.iter().filter(|(_, frame)| arrived(frame)).map(|(wish, _)| *wish).collect()
    }
}

/// Returns a frame without its first tag, as the kernel shows it.
fn untagged(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.get(12..14) == Some(&VLAN.to_be_bytes()) {
        frame.drain(12..16);
    }
    frame
}

fn attacks([first, second]: &[Function; 2]) -> Vec<Attack> {
    let (attacker, victim) = (&first.guest, &second.guest);
    let all = [
        forged(attacker, victim),
        of_arp(attacker, victim),
        misplaced(attacker),
        of_icmp(attacker),
    ];
    all.concat()
}

by_every_kind!(the_host_hears_no_guest_that_lies, |world, pair| {
    let (host, attacks) = (Host::new(world), attacks(&pair));
    let attacker = &pair[0].guest;
    let neighbours = || neighbours(&world.node, &attacker.nic.interface);
    let before = neighbours();
    assert_eq!(host.hears(attacker, &attacks), [""; 0], "as it is");
    flush(world);
    assert_eq!(host.hears(attacker, &attacks), [""; 0], "without a firewall");
    assert_eq!(neighbours(), before);
    // This shows that the test would notice: without the guard, the host gets each of these frames.
    unguard(world, attacker);
    let wishes: Vec<_> = attacks.iter().map(|(wish, _)| *wish).collect();
    assert_eq!(host.hears(attacker, &attacks), wishes);
});
