//! The reach of one guest: what it may send packets to, as blocks of destinations that do not overlap.

mod idle;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnet::Ipv4Net;

use crate::{
    firewall::{Entry, MAIL, NAME_SERVERS, SPECIAL_RANGES},
    model::{Destination, Egress, EgressPolicy, NameRule, Place, PortRange, Protocol},
};

pub use idle::{Idle, IdleReason, idle};

/// The place of each range in a [`Block`].
const ADDRESSES: usize = 0;
const PROTOCOLS: usize = 1;
const PORTS: usize = 2;

/// A block of destinations: a range of IPv4 addresses, one of protocols, and one of ports. A protocol without ports has every
/// port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block([(u32, u32); 3]);

impl Block {
    /// Everything.
    pub const EVERYTHING: Self = Self([(0, u32::MAX), (0, 255), (0, 65_535)]);
    /// Nothing: no destination is in it.
    pub const NOTHING: Self = Self([(1, 0); 3]);

    /// Returns the block of these addresses, with every protocol and port.
    #[must_use]
    pub fn of_network(network: Ipv4Net) -> Self {
        let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
        Self::EVERYTHING.with(ADDRESSES, (first, last))
    }

    /// Returns the block that is one destination. `port` is the destination's port; `None` if the protocol has none.
    #[must_use]
    pub fn of_packet(to: Ipv4Addr, protocol: u8, port: Option<u16>) -> Self {
        let one = |number: u32| (number, number);
        let port = port.map_or(0, u32::from);
        Self([one(to.to_bits()), one(protocol.into()), one(port)])
    }

    /// Returns the same addresses, for these ports of this protocol.
    #[must_use]
    pub fn to_ports(self, protocol: Protocol, ports: PortRange) -> Self {
        self.by(protocol).with(PORTS, (ports.first().into(), ports.last().into()))
    }

    /// Returns the same addresses and ports, of this protocol.
    #[must_use]
    pub fn by(self, protocol: Protocol) -> Self {
        let number = protocol.number().into();
        self.with(PROTOCOLS, (number, number))
    }

    /// Returns the block with these first and last values; `None` if one of the ranges is reversed, or not one of this kind.
    #[must_use]
    pub fn between(addresses: (u32, u32), protocols: (u8, u8), ports: (u16, u16)) -> Option<Self> {
        let protocols = (protocols.0.into(), protocols.1.into());
        let block = Self([addresses, protocols, (ports.0.into(), ports.1.into())]);
        block.0.iter().all(|(first, last)| first <= last).then_some(block)
    }

    const fn with(mut self, place: usize, range: (u32, u32)) -> Self {
        self.0[place] = range;
        self
    }

    /// Returns the addresses.
    #[must_use]
    pub fn addresses(&self) -> RangeInclusive<Ipv4Addr> {
        let (first, last) = self.0[ADDRESSES];
        first.into()..=last.into()
    }

    /// Returns the protocols (IANA).
    #[must_use]
    pub fn protocols(&self) -> RangeInclusive<u8> {
        let number = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let (first, last) = self.0[PROTOCOLS];
        number(first)..=number(last)
    }

    /// Returns the ports.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        let port = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);
        let (first, last) = self.0[PORTS];
        port(first)..=port(last)
    }

    /// Reports whether every destination of the other block is in this one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.0 <= b.0 && b.1 <= a.1)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.0 <= b.1 && b.0 <= a.1)
    }

    /// Returns the blocks that together are this one without the other.
    fn without(mut self, other: &Self) -> Vec<Self> {
        if !self.overlaps(other) {
            return vec![self];
        }
        let mut rest = Vec::new();
        for place in [ADDRESSES, PROTOCOLS, PORTS] {
            let ((first, last), (from, to)) = (self.0[place], other.0[place]);
            if first < from {
                rest.push(self.with(place, (first, from - 1)));
            }
            if to < last {
                rest.push(self.with(place, (to + 1, last)));
            }
            self = self.with(place, (first.max(from), last.min(to)));
        }
        rest
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn range<T: fmt::Display + PartialEq>(
            f: &mut fmt::Formatter<'_>,
            range: &RangeInclusive<T>,
        ) -> fmt::Result {
            if range.start() == range.end() {
                write!(f, "{}", range.start())
            } else {
                write!(f, "{}-{}", range.start(), range.end())
            }
        }
        range(f, &self.addresses())?;
        if self.0[PORTS] != Self::EVERYTHING.0[PORTS] {
            f.write_str(":")?;
            range(f, &self.ports())?;
        }
        if self.0[PROTOCOLS] != Self::EVERYTHING.0[PROTOCOLS] {
            let (first, last) = self.0[PROTOCOLS];
            let is_known = |known: &Protocol| first == last && first == u32::from(known.number());
            let known = Protocol::ALL.into_iter().find(is_known);
            if let Some(protocol) = known {
                write!(f, "/{protocol}")?;
            } else {
                f.write_str("/")?;
                range(f, &self.protocols())?;
            }
        }
        Ok(())
    }
}

