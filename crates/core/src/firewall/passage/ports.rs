//! Rules of others that drop packets for exposed ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    Chain, Field, Operator, Packet, Place, Places, Rule, Rules, Test, Value, Verdict,
    place::Traffic, rule::Element,
};
use crate::{
    firewall::Entry,
    model::{InterfaceName, PortRange, Protocol},
};

/// The number of ports of one exposure that are tried.
const MOST: usize = 64;

/// A rule of another program that drops all packets for a published port, or all of those that an uplink brings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct PortBan {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port of the host that is published.
    pub port: u16,
    /// The chain that has the rule: `ip filter DOCKER-USER`, or `iptables-legacy filter FORWARD`.
    pub chain: String,
}

impl PortBan {
    pub(in crate::firewall) const fn new(protocol: Protocol, port: u16, chain: String) -> Self {
        Self { protocol, port, chain }
    }
}

impl fmt::Display for PortBan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, port, chain } = self;
        write!(f, "{chain}: drops packets for the published {protocol} port {port}")
    }
}

/// The way of packets by an exposure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::firewall) struct Target {
    /// The guest's address; `None` if the packets are not translated yet.
    pub(super) address: Option<Ipv4Addr>,
    /// The guest's port, or that of the host if they are not translated yet.
    pub(super) port: u16,
    /// The port of the host that the packets were for before they were translated.
    pub(super) original: u16,
}

/// The place of a base chain on the way of packets to an exposure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Before the packets are translated.
    Before,
    /// After that, with our passages in it.
    After(&'a Places),
}

/// The packets of an exposure.
#[derive(Debug, Clone, Copy)]
struct Exposed {
    protocol: Protocol,
    host_ports: PortRange,
    guest: Option<Ipv4Addr>,
    guest_ports: PortRange,
}

impl Exposed {
    const fn of(entry: &Entry) -> Option<Self> {
        match *entry {
            Entry::Exposure {
                protocol, host_ports, guest: IpAddr::V4(guest), guest_ports, ..
            } => Some(Self { protocol, host_ports, guest: Some(guest), guest_ports }),
            _ => None,
        }
    }

    /// Returns the way to one port, counted from the first.
    fn target(&self, index: u16) -> Target {
        let port = |ports: PortRange| ports.first().saturating_add(index);
        let original = port(self.host_ports);
        match self.guest {
            Some(_) => Target { address: self.guest, port: port(self.guest_ports), original },
            None => Target { address: None, port: original, original },
        }
    }

    /// Returns the packets before they are translated.
    const fn untranslated(self) -> Self {
        Self { guest: None, guest_ports: self.host_ports, ..self }
    }

    /// Returns the ports, counted from the first, at which ranges of these begin.
    fn named(&self, [translated, original]: &[NamedPorts; 2]) -> BTreeSet<u16> {
        let translated = translated.within(self.guest_ports);
        translated.chain(original.within(self.host_ports)).take(MOST).collect()
    }
}

/// The ports that rules name, before or after translation.
#[derive(Debug)]
struct NamedPorts {
    /// The first ones of ranges.
    begins: BTreeSet<u16>,
    /// For each port, whether it is named.
    named: Vec<bool>,
}

impl NamedPorts {
    fn new(ranges: &BTreeSet<Named>, is_original: bool) -> Self {
        let (mut begins, mut named) = (BTreeSet::new(), vec![false; usize::from(u16::MAX) + 1]);
        for range in ranges.iter().filter(|range| range.is_original == is_original) {
            begins.insert(range.low);
            if let Some(ports) = named.get_mut(range.low.into()..=range.high.into()) {
                ports.fill(true);
            }
        }
        Self { begins, named }
    }

    /// Returns the ports in a range, counted from its first, at which named ones begin.
    fn within(&self, ports: PortRange) -> impl Iterator<Item = u16> {
        let (first, last) = (ports.first(), ports.last());
        let at_first = self.named.get(usize::from(first)).copied().unwrap_or_default();
        let begins = self.begins.range(first..=last).map(move |port| port - first);
        at_first.then_some(0).into_iter().chain(begins)
    }
}

/// A range of ports that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    is_original: bool,
    low: u16,
    high: u16,
}

