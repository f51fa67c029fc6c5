//! Translations of others: rules that lead packets for ports of the host to another destination. And their bans: rules that
//! drop packets of many addresses.
//!
//! Both backends translate rules of others into [`Rule`], and [`search`] follows them. It asks which packets *may* be
//! translated: a test that is not understood is taken to hold, and so is one for the sender.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use crate::model::{PortRange, Protocol};

/// The number of chains that a packet can be led through (`NFT_JUMP_STACK_SIZE` of `<net/netfilter/nf_tables.h>`).
const DEPTH: usize = 16;

/// A rule of another program that translates packets for single ports of the host. It and an exposure of these ports
/// exclude each other: whose chain comes first gets the connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Translation {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address that the packets are for; `None` for every address of the host, or a range of addresses.
    pub address: Option<Ipv4Addr>,
    /// The ports, as far as they were asked for.
    pub ports: PortRange,
    /// The chain that has the rule: `ip nat DOCKER`, or `iptables-legacy nat DOCKER`.
    pub chain: String,
}

impl Translation {
    /// Creates a translation.
    #[must_use]
    pub fn new(
        protocol: Protocol,
        address: Option<Ipv4Addr>,
        ports: PortRange,
        chain: impl Into<String>,
    ) -> Self {
        Self { protocol, address, ports, chain: chain.into() }
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, ports, chain } = self;
        let s = if ports.is_single() { "" } else { "s" };
        write!(f, "the chain {chain}, which translates {protocol} port{s} {ports}")?;
        address.map_or(Ok(()), |address| write!(f, " of {address}"))
    }
}

/// A rule of another program that drops forwarded packets of a range of addresses, whatever their protocol and ports are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Ban {
    /// The end of the packets that is banned.
    pub side: Side,
    /// The first and the last address.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// The chain that has the rule: `ip filter DOCKER-USER`, or `iptables-legacy filter FORWARD`.
    pub chain: String,
}

/// An end of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that sends it.
    Source,
    /// The end that receives it.
    Destination,
}

impl Ban {
    /// Reports whether it is for guests of this pool, or for a network that clients may have: 256 addresses or more. Ranges
    /// that no client has are left out.
    #[must_use]
    pub fn concerns(&self, pool: Ipv4Net) -> bool {
        const NETWORK: u32 = 0xff;
        const NO_CLIENTS: [Ipv4Net; 4] = [
            Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
            Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
            Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
        ];
        let (first, last) = self.addresses;
        let overlaps = first <= pool.broadcast() && pool.network() <= last;
        let many = self.further_addresses() >= NETWORK;
        let nobody = NO_CLIENTS.iter().any(|range| range.contains(&first) && range.contains(&last));
        overlaps || many && !nobody
    }

    /// Returns the number of addresses after the first.
    #[must_use]
    pub fn further_addresses(&self) -> u32 {
        let (first, last) = self.addresses;
        u32::from(last) - u32::from(first)
    }
}

impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, addresses: (first, last), chain } = self;
        let side = match side {
            Side::Source => "from",
            Side::Destination => "to",
        };
        write!(f, "{chain}: drops packets {side} {first}-{last}")
    }
}

/// The ports that exposures want: a protocol, an address (`None` stands for every address), and ports.
pub type Wanted = BTreeSet<(Protocol, Option<IpAddr>, PortRange)>;

/// Packets, by the ranges of their transport protocol, destination address and destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Packets {
    ranges: [(u32, u32); 3],
    /// True if a test for single ports was passed.
    by_port: bool,
    /// True if a test for addresses was passed.
    by_address: bool,
}

/// A field of [`Packets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Protocol,
    Address,
    Port,
}

impl Field {
    const ALL: [Self; 3] = [Self::Protocol, Self::Address, Self::Port];

    const fn index(self) -> usize {
        match self {
            Self::Protocol => 0,
            Self::Address => 1,
            Self::Port => 2,
        }
    }

    const fn all(self) -> (u32, u32) {
        match self {
            Self::Protocol => (0, 0xff),
            Self::Address => (0, u32::MAX),
            Self::Port => (0, 0xffff),
        }
    }
}

/// A test of a rule that is understood. Each alternative is a conjunction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// One of these matches.
    Among(Vec<Packets>),
    /// None of these matches.
    Not(Vec<Packets>),
}

