//! Rulesets of common firewall programs.

use super::{Rules, rules, uplinks};
use crate::firewall::passage::places;

/// Writes the chain with the passages among its rules' verdicts.
fn placed(text: &str, base: &str) -> String {
    let rules = rules(text);
    let places = places(&rules, base, &uplinks());
    let line =
        |(place, sides): (&crate::firewall::passage::Place, &crate::firewall::passage::Sides)| {
            let sides = match (sides.from, sides.to) {
                (true, true) => "both",
                (true, false) => "from",
                (false, _) => "to",
            };
            format!("{} {} {sides}", place.chain, place.index)
        };
    places.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_chain_that_drops_none_of_our_packets_gets_no_passage() {
    for text in [
        "chain f forward accept",
        "chain f forward accept
         ?saddr -> drop
         ?dport -> drop
         in=wlan0 -> drop
         in=eth1 out=eth2 -> drop
         invalid -> drop
         ?limit -> drop",
        "chain f forward accept
         ?saddr -> jump log_drop
         -> log
         chain log_drop
         -> drop",
        "chain f forward accept
         -> accept
         -> drop",
        "chain f forward drop
         -> accept",
        "chain f forward accept
         -> queue
         -> drop",
        "chain f forward accept
         -> return
         -> drop",
        "chain f forward accept
         -> map ?daddr a:drop, b:accept
         -> map in wlan0:drop, lo:accept",
    ] {
        assert_eq!(placed(text, "f"), "", "{text}");
    }
}

#[test]
fn a_passage_stands_before_the_rule_that_drops() {
    for (text, expected) in [
        ("chain f forward drop", "f 0 both"),
        (
            "chain f forward accept
          -> drop",
            "f 0 both",
        ),
        (
            "chain f forward accept
          established,related -> accept
          ?saddr -> drop
          -> drop",
            "f 2 both",
        ),
        (
            "chain f forward drop
          ?saddr -> drop
          ?saddr -> return
          ?dport -> accept",
            "f 3 both",
        ),
        // Packets that an exposure translated pass without a passage.
        (
            "chain f forward accept
          dnat -> accept
          established,related -> accept
          ?saddr -> drop
          -> drop",
            "f 3 from",
        ),
        // Each protocol is dropped by its own rule; a passage before the first of them is enough.
        (
            "chain f forward accept
          tcp -> drop
          ?daddr -> drop
          udp -> drop
          -> drop",
            "f 0 both",
        ),
        (
            "chain f forward accept
          new -> drop",
            "f 0 both",
        ),
        // The ruleset of a router: no new packet comes in by the uplink, and a later ban of guests stays effective.
        (
            "chain f forward accept
          established,related -> accept
          in=eth0 -> drop
          in=rik* ?daddr -> drop
          !in=lan0 -> drop",
            "f 1 to, f 3 from",
        ),
        (
            "chain f forward drop
          !out=docker0 -> return
          ?x -> drop",
            "f 0 both",
        ),
    ] {
        assert_eq!(placed(text, "f"), expected, "{text}");
    }
}

#[test]
fn a_passage_stands_in_the_chain_that_drops_if_only_forwarded_packets_get_there() {
    for (text, expected) in [
        (
            "chain f forward accept
          -> jump zones
          -> drop
          chain zones
          in=lan0 -> accept
          ?saddr -> drop
          -> drop",
            "zones 2 both",
        ),
        // The chain is shared with another hook: a passage in it would open the host to guests.
        (
            "chain f forward accept
          ?saddr -> drop
          -> jump refuse
          chain i input accept
          -> jump refuse
          chain refuse
          -> log
          -> drop",
            "f 1 both",
        ),
        // An operator's ban leads to the same chain.
        (
            "chain f forward accept
          ?saddr -> jump log_drop
          -> goto log_drop
          chain log_drop
          -> drop",
            "f 1 both",
        ),
        (
            "chain f forward accept
          -> map in eth0:jump wan, lan0:jump lan
          -> goto others
          chain wan
          ?saddr -> drop
          dnat -> return
          -> drop
          chain lan
          -> accept
          chain others
          ?daddr -> drop
          -> drop",
            "others 1 both, wan 2 to",
        ),
        // A packet that passes the first check meets the second.
        (
            "chain f forward accept
          -> jump check
          -> drop
          chain check
          ?saddr -> return
          -> drop",
            "check 1 both, f 1 both",
        ),
        (
            "chain f forward drop
          -> goto last
          chain last
          ?saddr -> drop",
            "last 1 both",
        ),
    ] {
        assert_eq!(placed(text, "f"), expected, "{text}");
    }
}

#[test]
fn a_chain_that_other_rules_lead_to_gets_no_passage() {
    let text = "chain f forward accept
                -> jump a
                chain a
                ?saddr -> drop
                -> drop";
    let mut rules = rules(text);
    let place = |rules: &Rules| places(rules, "f", &uplinks()).into_keys().next().unwrap().chain;
    rules.chains.get_mut("a").unwrap().references = Some(1);
    assert_eq!(place(&rules), "a");
    rules.chains.get_mut("a").unwrap().references = Some(2);
    assert_eq!(place(&rules), "f");
}

/// firewalld 1.3, two zones, its default for translated packets, a ban in the zone of the uplink.
const FIREWALLD: &str = "
    chain filter_FORWARD forward accept
    established,related -> accept
    dnat -> accept
    in=lo -> accept
    invalid -> drop
    -> jump filter_FORWARD_ZONES
    -> drop
    chain filter_FORWARD_ZONES
    in=eth0 -> goto filter_FWD_public
    in=eth1 -> goto filter_FWD_internal
    -> goto filter_FWD_public
    chain filter_FWD_public
    -> jump filter_FWD_public_deny
    -> jump filter_FWD_public_allow
    -> drop
    chain filter_FWD_public_deny
    ?saddr -> drop
    chain filter_FWD_public_allow
    out=eth0 ?zone -> accept
    chain filter_FWD_internal
    -> drop";

#[test]
fn firewalld() {
    assert_eq!(placed(FIREWALLD, "filter_FORWARD"), "filter_FWD_public 2 from");
    let strict = FIREWALLD.replace("    dnat -> accept\n", "");
    assert_eq!(placed(&strict, "filter_FORWARD"), "filter_FWD_public 2 both");
}
