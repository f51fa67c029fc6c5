//! The guard of a TAP: programs of classic BPF (`<linux/filter.h>`, `<linux/bpf_common.h>`) that see each frame before
//! the host's packet sockets for one protocol do. Pure.
//!
//! A host's network manager takes a TAP for a network card. It would ask there for an address by DHCP, by a packet
//! socket that is served before any rule of a firewall, and the guest could give it one, with a default route.

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

/// `BPF_LD | BPF_ABS` of a word, a half-word and a byte of the frame.
const WORD: u16 = 0x20;
const HALF: u16 = 0x28;
const BYTE: u16 = 0x30;
/// `BPF_LD | BPF_IND`: the same, at the index register and more.
const HALF_FROM: u16 = 0x48;
const BYTE_FROM: u16 = 0x50;
/// `BPF_LDX | BPF_MSH`: the length of the IPv4 header that begins there, into the index register.
const HEADER_LENGTH: u16 = 0xb1;
/// `BPF_JMP` with `BPF_JEQ`, `BPF_JGE` and `BPF_JSET`, and an operand.
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
/// `BPF_RET` of the operand.
const RETURN: u16 = 0x06;

/// The offsets of fields in a frame, and some of their values (RFC 791, RFC 768, RFC 792; IEEE 802.3).
const ETHER_TYPE: u32 = 12;
const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const HEADER: u32 = 14;
const FRAGMENT: u32 = HEADER + 6;
const FRAGMENT_OFFSET: u32 = 0x1fff;
const PROTOCOL: u32 = HEADER + 9;
const DESTINATION: u32 = HEADER + 16;
const UDP: u32 = 17;
const ICMP: u32 = 1;
const DESTINATION_PORT: u32 = HEADER + 2;
/// The first of the addresses for many hosts: multicast, reserved, and the broadcast address.
const MULTICAST: u32 = 0xe000_0000;
/// The port at which DHCP clients listen (RFC 2131, section 4.1).
const DHCP_CLIENT: u32 = 68;
/// ICMP messages that change the host's routes (RFC 792; RFC 1256).
const REDIRECT: u32 = 5;
const ROUTER_ADVERTISEMENT: u32 = 9;

