//! Recognizes rules of others that decide about single addresses or ports only, without decoding them.
//!
//! A host may have tens of thousands of these, such as bans. A passage never stands before one, so their number is all that
//! matters, and the handle, as a rule may be inserted before it.

use super::{
    attribute::{
        Attributes, CMP_SOURCE, EXPRESSION_DATA, EXPRESSION_NAME, LIST_ELEMENT, MATCH_NAME,
        PAYLOAD_DESTINATION, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, one, text,
    },
    foreign_set::{NF_ACCEPT, NF_DROP},
    object::{Rule, TableName},
    sound::{HEADERS, NEW_RULE, family, kind},
};
use crate::firewall::xtables;

/// `NFTA_BITWISE_SREG` and `_DREG`.
const BITWISE_SOURCE: u16 = 1;
const BITWISE_DESTINATION: u16 = 2;
/// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`.
const IMMEDIATE_DATA: u16 = 2;
const VERDICT: u16 = 2;
const CODE: u16 = 1;
/// Expressions that lead to no other chain and look up no set.
const PLAIN: [&str; 6] = ["meta", "counter", "target", "reject", "log", "limit"];

/// Reads the rule of a message of the kernel, with its header, without its expressions; `None` unless it decides about
/// single addresses or ports only, and leads to no other chain. Such a rule can be left out.
#[must_use]
pub fn read(message: &[u8]) -> Option<Rule> {
    if kind(message) != Some(NEW_RULE) {
        return None;
    }
    let (mut table, mut chain, mut handle, mut is_ban) = (None, None, None, false);
    for (kind, value) in Attributes(message.get(HEADERS..)?) {
        match kind {
            RULE_TABLE => table = text(value),
            RULE_CHAIN => chain = text(value),
            RULE_HANDLE => handle = value.try_into().ok().map(u64::from_be_bytes),
            RULE_EXPRESSIONS => is_ban = decides_about_single_ones(value),
            _ => {}
        }
    }
    if !is_ban {
        return None;
    }
    let table = TableName::new(family(message)?, table?);
    Some(Rule { handle: handle?, ..Rule::new(&table, chain?, vec![], &[]) })
}

/// Reports whether a list of expressions tests an address, a port or the like, and accepts or drops.
fn decides_about_single_ones(expressions: &[u8]) -> bool {
    let mut tests = false;
    // The register that holds a part of the packet since the expression before.
    let mut loaded: Option<&[u8]> = None;
    for (kind, expression) in Attributes(expressions) {
        // Others are left out where the whole rule is decoded.
        if kind != LIST_ELEMENT {
            return false;
        }
        let (mut name, mut data) = ("", &[][..]);
        for (kind, value) in Attributes(expression) {
            match kind {
                EXPRESSION_NAME => name = text(value).unwrap_or_default(),
                EXPRESSION_DATA => data = value,
                _ => {}
            }
        }
        match name {
            "payload" => loaded = one(data, PAYLOAD_DESTINATION),
            "bitwise" => {
                let stays = loaded.is_some() && loaded == one(data, BITWISE_SOURCE);
                loaded = one(data, BITWISE_DESTINATION).filter(|_| stays);
            }
            "cmp" => {
                tests |= loaded.is_some() && loaded == one(data, CMP_SOURCE);
                loaded = None;
            }
            "match" => {
                let name = one(data, MATCH_NAME).and_then(text);
                tests |= name.is_some_and(xtables::is_specific);
            }
            "immediate" if !is_final(data) => return false,
            "immediate" => {}
            _ if PLAIN.contains(&name) => loaded = None,
            _ => return false,
        }
    }
    tests
}

/// Reports whether an immediate value is the verdict to accept or to drop.
fn is_final(data: &[u8]) -> bool {
    let verdict = one(data, IMMEDIATE_DATA).and_then(|data| one(data, VERDICT));
    let code = verdict.and_then(|verdict| one(verdict, CODE));
    let code = code.and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
    matches!(code, Some(NF_ACCEPT | NF_DROP))
}

/// Asserts that a rule is recognized only if, decoded as a whole, it can be left out. Returns whether it is recognized.
///
/// # Panics
/// Panics if it cannot be left out.
#[cfg(any(test, fuzzing))]
#[must_use]
pub fn assert_left_out(message: &[u8], decoded: &Rule) -> bool {
    use super::foreign_rule::{self, Sets};
    let Some(found) = read(message) else { return false };
    assert_eq!((found.handle, &found.chain), (decoded.handle, &decoded.chain));
    assert_eq!((found.table, decoded.target()), (decoded.table.clone(), None));
    let (found, missing) = Default::default();
    let mut sets = Sets { found: &found, missing, asks_ports: false };
    let rule = foreign_rule::translate(decoded, &mut sets);
    assert!(rule.is_specific() && rule.targets().is_empty(), "{rule:?}");
    assert_eq!(sets.missing.len(), 0, "{rule:?}");
    true
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_netfilter::NetfilterMessage;

    use super::*;

    const RULES: &[u8] = include_bytes!("../../../../../fuzz/corpus/nftables/foreign_rules");
    const OURS: &[u8] = include_bytes!("../../../../../fuzz/corpus/nftables/rules");

    /// Returns whether each rule is recognized.
    fn recognized(mut messages: &[u8]) -> Vec<bool> {
        let mut found = Vec::new();
        while let Some(length) = messages.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
            let (message, rest) = messages.split_at(usize::try_from(length).unwrap());
            let decoded = NetlinkMessage::<NetfilterMessage>::deserialize(message).unwrap();
            // The end of the listing is another message.
            if let NetlinkPayload::InnerMessage(inner) = decoded.payload {
                let rule = Rule::decoded(inner).unwrap();
                found.push(assert_left_out(message, &rule));
            }
            messages = rest;
        }
        found
    }

    #[test]
    fn rules_for_single_addresses_and_ports_are_recognized() {
        let found: String =
            recognized(RULES).into_iter().map(|found| if found { 'x' } else { '.' }).collect();
        // The chain FORWARD, as `iptables-save` lists it, and the chain OTHER.
        assert_eq!(found, "xxxx...xx....xxx.x...x..xx.xx..xx");
        assert_eq!(recognized(OURS).into_iter().filter(|found| *found).count(), 0);
    }

    /// The rule has a payload, a cmp, a counter and an NFQUEUE expression. The cmp does not bear the kind of a list's element.
    #[test]
    fn a_rule_whose_expressions_are_not_all_decoded_is_not_recognized() {
        const RULE: &[u8] =
            include_bytes!("../../../../../fuzz/corpus/nftables/other_list_element");
        assert_eq!(recognized(RULE), [false]);
    }
}
