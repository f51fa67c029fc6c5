//! The guard of a TAP: programs of classic BPF (`<linux/filter.h>`, `<linux/bpf_common.h>`) that see each frame before
//! the host's packet sockets for one protocol do, and before any rule of a firewall. Pure.
//!
//! * A guest speaks with its own addresses only. A slot determines the guest's MAC address, its IPv4 address and the
//!   number of its interface ([`interface_number`]), so one program computes what to expect for all slots, and needs no
//!   table.
//! * A host's network manager takes a TAP for a network card. It would ask there for an address by DHCP, by a packet
//!   socket that is served before any rule of a firewall, and the guest could give it one, with a default route.
//! * What holds by these programs holds while the firewall has no rule at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{address::Slot, small::SmallSet};

/// The verdicts of `<linux/pkt_cls.h>`: to ask the next program, and to drop (`TC_ACT_UNSPEC`, `TC_ACT_SHOT`).
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

/// An instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// The number of instructions to pass over if the condition holds.
    pub if_true: u8,
    /// The number of instructions to pass over if it does not hold.
    pub if_false: u8,
    /// The operand.
    pub operand: u32,
}

impl Instruction {
    /// The length of the kernel's form, in bytes.
    pub const LENGTH: usize = 8;

    /// Returns the kernel's form.
    #[must_use]
    pub fn bytes(self) -> [u8; Self::LENGTH] {
        let [code_0, code_1] = self.code.to_ne_bytes();
        let [k_0, k_1, k_2, k_3] = self.operand.to_ne_bytes();
        [code_0, code_1, self.if_true, self.if_false, k_0, k_1, k_2, k_3]
    }
}

/// The first of the numbers of our interfaces: "RI". The kernel numbers others from 1, and would need years to arrive
/// here.
pub(crate) const FIRST_INTERFACE: u32 = 0x5249_0000;
/// The number of slots.
pub(crate) const SLOTS: u32 = 1 << 16;

/// Returns the number that the interface of a slot is created with (`TUNSETIFINDEX` of `<linux/if_tun.h>`).
#[must_use]
pub fn interface_number(slot: Slot) -> u32 {
    FIRST_INTERFACE + u32::from(slot.number())
}

/// Returns the slot whose interface has this number; `None` if no slot's has.
#[must_use]
pub fn slot_of_interface_number(number: u32) -> Option<Slot> {
    u16::try_from(number.checked_sub(FIRST_INTERFACE)?).ok().map(Slot::new)
}

/// The settings of the guard: its programs are the same for all slots of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    /// The address of the guest of slot 0.
    first: Ipv4Addr,
    /// The same of IPv6; `None` if guests have none.
    first_v6: Option<Ipv6Addr>,
}

impl Guard {
    /// Returns the guard of the pool that has this address for the host's end of this slot.
    fn of_host(slot: Slot, address: Ipv4Addr) -> Self {
        let first = u32::from(address).wrapping_sub(u32::from(slot.number()) << SPAN_BITS);
        Self { first: first.wrapping_add(1).into(), first_v6: None }
    }

    /// Returns the guard of the pool that these addresses of the host's end of a slot are from. Without an address of
    /// IPv4, no packet of a guest passes.
    #[must_use]
    pub fn of_interface(slot: Slot, addresses: &SmallSet<IpNet>) -> Self {
        let first = Self::of_each(slot, addresses).next();
        let guard = first.unwrap_or(Self { first: Ipv4Addr::UNSPECIFIED, first_v6: None });
        Self { first_v6: first_v6(slot, addresses), ..guard }
    }

    fn of_each(slot: Slot, addresses: &SmallSet<IpNet>) -> impl Iterator<Item = Self> {
        addresses.iter().filter_map(move |network| match network.addr() {
            IpAddr::V4(address) => Some(Self::of_host(slot, address)),
            IpAddr::V6(_) => None,
        })
    }

    /// Reports whether this guard fits the interface of a slot with these addresses. An interface that has lost its
    /// address lacks that, and not the guard.
    #[must_use]
    pub fn fits(self, slot: Slot, addresses: &SmallSet<IpNet>) -> bool {
        let mut each = Self::of_each(slot, addresses).peekable();
        let v6 = first_v6(slot, addresses);
        (each.peek().is_none() || each.any(|guard| guard.first == self.first))
            && (v6.is_none() || v6 == self.first_v6)
    }

    /// Returns the program for frames from guests. From a guest come ARP and IPv4 of its own addresses, to a single
    /// host that is not the loopback; no messages of DHCP, redirects and router advertisements; errors of ICMP only
    /// about packets that were sent to this guest. Tags of VLANs, announcements by multicast and protocols of
    /// switches do not reach the host.
    ///
    /// IPv6 does not either, unless guests have it. Then the same holds for it: a guest has its own address, and any address
    /// of the link for neighbour discovery alone. Headers that a router has to read for each packet do not pass
    /// (RFC 8200, section 4): the program does not find what follows them.
    ///
    /// The address and the MAC address belong together. They belong to the interface as well if that has the number of
    /// its slot; an interface of an earlier version has another, and `rp_filter` does that then.
    #[must_use]
    pub fn from_guest(self) -> Vec<Instruction> {
        assemble(&from_guest(self.first, self.first_v6))
    }