const fn load(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

const fn jump(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}

/// The program for frames from a guest. It passes ARP, and IPv4 to a single host, except for answers of DHCP servers,
/// redirects and router advertisements. IPv6, announcements by multicast and protocols of switches do not reach the
/// host.
pub const FROM_GUEST: [Instruction; 18] = [
    load(HALF, ETHER_TYPE),
    jump(EQUAL, ARP, 14, 0),
    jump(EQUAL, IPV4, 0, 14),
    load(WORD, DESTINATION),
    jump(AT_LEAST, MULTICAST, 12, 0),
    // Only the first fragment has ports.
    load(HALF, FRAGMENT),
    jump(ANY_BIT, FRAGMENT_OFFSET, 9, 0),
    load(HEADER_LENGTH, HEADER),
    load(BYTE, PROTOCOL),
    jump(EQUAL, UDP, 0, 2),
    load(HALF_FROM, DESTINATION_PORT),
    jump(EQUAL, DHCP_CLIENT, 5, 4),
    jump(EQUAL, ICMP, 0, 3),
    load(BYTE_FROM, HEADER),
    jump(EQUAL, REDIRECT, 2, 0),
    jump(EQUAL, ROUTER_ADVERTISEMENT, 1, 0),
    load(RETURN, NEXT),
    load(RETURN, DROP),
];

/// The program for frames to a guest. It passes ARP, and frames to a single host. No program of the host asks a guest
/// for an address, a route or a name.
pub const TO_GUEST: [Instruction; 6] = [
    load(HALF, ETHER_TYPE),
    jump(EQUAL, ARP, 2, 0),
    // The group bit of the destination's MAC address.
    load(BYTE, 0),
    jump(ANY_BIT, 1, 1, 0),
    load(RETURN, NEXT),
    load(RETURN, DROP),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does: a load past the end of the frame returns 0.
    fn run(program: &[Instruction], frame: &[u8]) -> u32 {
        let (mut accumulator, mut index, mut at) = (0_u32, 0_u32, 0_usize);
        let read = |offset: u32, length: usize| {
            let bytes = frame.get(usize::try_from(offset).ok()?..)?.get(..length)?;
            Some(bytes.iter().fold(0, |all, &byte| all << 8 | u32::from(byte)))
        };
        loop {
            let Instruction { code, if_true, if_false, operand } = program[at];
            let loaded = match code {
                WORD => Some(read(operand, 4)),
                HALF => Some(read(operand, 2)),
                BYTE => Some(read(operand, 1)),
                HALF_FROM => Some(read(operand + index, 2)),
                BYTE_FROM => Some(read(operand + index, 1)),
                _ => None,
            };
            let holds = match code {
                EQUAL => accumulator == operand,
                AT_LEAST => accumulator >= operand,
                ANY_BIT => accumulator & operand != 0,
                RETURN => return operand,
                HEADER_LENGTH => {
                    index = (read(operand, 1).unwrap() & 0xf) * 4;
                    false
                }
                _ => match loaded.unwrap() {
                    Some(value) => {
                        accumulator = value;
                        false
                    }
                    None => return 0,
                },
            };
            at += 1 + usize::from(if holds { if_true } else { if_false });
        }
    }

    fn frame(destination: [u8; 6], ether_type: u32, payload: &[u8]) -> Vec<u8> {
        let source = [6, 0x52, 0x49, 0x4b, 0, 0];
        let [.., high, low] = ether_type.to_be_bytes();
        [&destination[..], &source, &[high, low], payload].concat()
    }

    const HOST: [u8; 6] = [0x0a, 0x52, 0x49, 0x4b, 0, 1];
    const ALL: [u8; 6] = [0xff; 6];

    /// Returns a packet with `options` words of options in its header.
    fn packet(protocol: u8, to: [u8; 4], fragment: u16, options: u8, rest: &[u8]) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let header = [0x45 + options, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0, 10, 231, 0, 2];
        let options = vec![1; usize::from(options) * 4];
        frame(HOST, IPV4, &[&header[..], &to, &options, rest].concat())
    }

    fn passes(program: &[Instruction], frame: &[u8]) -> bool {
        run(program, frame) != DROP
    }

    #[test]
    fn a_guest_speaks_to_one_host_and_configures_none() {
        let passes = |frame: Vec<u8>| passes(&FROM_GUEST, &frame);
        let gateway = [10, 231, 0, 1];
        let udp = |port: u16| [[0, 67], port.to_be_bytes(), [0, 8], [0, 0]].concat();
        assert!(passes(frame(ALL, ARP, &[0; 28])));
        for options in [0, 5] {
            assert!(passes(packet(17, gateway, 0, options, &udp(53))));
            assert!(!passes(packet(17, gateway, 0, options, &udp(68))), "DHCP");
            assert!(passes(packet(6, gateway, 0, options, &udp(68))), "TCP");
            assert!(passes(packet(1, gateway, 0, options, &[8, 0, 0, 0])), "an echo");
            assert!(!passes(packet(1, gateway, 0, options, &[5, 1, 0, 0])), "a redirect");
            assert!(!passes(packet(1, gateway, 0, options, &[9, 0, 0, 0])), "a router");
        }
        assert!(!passes(packet(17, gateway, 0x2000, 0, &udp(68))), "a first fragment");
        assert!(passes(packet(17, gateway, 0x2001, 0, &udp(68))), "it has no ports");
        for to in [[224, 0, 0, 251], [224, 0, 0, 252], [255; 4], [240, 0, 0, 1]] {
            assert!(!passes(packet(17, to, 0, 0, &udp(5353))), "{to:?}");
        }
        assert!(passes(packet(132, [203, 0, 113, 1], 0, 0, &[0; 12])), "SCTP");
        for other in [0x86dd, 0x88cc, 0x8100, 0x8863] {
            assert!(!passes(frame(HOST, other, &[0; 40])), "{other:#x}");
        }
    }

    #[test]
    fn the_host_speaks_to_one_guest() {
        let to = |destination| frame(destination, IPV4, &[0; 40]);
        assert!(passes(&TO_GUEST, &to([6, 0x52, 0x49, 0x4b, 0, 0])));
        assert!(passes(&TO_GUEST, &frame(ALL, ARP, &[0; 28])));
        for group in [ALL, [1, 0, 0x5e, 0, 0, 0xfb]] {
            assert!(!passes(&TO_GUEST, &to(group)), "{group:?}");
        }
        assert!(!passes(&TO_GUEST, &frame([0x33, 0x33, 0, 0, 0, 2], 0x86dd, &[0; 40])));
    }

    #[test]
    fn every_jump_stays_in_its_program() {
        for program in [&FROM_GUEST[..], &TO_GUEST] {
            for (at, instruction) in program.iter().enumerate() {
                let farthest = instruction.if_true.max(instruction.if_false);
                assert!(at + usize::from(farthest) < program.len(), "{at}");
            }
        }
    }
}
