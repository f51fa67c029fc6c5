//! Refused packets of guests: the rule that refuses, and how the kernel tells of it (`nfnetlink_log`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::nftables::attribute::Attributes;

/// The group of `nfnetlink_log` that refusals are sent to. Other programs use small numbers (0 to 10, 100 and the like), and
/// the kernel gives a group to one program only.
pub const GROUP: u16 = 21_065;

/// The bytes of a packet that are needed: the longest header of IPv4, and the ports.
pub const PACKET_LENGTH: u32 = 64;

/// The beginning of each prefix; the rule's name follows.
const PREFIX: &str = "riklet-sdn-";

/// `NFNL_SUBSYS_ULOG` and `NFULNL_MSG_PACKET`; `NFULA_IFINDEX_INDEV`, `NFULA_PAYLOAD`, `NFULA_PREFIX`
/// (`<linux/netfilter/nfnetlink_log.h>`).
const SUBSYSTEM: u16 = 4;
const PACKET: u16 = 0;
const INTERFACE: u16 = 4;
const PAYLOAD: u16 = 9;
const TEXT: u16 = 10;
/// `sizeof(struct nlmsghdr)` and `sizeof(struct nfgenmsg)`.
const HEADERS: usize = 20;

/// The rule that refuses a packet of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusingRule {
    /// The guest's policy denies the destination.
    Policy,
    /// The guest's policy has a default that does not reach the destination.
    Default,
    /// The reach of the node's guests ends before the destination.
    Egress,
    /// The packet is for a mail server.
    Mail,
    /// The packet is for a service of the host itself.
    Host,
    /// The packet is for another guest, by its own address.
    Guest,
    /// The packet has the address of somebody else.
    Spoofed,
    /// The packet is for 127.0.0.0/8.
    Loopback,
    /// The packet is for a group of hosts.
    Multicast,
    /// The packet is for all hosts of a network.
    Broadcast,
    /// The packet belongs to no connection.
    Invalid,
    /// The guest begins flows too fast.
    Rate,
    /// The guest has as many flows as it may.
    Flows,
    /// The packet is too short to have ports.
    Short,
}

/// A refused packet of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPacket {
    /// The rule that refused it.
    pub rule: RefusingRule,
    /// The index of the interface that it came in by.
    pub interface: u32,
    /// The source address.
    pub from: IpAddr,
    /// The destination address.
    pub to: IpAddr,
    /// The protocol (IANA).
    pub protocol: u8,
    /// The destination port; `None` if the protocol has none, or the packet ends before.
    pub port: Option<u16>,
}

impl RefusingRule {
    /// All rules.
    pub const ALL: [Self; 14] = [
        Self::Policy,
        Self::Default,
        Self::Egress,
        Self::Mail,
        Self::Host,
        Self::Guest,
        Self::Spoofed,
        Self::Loopback,
        Self::Multicast,
        Self::Broadcast,
        Self::Invalid,
        Self::Rate,
        Self::Flows,
        Self::Short,
    ];

    /// Returns the word for output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Default => "default",
            Self::Egress => "egress",
            Self::Mail => "mail",
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Spoofed => "spoofed",
            Self::Loopback => "loopback",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Invalid => "invalid",
            Self::Rate => "flow-rate",
            Self::Flows => "flows",
            Self::Short => "short",
        }
    }

    /// Returns the reason in a few words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Policy => "its policy denies that",
            Self::Default => "beyond the default of its policy",
            Self::Egress => "beyond the egress of the node's guests",
            Self::Mail => "guests do not send mail",
            Self::Host => "a service of the host",
            Self::Guest => "another guest",
            Self::Spoofed => "sent from an address that is not its own",
            Self::Loopback => "guests do not reach 127.0.0.0/8",
            Self::Multicast => "guests do not reach groups of hosts",
            Self::Broadcast => "guests do not reach all hosts of a network",
            Self::Invalid => "part of no connection",
            Self::Rate => "it begins flows too fast",
            Self::Flows => "it has as many flows as it may",
            Self::Short => "too short for ports",
        }
    }

    /// Returns the number by which the kernel counts it.
    #[must_use]
    pub const fn number(self) -> u32 {
        // The discriminants are the places in the list.
        #[expect(clippy::as_conversions, reason = "the discriminant of an enum without fields")]
        let place = self as u32;
        place + 1
    }

    /// Returns the rule with this number.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.number() == number)
    }

    /// Returns the text that the kernel sends with a packet: `riklet-sdn-mail`.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("{PREFIX}{}", self.as_str())
    }

    /// Returns the rule with this prefix.
    #[must_use]
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        let name = prefix.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }
}

