//! The steps of the programs, by the fields of a frame.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    FIRST_INTERFACE, SLOTS, SPAN_BITS, SPAN_BITS_V6,
    machine::{
        ADD, ANY_BIT, AT_LEAST, BYTE, BYTE_FROM, EQUAL, EQUAL_INDEX, HALF, HALF_FROM,
        HEADER_LENGTH, MASK, Place, RECALL, SHIFT_LEFT, STORE, SUBTRACT, Step, TO_INDEX, WORD,
        WORD_FROM,
    },
};
use crate::address::Slot;

use Place::{
    Arp, ArpMac, Discovery, Drop, Icmp, IcmpV6, Identified, Ipv4, Ipv6, LinkLocal, On, OwnV6, Pass,
    Quote, QuoteV6, Udp, UdpV6, UnicastV6, Unspecified,
};
use Step::{At, Do, If};

/// The word of memory that has the guest's address.
const ADDRESS: u32 = 0;

/// `SKF_AD_OFF` of `<linux/filter.h>`, with `SKF_AD_IFINDEX` and `SKF_AD_VLAN_TAG_PRESENT`: the kernel takes the tag of a
/// VLAN out of the frame before the program sees it.
pub(super) const INTERFACE: u32 = 0xffff_f000 + 8;
pub(super) const VLAN_TAG: u32 = 0xffff_f000 + 48;

/// The offsets of fields in a frame, and some of their values (RFC 826, RFC 791, RFC 768, RFC 792; IEEE 802.3).
const FIRST_OCTET: u32 = 0;
const GROUP: u32 = 1;
const SOURCE_MAC: u32 = 6;
const ETHER_TYPE: u32 = 12;
pub(super) const ARP: u32 = 0x0806;
pub(super) const IPV4: u32 = 0x0800;
const HEADER: u32 = 14;
const SENDER_MAC: u32 = HEADER + 8;
const SENDER: u32 = HEADER + 14;
const FRAGMENT: u32 = HEADER + 6;
const FRAGMENT_OFFSET: u32 = 0x1fff;
pub(super) const MORE_FRAGMENTS: u32 = 0x2000;
const PROTOCOL: u32 = HEADER + 9;
const SOURCE: u32 = HEADER + 12;
const DESTINATION: u32 = HEADER + 16;
const UDP: u32 = 17;
const ICMP: u32 = 1;
const DESTINATION_PORT: u32 = HEADER + 2;
/// The destination of the packet that an error of ICMP quotes, after its header of 8 bytes.
const QUOTED_DESTINATION: u32 = DESTINATION + 8;
/// The part of a MAC address that comes before the number of the slot.
const MAC_PREFIX: u32 = 4;
/// The first of the addresses for many hosts: multicast, reserved, and the broadcast address.
const MULTICAST: u32 = 0xe000_0000;
const LOOPBACK: u32 = 0x7f00_0000;
const LOOPBACK_MASK: u32 = 0xff00_0000;
/// The ports at which servers and clients of DHCP listen (RFC 2131, section 4.1).
const DHCP_SERVER: u32 = 67;
const DHCP_CLIENT: u32 = 68;
/// ICMP messages that change the host's routes (RFC 792; RFC 1256).
const REDIRECT: u32 = 5;
const ROUTER_ADVERTISEMENT: u32 = 9;
/// ICMP messages that quote a packet (RFC 792).
const UNREACHABLE: u32 = 3;
const QUENCH: u32 = 4;
const TIME_EXCEEDED: u32 = 11;
const PARAMETER_PROBLEM: u32 = 12;

/// The same of IPv6 (RFC 8200; RFC 4443; RFC 4861; RFC 8415).
pub(super) const IPV6: u32 = 0x86dd;
const NEXT_HEADER: u32 = HEADER + 6;
pub(super) const SOURCE_V6: u32 = HEADER + 8;
pub(super) const SECOND_WORD: u32 = SOURCE_V6 + 4;
pub(super) const THIRD_WORD: u32 = SOURCE_V6 + 8;
const DESTINATION_V6: u32 = HEADER + 24;
const PAYLOAD: u32 = HEADER + 40;
/// The destination of the packet that an error quotes, after its header of 8 bytes.
const QUOTED_DESTINATION_V6: u32 = PAYLOAD + 8 + 24;
const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const DESTINATION_OPTIONS: u32 = 60;
const ICMP_V6: u32 = 58;
/// The first word of `fe80::/64`, and the first octet of addresses for many hosts.
const LINK_LOCAL: u32 = 0xfe80_0000;
const MULTICAST_V6: u32 = 0xff;
/// Messages about listeners, routers and redirects are for hosts that trust the sender. Errors come before `ECHO`.
const ECHO: u32 = 128;
const LISTENER_QUERY: u32 = 130;
const NEIGHBOUR_SOLICITATION: u32 = 135;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
const DHCP_V6_CLIENT: u32 = 546;
const DHCP_V6_SERVER: u32 = 547;

