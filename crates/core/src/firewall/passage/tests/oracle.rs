//! An interpreter of rules for single packets, and the laws of the decision.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};

use super::{test, uplinks, verdict};
use crate::firewall::passage::{
    Chain, Hook, Packet, Place, Places, Rule, Rules, Verdict, places, rule::Judged, traffic::End,
};

/// The fate of a packet, with the rules that decided it: those that led to the last one, and the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Accepted(Vec<Place>),
    /// Accepted by a passage.
    Passed(Vec<Place>),
    Dropped(Vec<Place>),
}

struct Run<'a> {
    rules: &'a Rules,
    places: &'a Places,
    packet: &'a Packet<'a>,
}

impl Run<'_> {
    fn fate(&self, base: &str) -> Fate {
        match self.chain(base, &mut vec![]) {
            Ok(fate) => fate,
            Err(trail) if self.rules.chains[base].hook.unwrap().drops => Fate::Dropped(trail),
            Err(trail) => Fate::Accepted(trail),
        }
    }

    /// Returns the way out of the chain if no rule decided.
    fn chain(&self, name: &str, trail: &mut Vec<Place>) -> Result<Fate, Vec<Place>> {
        let chain = &self.rules.chains[name];
        for index in 0..=chain.rules.len() {
            let place = Place { chain: name.to_owned(), index };
            let passes = self.places.get(&place).is_some_and(|sides| sides.accepts(self.packet));
            trail.push(place);
            if passes {
                return Ok(Fate::Passed(trail.clone()));
            }
            let rule = chain.rules.get(index);
            let holds = rule
                .filter(|rule| rule.tests.iter().all(|test| test.holds(self.packet) == Some(true)));
            match holds.and_then(|rule| rule.verdict.as_ref()) {
                Some(Verdict::Accept | Verdict::Queue) => return Ok(Fate::Accepted(trail.clone())),
                Some(Verdict::Drop) => return Ok(Fate::Dropped(trail.clone())),
                Some(Verdict::Return) => return Err(trail.clone()),
                Some(Verdict::Goto(chain)) => return self.chain(chain, trail),
                Some(Verdict::Jump(chain)) => {
                    if let Ok(fate) = self.chain(chain, &mut trail.clone()) {
                        return Ok(fate);
                    }
                }
                Some(Verdict::Map { .. }) | None => {}
            }
            if index < chain.rules.len() {
                trail.pop();
            }
        }
        Err(trail.clone())
    }
}

/// Reports whether a rule on the way tests a property in which our packets differ.
fn is_specific(rules: &Rules, packet: &Packet<'_>, trail: &[Place]) -> bool {
    trail.iter().any(|place| {
        let rule = rules.chains[&place.chain].rules.get(place.index);
        rule.is_some_and(|rule| matches!(rule.judge(packet), Judged::Perhaps(_)))
    })
}

const BASES: [&str; 3] = ["f", "g", "i"];
const CHAINS: [&str; 4] = ["a", "b", "c", "d"];
const OTHERS: [&str; 3] = ["x", "y", "z"];

fn a_rule(targets: &'static [&'static str]) -> impl Strategy<Value = Rule> {
    let tests = select(
        &[
            "?x",
            "?y",
            "!?z",
            "in=eth0",
            "out=eth0",
            "in=wlan0",
            "!in=wlan0",
            "out=rik*",
            "in=rik*",
            "tcp",
            "new",
            "established,related",
            "dnat",
            "!dnat",
        ][..],
    );
    let plain = select(&["accept", "drop", "drop", "return", "log"][..]).prop_map(str::to_owned);
    let verdict = if targets.is_empty() {
        plain.boxed()
    } else {
        let led = (select(&["jump", "goto"][..]), select(targets));
        prop_oneof![plain, led.prop_map(|(how, chain)| format!("{how} {chain}"))].boxed()
    };
    (vec(tests, 0..3), verdict).prop_map(|(tests, verdict)| Rule {
        tests: tests.into_iter().map(test).collect(),
        verdict: super::verdict(&verdict),
    })
}

fn some_rules() -> impl Strategy<Value = Rules> {
    // A chain leads to later chains only: the kernel allows no loops.
    let chains = (
        vec(a_rule(&CHAINS[1..]), 0..4),
        vec(a_rule(&CHAINS[2..]), 0..4),
        vec(a_rule(&CHAINS[3..]), 0..4),
        vec(a_rule(&[]), 0..4),
    );
    let base = || (vec(a_rule(&CHAINS), 0..5), any::<bool>());
    (chains, [base(), base(), base()]).prop_map(|((a, b, c, d), bases)| {
        let mut rules = Rules::default();
        for (name, of) in CHAINS.into_iter().zip([a, b, c, d]) {
            let chain = Chain { rules: of, ..Chain::default() };
            rules.chains.insert(name.to_owned(), chain);
        }
        for (name, (of, drops)) in BASES.into_iter().zip(bases) {
            let hook = Some(Hook { forward: name != "i", drops });
            rules.chains.insert(name.to_owned(), Chain { hook, rules: of, references: None });
        }
        rules
    })
}

