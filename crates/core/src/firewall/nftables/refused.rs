//! The chains that refuse packets of guests. Each counts them by interface and rule, tells of some, and answers.

use super::{
    base_ruleset,
    element::{self, Element, attribute},
    expression::{Expression, count_for_interface, drop, few, few_for_interface, jump, log},
    object::{Operation, Rule, comment},
};
use crate::{
    address::Slot,
    firewall::{
        RefusingRule,
        names::nftables::{
            HOST_REFUSE, REFUSE, REFUSED, REFUSED_BROADCAST, REFUSED_DEFAULT, REFUSED_EGRESS,
            REFUSED_FLOWS, REFUSED_GUEST, REFUSED_HOST, REFUSED_INVALID, REFUSED_LOOPBACK,
            REFUSED_MAIL, REFUSED_MULTICAST, REFUSED_POLICY, REFUSED_POLICY_HOST, REFUSED_RATE,
            REFUSED_SHORT, REFUSED_SPOOFED, TOLD,
        },
        refusal::GROUP,
    },
    guard::interface_number,
};

/// The packets that are told of: those of each guest in a second, and in a burst; those of each rule likewise.
const OF_GUEST: (u32, u32) = (1, 10);
const OF_RULE: (u32, u32) = (20, 100);

/// `NFTA_SET_ELEM_KEY` and `_EXPR`, `NFTA_DATA_VALUE`, `NFTA_EXPR_DATA`, `NFTA_COUNTER_PACKETS`.
const KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const VALUE: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const PACKETS: u16 = 2;

/// Every chain, its rule, and the chain that answers; `None` drops.
const CHAINS: [(&str, RefusingRule, Option<&str>); 14] = [
    (REFUSED_POLICY, RefusingRule::Policy, Some(REFUSE)),
    (REFUSED_POLICY_HOST, RefusingRule::Policy, Some(HOST_REFUSE)),
    (REFUSED_DEFAULT, RefusingRule::Default, Some(REFUSE)),
    (REFUSED_EGRESS, RefusingRule::Egress, Some(REFUSE)),
    (REFUSED_MAIL, RefusingRule::Mail, Some(REFUSE)),
    (REFUSED_HOST, RefusingRule::Host, Some(HOST_REFUSE)),
    (REFUSED_SPOOFED, RefusingRule::Spoofed, None),
    (REFUSED_LOOPBACK, RefusingRule::Loopback, None),
    (REFUSED_MULTICAST, RefusingRule::Multicast, None),
    (REFUSED_BROADCAST, RefusingRule::Broadcast, None),
    (REFUSED_INVALID, RefusingRule::Invalid, None),
    (REFUSED_RATE, RefusingRule::Rate, None),
    (REFUSED_FLOWS, RefusingRule::Flows, None),
    (REFUSED_SHORT, RefusingRule::Short, None),
];

/// Returns the names of the chains.
pub(super) fn chains() -> impl Iterator<Item = &'static str> {
    CHAINS.into_iter().map(|(chain, ..)| chain).chain([REFUSED_GUEST])
}

/// Returns the rules of the chains. A packet from one guest to another is refused by routing, so it goes on.
pub(super) fn rules() -> Vec<Rule> {
    let rule = |chain: &str, text: &str, parts: &[Vec<Expression>]| {
        Rule::new(&base_ruleset::name(), chain, comment(text), parts)
    };
    let mut rules = Vec::new();
    for (chain, refusing, answer) in CHAINS {
        rules.push(rule(chain, "counted, and told of", &told(refusing)));
        let answer = answer.map_or_else(drop, jump);
        rules.push(rule(chain, "refused", &[answer]));
    }
    let guest = told(RefusingRule::Guest);
    rules.push(rule(REFUSED_GUEST, "counted, and told of", &guest));
    rules
}

fn told(rule: RefusingRule) -> [Vec<Expression>; 4] {
    [
        count_for_interface(REFUSED, rule.number()),
        few_for_interface(TOLD, OF_GUEST),
        few(OF_RULE),
        log(&rule.prefix(), GROUP),
    ]
}

/// Packets that a rule refused, of those that came in by an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The interface's index.
    pub interface: u32,
    /// The rule.
    pub rule: RefusingRule,
    /// The number of packets.
    pub packets: u64,
}

/// Returns the messages that forget the counts of these slots, for those that have them next. Refused before Linux 6.3.
pub fn forget<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> Vec<Operation> {
    let key = |slot: &Slot, rule: RefusingRule| {
        let (interface, number) = (interface_number(*slot), rule.number());
        Element::key([interface.to_ne_bytes(), number.to_ne_bytes()].concat())
    };
    let of_slot = |slot| RefusingRule::ALL.map(|rule| key(slot, rule));
    let elements: Vec<_> = slots.into_iter().flat_map(of_slot).collect();
    let destroy = |elements: &[Element]| {
        let what = "forgetting what was refused".to_owned();
        element::destroy(&base_ruleset::name(), REFUSED, elements, what)
    };
    elements.chunks(element::A_MESSAGE).map(destroy).collect()
}

/// Reads the counts of a message of the kernel (`NFT_MSG_NEWSETELEM`, with its header). A malformed one is left out.
#[must_use]
pub fn counts(message: &[u8]) -> Vec<Count> {
    element::each(message).into_iter().flatten().filter_map(count).collect()
}

fn count(element: &[u8]) -> Option<Count> {
    let key = attribute(attribute(element, KEY)?, VALUE)?;
    let (interface, number) = (key.first_chunk()?, key.get(4..)?.first_chunk()?);
    let counter = attribute(attribute(element, ELEMENT_EXPRESSION)?, EXPRESSION_DATA)?;
    let packets = attribute(counter, PACKETS)?.first_chunk()?;
    Some(Count {
        interface: u32::from_ne_bytes(*interface),
        rule: RefusingRule::of_number(u32::from_ne_bytes(*number))?,
        packets: u64::from_be_bytes(*packets),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_a_chain_that_answers() {
        let answering: BTreeSet<_> = CHAINS.iter().map(|(_, rule, _)| *rule).collect();
        let all: BTreeSet<_> = RefusingRule::ALL.into_iter().collect();
        assert_eq!(all.difference(&answering).collect::<Vec<_>>(), [&RefusingRule::Guest]);
        let names: BTreeSet<_> = chains().collect();
        assert_eq!(names.len(), CHAINS.len() + 1);
    }
}