/// Returns the blocks of the destinations that a policy names at this kind of place, each with whether it is allowed. No two of
/// them overlap, so it does not matter in which order a firewall asks for them: what is denied and allowed is denied.
fn named(policy: &EgressPolicy, place: fn(Place) -> Option<Ipv4Net>) -> Vec<(Block, bool)> {
    let blocks = |all: &[Destination], allowed: bool| -> Vec<_> {
        all.iter().flat_map(|to| blocks(to, place)).map(|block| (block, allowed)).collect()
    };
    separate([blocks(policy.deny(), false), blocks(policy.allow(), true)].concat())
}

/// Returns the entry of a policy that decides about a destination, with whether it allows it; `None` if none names it. `at_host`
/// tells whether the host itself has the address.
#[must_use]
pub fn deciding(policy: &EgressPolicy, to: Block, at_host: bool) -> Option<(Destination, bool)> {
    let place = if at_host { host } else { network };
    let names = |entry: &&Destination| blocks(entry, place).iter().any(|block| block.contains(&to));
    let denied = policy.deny().iter().find(names).map(|entry| (*entry, false));
    denied.or_else(|| policy.allow().iter().find(names).map(|entry| (*entry, true)))
}

/// Returns the number of blocks of a policy: lists that overlap much have many more than destinations.
#[must_use]
pub fn count(policy: &EgressPolicy) -> usize {
    named(policy, network).len() + named(policy, host).len()
}

/// Returns the entries of a policy for this guest.
#[must_use]
pub fn entries(policy: &EgressPolicy, guest: IpAddr) -> Vec<Entry> {
    let of = |host, place| {
        let named = named(policy, place).into_iter();
        named.map(move |(block, allowed)| Entry::Reach { guest, host, block, allowed })
    };
    let first = policy.default_reach().map(|reach| Entry::Policy { guest, reach });
    first.into_iter().chain(of(false, network)).chain(of(true, host)).collect()
}

/// Returns the entry of a policy for a guest's address of IPv6: its default, or no reach at all if it names destinations,
/// which are of IPv4. `None` if it has neither.
#[must_use]
pub fn entry_v6(policy: &EgressPolicy, guest: IpAddr) -> Option<Entry> {
    let names_none = policy.allow().is_empty() && policy.deny().is_empty();
    let reach = if names_none { policy.default_reach() } else { Some(Egress::None) };
    reach.map(|reach| Entry::Policy { guest, reach })
}

/// Returns the networks' part of a policy.
const fn network(place: Place) -> Option<Ipv4Net> {
    match place {
        Place::Network(network) => Some(network),
        Place::Host => None,
    }
}

/// Returns the host's part of a policy, which has every address.
fn host(place: Place) -> Option<Ipv4Net> {
    (place == Place::Host).then(Ipv4Net::default)
}

/// Returns the blocks that a guest with these entries does not reach: beyond the host, or of the host itself. `of_node` is the
/// reach of guests whose policy names none.
#[must_use]
pub fn refused<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    of_node: Egress,
    at_host: bool,
) -> Vec<Block> {
    let (mut egress, mut all) = (of_node, Vec::new());
    for entry in entries {
        match *entry {
            Entry::Policy { reach, .. } => egress = reach,
            Entry::Reach { host, block, allowed, .. } if host == at_host => {
                all.push((block, allowed));
            }
            _ => {}
        }
    }
    all.extend(if at_host { of_egress_to_host(egress) } else { of_egress(egress) });
    let all = separate(all).into_iter();
    all.filter(|(_, allowed)| !allowed).map(|(block, _)| block).collect()
}

