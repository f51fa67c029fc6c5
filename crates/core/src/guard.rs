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
use frames::{SECOND_WORD, SOURCE_V6, THIRD_WORD};
use machine::{ADD, EQUAL, RETURN, WORD, assemble};

mod frames;
mod machine;

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
        assemble(&frames::from_guest(self.first, self.first_v6))
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

/// Returns the program that matches every frame.
#[must_use]
pub const fn every() -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, operand: NEXT }
}

/// Returns the program for frames to a guest. It passes ARP, and frames to a single host. No program of the host asks a
/// guest for an address, a route or a name.
#[must_use]
pub fn to_guest() -> Vec<Instruction> {
    assemble(&frames::to_guest())
}

#[cfg(test)]
pub(crate) mod tests;