/// Returns the steps of the program for frames from guests; `first` is the address of the guest of slot 0, and `first_v6`
/// that of IPv6, if guests have one.
pub(super) fn from_guest(first: Ipv4Addr, first_v6: Option<Ipv6Addr>) -> Vec<Step> {
    let [m_0, m_1, m_2, m_3, ..] = Slot::new(0).guest_mac().octets();
    let prefix = u32::from_be_bytes([m_0, m_1, m_2, m_3]);
    let identity = [
        Do(WORD, VLAN_TAG),
        If(EQUAL, 0, On, Drop),
        Do(WORD, SOURCE_MAC),
        If(EQUAL, prefix, On, Drop),
        // The number of the slot is in the interface's number and in the MAC address.
        Do(WORD, INTERFACE),
        Do(SUBTRACT, FIRST_INTERFACE),
        If(AT_LEAST, SLOTS, Identified, On),
        Do(TO_INDEX, 0),
        Do(HALF, SOURCE_MAC + MAC_PREFIX),
        If(EQUAL_INDEX, 0, On, Drop),
        At(Identified),
        Do(HALF, SOURCE_MAC + MAC_PREFIX),
        Do(SHIFT_LEFT, SPAN_BITS),
        Do(ADD, first.into()),
        Do(STORE, ADDRESS),
        Do(TO_INDEX, 0),
        Do(HALF, ETHER_TYPE),
        If(EQUAL, ARP, Arp, On),
    ];
    let protocols = match first_v6 {
        None => vec![If(EQUAL, IPV4, Ipv4, Drop)],
        Some(_) => vec![If(EQUAL, IPV4, Ipv4, On), If(EQUAL, IPV6, Ipv6, Drop)],
    };
    let ipv6 = first_v6.map(from_guest_v6).unwrap_or_default();
    [&identity[..], &protocols, &arp(prefix), FROM_IPV4, FROM_ICMP, &ipv6].concat()
}

/// Returns the steps for ARP; `prefix` begins the MAC address of every guest.
fn arp(prefix: u32) -> [Step; 11] {
    [
        At(Arp),
        Do(WORD, SENDER),
        If(EQUAL_INDEX, 0, ArpMac, On),
        // A guest that asks whether its address is taken has none yet (RFC 5227, section 2.1.1).
        If(EQUAL, 0, ArpMac, Drop),
        At(ArpMac),
        Do(WORD, SENDER_MAC),
        If(EQUAL, prefix, On, Drop),
        Do(HALF, SENDER_MAC + MAC_PREFIX),
        Do(TO_INDEX, 0),
        Do(HALF, SOURCE_MAC + MAC_PREFIX),
        If(EQUAL_INDEX, 0, Pass, Drop),
    ]
}

/// The steps for packets of IPv4.
const FROM_IPV4: &[Step] = &[
    At(Ipv4),
    Do(WORD, SOURCE),
    If(EQUAL_INDEX, 0, On, Drop),
    Do(BYTE, FIRST_OCTET),
    If(ANY_BIT, GROUP, Drop, On),
    Do(WORD, DESTINATION),
    If(AT_LEAST, MULTICAST, Drop, On),
    Do(MASK, LOOPBACK_MASK),
    If(EQUAL, LOOPBACK, Drop, On),
    // Only the first fragment has ports.
    Do(HALF, FRAGMENT),
    If(ANY_BIT, FRAGMENT_OFFSET, Pass, On),
    Do(HEADER_LENGTH, HEADER),
    Do(BYTE, PROTOCOL),
    If(EQUAL, UDP, Udp, On),
    If(EQUAL, ICMP, Icmp, Pass),
    At(Udp),
    Do(HALF_FROM, DESTINATION_PORT),
    If(EQUAL, DHCP_SERVER, Drop, On),
    If(EQUAL, DHCP_CLIENT, Drop, Pass),
];

/// The steps for messages of ICMP.
const FROM_ICMP: &[Step] = &[
    At(Icmp),
    Do(BYTE_FROM, HEADER),
    If(EQUAL, REDIRECT, Drop, On),
    If(EQUAL, ROUTER_ADVERTISEMENT, Drop, On),
    If(EQUAL, UNREACHABLE, Quote, On),
    If(EQUAL, QUENCH, Quote, On),
    If(EQUAL, TIME_EXCEEDED, Quote, On),
    If(EQUAL, PARAMETER_PROBLEM, Quote, Pass),
    At(Quote),
    // The quotation could be in a later fragment. An error has at most 576 bytes (RFC 1812, section 4.3.2.3).
    Do(HALF, FRAGMENT),
    If(ANY_BIT, MORE_FRAGMENTS, Drop, On),
    Do(WORD_FROM, QUOTED_DESTINATION),
    Do(RECALL, ADDRESS),
    If(EQUAL_INDEX, 0, Pass, Drop),
];

