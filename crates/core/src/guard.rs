//! The guard of a TAP: programs of classic BPF (`<linux/filter.h>`, `<linux/bpf_common.h>`) that see each frame before
//! the host's packet sockets for one protocol do, and before any rule of a firewall. Pure.
//!
//! * A guest speaks with its own addresses only. A slot determines the guest's MAC address, its IPv4 address and the
//!   number of its interface ([`interface_number`]), so one program computes what to expect for all slots, and needs no
//!   table.
//! * A host's network manager takes a TAP for a network card. It would ask there for an address by DHCP, by a packet
//!   socket that is served before any rule of a firewall, and the guest could give it one, with a default route.
//! * What holds by these programs holds while the firewall has no rule at all.

use std::net::{IpAddr, Ipv4Addr};

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
const FIRST_INTERFACE: u32 = 0x5249_0000;
/// The number of slots.
const SLOTS: u32 = 1 << 16;

/// Returns the number that the interface of a slot is created with (`TUNSETIFINDEX` of `<linux/if_tun.h>`).
#[must_use]
pub fn interface_number(slot: Slot) -> u32 {
    FIRST_INTERFACE + u32::from(slot.number())
}

/// The settings of the guard: its programs are the same for all slots of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    /// The address of the guest of slot 0.
    first: Ipv4Addr,
}

impl Guard {
    /// Returns the guard of the pool that has this address for the host's end of this slot.
    fn of_host(slot: Slot, address: Ipv4Addr) -> Self {
        let first = u32::from(address).wrapping_sub(u32::from(slot.number()) << SPAN_BITS);
        Self { first: first.wrapping_add(1).into() }
    }

    /// Returns the guard of the pool that these addresses of the host's end of a slot are from. Without an address of
    /// IPv4, no packet of a guest passes.
    #[must_use]
    pub fn of_interface(slot: Slot, addresses: &SmallSet<IpNet>) -> Self {
        let first = Self::of_each(slot, addresses).next();
        first.unwrap_or(Self { first: Ipv4Addr::UNSPECIFIED })
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
        each.peek().is_none() || each.any(|guard| guard == self)
    }

    /// Returns the program for frames from guests. From a guest come ARP and IPv4 of its own addresses, to a single
    /// host that is not the loopback; no messages of DHCP, redirects and router advertisements; errors of ICMP only
    /// about packets that were sent to this guest. IPv6, tags of VLANs, announcements by multicast and protocols of
    /// switches do not reach the host.
    ///
    /// The address and the MAC address belong together. They belong to the interface as well if that has the number of
    /// its slot; an interface of an earlier version has another, and `rp_filter` does that then.
    #[must_use]
    pub fn from_guest(self) -> Vec<Instruction> {
        assemble(&from_guest(self.first))
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
        let guard = Self { first: u32::from_ne_bytes([k_0, k_1, k_2, k_3]).into() };
        (bytes(&guard.from_guest()) == program).then_some(guard)
    }
}

/// Returns a program in the kernel's form.
#[must_use]
pub fn bytes(program: &[Instruction]) -> Vec<u8> {
    program.iter().flat_map(|instruction| instruction.bytes()).collect()
}

/// The number of addresses of a slot, as a number of bits ([`crate::address::Addresses::PREFIX_LENGTH`]).
const SPAN_BITS: u32 = 2;

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
    Pass,
    Drop,
}

use Place::{Arp, ArpMac, Drop, Icmp, Identified, Ipv4, On, Pass, Quote, Udp};
use Step::{At, Do, If};

/// Returns the program that matches every frame.
#[must_use]
pub const fn every() -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, operand: NEXT }
}

/// Returns the steps of the program for frames from guests; `first` is the address of the guest of slot 0.
fn from_guest(first: Ipv4Addr) -> Vec<Step> {
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
        If(EQUAL, IPV4, Ipv4, Drop),
    ];
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
    [&identity[..], &arp, &ipv4, &icmp].concat()
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
mod tests;