fn subsets() -> impl Iterator<Item = BTreeSet<String>> {
    (0..1 << OTHERS.len()).map(|bits: usize| {
        let chosen = OTHERS.iter().enumerate().filter(move |(index, _)| bits & (1 << index) != 0);
        chosen.map(|(_, other)| (*other).to_owned()).collect()
    })
}

fn all_places(rules: &Rules) -> Places {
    let mut all = Places::new();
    for base in ["f", "g"] {
        for (place, sides) in places(rules, base, &uplinks()) {
            let entry = all.entry(place).or_default();
            *entry = entry.or(sides);
        }
    }
    all
}

/// Finds a packet of ours that is dropped although no specific rule matched it.
fn wrongly_dropped(rules: &Rules, places: &Places) -> Option<String> {
    let uplinks = uplinks();
    for packet in &Packet::all(&uplinks) {
        for others in subsets() {
            let one = packet.with(others);
            for base in ["f", "g"] {
                let fate = Run { rules, places, packet: &one }.fate(base);
                if let Fate::Dropped(trail) = fate
                    && !is_specific(rules, packet, &trail)
                {
                    return Some(format!("{one:?} at {trail:?}"));
                }
            }
        }
    }
    None
}

proptest! {
    // The same cases each time: the decision is not exact. One in some 20,000 rulesets has a passage in an earlier rule's chain
    // than it needs, since a test of others that has excluded a packet is taken to be met again, or since a passage for the
    // policy of the base chain is left out beside one that accepts more than it was made for.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn no_passage_is_needless_or_early(rules in some_rules()) {
        for base in ["f", "g"] {
            let places = places(&rules, base, &uplinks());
            for place in places.keys() {
                let mut fewer = places.clone();
                fewer.remove(place);
                let uplinks = uplinks();
                let dropped = Packet::all(&uplinks).iter().any(|packet| {
                    subsets().any(|others| {
                        let one = packet.with(others);
                        let fate = Run { rules: &rules, places: &fewer, packet: &one }.fate(base);
                        matches!(fate, Fate::Dropped(trail)
                            if trail.contains(place) && !is_specific(&rules, packet, &trail))
                    })
                });
                prop_assert!(dropped, "{place:?} of {places:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn only_specific_rules_drop_allowed_packets(rules in some_rules()) {
        let places = all_places(&rules);
        prop_assert_eq!(wrongly_dropped(&rules, &places), None, "{:?}", places);
    }

    /// This also holds at rules that lead to a shared chain: a packet that a rule for an address, a port or another
    /// hook leads to a passage would pass a ban, or reach the host.
    #[test]
    fn bans_before_a_passage_stay_bans(rules in some_rules()) {
        let (places, uplinks) = (all_places(&rules), uplinks());
        for packet in &Packet::all(&uplinks) {
            for others in subsets() {
                let one = packet.with(others);
                for base in BASES {
                    let fate = Run { rules: &rules, places: &places, packet: &one }.fate(base);
                    if let Fate::Passed(trail) = fate {
                        prop_assert_ne!(base, "i");
                        let led = &trail[..trail.len() - 1];
                        prop_assert!(!is_specific(&rules, packet, led), "{:?} at {:?}", one, trail);
                    }
                }
            }
        }
    }

    #[test]
    fn a_passage_does_not_affect_packets_of_others(rules in some_rules()) {
        let (places, uplinks, none) = (all_places(&rules), uplinks(), Places::new());
        let ends = [End::Uplink(uplinks.first().unwrap()), End::Unnamed];
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
            for (new, others) in [true, false].into_iter().flat_map(|new| subsets().map(move |o| (new, o))) {
                let packet = Packet::of_others(from, to, 6, new).with(others);
                for base in BASES {
                    let [before, after] = [&none, &places]
                        .map(|places| Run { rules: &rules, places, packet: &packet }.fate(base));
                    prop_assert_eq!(before, after);
                }
            }
        }
    }
}

#[test]
fn the_interpreter_reads_verdicts() {
    assert_eq!(verdict("log"), None);
    assert_eq!(verdict("goto a"), Some(Verdict::Goto("a".to_owned())));
}
