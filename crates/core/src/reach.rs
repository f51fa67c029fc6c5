//! The reach of one guest: what it may send packets to, as blocks of destinations that do not overlap.

mod block;
mod idle;

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    firewall::{Entry, MAIL, NAME_SERVERS, PUBLIC_V6, SPECIAL_RANGES, SPECIAL_RANGES_V6},
    model::{
        Destination, Egress, EgressPolicy, Family, NameRule, Place, PortRange, Protocol, Proxy,
        ProxyAddress,
    },
};

pub use block::Block;
pub use idle::{Idle, IdleReason, idle};

/// The destinations of one family that one chain decides about: those beyond the host, or those of the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scope {
    family: Family,
    host: bool,
}

impl Scope {
    const ALL: [Self; 4] = [
        Self { family: Family::V4, host: false },
        Self { family: Family::V4, host: true },
        Self { family: Family::V6, host: false },
        Self { family: Family::V6, host: true },
    ];

    /// Returns the scope that has a network.
    const fn of_network(network: IpNet) -> Self {
        Self { family: Family::of_network(network), host: false }
    }

    /// Returns the addresses of a place, if it is in this scope. The host has every address.
    fn network(self, place: Place) -> Option<IpNet> {
        match place {
            Place::Network(network) => {
                Some(network).filter(|network| Self::of_network(*network) == self)
            }
            Place::Host => self.host.then(|| match self.family {
                Family::V4 => Ipv4Net::default().into(),
                Family::V6 => Ipv6Net::default().into(),
            }),
        }
    }

    /// Returns the blocks of some destinations.
    fn blocks(self, all: &[Destination]) -> impl Iterator<Item = Block> {
        all.iter().flat_map(move |to| blocks(to, self))
    }
}

/// Returns the blocks of the destinations that a policy names in this scope, each with whether it is allowed. No two of
/// them overlap, so it does not matter in which order a firewall asks for them: what is denied and allowed is denied.
fn named(policy: &EgressPolicy, scope: Scope) -> Vec<(Block, bool)> {
    let denied = scope.blocks(policy.deny()).map(|block| (block, false));
    let allowed = scope.blocks(policy.allow()).map(|block| (block, true));
    let proxied = policy.via().map(|proxy| proxied(proxy, scope)).unwrap_or_default();
    separate(denied.chain(proxied).chain(allowed).collect())
}

/// Returns the blocks of destinations beyond the host that a policy closes, whatever its names lead to.
#[must_use]
pub fn closed(policy: &EgressPolicy) -> Vec<Block> {
    let beyond = Scope::ALL.into_iter().filter(|scope| !scope.host);
    let named = beyond.flat_map(|scope| named(policy, scope));
    named.filter(|(_, allowed)| !allowed).map(|(block, _)| block).collect()
}

/// Returns the blocks that a proxy makes of a policy: the proxy itself is reached, and nothing else at the ports that are led
/// to it. So they stay closed where no rule leads there, such as for UDP, which would go around the proxy.
fn proxied(proxy: &Proxy, scope: Scope) -> Vec<(Block, bool)> {
    let (address, port) = (proxy.address().address(), proxy.address().port());
    let everything = Block::everything(scope.family);
    let here = address.is_loopback();
    let of_proxy = match scope {
        Scope { family: Family::V4, host: true } if here => Some(everything),
        Scope { family: Family::V4, host: false } if !here => {
            Some(Block::of_network(Ipv4Net::from(address).into()))
        }
        _ => None,
    };
    let at_port = |block: Block| Some(block.to_ports(Protocol::Tcp, PortRange::single(port)?));
    let reached = of_proxy.and_then(at_port).map(|block| (block, true));
    let ports = proxy.ports().filter(|_| !scope.host).filter_map(PortRange::single);
    let closed = ports.flat_map(|port| {
        Destination::WITH_PORTS.map(|protocol| (everything.to_ports(protocol, port), false))
    });
    reached.into_iter().chain(closed).collect()
}

/// Returns the entry of `deny` that keeps a policy's own proxy from being reached.
#[must_use]
pub fn denied_proxy(policy: &EgressPolicy) -> Option<Destination> {
    let to = policy.via()?.address();
    let number = Protocol::Tcp.number();
    let packet = Block::of_packet(to.address().into(), number, Some(to.port()));
    let (entry, allowed) = deciding(policy, packet, to.address().is_loopback())?;
    (!allowed).then_some(entry)
}

/// Returns the entry of a policy that decides about a destination, with whether it allows it; `None` if none names it. `at_host`
/// tells whether the host itself has the address.
#[must_use]
pub fn deciding(policy: &EgressPolicy, to: Block, at_host: bool) -> Option<(Destination, bool)> {
    let scope = Scope { family: to.family(), host: at_host };
    let names = |entry: &&Destination| blocks(entry, scope).iter().any(|block| block.contains(&to));
    let denied = policy.deny().iter().find(names).map(|entry| (*entry, false));
    denied.or_else(|| policy.allow().iter().find(names).map(|entry| (*entry, true)))
}

