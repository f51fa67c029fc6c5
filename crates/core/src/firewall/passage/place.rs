use std::collections::{BTreeMap, BTreeSet};

use super::{
    Packet, Rule, Rules, Verdict,
    rule::{Chain, Judged},
    traffic::End,
};
use crate::model::InterfaceName;

/// The depth of jumps that nf_tables allows (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// A position for a rule: before a rule of a chain, or after the last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The chain.
    pub chain: String,
    /// The number of rules of others before it.
    pub index: usize,
}

/// The directions that a passage accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sides {
    /// Packets from guests.
    pub from: bool,
    /// Packets to guests.
    pub to: bool,
}

/// The positions of passages, each with its directions.
pub type Places = BTreeMap<Place, Sides>;

/// Returns the positions at which passages are needed, so that this base chain does not drop packets that our own
/// chains allow, for lack of a rule that accepts them. There are none if the chain does not drop it.
///
/// A passage stands directly before the rule that drops, in the chain of that rule if only forwarded packets get there,
/// and only by rules that test no address or port. Otherwise it stands before the rule that leads there.
#[must_use]
pub fn places(rules: &Rules, base: &str, uplinks: &BTreeSet<InterfaceName>) -> Places {
    let packets = Packet::all(uplinks);
    let traffic = Traffic::new(rules, base, &packets);
    let mut safe = Safe { rules, packets: &packets, known: BTreeMap::new() };
    let mut places = Places::new();
    for packet in &packets {
        for trail in traffic.dropped(packet, &places) {
            let innermost = trail.iter().rposition(|place| safe.is_safe(&place.chain, DEPTH));
            if let Some(place) = trail.into_iter().nth(innermost.unwrap_or_default()) {
                places.entry(place).or_default().add(packet);
            }
        }
    }
    traffic.prune(places)
}

/// Reports whether this base chain, on whatever hook, drops packets that our own chains allow, whatever their addresses and
/// ports are.
#[must_use]
pub fn drops(rules: &Rules, base: &str, uplinks: &BTreeSet<InterfaceName>) -> bool {
    let packets = Packet::all(uplinks);
    let traffic = Traffic::new(rules, base, &packets);
    packets.iter().any(|packet| !traffic.dropped(packet, &Places::new()).is_empty())
}

impl Sides {
    fn add(&mut self, packet: &Packet<'_>) {
        if packet.to == End::Guest {
            self.to = true;
        } else {
            self.from = true;
        }
    }

    pub(super) fn accepts(self, packet: &Packet<'_>) -> bool {
        (self.from && packet.from == End::Guest) || (self.to && packet.to == End::Guest)
    }

    /// Returns the directions of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { from: self.from || other.from, to: self.to || other.to }
    }

    const fn without(self, other: Self) -> Self {
        Self { from: self.from && !other.from, to: self.to && !other.to }
    }
}

/// A way through chains: the rules that led on, and the place at which it ended.
pub(super) type Trail = Vec<Place>;

/// The ways that a packet may take through a chain, as far as no rule that tests an address or a port decides.
#[derive(Default)]
struct Ways {
    /// The ways that end at a rule that drops.
    dropped: Vec<Trail>,
    /// The ways that leave the chain, and whether a rule that tests an address or a port leaves it.
    left: Vec<(Trail, bool)>,
}

/// Our traffic before a base chain of others.
pub(super) struct Traffic<'a> {
    rules: &'a Rules,
    base: &'a str,
    /// The rules of each chain that can apply to a packet for certain, with their indices.
    general: BTreeMap<&'a str, Vec<(usize, &'a Rule)>>,
    packets: &'a [Packet<'a>],
}