/// Returns the steps for packets of IPv6; `first` is the address of the guest of slot 0.
fn from_guest_v6(first: Ipv6Addr) -> Vec<Step> {
    let word = |bits: u32| {
        let word = u128::from(first) >> bits & u128::from(u32::MAX);
        u32::try_from(word).unwrap_or_default()
    };
    let [word_0, word_1, word_2, word_3] = [96, 64, 32, 0].map(word);
    // The number of the slot is in the last word; this leaves the last word of the guest's address in the index register.
    let own_last = [
        Do(HALF, SOURCE_MAC + MAC_PREFIX),
        Do(SHIFT_LEFT, SPAN_BITS_V6),
        Do(ADD, word_3),
        Do(TO_INDEX, 0),
    ];
    let source = [
        At(Ipv6),
        Do(WORD, SOURCE_V6),
        If(EQUAL, word_0, On, LinkLocal),
        Do(WORD, SECOND_WORD),
        If(EQUAL, word_1, On, Drop),
        Do(WORD, THIRD_WORD),
        If(EQUAL, word_2, On, Drop),
    ];
    let own = [Do(WORD, SOURCE_V6 + 12), If(EQUAL_INDEX, 0, OwnV6, Drop)];
    let quoted = [
        Do(WORD, QUOTED_DESTINATION_V6),
        If(EQUAL, word_0, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 4),
        If(EQUAL, word_1, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 8),
        If(EQUAL, word_2, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 12),
        If(EQUAL_INDEX, 0, UnicastV6, Drop),
    ];
    [&source[..], &own_last, &own, OF_LINK, FROM_IPV6, &quoted, TO_ONE_V6].concat()
}

/// The steps for packets of IPv6 that have no address of the guest as their source.
const OF_LINK: &[Step] = &[
    At(LinkLocal),
    If(EQUAL, LINK_LOCAL, On, Unspecified),
    Do(WORD, SECOND_WORD),
    If(EQUAL, 0, Discovery, Drop),
    // A guest that asks whether its address is taken has none yet (RFC 4862, section 5.4.2).
    At(Unspecified),
    If(EQUAL, 0, On, Drop),
    Do(WORD, SECOND_WORD),
    If(EQUAL, 0, On, Drop),
    Do(WORD, THIRD_WORD),
    If(EQUAL, 0, On, Drop),
    Do(WORD, SOURCE_V6 + 12),
    If(EQUAL, 0, Discovery, Drop),
    At(Discovery),
    Do(BYTE, NEXT_HEADER),
    If(EQUAL, ICMP_V6, On, Drop),
    Do(BYTE, PAYLOAD),
    If(EQUAL, NEIGHBOUR_SOLICITATION, Pass, On),
    If(EQUAL, NEIGHBOUR_ADVERTISEMENT, Pass, Drop),
];

/// The steps for packets of IPv6 with the guest's address; those for what an error quotes follow.
const FROM_IPV6: &[Step] = &[
    At(OwnV6),
    Do(BYTE, NEXT_HEADER),
    If(EQUAL, ICMP_V6, IcmpV6, On),
    If(EQUAL, HOP_BY_HOP, Drop, On),
    If(EQUAL, ROUTING, Drop, On),
    If(EQUAL, DESTINATION_OPTIONS, Drop, On),
    If(EQUAL, UDP, UdpV6, UnicastV6),
    At(UdpV6),
    Do(HALF, PAYLOAD + 2),
    If(EQUAL, DHCP_V6_CLIENT, Drop, On),
    If(EQUAL, DHCP_V6_SERVER, Drop, UnicastV6),
    At(IcmpV6),
    Do(BYTE, PAYLOAD),
    If(EQUAL, NEIGHBOUR_SOLICITATION, Pass, On),
    If(EQUAL, NEIGHBOUR_ADVERTISEMENT, Pass, On),
    If(AT_LEAST, LISTENER_QUERY, Drop, On),
    If(AT_LEAST, ECHO, UnicastV6, QuoteV6),
    At(QuoteV6),
];

/// The steps for packets of IPv6 that pass if they are for a single host.
const TO_ONE_V6: &[Step] = &[
    At(UnicastV6),
    Do(BYTE, FIRST_OCTET),
    If(ANY_BIT, GROUP, Drop, On),
    Do(BYTE, DESTINATION_V6),
    If(EQUAL, MULTICAST_V6, Drop, Pass),
];

/// Returns the steps of the program for frames to a guest.
pub(super) fn to_guest() -> [Step; 4] {
    [
        Do(HALF, ETHER_TYPE),
        If(EQUAL, ARP, Pass, On),
        Do(BYTE, FIRST_OCTET),
        If(ANY_BIT, GROUP, Drop, Pass),
    ]
}