    /// Returns the guard whose program for frames from guests this is, in the kernel's form.
    #[must_use]
    pub fn read(program: &[u8]) -> Option<Self> {
        let (instructions, _) = program.as_chunks::<{ Instruction::LENGTH }>();
        let add = instructions.iter().find(|instruction| {
            let [code_0, code_1, ..] = **instruction;
            u16::from_ne_bytes([code_0, code_1]) == ADD
        })?;
        let [.., k_0, k_1, k_2, k_3] = *add;
        let first = u32::from_ne_bytes([k_0, k_1, k_2, k_3]).into();
        let guards = [None, read_v6(instructions)].map(|first_v6| Self { first, first_v6 });
        guards.into_iter().find(|guard| bytes(&guard.from_guest()) == program)
    }
}

/// Returns the address that the guest of slot 0 has if the host's end of this slot has one of these addresses of IPv6.
fn first_v6(slot: Slot, addresses: &SmallSet<IpNet>) -> Option<Ipv6Addr> {
    let address = addresses.iter().find_map(|network| match network.addr() {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
        _ => None,
    })?;
    let first = u128::from(address).wrapping_sub(u128::from(slot.number()) << SPAN_BITS_V6);
    Some(first.wrapping_add(1).into())
}

/// Returns the address of the guest of slot 0 that a program compares the source of IPv6 with.
fn read_v6(program: &[[u8; Instruction::LENGTH]]) -> Option<Ipv6Addr> {
    let parse = |instruction: &[u8; Instruction::LENGTH]| {
        let [c_0, c_1, _, _, k_0, k_1, k_2, k_3] = *instruction;
        (u16::from_ne_bytes([c_0, c_1]), u32::from_ne_bytes([k_0, k_1, k_2, k_3]))
    };
    let all: Vec<_> = program.iter().map(parse).collect();
    // The words before the last are compared one after another, and the last is added to.
    let words = all.windows(6).find_map(|window| match *window {
        [
            (WORD, SOURCE_V6),
            (EQUAL, word_0),
            (WORD, SECOND_WORD),
            (EQUAL, word_1),
            (WORD, THIRD_WORD),
            (EQUAL, word_2),
        ] => Some([word_0, word_1, word_2]),
        _ => None,
    })?;
    let last = all.iter().rev().find(|(code, _)| *code == ADD).map(|(_, value)| *value)?;
    let words = words.into_iter().chain([last]);
    Some(words.fold(0_u128, |all, word| all << 32 | u128::from(word)).into())
}

/// Returns a program in the kernel's form.
#[must_use]
pub fn bytes(program: &[Instruction]) -> Vec<u8> {
    program.iter().flat_map(|instruction| instruction.bytes()).collect()
}

/// The number of addresses of a slot, as a number of bits ([`crate::address::Addresses::PREFIX_LENGTH`]).
const SPAN_BITS: u32 = 2;
/// The same of IPv6 ([`crate::address::Addresses::PREFIX_LENGTH_V6`]).
const SPAN_BITS_V6: u32 = 1;

/// `BPF_LD | BPF_ABS` of a word, a half-word and a byte of the frame, or of what the kernel knows about it.
const WORD: u16 = 0x20;
const HALF: u16 = 0x28;
const BYTE: u16 = 0x30;
/// `BPF_LD | BPF_IND`: the same, at the index register and more.
const WORD_FROM: u16 = 0x40;
const HALF_FROM: u16 = 0x48;
const BYTE_FROM: u16 = 0x50;
/// `BPF_LDX | BPF_MSH`: the length of the IPv4 header that begins there, into the index register.
const HEADER_LENGTH: u16 = 0xb1;
/// `BPF_ST`, and `BPF_LDX | BPF_MEM`: the accumulator into a word of memory, and that into the index register.
const STORE: u16 = 0x02;
const RECALL: u16 = 0x61;
/// `BPF_ALU` of the accumulator and the operand, and `BPF_MISC | BPF_TAX`.
const ADD: u16 = 0x04;
const SUBTRACT: u16 = 0x14;
const MASK: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const TO_INDEX: u16 = 0x07;
/// `BPF_JMP` with `BPF_JEQ`, `BPF_JGE` and `BPF_JSET`, and an operand; with `BPF_JEQ`, and the index register.
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const EQUAL_INDEX: u16 = 0x1d;
/// The word of memory that has the guest's address.
const ADDRESS: u32 = 0;
/// `BPF_RET` of the operand.
const RETURN: u16 = 0x06;

/// `SKF_AD_OFF` of `<linux/filter.h>`, with `SKF_AD_IFINDEX` and `SKF_AD_VLAN_TAG_PRESENT`: the kernel takes the tag of a
/// VLAN out of the frame before the program sees it.
const INTERFACE: u32 = 0xffff_f000 + 8;
const VLAN_TAG: u32 = 0xffff_f000 + 48;