/// Returns the number of blocks of a policy: lists that overlap much have many more than destinations. Those of the host are
/// the same in both families, and count once.
#[must_use]
pub fn count(policy: &EgressPolicy) -> usize {
    let counts = |scope: &Scope| !scope.host || scope.family == Family::V4;
    Scope::ALL.into_iter().filter(counts).map(|scope| named(policy, scope).len()).sum()
}

/// Returns the entries of a policy for this address of a guest: its default, and the destinations of the same family.
#[must_use]
pub fn entries(policy: &EgressPolicy, guest: IpAddr) -> Vec<Entry> {
    let of = |host| {
        let named = named(policy, Scope { family: Family::of(guest), host }).into_iter();
        named.map(move |(block, allowed)| Entry::Reach { guest, host, block, allowed })
    };
    let first = policy.default_reach().map(|reach| Entry::Policy { guest, reach });
    first.into_iter().chain(of(false)).chain(of(true)).collect()
}

/// Returns the blocks of a family that a guest with these entries does not reach: beyond the host, or of the host itself.
/// `of_node` is the reach of guests whose policy names none.
#[must_use]
pub fn refused<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    of_node: Egress,
    family: Family,
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
    all.extend(if at_host { of_egress_to_host(egress, family) } else { of_egress(egress, family) });
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
    /// A proxy.
    Proxy(ProxyAddress),
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
    let beyond = |family| {
        let mut beyond = refused(&[], of_node, family, false);
        beyond.extend(special(family));
        beyond
    };
    let beyond = [beyond(Family::V4), beyond(Family::V6)].concat();
    let names = NAME_SERVERS.map(|(_, port)| PortRange::single(port));
    let is_wider = |to: &&Destination| match (to.place(), of_node) {
        (Place::Host, Egress::All) => false,
        (Place::Host, Egress::Internet) => !names.contains(&to.ports()),
        (Place::Host, _) => true,
        (Place::Network(network), _) => {
            let own = blocks(to, Scope::of_network(network));
            own.iter().any(|block| beyond.iter().any(|no| no.overlaps(block)))
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
    // It may be any address of the host, at which every service is reached.
    let via = || Some(Widening::Proxy(policy.via()?.address())).filter(|_| of_node != Egress::All);
    default.map(Widening::Default).or_else(allow).or_else(name).or_else(via)
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(reach) => write!(f, "default {reach}"),
            Self::Allow(destination) => write!(f, "allow {destination}"),
            Self::Name(rule) => write!(f, "allow {rule}"),
            Self::Proxy(address) => write!(f, "via {address}"),
        }
    }
}

/// Returns the blocks of a family that are not public.
fn special(family: Family) -> Vec<Block> {
    match family {
        Family::V4 => SPECIAL_RANGES.map(|range| Block::of_network(range.into())).into(),
        Family::V6 => {
            let tunnels = SPECIAL_RANGES_V6.map(|range| Block::of_network(range.into()));
            let public = Block::of_network(PUBLIC_V6.into());
            [tunnels.into(), Block::everything(family).without(&public)].concat()
        }
    }
}

/// Returns the blocks of a reach, the first of those that overlap first.
fn of_egress(egress: Egress, family: Family) -> Vec<(Block, bool)> {
    let everything = Block::everything(family);
    let port = |(protocol, port): (Protocol, u16)| {
        let ports = PortRange::single(port)?;
        Some(everything.to_ports(protocol, ports))
    };
    let rest = |allowed| (everything, allowed);
    match egress {
        Egress::All => vec![rest(true)],
        Egress::None => vec![rest(false)],
        Egress::Internet => {
            let names = NAME_SERVERS.into_iter().filter_map(port).map(|block| (block, true));
            let mail = port(MAIL).map(|block| (block, false));
            let special = special(family).into_iter().map(|block| (block, false));
            names.chain(mail).chain(special).chain([rest(true)]).collect()
        }
    }
}

/// Returns the blocks of a reach at the host itself, the first of those that overlap first. An echo request is answered.
fn of_egress_to_host(egress: Egress, family: Family) -> Vec<(Block, bool)> {
    /// `IPPROTO_ICMP` and `IPPROTO_ICMPV6`.
    const ICMP: u8 = 1;
    const ICMP_V6: u8 = 58;
    let everything = Block::everything(family);
    let echo = everything.by_number(match family {
        Family::V4 => ICMP,
        Family::V6 => ICMP_V6,
    });
    let names = (egress == Egress::Internet).then_some(NAME_SERVERS).into_iter().flatten();
    let names = names.filter_map(|(protocol, port)| {
        Some((everything.to_ports(protocol, PortRange::single(port)?), true))
    });
    let rest = (everything, egress == Egress::All);
    [(echo, true)].into_iter().chain(names).chain([rest]).collect()
}

