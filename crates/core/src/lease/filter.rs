//! The filter of the socket that receives the guests' questions: a program of classic BPF (`<linux/filter.h>`), which the
//! kernel runs for every frame that the host receives on any interface. Frames of others end after three instructions.

use std::collections::BTreeSet;

use crate::{
    address::Slot,
    guard::{FIRST_INTERFACE, Instruction, SLOTS, interface_number},
};

/// The longest beginning of a frame that the socket gets: a question is shorter.
pub const FRAME: u32 = 2048;

/// `BPF_LD | BPF_ABS` of a word, a half-word and a byte; `BPF_LD | BPF_IND` of a half-word.
const WORD: u16 = 0x20;
const HALF: u16 = 0x28;
const BYTE: u16 = 0x30;
const HALF_FROM: u16 = 0x48;
/// `BPF_LDX | BPF_MSH`: the length of the IPv4 header that begins there, into the index register.
const HEADER_LENGTH: u16 = 0xb1;
/// `BPF_ALU | BPF_SUB`; `BPF_JMP` with `BPF_JA`, `BPF_JEQ`, `BPF_JGE` and `BPF_JSET`; `BPF_RET`.
const SUBTRACT: u16 = 0x14;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `SKF_AD_OFF` with `SKF_AD_IFINDEX` and `SKF_AD_VLAN_TAG_PRESENT`.
const INTERFACE: u32 = 0xffff_f000 + 8;
const VLAN_TAG: u32 = 0xffff_f000 + 48;
/// Offsets in a frame, and values there (RFC 791, RFC 768, RFC 2131).
const ETHER_TYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const HEADER: u32 = 14;
const FRAGMENT: u32 = HEADER + 6;
const ANY_FRAGMENT: u32 = 0x3fff;
const PROTOCOL: u32 = HEADER + 9;
const UDP: u32 = 17;
const DESTINATION_PORT: u32 = HEADER + 2;
const DHCP_SERVER: u32 = 67;
/// The same of IPv6 (RFC 8200, RFC 4861, RFC 8415).
const IPV6: u32 = 0x86dd;
const NEXT_HEADER: u32 = HEADER + 6;
const PAYLOAD: u32 = HEADER + 40;
const ICMP_V6: u32 = 58;
const ROUTER_SOLICITATION: u32 = 133;
const DHCP_V6_SERVER: u32 = 547;

/// Returns the program that passes questions of guests, except those of muted ones. It passes whole datagrams without a
/// VLAN tag to the ports of DHCP servers, and router solicitations, that arrive on an interface which has the number of its slot.
#[must_use]
pub fn questions(muted: &BTreeSet<Slot>) -> Vec<Instruction> {
    let mut program = vec![load(WORD, INTERFACE), load(SUBTRACT, FIRST_INTERFACE)];
    program.extend(unless(AT_LEAST, SLOTS));
    program.push(load(WORD, VLAN_TAG));
    program.extend(only(EQUAL, 0));
    program.push(load(HALF, ETHER_TYPE));
    let (v4, mut v6) = (v4(), v6());
    v6.push(load(JUMP, length(&v4)));
    program.push(else_over(EQUAL, IPV6, &v6));
    program.extend(v6);
    program.extend(v4);
    program.push(load(WORD, INTERFACE));
    program.extend(muted.iter().flat_map(|slot| unless(EQUAL, interface_number(*slot))));
    program.push(load(RETURN, FRAME));
    program
}

/// Goes on if the frame is a question by IPv4; its type is in the accumulator.
fn v4() -> Vec<Instruction> {
    let mut program = only(EQUAL, IPV4).to_vec();
    program.push(load(BYTE, PROTOCOL));
    program.extend(only(EQUAL, UDP));
    program.push(load(HALF, FRAGMENT));
    program.extend(unless(ANY_BIT, ANY_FRAGMENT));
    program.extend([load(HEADER_LENGTH, HEADER), load(HALF_FROM, DESTINATION_PORT)]);
    program.extend(only(EQUAL, DHCP_SERVER));
    program
}

/// Goes on if the packet of IPv6 is a question.
fn v6() -> Vec<Instruction> {
    let mut icmp = only(EQUAL, ICMP_V6).to_vec();
    icmp.push(load(BYTE, PAYLOAD));
    icmp.extend(only(EQUAL, ROUTER_SOLICITATION));
    let mut udp = vec![load(HALF, PAYLOAD + 2)];
    udp.extend(only(EQUAL, DHCP_V6_SERVER));
    udp.push(load(JUMP, length(&icmp)));
    let mut program = vec![load(BYTE, NEXT_HEADER), else_over(EQUAL, UDP, &udp)];
    program.extend(udp);
    program.extend(icmp);
    program
}

/// Passes over these instructions if the condition does not hold.
fn else_over(code: u16, operand: u32, over: &[Instruction]) -> Instruction {
    let if_false = u8::try_from(over.len()).unwrap_or(u8::MAX);
    Instruction { code, if_true: 0, if_false, operand }
}

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
}

const fn load(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

/// Ends with "no" unless the condition holds.
const fn only(code: u16, operand: u32) -> [Instruction; 2] {
    [Instruction { code, if_true: 1, if_false: 0, operand }, load(RETURN, 0)]
}

/// Ends with "no" if the condition holds.
const fn unless(code: u16, operand: u32) -> [Instruction; 2] {
    [Instruction { code, if_true: 0, if_false: 1, operand }, load(RETURN, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Allowance;

    #[test]
    fn program_fits_into_a_socket_however_many_are_muted() {
        /// `BPF_MAXINSNS` of `<linux/bpf_common.h>`.
        const LONGEST: usize = 4096;
        let muted = (0..2000).map(Slot::new).take(Allowance::MUTED).collect();
        assert!(questions(&muted).len() <= LONGEST);
        assert_eq!(questions(&muted).len(), questions(&BTreeSet::new()).len() + 2 * muted.len());
    }
}