/// The offsets of fields in a frame, and some of their values (RFC 826, RFC 791, RFC 768, RFC 792; IEEE 802.3).
const FIRST_OCTET: u32 = 0;
const GROUP: u32 = 1;
const SOURCE_MAC: u32 = 6;
const ETHER_TYPE: u32 = 12;
const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const HEADER: u32 = 14;
const SENDER_MAC: u32 = HEADER + 8;
const SENDER: u32 = HEADER + 14;
const FRAGMENT: u32 = HEADER + 6;
const FRAGMENT_OFFSET: u32 = 0x1fff;
const MORE_FRAGMENTS: u32 = 0x2000;
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
const IPV6: u32 = 0x86dd;
const NEXT_HEADER: u32 = HEADER + 6;
const SOURCE_V6: u32 = HEADER + 8;
const SECOND_WORD: u32 = SOURCE_V6 + 4;
const THIRD_WORD: u32 = SOURCE_V6 + 8;
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

/// A step of a program, whose jumps name their targets.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An operation and its operand.
    Do(u16, u32),
    /// A condition and its operand, and the targets if it holds and if it does not.
    If(u16, u32, Place, Place),
    /// The place here.
    At(Place),
}

/// A target of jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The next step.
    On,
    Identified,
    Arp,
    ArpMac,
    Ipv4,
    Udp,
    Icmp,
    Quote,
    Ipv6,
    LinkLocal,
    Unspecified,
    Discovery,
    OwnV6,
    IcmpV6,
    QuoteV6,
    UdpV6,
    UnicastV6,
    Pass,
    Drop,
}

use Place::{
    Arp, ArpMac, Discovery, Drop, Icmp, IcmpV6, Identified, Ipv4, Ipv6, LinkLocal, On, OwnV6, Pass,
    Quote, QuoteV6, Udp, UdpV6, UnicastV6, Unspecified,
};
use Step::{At, Do, If};

/// Returns the program that matches every frame.
#[must_use]
pub const fn every() -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, operand: NEXT }
}

/// Returns the steps of the program for frames from guests; `first` is the address of the guest of slot 0, and `first_v6`
/// that of IPv6, if guests have one.
fn from_guest(first: Ipv4Addr, first_v6: Option<Ipv6Addr>) -> Vec<Step> {
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
    let arp = [
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
    ];
    let ipv4 = [
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
    let icmp = [
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
    let ipv6 = first_v6.map(from_guest_v6).unwrap_or_default();
    [&identity[..], &protocols, &arp, &ipv4, &icmp, &ipv6].concat()
}

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
    let others = [
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
    let packet = [
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
        Do(WORD, QUOTED_DESTINATION_V6),
        If(EQUAL, word_0, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 4),
        If(EQUAL, word_1, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 8),
        If(EQUAL, word_2, On, Drop),
        Do(WORD, QUOTED_DESTINATION_V6 + 12),
        If(EQUAL_INDEX, 0, UnicastV6, Drop),
        At(UnicastV6),
        Do(BYTE, FIRST_OCTET),
        If(ANY_BIT, GROUP, Drop, On),
        Do(BYTE, DESTINATION_V6),
        If(EQUAL, MULTICAST_V6, Drop, Pass),
    ];
    [&source[..], &own_last, &own, &others, &packet].concat()
}

/// Returns the program for frames to a guest. It passes ARP, and frames to a single host. No program of the host asks a
/// guest for an address, a route or a name.
#[must_use]
pub fn to_guest() -> Vec<Instruction> {
    assemble(&[
        Do(HALF, ETHER_TYPE),
        If(EQUAL, ARP, Pass, On),
        Do(BYTE, FIRST_OCTET),
        If(ANY_BIT, GROUP, Drop, Pass),
    ])
}

/// Returns the program of these steps, with both ends after them.
fn assemble(steps: &[Step]) -> Vec<Instruction> {
    let ends = [At(Pass), Do(RETURN, NEXT), At(Drop), Do(RETURN, DROP)];
    let steps: Vec<_> = steps.iter().chain(&ends).copied().collect();
    let mut places = Vec::new();
    let mut length = 0_usize;
    for step in &steps {
        match step {
            At(place) => places.push((*place, length)),
            Do(..) | If(..) => length += 1,
        }
    }
    let distance = |from: usize, to: Place| {
        let found = places.iter().find(|(place, _)| *place == to);
        let distance = found.map_or(0, |(_, at)| at.saturating_sub(from + 1));
        // A test holds every jump to its place.
        u8::try_from(distance).unwrap_or(u8::MAX)
    };
    let operations = steps.iter().filter(|step| !matches!(step, At(_)));
    let instruction = |(at, step): (usize, &Step)| match *step {
        If(code, operand, yes, no) => {
            let [if_true, if_false] = [yes, no].map(|to| distance(at, to));
            Instruction { code, if_true, if_false, operand }
        }
        Do(code, operand) => Instruction { code, if_true: 0, if_false: 0, operand },
        At(_) => Instruction { code: RETURN, if_true: 0, if_false: 0, operand: DROP },
    };
    operations.enumerate().map(instruction).collect()
}

#[cfg(test)]
pub(crate) mod tests;