/// The effect of a rule, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Translates the destination.
    Translates,
    /// Leads to another chain.
    Leads(String),
    /// Drops or rejects packets.
    Drops,
    /// Leads some packets to other chains, or drops them if there is none.
    LeadsSome(Vec<(Packets, Option<String>)>),
}

/// A rule of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rule {
    pub(super) tests: Vec<Test>,
    pub(super) effect: Option<Effect>,
}

/// The result of a search.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The translated packets, each with the chain of the rule.
    pub(super) translated: BTreeSet<(Packets, String)>,
    /// The packets that are dropped, each with the chain of the rule.
    dropped: BTreeSet<(Packets, String)>,
    /// The chains that packets are led to and whose rules are not known yet.
    pub(super) missing: BTreeSet<String>,
}

impl Packets {
    pub(super) const ALL: Self = Self {
        ranges: [Field::Protocol.all(), Field::Address.all(), Field::Port.all()],
        by_port: false,
        by_address: false,
    };

    /// Returns those of these packets whose field is in a range, both ends included.
    pub(super) fn with(mut self, field: Field, low: u32, high: u32) -> Self {
        let range = &mut self.ranges[field.index()];
        *range = (range.0.max(low), range.1.min(high));
        self
    }

    fn wanted((protocol, address, ports): &(Protocol, Option<IpAddr>, PortRange)) -> Option<Self> {
        let number = protocol.number().into();
        let packets = Self::ALL.with(Field::Protocol, number, number).with(
            Field::Port,
            ports.first().into(),
            ports.last().into(),
        );
        match address {
            None => Some(packets),
            Some(IpAddr::V4(address)) => {
                Some(packets.with(Field::Address, (*address).into(), (*address).into()))
            }
            Some(IpAddr::V6(_)) => None,
        }
    }

    /// Returns the first and the last port.
    pub(super) const fn ports(&self) -> (u32, u32) {
        self.ranges[Field::Port.index()]
    }

    fn is_limited(&self, field: Field) -> bool {
        self.ranges[field.index()] != field.all()
    }

    /// Returns the packets that are among both.
    fn and(self, test: &Self) -> Option<Self> {
        let mut both = self;
        for (range, (low, high)) in both.ranges.iter_mut().zip(test.ranges) {
            *range = (range.0.max(low), range.1.min(high));
            if range.0 > range.1 {
                return None;
            }
        }
        both.by_port |= test.is_limited(Field::Port);
        both.by_address |= test.is_limited(Field::Address);
        Some(both)
    }

    /// Returns the packets that are not among these others, if these differ from all packets in one field; otherwise all
    /// of them.
    fn without(self, test: &Self) -> Vec<Self> {
        let limited: Vec<_> =
            Field::ALL.into_iter().filter(|field| test.is_limited(*field)).collect();
        let [field] = limited[..] else { return vec![self] };
        let (low, high) = test.ranges[field.index()];
        let below = low.checked_sub(1).map(|end| self.with(field, 0, end));
        let above = high.checked_add(1).map(|begin| self.with(field, begin, field.all().1));
        let rest = below.into_iter().chain(above);
        rest.filter(|rest| rest.ranges.iter().all(|(low, high)| low <= high)).collect()
    }

    fn translations(&self, chain: String) -> impl Iterator<Item = Translation> + use<> {
        let [(first, last), (lowest, highest), (low, high)] = self.ranges;
        let port = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);
        let ports = PortRange::between(port(low).max(1), port(high));
        let address = (lowest == highest).then(|| lowest.into());
        let protocols = Protocol::ALL
            .into_iter()
            .filter(move |protocol| (first..=last).contains(&protocol.number().into()));
        protocols.filter_map(move |protocol| {
            Some(Translation { protocol, address, ports: ports?, chain: chain.clone() })
        })
    }
}

impl Test {
    pub(super) fn pass(&self, packets: &[Packets]) -> Vec<Packets> {
        match self {
            Self::Among(tests) => {
                let pairs =
                    packets.iter().flat_map(|one| tests.iter().map(move |test| (one, test)));
                pairs.filter_map(|(one, test)| one.and(test)).collect()
            }
            Self::Not(tests) => tests.iter().fold(packets.to_vec(), |packets, test| {
                packets.into_iter().flat_map(|one| one.without(test)).collect()
            }),
        }
    }
}