/// Returns the first port of each of these exposures of which this base chain drops all packets from an uplink, or from
/// elsewhere, by rules that name ports, with the chain of the rule that drops them.
///
/// `rules` ask for ports and addresses by fields. Of exposures for which no rule names
/// a port, the first stands for all.
#[must_use]
pub fn dropped_ports(
    rules: &Rules,
    (base, stage): (&str, Stage<'_>),
    uplinks: &BTreeSet<InterfaceName>,
    exposures: &BTreeSet<Entry>,
) -> BTreeSet<(Protocol, u16, String)> {
    let ranges: BTreeSet<Named> =
        rules.chains.values().flat_map(|chain| &chain.rules).flat_map(named).collect();
    let mut found = BTreeSet::new();
    if ranges.is_empty() {
        return found;
    }
    let ports = [false, true].map(|is_original| NamedPorts::new(&ranges, is_original));
    let of_rules: BTreeMap<_, _> =
        rules.chains.iter().map(|(name, chain)| (&**name, of_rules(chain))).collect();
    let of_rule = |chain: &str, index: usize| of_rules.get(chain).and_then(|of| of.get(index));
    let none = Places::new();
    let (places, before) = match stage {
        Stage::Before => (&none, true),
        Stage::After(places) => (places, false),
    };
    for (number, exposed) in exposures.iter().filter_map(Exposed::of).enumerate() {
        let exposed = if before { exposed.untranslated() } else { exposed };
        let mut indices = exposed.named(&ports);
        if number == 0 {
            indices.insert(0);
        }
        let first = indices.into_iter().find_map(|index| {
            let target = exposed.target(index);
            // Thousands of rules for other ports need not be asked.
            let applies =
                |chain: &str, index| of_rule(chain, index).is_none_or(|of| of.may(target));
            let traffic = Traffic::passing(rules, base, applies);
            let packets = Packet::to_port(uplinks, exposed.protocol, target);
            let trails = packets.iter().flat_map(|packet| traffic.dropped(packet, places));
            let by_port =
                |place: &Place| of_rule(&place.chain, place.index).is_some_and(|of| of.names_port);
            let mut trails = trails.filter(|trail| trail.iter().any(by_port));
            trails.find_map(|mut trail| Some((target.original, trail.pop()?.chain)))
        });
        found.extend(first.map(|(port, chain)| (exposed.protocol, port, chain)));
    }
    found
}

/// The ports of a rule.
#[derive(Debug)]
struct OfRule {
    /// True if it names any.
    names_port: bool,
    /// The tests that hold only for ports in one of these ranges.
    only: Vec<Vec<Named>>,
}

impl OfRule {
    /// Reports whether the rule may apply to packets for these ports.
    fn may(&self, target: Target) -> bool {
        let within = |named: &Named| {
            let port = if named.is_original { target.original } else { target.port };
            (named.low..=named.high).contains(&port)
        };
        self.only.iter().all(|ranges| ranges.iter().any(within))
    }
}

fn of_rules(chain: &Chain) -> Vec<OfRule> {
    let of_rule = |rule: &Rule| {
        let only = rule.tests.iter().filter(|test| match test {
            Test::Compare(_, Operator::Equal, _) => true,
            Test::In(key, _) => key.len() == 1,
            _ => false,
        });
        let only = only.map(asked).filter(|ranges| !ranges.is_empty()).collect();
        OfRule { names_port: named(rule).next().is_some(), only }
    };
    chain.rules.iter().map(of_rule).collect()
}

/// Returns the ranges of ports that a rule names.
fn named(rule: &Rule) -> impl Iterator<Item = Named> + '_ {
    let of_map = match &rule.verdict {
        Some(Verdict::Map { key, elements, .. }) => {
            elements.iter().flat_map(|(element, _)| within(key, element)).collect()
        }
        _ => Vec::new(),
    };
    rule.tests.iter().flat_map(asked).chain(of_map)
}

fn asked(test: &Test) -> Vec<Named> {
    match test {
        Test::Other(_) => vec![],
        Test::Compare(value, operator, with) => {
            let (low, high) = match operator {
                Operator::Equal | Operator::NotEqual => (with.clone(), with.clone()),
                Operator::Less | Operator::LessOrEqual => (vec![0; 2], with.clone()),
                Operator::Greater | Operator::GreaterOrEqual => (with.clone(), vec![u8::MAX; 2]),
            };
            range(value, &low, &high).into_iter().collect()
        }
        Test::In(key, elements) => {
            elements.iter().flat_map(|element| within(key, element)).collect()
        }
        Test::Any(tests) => tests.iter().flat_map(asked).collect(),
        Test::Not(test) => asked(test),
    }
}

fn within(key: &[Value], element: &Element) -> Vec<Named> {
    key.iter().zip(element).filter_map(|(value, (low, high))| range(value, low, high)).collect()
}

/// Returns the range, if it is one of ports.
fn range(value: &Value, low: &[u8], high: &[u8]) -> Option<Named> {
    let Value::Of(field, mask) = value else { return None };
    let port = |bytes: &[u8]| bytes.first_chunk().copied().map(u16::from_be_bytes);
    let is_original = match field {
        Field::Port => false,
        Field::OriginalPort => true,
        _ => return None,
    };
    let (low, high) = match mask {
        None => (port(low)?, port(high)?),
        Some(_) => (0, u16::MAX),
    };
    Some(Named { is_original, low, high })
}