/// A part of a policy that reaches more than the node's guests do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Widening {
    /// The default.
    Default(Egress),
    /// A destination that is allowed.
    Allow(Destination),
    /// A name that is allowed.
    Name(NameRule),
}

/// Returns the first part of a policy that reaches more than the node's guests do. `None` if no part does.
#[must_use]
pub fn widening(policy: &EgressPolicy, of_node: Egress) -> Option<Widening> {
    let rank = |egress| match egress {
        Egress::None => 0,
        Egress::Internet => 1,
        Egress::All => 2,
    };
    let default = policy.default_reach().filter(|reach| rank(*reach) > rank(of_node));
    // What is allowed is reached by any interface, and not only by the uplinks.
    let mut beyond = refused(&[], of_node, false);
    beyond.extend(SPECIAL_RANGES.map(Block::of_network));
    let names = NAME_SERVERS.map(|(_, port)| PortRange::single(port));
    let is_wider = |to: &&Destination| match (to.place(), of_node) {
        (Place::Host, Egress::All) => false,
        (Place::Host, Egress::Internet) => !names.contains(&to.ports()),
        (Place::Host, _) => true,
        (Place::Network(_), _) => {
            blocks(to, network).iter().any(|block| beyond.iter().any(|no| no.overlaps(block)))
        }
    };
    let allow = || policy.allow().iter().find(is_wider).copied().map(Widening::Allow);
    // Names stand for public addresses, which guests of the node reach unless it is for mail.
    let is_wider_name = |rule: &&NameRule| match of_node {
        Egress::All => false,
        Egress::None => true,
        Egress::Internet => {
            let (protocol, port) = MAIL;
            let has_port = |mail| rule.ports().contains(mail);
            PortRange::single(port).is_some_and(has_port)
                && rule.protocols().any(|named| named == protocol)
        }
    };
    let name = || policy.names().iter().find(is_wider_name).cloned().map(Widening::Name);
    default.map(Widening::Default).or_else(allow).or_else(name)
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(reach) => write!(f, "default {reach}"),
            Self::Allow(destination) => write!(f, "allow {destination}"),
            Self::Name(rule) => write!(f, "allow {rule}"),
        }
    }
}

/// Returns the blocks of a reach, the first of those that overlap first.
fn of_egress(egress: Egress) -> Vec<(Block, bool)> {
    let port = |(protocol, port): (Protocol, u16)| {
        let ports = PortRange::single(port)?;
        Some(Block::EVERYTHING.to_ports(protocol, ports))
    };
    let rest = |allowed| (Block::EVERYTHING, allowed);
    match egress {
        Egress::All => vec![rest(true)],
        Egress::None => vec![rest(false)],
        Egress::Internet => {
            let names = NAME_SERVERS.into_iter().filter_map(port).map(|block| (block, true));
            let mail = port(MAIL).map(|block| (block, false));
            let special = SPECIAL_RANGES.map(|range| (Block::of_network(range), false));
            names.chain(mail).chain(special).chain([rest(true)]).collect()
        }
    }
}

/// Returns the blocks of a reach at the host itself, the first of those that overlap first. An echo request is answered.
fn of_egress_to_host(egress: Egress) -> Vec<(Block, bool)> {
    /// `IPPROTO_ICMP`.
    const ICMP: u32 = 1;
    let echo = (Block::EVERYTHING.with(PROTOCOLS, (ICMP, ICMP)), true);
    let names = (egress == Egress::Internet).then_some(NAME_SERVERS).into_iter().flatten();
    let names = names.filter_map(|(protocol, port)| {
        Some((Block::EVERYTHING.to_ports(protocol, PortRange::single(port)?), true))
    });
    [echo].into_iter().chain(names).chain([(Block::EVERYTHING, egress == Egress::All)]).collect()
}