/// Returns the packets for these ports.
pub(super) fn packets(wanted: &Wanted) -> Vec<Packets> {
    wanted.iter().filter_map(Packets::wanted).collect()
}

/// Follows these packets from these base chains. Chains without rules are not known yet.
pub(super) fn search<'a>(
    chains: &BTreeMap<String, Vec<Rule>>,
    bases: impl IntoIterator<Item = &'a str>,
    wanted: &[Packets],
) -> Found {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    let mut left: Vec<_> =
        bases.into_iter().map(|base| (base.to_owned(), wanted.to_vec(), DEPTH)).collect();
    while let Some((name, packets, depth)) = left.pop() {
        if packets.is_empty() || depth == 0 || !seen.insert((name.clone(), packets.clone())) {
            continue;
        }
        let Some(rules) = chains.get(&name) else {
            found.missing.insert(name);
            continue;
        };
        for Rule { tests, effect } in rules {
            let Some(effect) = effect else { continue };
            let passed = tests.iter().fold(packets.clone(), |passed, test| test.pass(&passed));
            let mut lead = |chain: &String, packets| left.push((chain.clone(), packets, depth - 1));
            match effect {
                Effect::Translates => {
                    let by_port = passed.into_iter().filter(|packets| packets.by_port);
                    found.translated.extend(by_port.map(|packets| (packets, name.clone())));
                }
                Effect::Drops => found.drop(passed, &name),
                Effect::Leads(chain) => lead(chain, passed),
                Effect::LeadsSome(ways) => {
                    for (some, chain) in ways {
                        let some = passed.iter().filter_map(|one| one.and(some)).collect();
                        match chain {
                            Some(chain) => lead(chain, some),
                            None => found.drop(some, &name),
                        }
                    }
                }
            }
        }
    }
    found
}

impl Found {
    /// Notes that packets are dropped: only those that no protocol or port is asked of matter.
    fn drop(&mut self, packets: Vec<Packets>, chain: &str) {
        let whole = |packets: &Packets| {
            packets.by_address
                && !packets.is_limited(Field::Protocol)
                && !packets.is_limited(Field::Port)
        };
        let dropped = packets.into_iter().filter(whole);
        self.dropped.extend(dropped.map(|packets| (packets, chain.to_owned())));
    }

    /// Returns the bans of this end, with the place of a chain before its name.
    pub(super) fn bans(&self, side: Side, place: &str) -> BTreeSet<Ban> {
        let ban = |(packets, chain): &(Packets, String)| {
            let (first, last) = packets.ranges[Field::Address.index()];
            let addresses = (first.into(), last.into());
            Ban { side, addresses, chain: format!("{place} {chain}") }
        };
        self.dropped.iter().map(ban).collect()
    }