/// Returns the blocks of one destination, if it is in this scope.
fn blocks(to: &Destination, scope: Scope) -> Vec<Block> {
    let Some(network) = scope.network(to.place()) else { return vec![] };
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

    const V4: Scope = Scope { family: Family::V4, host: false };
    const V6: Scope = Scope { family: Family::V6, host: false };

    fn of(v6: bool, ranges: [(u128, u128); 3]) -> Block {
        let everything = Block::everything(if v6 { Family::V6 } else { Family::V4 });
        (0..).zip(ranges).fold(everything, |block, (place, range)| block.with(place, range))
    }

    /// Small ranges, so that random ones overlap often.
    fn block() -> impl Strategy<Value = Block> {
        let range = || (0_u128..8, 0_u128..8).prop_map(|(a, b)| (a.min(b), a.max(b)));
        (any::<bool>(), range(), range(), range()).prop_map(|(v6, a, b, c)| of(v6, [a, b, c]))
    }

    fn point() -> impl Strategy<Value = Block> {
        let point = (any::<bool>(), 0_u128..8, 0_u128..8, 0_u128..8);
        point.prop_map(|(v6, a, b, c)| of(v6, [(a, a), (b, b), (c, c)]))
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
            written(named(&policy, V4)),
            ["10.0.0.0-10.127.255.255 false", "10.128.0.0-10.255.255.255:443/tcp true"]
        );
        assert_eq!(
            written(named(&policy, Scope { host: true, ..V4 })),
            ["0.0.0.0-255.255.255.255:9000/tcp true", "0.0.0.0-255.255.255.255:9000/udp true"]
        );
    }

    #[test]
    fn each_family_has_its_own_destinations() {
        let policy = policy(
            Some(Egress::None),
            &["2001:db8::/32", "[2001:db8::1:0]:443/tcp", "10.0.0.0/8", "host:53/udp"],
            &["2001:db8::/33", "[fd00::/8]:80"],
        );
        assert_eq!(
            written(named(&policy, V6)),
            [
                "2001:db8::-2001:db8:7fff:ffff:ffff:ffff:ffff:ffff false",
                "[fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:80/tcp false",
                "[fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:80/udp false",
                "2001:db8:8000::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff true",
            ]
        );
        assert_eq!(written(named(&policy, V4)), ["10.0.0.0-10.255.255.255 true"]);
        assert_eq!(count(&policy), 6);
        let entries = |guest: &str| entries(&policy, guest.parse().unwrap());
        assert_eq!((entries("10.231.0.2").len(), entries("fd52:494b::3").len()), (3, 6));
    }

    #[test]
    fn the_internet_of_ipv6_is_what_is_public() {
        let all = refused([], Egress::Internet, Family::V6, false);
        let is_refused = |to: &str, protocol, port| {
            let packet = Block::of_packet(to.parse().unwrap(), protocol, Some(port));
            all.iter().any(|block| block.contains(&packet))
        };
        assert!(!is_refused("2600::1", 6, 443));
        assert!(is_refused("2600::1", 6, 25));
        for to in ["fd00::1", "fe80::1", "::1", "ff02::1", "64:ff9b::a00:1", "2001::1", "2002::1"] {
            assert!(is_refused(to, 6, 443), "{to}");
            assert!(!is_refused(to, 17, 53), "{to}");
        }
        let at_host = refused([], Egress::None, Family::V6, true);
        let packet = |number| Block::of_packet("fe80::1".parse().unwrap(), number, Some(53));
        let is_refused_at_host = |n| at_host.iter().any(|block| block.contains(&packet(n)));
        assert!(!is_refused_at_host(58) && is_refused_at_host(17) && is_refused_at_host(1));
    }

    #[test]
    fn what_a_guest_does_not_reach_is_the_rest() {
        let guest = [10, 231, 0, 2].into();
        let is_refused = |policy: Option<&EgressPolicy>, of_node, to: &str, protocol, port| {
            let packet = Block::of_packet(to.parse().unwrap(), protocol, Some(port));
            let entries: Vec<_> = policy.map(|p| entries(p, guest)).into_iter().flatten().collect();
            refused(&entries, of_node, Family::V4, false)
                .iter()
                .any(|block| block.contains(&packet))
        };
        let is_refused_at_host = |policy: Option<&EgressPolicy>, of_node, protocol, port| {
            let packet = Block::of_packet([192, 168, 7, 1].into(), protocol, Some(port));
            let entries: Vec<_> = policy.map(|p| entries(p, guest)).into_iter().flatten().collect();
            refused(&entries, of_node, Family::V4, true).iter().any(|block| block.contains(&packet))
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
        assert_eq!(
            said(None, &["2600::/16", "[2600::1]:53"], internet).unwrap(),
            "allow 2600::/16"
        );
        assert_eq!(said(None, &["[2600::1]:443", "[2600::1]:53"], internet), None);
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
            "fd00::/8",
            "[64:ff9b::a00:1]:443",
            "::/0",
            "[2600::1]:25/tcp",
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