/// Returns the blocks of one destination, if it is at such a place.
fn blocks(to: &Destination, place: fn(Place) -> Option<Ipv4Net>) -> Vec<Block> {
    let Some(network) = place(to.place()) else { return vec![] };
    let all = Block::of_network(network);
    match (to.protocol(), to.ports()) {
        (None, None) => vec![all],
        (Some(protocol), None) => vec![all.by(protocol)],
        (Some(protocol), Some(ports)) => vec![all.to_ports(protocol, ports)],
        (None, Some(ports)) => Destination::WITH_PORTS.map(|by| all.to_ports(by, ports)).into(),
    }
}

/// Returns blocks that do not overlap, and say the same as these, of which the first that has a destination counts.
fn separate(all: Vec<(Block, bool)>) -> Vec<(Block, bool)> {
    let mut before: Vec<(Block, bool)> = Vec::new();
    for (block, allowed) in all {
        // A larger block that says the same makes pieces of none.
        if before.iter().all(|(earlier, said)| *said == allowed || !earlier.overlaps(&block)) {
            before.retain(|(earlier, _)| !block.contains(earlier));
        }
        before.push((block, allowed));
    }
    let mut separate = Vec::new();
    for (index, (block, allowed)) in before.iter().enumerate() {
        let earlier = before.iter().take(index);
        let left = earlier.fold(vec![*block], |left, (earlier, _)| {
            left.into_iter().flat_map(|block| block.without(earlier)).collect()
        });
        separate.extend(left.into_iter().map(|block| (block, *allowed)));
    }
    separate
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small ranges, so that random ones overlap often.
    fn block() -> impl Strategy<Value = Block> {
        let range = || (0_u32..8, 0_u32..8).prop_map(|(a, b)| (a.min(b), a.max(b)));
        (range(), range(), range()).prop_map(|(a, b, c)| Block([a, b, c]))
    }

    fn point() -> impl Strategy<Value = Block> {
        (0_u32..8, 0_u32..8, 0_u32..8).prop_map(|(a, b, c)| Block([(a, a), (b, b), (c, c)]))
    }

    proptest! {
        #[test]
        fn separate_blocks_say_the_same_and_do_not_overlap(
            all in prop::collection::vec((block(), any::<bool>()), 0..8),
            packets in prop::collection::vec(point(), 64),
        ) {
            let separate = separate(all.clone());
            for packet in packets {
                let said = |blocks: &[(Block, bool)]| {
                    blocks.iter().find(|(block, _)| block.contains(&packet)).map(|(_, said)| *said)
                };
                prop_assert_eq!(said(&separate), said(&all));
                prop_assert!(separate.iter().filter(|(b, _)| b.contains(&packet)).count() < 2);
            }
        }
    }

    fn policy(default: Option<Egress>, allow: &[&str], deny: &[&str]) -> EgressPolicy {
        let read = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        EgressPolicy::new(default, read(allow), read(deny))
    }

    fn written(blocks: Vec<(Block, bool)>) -> Vec<String> {
        blocks.into_iter().map(|(block, allowed)| format!("{block} {allowed}")).collect()
    }

    #[test]
    fn what_is_denied_is_no_longer_allowed() {
        let policy = policy(None, &["10.0.0.0/8:443/tcp", "host:9000"], &["10.0.0.0/9"]);
        assert_eq!(
            written(named(&policy, network)),
            ["10.0.0.0-10.127.255.255 false", "10.128.0.0-10.255.255.255:443/tcp true"]
        );
        assert_eq!(
            written(named(&policy, host)),
            ["0.0.0.0-255.255.255.255:9000/tcp true", "0.0.0.0-255.255.255.255:9000/udp true"]
        );
    }

    #[test]
    fn what_a_guest_does_not_reach_is_the_rest() {
        let guest = Ipv4Addr::new(10, 231, 0, 2).into();
        let is_refused = |policy: Option<&EgressPolicy>, of_node, to: &str, protocol, port| {
            let packet = Block::of_packet(to.parse().unwrap(), protocol, Some(port));
            let entries: Vec<_> = policy.map(|p| entries(p, guest)).into_iter().flatten().collect();
            refused(&entries, of_node, false).iter().any(|block| block.contains(&packet))
        };
        let is_refused_at_host = |policy: Option<&EgressPolicy>, of_node, protocol, port| {
            let packet = Block::of_packet([192, 168, 7, 1].into(), protocol, Some(port));
            let entries: Vec<_> = policy.map(|p| entries(p, guest)).into_iter().flatten().collect();
            refused(&entries, of_node, true).iter().any(|block| block.contains(&packet))
        };
        assert!(!is_refused_at_host(None, Egress::Internet, 17, 53));
        assert!(!is_refused_at_host(None, Egress::None, 1, 0));
        assert!(is_refused_at_host(None, Egress::None, 17, 53));
        assert!(is_refused_at_host(None, Egress::Internet, 6, 22));
        assert!(!is_refused_at_host(None, Egress::All, 6, 22));
        let host = policy(None, &["host:9000/tcp"], &["host:22"]);
        assert!(!is_refused_at_host(Some(&host), Egress::Internet, 6, 9000));
        assert!(is_refused_at_host(Some(&host), Egress::All, 6, 22));
        assert!(!is_refused(None, Egress::Internet, "8.8.8.8", 6, 443));
        assert!(is_refused(None, Egress::Internet, "8.8.8.8", 6, 25));
        assert!(is_refused(None, Egress::Internet, "10.0.0.1", 6, 443));
        assert!(!is_refused(None, Egress::Internet, "10.0.0.1", 17, 53));
        assert!(!is_refused(None, Egress::All, "10.0.0.1", 6, 443));
        assert!(is_refused(None, Egress::None, "8.8.8.8", 17, 53));
        let closed = policy(Some(Egress::None), &["10.0.5.0/24:5432/tcp"], &["10.0.5.9/32"]);
        let closed = Some(&closed);
        assert!(!is_refused(closed, Egress::Internet, "10.0.5.1", 6, 5432));
        assert!(is_refused(closed, Egress::Internet, "10.0.5.1", 17, 5432));
        assert!(is_refused(closed, Egress::Internet, "10.0.5.9", 6, 5432));
        assert!(is_refused(closed, Egress::Internet, "8.8.8.8", 6, 443));
    }

    #[test]
    fn a_policy_that_reaches_more_than_the_node_is_told() {
        let said = |default, allow: &[&str], of_node| {
            widening(&policy(default, allow, &[]), of_node).map(|wider| wider.to_string())
        };
        let (internet, all, none) = (Egress::Internet, Egress::All, Egress::None);
        assert_eq!(said(Some(none), &["1.1.1.1:443", "1.1.1.1:53", "host:53/udp"], internet), None);
        assert_eq!(said(Some(internet), &[], internet), None);
        assert_eq!(said(Some(all), &["1.0.0.0/8", "host"], all), None);
        assert_eq!(said(None, &["10.0.0.0/8"], all).unwrap(), "allow 10.0.0.0/8");
        assert_eq!(said(Some(all), &[], internet).unwrap(), "default all");
        assert_eq!(said(Some(internet), &[], none).unwrap(), "default internet");
        for allow in [
            "10.0.0.1:443",
            "10.0.0.1:53",
            "0.0.0.0/0",
            "169.254.169.254",
            "1.1.1.1:25/tcp",
            "host:22",
            "host",
        ] {
            assert_eq!(said(None, &[allow], internet).unwrap(), format!("allow {allow}"));
        }
        assert_eq!(said(None, &["1.1.1.1:443"], none).unwrap(), "allow 1.1.1.1:443");
        let named = |rule: &str, of_node| {
            let policy = policy(None, &[], &[]).with_names(vec![rule.parse().unwrap()]);
            widening(&policy, of_node).map(|wider| wider.to_string())
        };
        for rule in ["a.example:443", "a.example:25/udp", "*.example.org:26-30"] {
            assert_eq!(named(rule, internet), None);
            assert_eq!(named(rule, none).unwrap(), format!("allow {rule}"));
        }
        assert_eq!(named("a.example:20-30", internet).unwrap(), "allow a.example:20-30");
        assert_eq!(named("a.example:25", all), None);
    }
}
