//! The instructions that programs use (`<linux/bpf_common.h>`), and jumps with names in place of distances.

use super::{DROP, Instruction, NEXT};

/// `BPF_LD | BPF_ABS` of a word, a half-word and a byte of the frame, or of what the kernel knows about it.
pub(super) const WORD: u16 = 0x20;
pub(super) const HALF: u16 = 0x28;
pub(super) const BYTE: u16 = 0x30;
/// `BPF_LD | BPF_IND`: the same, at the index register and more.
pub(super) const WORD_FROM: u16 = 0x40;
pub(super) const HALF_FROM: u16 = 0x48;
pub(super) const BYTE_FROM: u16 = 0x50;
/// `BPF_LDX | BPF_MSH`: the length of the IPv4 header that begins there, into the index register.
pub(super) const HEADER_LENGTH: u16 = 0xb1;
/// `BPF_ST`, and `BPF_LDX | BPF_MEM`: the accumulator into a word of memory, and that into the index register.
pub(super) const STORE: u16 = 0x02;
pub(super) const RECALL: u16 = 0x61;
/// `BPF_ALU` of the accumulator and the operand, and `BPF_MISC | BPF_TAX`.
pub(super) const ADD: u16 = 0x04;
pub(super) const SUBTRACT: u16 = 0x14;
pub(super) const MASK: u16 = 0x54;
pub(super) const SHIFT_LEFT: u16 = 0x64;
pub(super) const TO_INDEX: u16 = 0x07;
/// `BPF_JMP` with `BPF_JEQ`, `BPF_JGE` and `BPF_JSET`, and an operand; with `BPF_JEQ`, and the index register.
pub(super) const EQUAL: u16 = 0x15;
pub(super) const AT_LEAST: u16 = 0x35;
pub(super) const ANY_BIT: u16 = 0x45;
pub(super) const EQUAL_INDEX: u16 = 0x1d;
/// `BPF_RET` of the operand.
pub(super) const RETURN: u16 = 0x06;

/// A step of a program, whose jumps name their targets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// An operation and its operand.
    Do(u16, u32),
    /// A condition and its operand, and the targets if it holds and if it does not.
    If(u16, u32, Place, Place),
    /// The place here.
    At(Place),
}

/// A target of jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
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

/// Returns the program of these steps, with both ends after them.
pub(super) fn assemble(steps: &[Step]) -> Vec<Instruction> {
    use Step::{At, Do, If};
    let ends = [At(Place::Pass), Do(RETURN, NEXT), At(Place::Drop), Do(RETURN, DROP)];
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