impl fmt::Display for RefusingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl RefusedPacket {
    /// Reads a message of the kernel, with its header; `None` if it tells of no packet that a rule of ours refused, or is
    /// malformed.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        if kind != SUBSYSTEM << 8 | PACKET {
            return None;
        }
        let (mut rule, mut interface, mut packet) = (None, None, None);
        for (kind, value) in Attributes(message.get(HEADERS..)?) {
            match kind {
                TEXT => {
                    let text = value.strip_suffix(&[0]).unwrap_or(value);
                    rule = RefusingRule::of_prefix(std::str::from_utf8(text).ok()?);
                }
                INTERFACE => interface = value.try_into().ok().map(u32::from_be_bytes),
                PAYLOAD => packet = Some(value),
                _ => {}
            }
        }
        let Packet { from, to, protocol, port } = Packet::read(packet?)?;
        Some(Self { rule: rule?, interface: interface?, from, to, protocol, port })
    }

    /// Returns the protocol's name, or its number.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            number => number.to_string(),
        }
    }
}

/// The protocol, the destination and the reason: `tcp 10.0.5.1:5432: its policy denies that`.
impl fmt::Display for RefusedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol_name())?;
        match (self.to, self.port) {
            (to, None) => write!(f, "{to}")?,
            (IpAddr::V4(to), Some(port)) => write!(f, "{to}:{port}")?,
            (IpAddr::V6(to), Some(port)) => write!(f, "[{to}]:{port}")?,
        }
        write!(f, ": {}", self.rule.reason())
    }
}

/// The parts of a packet that matter.
struct Packet {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: Option<u16>,
}

impl Packet {
    /// Reads the beginning of a packet of IPv4 (RFC 791) or IPv6 (RFC 8200).
    fn read(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let address6 = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
        let (from, to, protocol, header) = match first >> 4 {
            4 => {
                let length = usize::from(first & 0xf) * 4;
                let (from, to) = (address(12)?.into(), address(16)?.into());
                // A fragment other than the first has no ports.
                let fragment = u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?) & 0x1fff;
                let header = (length >= 20 && fragment == 0).then_some(length);
                (from, to, *bytes.get(9)?, header)
            }
            6 => (address6(8)?.into(), address6(24)?.into(), *bytes.get(6)?, Some(40)),
            _ => return None,
        };
        let port = || Some(u16::from_be_bytes(*bytes.get(header? + 2..)?.first_chunk()?));
        let port = if matches!(protocol, 6 | 17 | 132) { port() } else { None };
        Some(Self { from, to, protocol, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: &[u8] = include_bytes!("../../../../fuzz/corpus/nflog/packets");

    /// Splits what was received into messages.
    fn messages(mut received: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let Some(length) = received.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
            let (message, rest) = received.split_at(usize::try_from(length).unwrap());
            found.push(message);
            received = rest;
        }
        found
    }

    #[test]
    fn a_packet_is_read_with_its_rule() {
        let read: Vec<_> = messages(PACKETS).into_iter().map(RefusedPacket::read).collect();
        let told: Vec<_> = read.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "tcp 192.0.2.1:25: guests do not send mail",
                "udp 10.9.5.1:7000: its policy denies that",
                "icmp 10.9.5.1: beyond the egress of the node's guests",
            ]
        );
        assert!(read.iter().flatten().all(|refusal| refusal.interface > 0));
    }

    #[test]
    fn numbers_and_prefixes_read_back() {
        for rule in RefusingRule::ALL {
            assert_eq!(RefusingRule::of_number(rule.number()), Some(rule));
            assert_eq!(RefusingRule::of_prefix(&rule.prefix()), Some(rule));
        }
        assert_eq!(RefusingRule::of_number(0), None);
        assert_eq!(RefusingRule::of_prefix("riklet-sdn-"), None);
        assert_eq!(RefusingRule::of_prefix("mail"), None);
    }

    #[test]
    fn a_packet_that_ends_early_has_no_port() {
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let port = |packet: &[u8]| Packet::read(packet).unwrap().port;
        assert_eq!(port(&packet), None);
        packet.extend([0, 1, 0, 80]);
        assert_eq!(port(&packet), Some(80));
        packet[7] = 1;
        assert_eq!(port(&packet), None, "a fragment");
        packet[0] = 0x41;
        assert_eq!(port(&packet), None, "a header that is too short");
        packet[0] = 0x75;
        assert!(Packet::read(&packet).is_none());
        assert!(Packet::read(&packet[..19]).is_none());
    }
}
