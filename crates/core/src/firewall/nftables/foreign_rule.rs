//! Rules of others, translated into questions about our traffic.
//!
//! Registers are followed if they hold fields that are known of all our traffic. Everything else counts as a property
//! in which our packets differ.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::NlasIterator;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey,
    Operator as Comparison, Payload, Register, VerdictAttribute,
};

use super::{
    expression::Expression,
    foreign_set::{self, ForeignSet},
    object::Rule as Found,
    register::{self, INVERTED, OUTSIDE, Registers, VALUE, text, values, word},
};
use crate::firewall::{
    passage::{Element, Field, Operator, Rule, Test, Value, Verdict},
    xtables,
};

/// Expressions that neither test nor decide.
const WITHOUT_EFFECT: [&str; 9] =
    ["counter", "log", "notrack", "nat", "masq", "redir", "flow_offload", "dup", "last"];
/// Types of stateful objects that neither test nor decide: `NFT_OBJECT_COUNTER`, `_CT_HELPER`, `_CT_TIMEOUT`,
/// `_SECMARK` and `_CT_EXPECT`.
const HARMLESS_OBJECTS: [u32; 5] = [1, 3, 7, 8, 9];

/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_CT_PROTO_DST`.
const DESTINATION_PORT: u32 = 12;

/// The sets of a table that were read, and those that have to be read.
pub(super) struct Sets<'a> {
    pub(super) found: &'a BTreeMap<String, ForeignSet>,
    pub(super) missing: BTreeSet<String>,
    /// True if ports and destination addresses are fields as well.
    pub(super) asks_ports: bool,
}

/// Translates a rule.
pub(super) fn translate(rule: &Found, sets: &mut Sets<'_>) -> Rule {
    let mut reader = Reader { registers: BTreeMap::new(), rule: Rule::default(), sets };
    for expression in &rule.expressions {
        reader.read(expression);
    }
    reader.rule
}

struct Reader<'a, 'b> {
    /// The values by the first word that they take, with their length in bytes.
    registers: Registers<Value>,
    rule: Rule,
    sets: &'a mut Sets<'b>,
}

impl Reader<'_, '_> {
    fn read(&mut self, expression: &Expression) {
        match expression {
            Expressions::Meta(attributes) => self.meta(attributes),
            Expressions::Payload(attributes) => self.payload(attributes),
            Expressions::Cmp(attributes) => self.compare(attributes),
            Expressions::Bitwise(attributes) => self.bitwise(attributes),
            Expressions::Lookup(attributes) => self.lookup(attributes),
            Expressions::Immediate(attributes) => self.immediate(attributes),
            Expressions::Other { expression_type, attributes } => {
                self.other(expression_type, &values(attributes));
            }
            _ => self.unknown("expression"),
        }
    }

    fn meta(&mut self, attributes: &[Meta]) {
        let register = attributes.iter().find_map(|attribute| match attribute {
            Meta::DestinationRegister(register) => Some(*register),
            _ => None,
        });
        let key = attributes.iter().find_map(|attribute| match attribute {
            Meta::Key(key) => Some(*key),
            _ => None,
        });
        // An expression without a destination register sets something.
        if let (Some(register), Some(key)) = (register, key) {
            let known = |field, length| (Value::field(field), length);
            let value = match key {
                MetaKey::Iifname => known(Field::InInterface, 16),
                MetaKey::Oifname => known(Field::OutInterface, 16),
                MetaKey::Iif => known(Field::InIndex, 4),
                MetaKey::Oif => known(Field::OutIndex, 4),
                MetaKey::Nfproto => known(Field::Family, 1),
                MetaKey::L4Proto => known(Field::Protocol, 1),
                MetaKey::EtherTypeProtocol => known(Field::EtherType, 2),
                MetaKey::PacketType => known(Field::PacketType, 1),
                MetaKey::Mark => known(Field::Mark, 4),
                other => (Value::Other(format!("meta {other:?}")), 4),
            };
            self.registers.insert(word(register.into()), value);
        }
    }

    fn payload(&mut self, attributes: &[Payload]) {
        let (mut base, mut offset, mut length) = (0, 0, 4);
        let mut register = None;
        for attribute in attributes {
            match attribute {
                Payload::DestinationRegister(destination) => register = Some(*destination),
                Payload::Len(bytes) => length = *bytes,
                Payload::Base(found) => base = *found,
                Payload::Offset(found) => offset = *found,
                _ => {}
            }
        }
        if let Some(register) = register {
            let value = match (base, offset, length) {
                (TRANSPORT, 2, 2) if self.sets.asks_ports => Value::field(Field::Port),
                // nft(8) loads only the bytes that a prefix has.
                (NETWORK, 16, 1..=4) if self.sets.asks_ports => Value::field(Field::Address),
                (NETWORK, 9, 1) if self.sets.asks_ports => Value::field(Field::Protocol),
                _ => Value::Other("payload".to_owned()),
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let value = (value, length);
            self.registers.insert(word(register.into()), value);
        }
    }

    fn compare(&mut self, attributes: &[Cmp]) {
        let (mut value, mut operator, mut with) = (self.at(None), None, None);
        for attribute in attributes {
            match attribute {
                Cmp::SourceRegister(register) => value = self.at(Some(*register)),
                Cmp::Op(comparison) => operator = self::operator(*comparison),
                Cmp::Data(DataAttribute::Value(bytes)) => with = Some(bytes.clone()),
                _ => {}
            }
        }
        self.rule.tests.push(match (value, operator, with) {
            (value @ Value::Of(..), Some(operator), Some(with)) => {
                Test::Compare(value, operator, with)
            }
            (Value::Other(what), ..) => Test::Other(what),
            _ => Test::Other("comparison".to_owned()),
        });
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) {
        let (mut from, mut to, mut masked, mut plain) = (None, None, Vec::new(), true);
        for attribute in attributes {
            match attribute {
                Bitwise::SourceRegister(register) => from = Some(*register),
                Bitwise::DestinationRegister(register) => to = Some(*register),
                Bitwise::Mask(DataAttribute::Value(bytes)) => masked.clone_from(bytes),
                Bitwise::Xor(DataAttribute::Value(bytes)) => plain &= bytes.iter().all(|b| *b == 0),
                Bitwise::Op(operation) => plain &= *operation == 0,
                Bitwise::SourceRegister2(_) => plain = false,
                _ => {}
            }
        }
        let Some(to) = to else { return };
        let length = masked.len().max(1);
        let value = match self.at(from) {
            Value::Of(field, None) if plain => Value::Of(field, Some(masked)),
            Value::Of(field, Some(before)) if plain => {
                let both = before.iter().zip(&masked).map(|(one, other)| one & other);
                Value::Of(field, Some(both.collect()))
            }
            _ => Value::Other("bits".to_owned()),
        };
        self.registers.insert(word(to.into()), (value, length));
    }

    fn lookup(&mut self, attributes: &[Lookup]) {
        let (mut name, mut from, mut to, mut inverted) = ("", None, None, false);
        for attribute in attributes {
            match attribute {
                Lookup::Set(set) => name = set,
                Lookup::SourceRegister(register) => from = Some(*register),
                Lookup::DestinationRegister(register) => to = Some(*register),
                Lookup::Flags(flags) => inverted = flags & INVERTED != 0,
                _ => {}
            }
        }
        let is_map = to == Some(Register::Verdict);
        let first = self.at(from);
        if !is_map && matches!(first, Value::Other(_)) {
            return self.unknown("lookup");
        }
        let Some(set) = self.sets.found.get(name) else {
            self.sets.missing.insert(name.to_owned());
            return self.unknown("lookup");
        };
        let (key, lengths) = self.key(from, set.key_length);
        let elements = set.split(&lengths);
        if is_map {
            let mut default = None;
            let mut found = Vec::new();
            for (element, verdict) in elements {
                match verdict.cloned() {
                    None => {}
                    Some(verdict) if element.is_empty() => default = Some(Box::new(verdict)),
                    Some(verdict) => found.push((element, verdict)),
                }
            }
            self.rule.verdict = Some(Verdict::Map { key, elements: found, default });
        } else {
            let elements: Vec<Element> = elements.into_iter().map(|(element, _)| element).collect();
            let test = Test::In(key, elements);
            self.rule.tests.push(if inverted { Test::Not(Box::new(test)) } else { test });
            if let Some(register) = to {
                let value = Value::Other("data of a map".to_owned());
                self.registers.insert(word(register.into()), (value, 4));
            }
        }
    }

    fn immediate(&mut self, attributes: &[Immediate]) {
        let data = attributes.iter().find_map(|attribute| match attribute {
            Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
            _ => None,
        });
        let Some(verdict) = data else { return self.registers.clear() };
        let (mut code, mut chain) = (None, None);
        for attribute in verdict {
            match attribute {
                VerdictAttribute::Code(verdict) => code = Some(u32::from(*verdict)),
                VerdictAttribute::Chain(name) => chain = Some(&**name),
                _ => {}
            }
        }
        self.rule.verdict = code.and_then(|code| foreign_set::verdict(code, chain));
    }

    fn other(&mut self, name: &str, values: &BTreeMap<u16, Vec<u8>>) {
        let number = |kind: u16| Some(u32::from_be_bytes(values.get(&kind)?[..].try_into().ok()?));
        match name {
            // NFTA_CT_DREG and NFTA_CT_KEY; one that has no destination sets something.
            "ct" => {
                if let Some(register) = number(1) {
                    let key = number(2).unwrap_or(u32::MAX);
                    // NFTA_CT_DIRECTION, `IP_CT_DIR_ORIGINAL`.
                    let original = values.get(&3).is_some_and(|direction| *direction == [0]);
                    let value = if key == DESTINATION_PORT && original && self.sets.asks_ports {
                        (Value::field(Field::OriginalPort), 2)
                    } else {
                        (connection(key), 4)
                    };
                    self.registers.insert(word(register), value);
                }
            }
            "range" => self.range(number(1), number(2), values),
            "reject" => self.rule.verdict = Some(Verdict::Drop),
            "queue" => self.rule.verdict = Some(Verdict::Queue),
            // NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO.
            "match" => {
                let info = values.get(&3).map_or(&[][..], |info| info);
                let tests = xtables::tests(
                    text(values, 1),
                    number(2).unwrap_or_default(),
                    info,
                    self.sets.asks_ports,
                );
                self.rule.tests.extend(tests);
            }
            "target" => self.rule.verdict = xtables::verdict(text(values, 1)),
            // NFTA_OBJREF_IMM_TYPE.
            "objref" if number(1).is_some_and(|kind| HARMLESS_OBJECTS.contains(&kind)) => {}
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => self.unknown(name),
        }
    }

    /// `NFTA_RANGE_SREG`, `_OP`, `_FROM_DATA` and `_TO_DATA`.
    fn range(
        &mut self,
        register: Option<u32>,
        operator: Option<u32>,
        values: &BTreeMap<u16, Vec<u8>>,
    ) {
        let value = register.map(|register| self.at_word(word(register)));
        let end = |kind: u16| {
            let mut data = NlasIterator::new(values.get(&kind)?).map_while(Result::ok);
            data.find(|data| data.kind() == VALUE).map(|data| data.value().to_vec())
        };
        self.rule.tests.push(match (value, end(3), end(4)) {
            (Some(value @ Value::Of(..)), Some(low), Some(high)) => {
                let test = Test::In(vec![value], vec![vec![(low, high)]]);
                if operator == Some(OUTSIDE) { Test::Not(Box::new(test)) } else { test }
            }
            _ => Test::Other("range".to_owned()),
        });
    }

    /// Notes an expression that may do anything but decide.
    fn unknown(&mut self, name: &str) {
        self.registers.clear();
        self.rule.tests.push(Test::Other(name.to_owned()));
    }

    fn at(&self, register: Option<Register>) -> Value {
        register.map_or_else(|| Value::Other(String::new()), |r| self.at_word(word(r.into())))
    }

    fn at_word(&self, word: u32) -> Value {
        let value = self.registers.get(&word).map(|(value, _)| value.clone());
        value.unwrap_or_else(|| Value::Other("register".to_owned()))
    }

    /// Returns the values of a key, and their lengths.
    fn key(&self, register: Option<Register>, length: u32) -> (Vec<Value>, Vec<usize>) {
        register::key(&self.registers, register, length, &Value::Other("register".to_owned()))
    }
}

/// Returns the value that a key of `ct` loads: `NFT_CT_STATE`, `NFT_CT_STATUS` and `NFT_CT_MARK`.
fn connection(key: u32) -> Value {
    match key {
        0 => Value::field(Field::State),
        2 => Value::field(Field::Status),
        3 => Value::field(Field::ConnectionMark),
        other => Value::Other(format!("ct {other}")),
    }
}

fn operator(comparison: Comparison) -> Option<Operator> {
    Some(match comparison {
        Comparison::Equal => Operator::Equal,
        Comparison::NotEqual => Operator::NotEqual,
        Comparison::LessThan => Operator::Less,
        Comparison::LessThanEqual => Operator::LessOrEqual,
        Comparison::GreaterThan => Operator::Greater,
        Comparison::GreatherThanEqual => Operator::GreaterOrEqual,
        _ => return None,
    })
}