    /// Returns the translations, with the place of a chain before its name.
    pub(super) fn translations(&self, place: &str) -> BTreeSet<Translation> {
        let all = self.translated.iter();
        all.flat_map(|(packets, chain)| packets.translations(format!("{place} {chain}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(low: u32, high: u32) -> Test {
        Test::Among(vec![Packets::ALL.with(Field::Port, low, high)])
    }

    fn rule(tests: Vec<Test>, effect: Effect) -> Rule {
        Rule { tests, effect: Some(effect) }
    }

    fn wanted(ports: &str) -> Wanted {
        [(Protocol::Tcp, None, ports.parse().unwrap())].into()
    }

    fn find(rules: Vec<Rule>, ports: &str) -> Vec<String> {
        let theirs = vec![rule(vec![port(80, 90)], Effect::Translates)];
        let chains = [("base".to_owned(), rules), ("theirs".to_owned(), theirs)].into();
        let found = search(&chains, ["base"], &packets(&wanted(ports)));
        assert_eq!(found.missing, BTreeSet::new());
        found.translations("ip nat").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_for_single_ports_are_found_in_the_chain_that_has_them() {
        let jump = || rule(vec![], Effect::Leads("theirs".to_owned()));
        let expected = "the chain ip nat theirs, which translates tcp port 85";
        assert_eq!(find(vec![jump()], "85"), [expected]);
        let expected = "the chain ip nat theirs, which translates tcp ports 80-82";
        assert_eq!(find(vec![jump()], "1-82"), [expected]);
        assert_eq!(find(vec![jump()], "91-99"), [""; 0]);
        let udp = Test::Among(vec![Packets::ALL.with(Field::Protocol, 17, 17)]);
        assert_eq!(find(vec![rule(vec![udp], Effect::Leads("theirs".to_owned()))], "85"), [""; 0]);
    }

    #[test]
    fn what_translates_every_port_is_no_translation_of_one() {
        assert_eq!(find(vec![rule(vec![], Effect::Translates)], "85"), [""; 0]);
        let but = Test::Not(vec![Packets::ALL.with(Field::Port, 22, 22)]);
        assert_eq!(find(vec![rule(vec![but.clone()], Effect::Translates)], "85"), [""; 0]);
        let both = vec![port(20, 30), but];
        assert_eq!(find(vec![rule(both, Effect::Translates)], "22-23").len(), 1);
    }

    #[test]
    fn maps_lead_to_chains_by_their_keys() {
        let way =
            |low, high| (Packets::ALL.with(Field::Port, low, high), Some("theirs".to_owned()));
        let map = || rule(vec![], Effect::LeadsSome(vec![way(1, 79), way(86, 99)]));
        assert_eq!(find(vec![map()], "85"), [""; 0]);
        let expected = "the chain ip nat theirs, which translates tcp ports 86-90";
        assert_eq!(find(vec![map()], "1-65535"), [expected]);
    }

    #[test]
    fn chains_that_lead_to_each_other_end() {
        let rules = vec![rule(vec![], Effect::Leads("base".to_owned()))];
        assert_eq!(find(rules, "85"), [""; 0]);
    }

    #[test]
    fn an_address_is_named() {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let test = Packets::ALL.with(Field::Address, address.into(), address.into());
        let tests = vec![Test::Among(vec![test]), port(80, 80)];
        let expected = "the chain ip nat base, which translates tcp port 80 of 192.0.2.1";
        assert_eq!(find(vec![rule(tests, Effect::Translates)], "80"), [expected]);
    }

    #[test]
    fn bans_of_many_addresses_are_found() {
        let net = |low: [u8; 4], high: [u8; 4]| {
            let [low, high] = [low, high].map(u32::from_be_bytes);
            Test::Among(vec![Packets::ALL.with(Field::Address, low, high)])
        };
        let private = || net([10, 0, 0, 0], [10, 255, 255, 255]);
        let udp = Test::Among(vec![Packets::ALL.with(Field::Protocol, 17, 17)]);
        let rules = vec![
            rule(vec![private(), udp], Effect::Drops),
            rule(vec![private(), port(25, 25)], Effect::Drops),
            rule(vec![net([192, 0, 2, 1], [192, 0, 2, 1])], Effect::Drops),
            rule(vec![net([127, 0, 0, 0], [127, 255, 255, 255])], Effect::Drops),
            rule(vec![net([198, 51, 100, 0], [198, 51, 100, 254])], Effect::Drops),
            rule(vec![net([203, 0, 113, 0], [203, 0, 113, 255])], Effect::Drops),
            rule(vec![private()], Effect::Leads("next".to_owned())),
            rule(vec![], Effect::Drops),
        ];
        let further = vec![rule(vec![], Effect::Drops)];
        let chains = [("base".to_owned(), rules), ("next".to_owned(), further)].into();
        let found = search(&chains, ["base"], &[Packets::ALL]);
        let bans = found.bans(Side::Source, "ip filter");
        let concerns = |pool: &str| {
            let pool = pool.parse().unwrap();
            let bans = bans.iter().filter(|ban| ban.concerns(pool));
            bans.map(ToString::to_string).collect::<Vec<_>>()
        };
        let private = "ip filter next: drops packets from 10.0.0.0-10.255.255.255";
        let network = "ip filter base: drops packets from 203.0.113.0-203.0.113.255";
        assert_eq!(concerns("10.231.0.0/16"), [private, network]);
        let single = "ip filter base: drops packets from 192.0.2.1-192.0.2.1";
        assert_eq!(concerns("192.0.2.0/24"), [private, single, network]);
    }

    #[test]
    fn chains_that_are_not_known_are_named() {
        let chains = [("base".to_owned(), vec![rule(vec![], Effect::Leads("next".to_owned()))])];
        let found = search(&chains.into(), ["base"], &packets(&wanted("80")));
        assert_eq!(found.missing, ["next".to_owned()].into());
    }
}
