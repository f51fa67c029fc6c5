//! Tests with rules in a short form: the positions of passages in them, and an interpreter that checks the decision.

mod oracle;
mod shapes;

use super::{Chain, Field, Hook, Operator, Rule, Rules, Test, Value, Verdict};
use crate::model::InterfaceName;
use std::collections::BTreeSet;

/// `NF_CT_STATE_BIT` of the states.
const STATES: [(&str, u32); 4] = [("invalid", 1), ("established", 2), ("related", 4), ("new", 8)];
const PROTOCOLS: [(&str, u8); 4] = [("icmp", 1), ("tcp", 6), ("udp", 17), ("sctp", 132)];

fn uplinks() -> BTreeSet<InterfaceName> {
    [InterfaceName::try_from("eth0").unwrap()].into()
}

/// Reads chains: a line `chain NAME HOOK POLICY`, then a rule a line: tests, `->` and a verdict. A test `?TEXT` is one that
/// differs among packets of ours.
fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    let mut chain = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("chain ") {
            let words: Vec<_> = rest.split(' ').collect();
            chain = words[0].to_owned();
            let hook = words.get(1).map(|hook| Hook {
                forward: *hook == "forward",
                drops: words.get(2) == Some(&"drop"),
            });
            rules.chains.insert(chain.clone(), Chain { hook, ..Chain::default() });
        } else {
            let (tests, verdict) = line.split_once("->").unwrap();
            let tests = tests.split_whitespace().map(test).collect();
            let verdict = self::verdict(verdict.trim());
            rules.chains.get_mut(&chain).unwrap().rules.push(Rule { tests, verdict });
        }
    }
    rules
}

fn verdict(text: &str) -> Option<Verdict> {
    if let Some((field, elements)) = text.strip_prefix("map ").and_then(|rest| rest.split_once(' '))
    {
        let key = match field {
            "in" => Value::field(Field::InInterface),
            "out" => Value::field(Field::OutInterface),
            other => Value::Other(other.to_owned()),
        };
        let element = |element: &str| {
            let (name, verdict) = element.split_once(':').unwrap();
            let name = padded(name);
            (vec![(name.clone(), name)], self::verdict(verdict).unwrap())
        };
        let elements = elements.split(", ").map(element).collect();
        return Some(Verdict::Map { key: vec![key], elements, default: None });
    }
    Some(match text.split_once(' ').unwrap_or((text, "")) {
        ("accept", _) => Verdict::Accept,
        ("drop", _) => Verdict::Drop,
        ("queue", _) => Verdict::Queue,
        ("return", _) => Verdict::Return,
        ("jump", chain) => Verdict::Jump(chain.to_owned()),
        ("goto", chain) => Verdict::Goto(chain.to_owned()),
        _ => return None,
    })
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn test(text: &str) -> Test {
    if let Some(text) = text.strip_prefix('!') {
        return Test::Not(Box::new(test(text)));
    }
    if let Some(what) = text.strip_prefix('?') {
        return Test::Other(what.to_owned());
    }
    let interface = |field, name: &str| {
        let bytes = name.strip_suffix('*').map_or_else(|| padded(name), Into::into);
        Test::Compare(Value::field(field), Operator::Equal, bytes)
    };
    match text.split_once('=') {
        Some(("in", name)) => return interface(Field::InInterface, name),
        Some(("out", name)) => return interface(Field::OutInterface, name),
        _ => {}
    }
    let has = |field, bit: u32| {
        let value = Value::Of(field, Some(bit.to_ne_bytes().into()));
        Test::Compare(value, Operator::NotEqual, vec![0; 4])
    };
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Test::Compare(Value::field(Field::Protocol), Operator::Equal, vec![*number]);
    }
    if text == "dnat" {
        return has(Field::Status, 1 << 5);
    }
    let state = |text| STATES.iter().find(|(name, _)| *name == text).unwrap().1;
    has(Field::State, text.split(',').map(state).sum())
}