impl<'a> Traffic<'a> {
    fn new(rules: &'a Rules, base: &'a str, packets: &'a [Packet<'a>]) -> Self {
        Self { packets, ..Self::passing(rules, base, |_, _| true) }
    }

    /// Returns packets for which these rules, by chain and index, can apply.
    pub(super) fn passing(
        rules: &'a Rules,
        base: &'a str,
        applies: impl Fn(&str, usize) -> bool,
    ) -> Self {
        let general = rules.chains.iter().map(|(name, chain)| {
            let all = chain.rules.iter().enumerate();
            let general = all.filter(|(index, rule)| applies(name, *index) && !rule.is_specific());
            (&**name, general.collect())
        });
        Self { rules, base, general: general.collect(), packets: &[] }
    }

    /// Returns the ways on which the base chain drops the packet, whatever its addresses and ports are.
    pub(super) fn dropped(&self, packet: &Packet<'_>, places: &Places) -> Vec<Trail> {
        let Some(chain) = self.rules.chains.get(self.base) else { return vec![] };
        let Ways { mut dropped, left } = self.walk(packet, places, self.base, &[]);
        if chain.hook.is_some_and(|hook| hook.drops) {
            dropped
                .extend(left.into_iter().filter(|(_, specific)| !specific).map(|(trail, _)| trail));
        }
        dropped
    }

    fn walk(&self, packet: &Packet<'_>, places: &Places, name: &str, trail: &[Place]) -> Ways {
        let at = |index| {
            let place = Place { chain: name.to_owned(), index };
            trail.iter().cloned().chain([place]).collect::<Trail>()
        };
        let passes = |index| {
            let here = |place: &Place| place.index == index && place.chain == name;
            places.iter().any(|(place, sides)| here(place) && sides.accepts(packet))
        };
        let mut ways = Ways::default();
        if trail.len() > DEPTH {
            return ways;
        }
        for &(index, rule) in self.general.get(name).into_iter().flatten() {
            if passes(index) {
                return ways;
            }
            match rule.judge(packet) {
                // Judging looks the verdict of a map up.
                Judged::No | Judged::Yes(Verdict::Map { .. }) => {}
                Judged::Perhaps(verdict) => {
                    let leaving =
                        |verdict: &&Verdict| matches!(verdict, Verdict::Return | Verdict::Goto(_));
                    // A map may lead to one chain from thousands of elements.
                    let mut seen = BTreeSet::new();
                    for verdict in verdict.alternatives().into_iter().filter(leaving) {
                        if seen.insert(verdict.target()) {
                            ways.left.extend(self.leaves(packet, places, verdict, &at(index)));
                        }
                    }
                }
                Judged::Yes(Verdict::Accept | Verdict::Queue) => return ways,
                Judged::Yes(Verdict::Drop) => {
                    ways.dropped.push(at(index));
                    return ways;
                }
                Judged::Yes(Verdict::Return) => {
                    ways.left.push((at(index), false));
                    return ways;
                }
                Judged::Yes(Verdict::Goto(chain)) => {
                    let Ways { dropped, left } = self.walk(packet, places, chain, &at(index));
                    ways.dropped.extend(dropped);
                    ways.left.extend(left);
                    return ways;
                }
                Judged::Yes(Verdict::Jump(chain)) => {
                    let Ways { dropped, left } = self.walk(packet, places, chain, &at(index));
                    ways.dropped.extend(dropped);
                    if left.is_empty() {
                        return ways;
                    }
                }
            }
        }
        let end = self.rules.chains.get(name).map_or(0, |chain| chain.rules.len());
        if !passes(end) {
            ways.left.push((at(end), false));
        }
        ways
    }

    /// Returns the ways on which a rule that may apply leaves its chain. Packets that it drops are dropped for their
    /// address or port.
    fn leaves(
        &self,
        packet: &Packet<'_>,
        places: &Places,
        verdict: &Verdict,
        at: &[Place],
    ) -> Vec<(Trail, bool)> {
        match verdict {
            Verdict::Return => vec![(at.to_vec(), true)],
            Verdict::Goto(chain) => {
                let left = self.walk(packet, places, chain, at).left;
                left.into_iter().map(|(trail, _)| (trail, true)).collect()
            }
            _ => vec![],
        }
    }

    /// Removes the passages that no packet needs beside the others.
    fn prune(&self, mut places: Places) -> Places {
        let candidates: Vec<_> = places.keys().cloned().collect();
        let halves = [Sides { from: true, to: false }, Sides { from: false, to: true }];
        for (place, half) in
            candidates.iter().rev().flat_map(|place| halves.map(|half| (place, half)))
        {
            let mut fewer = places.clone();
            if let Some(sides) = fewer.get_mut(place) {
                *sides = sides.without(half);
            }
            fewer.retain(|_, sides| sides.from || sides.to);
            if self.packets.iter().all(|packet| self.dropped(packet, &fewer).is_empty()) {
                places = fewer;
            }
        }
        places
    }
}

/// The chains in which a passage decides about no more than it should.
struct Safe<'a> {
    rules: &'a Rules,
    packets: &'a [Packet<'a>],
    known: BTreeMap<String, bool>,
}

impl Safe<'_> {
    fn is_safe(&mut self, name: &str, depth: usize) -> bool {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let safe = self.rules.chains.get(name).is_some_and(|chain| match chain.hook {
            Some(hook) => hook.forward,
            None => depth > 0 && self.is_reached_safely(name, chain, depth),
        });
        self.known.insert(name.to_owned(), safe);
        safe
    }

    fn is_reached_safely(&mut self, name: &str, chain: &Chain, depth: usize) -> bool {
        let mut found = 0;
        let rules = self.rules;
        for (caller, from) in &rules.chains {
            for rule in &from.rules {
                let times = rule.targets().into_iter().filter(|target| *target == name).count();
                found += times;
                let certain = |packet| !matches!(rule.judge(packet), Judged::Perhaps(_));
                if times > 0
                    && !(self.packets.iter().all(certain) && self.is_safe(caller, depth - 1))
                {
                    return false;
                }
            }
        }
        found > 0 && chain.references.is_none_or(|references| references == found)
    }
}
