//! Translations in nf_tables: rules of others, as far as they decide which packets for the host are translated.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::NlasIterator;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, HookNumber, Immediate, InetHookNumber, Lookup, Meta,
    MetaKey, Operator, Payload, Register, VerdictAttribute,
};

use super::{
    base_ruleset,
    foreign_chain::{Missing, filters_around, filters_forwarded},
    foreign_set::{self, ForeignSet},
    object::{Chain, Rule as Message, TableName},
    register::{self, INVERTED, OUTSIDE, Registers, VALUE, text, values, word},
};
use crate::firewall::{
    names::is_our_chain,
    passage::{Element, Verdict},
    translation::{
        Ban, Effect, Field, Found, Packets, Rule, Side, Test, Translation, Wanted, packets, search,
    },
    xtables,
};

/// The base (`NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`), the offset and the length of the fields that matter.
const PROTOCOL: (u32, u32, u32) = (1, 9, 1);
const SOURCE: (u32, u32, u32) = (1, 12, 4);
const DESTINATION_ADDRESS: (u32, u32, u32) = (1, 16, 4);
const PORT: (u32, u32, u32) = (2, 2, 2);
/// `NFT_NAT_DNAT`, `NFPROTO_IPV4`.
const DESTINATION: u32 = 1;
const IPV4: u8 = 2;

/// Chains of a table of others, as far as they were read, and as far as their rules ask for ports, and for addresses of one end.
#[derive(Debug)]
pub struct FollowedTable {
    name: TableName,
    side: Side,
    bases: Vec<String>,
    rules: BTreeMap<String, Vec<Message>>,
    sets: BTreeMap<String, ForeignSet>,
    /// The rules whose sets were read.
    chains: BTreeMap<String, Vec<Rule>>,
}

/// Reports whether the chain translates destinations, and is not in our table.
#[must_use]
pub fn translates(chain: &Chain) -> bool {
    let hooks = [InetHookNumber::PreRouting, InetHookNumber::LocalOut].map(HookNumber::Inet);
    let base = chain.base.as_ref();
    !base_ruleset::is_ours(&chain.table)
        && base.is_some_and(|base| base.kind == "nat" && hooks.contains(&base.hook))
}

/// Returns the tables that have chains which translate destinations, of which nothing else was read.
#[must_use]
pub fn nat_tables(chains: &[Chain]) -> Vec<FollowedTable> {
    tables(chains, Side::Destination, translates)
}

/// Returns the tables of others that have chains which filter packets of guests, of which nothing else was read. Their rules
/// for addresses of this end are followed.
#[must_use]
pub fn filter_tables(chains: &[Chain], side: Side) -> Vec<FollowedTable> {
    let filters = |chain: &Chain| filters_forwarded(chain) || filters_around(chain);
    tables(chains, side, |chain| !base_ruleset::is_ours(&chain.table) && filters(chain))
}

fn tables(chains: &[Chain], side: Side, is_base: impl Fn(&Chain) -> bool) -> Vec<FollowedTable> {
    let mut tables: Vec<FollowedTable> = Vec::new();
    for chain in chains.iter().filter(|chain| is_base(chain)) {
        let (name, base) = (chain.table.clone(), chain.name.clone());
        if let Some(table) = tables.iter_mut().find(|table| table.name == name) {
            table.bases.push(base);
        } else {
            let (rules, sets, chains) = Default::default();
            tables.push(FollowedTable { name, side, bases: vec![base], rules, sets, chains });
        }
    }
    tables
}

impl FollowedTable {
    /// Returns the name of the table.
    #[must_use]
    pub const fn name(&self) -> &TableName {
        &self.name
    }

    /// Takes the rules of a chain that was read.
    pub fn learn_chain(&mut self, name: String, rules: Vec<Message>) {
        self.rules.insert(name, rules);
    }

    /// Takes a set that was read.
    pub fn learn_set(&mut self, name: String, set: ForeignSet) {
        self.sets.insert(name, set);
    }

    /// Returns the translations of wanted ports, and the parts that have to be read as well: as long as there are any, the
    /// translations are not complete.
    pub fn search(&mut self, wanted: &Wanted) -> (BTreeSet<Translation>, Missing) {
        let (found, missing) = self.follow(&packets(wanted));
        (found.translations(&self.name.to_string()), missing)
    }

    /// Returns the bans, and the parts that have to be read as well: as long as there are any, the bans are not complete.
    pub fn bans(&mut self) -> (BTreeSet<Ban>, Missing) {
        let (found, missing) = self.follow(&[Packets::ALL]);
        (found.bans(self.side, &self.name.to_string()), missing)
    }

    fn follow(&mut self, wanted: &[Packets]) -> (Found, Missing) {
        let mut sets = BTreeSet::new();
        for (name, rules) in &self.rules {
            if !self.chains.contains_key(name) {
                let mut missing = BTreeSet::new();
                let rules =
                    rules.iter().map(|rule| translate(rule, self.side, &self.sets, &mut missing));
                let rules = rules.collect();
                if missing.is_empty() {
                    self.chains.insert(name.clone(), rules);
                }
                sets.extend(missing);
            }
        }
        let found = search(&self.chains, self.bases.iter().map(String::as_str), wanted);
        let unread = found.missing.iter().filter(|name| !self.rules.contains_key(*name)).cloned();
        let missing = Missing { chains: unread.collect(), sets };
        (found, missing)
    }
}

/// Translates a rule for both ends of packets. A rule that is left out for its ports passes none of them. Returns the number of
/// ports for which it is.
///
/// # Panics
/// Panics if it passes one.
#[cfg(any(test, fuzzing))]
#[must_use]
pub fn fuzz(message: &[u8], rule: &Message) -> usize {
    use super::AskedPorts;
    use crate::model::{PortRange, Protocol};
    let translated = |side| translate(rule, side, &BTreeMap::new(), &mut BTreeSet::new());
    let _translated = translated(Side::Source);
    let Rule { tests, .. } = translated(Side::Destination);
    let mut missed = 0;
    for ports in [(1, 1), (22, 22), (80, 80), (443, 450), (8000, 9000)] {
        let Ok(ports) = PortRange::new(ports.0, ports.1) else { continue };
        let wanted = Protocol::ALL.map(|protocol| (protocol, None, ports)).into();
        if AskedPorts::of(&wanted).misses(message) {
            missed += 1;
            let passed = tests.iter().fold(packets(&wanted), |passed, test| test.pass(&passed));
            assert!(passed.is_empty(), "{rule:?} passes {passed:?}");
        }
    }
    missed
}

fn translate(
    rule: &Message,
    side: Side,
    sets: &BTreeMap<String, ForeignSet>,
    missing: &mut BTreeSet<String>,
) -> Rule {
    if rule.target().is_some_and(is_our_chain) {
        return Rule::default();
    }
    let address = match side {
        Side::Source => SOURCE,
        Side::Destination => DESTINATION_ADDRESS,
    };
    let (registers, found) = (BTreeMap::new(), Rule::default());
    let mut reader = Reader { registers, rule: found, address, sets, missing };
    for expression in &rule.expressions {
        reader.read(expression);
    }
    reader.rule
}

/// The contents of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// A field; if there is a mask, only its bits.
    Of(Field, Option<Vec<u8>>),
    /// The address family.
    Family,
    Other,
}

struct Reader<'a> {
    /// The values by the first word that they take, with their length in bytes.
    registers: Registers<Value>,
    rule: Rule,
    /// The field of the header that counts as the address.
    address: (u32, u32, u32),
    sets: &'a BTreeMap<String, ForeignSet>,
    missing: &'a mut BTreeSet<String>,
}

impl Reader<'_> {
    fn read(&mut self, expression: &Expressions) {
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
            _ => {}
        }
    }

    fn meta(&mut self, attributes: &[Meta]) {
        let (mut register, mut value) = (None, (Value::Other, 4));
        for attribute in attributes {
            match attribute {
                Meta::DestinationRegister(destination) => register = Some(*destination),
                Meta::Key(MetaKey::L4Proto) => value = (Value::Of(Field::Protocol, None), 1),
                Meta::Key(MetaKey::Nfproto) => value = (Value::Family, 1),
                Meta::Key(MetaKey::Iifname | MetaKey::Oifname) => value = (Value::Other, 16),
                _ => {}
            }
        }
        self.load(register, value);
    }

    fn payload(&mut self, attributes: &[Payload]) {
        let (mut register, mut place) = (None, (0, 0, 4));
        for attribute in attributes {
            match attribute {
                Payload::DestinationRegister(destination) => register = Some(*destination),
                Payload::Base(base) => place.0 = *base,
                Payload::Offset(offset) => place.1 = *offset,
                Payload::Len(length) => place.2 = *length,
                _ => {}
            }
        }
        let value = match place {
            // nft(8) loads only the bytes that a prefix has.
            (base, offset, length @ 1..4) if (base, offset) == (self.address.0, self.address.1) => {
                let mask =
                    [[u8::MAX].repeat(usize::try_from(length).unwrap_or_default()), vec![0; 4]];
                let mask = mask.concat().into_iter().take(4).collect();
                Value::Of(Field::Address, Some(mask))
            }
            PROTOCOL => Value::Of(Field::Protocol, None),
            place if place == self.address => Value::Of(Field::Address, None),
            PORT => Value::Of(Field::Port, None),
            _ => Value::Other,
        };
        self.load(register, (value, usize::try_from(place.2).unwrap_or(usize::MAX)));
    }

    fn load(&mut self, register: Option<Register>, value: (Value, usize)) {
        if let Some(register) = register {
            self.registers.insert(word(register.into()), value);
        }
    }

    fn compare(&mut self, attributes: &[Cmp]) {
        let (mut value, mut operator, mut with) = (Value::Other, Operator::Equal, vec![]);
        for attribute in attributes {
            match attribute {
                Cmp::SourceRegister(register) => value = self.at(*register),
                Cmp::Op(comparison) => operator = *comparison,
                Cmp::Data(DataAttribute::Value(bytes)) => with.clone_from(bytes),
                _ => {}
            }
        }
        if value == Value::Family {
            // The packets that are asked about are IPv4.
            if (operator == Operator::Equal) != (with == [IPV4]) {
                self.rule.tests.push(Test::Among(vec![]));
            }
            return;
        }
        let Value::Of(field, mask) = value else { return };
        if field == Field::Address {
            with.resize(4, 0);
        }
        let Some(number) = number(&with) else { return };
        let last = mask.map_or(Some(number), |mask| Some(number | !network(&mask)?));
        let Some(last) = last else { return };
        let within = |low, high| vec![Packets::ALL.with(field, low, high)];
        let above = number.checked_add(1).map_or_else(Vec::new, |low| within(low, u32::MAX));
        let below = number.checked_sub(1).map_or_else(Vec::new, |high| within(0, high));
        self.rule.tests.push(match operator {
            Operator::Equal => Test::Among(within(number, last)),
            Operator::NotEqual => Test::Not(within(number, last)),
            Operator::LessThan => Test::Among(below),
            Operator::LessThanEqual => Test::Among(within(0, number)),
            Operator::GreaterThan => Test::Among(above),
            Operator::GreatherThanEqual => Test::Among(within(number, u32::MAX)),
            _ => return,
        });
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) {
        let (mut from, mut to, mut mask, mut plain) = (Value::Other, None, vec![], true);
        for attribute in attributes {
            match attribute {
                Bitwise::SourceRegister(register) => from = self.at(*register),
                Bitwise::DestinationRegister(register) => to = Some(*register),
                Bitwise::Mask(DataAttribute::Value(bytes)) => mask.clone_from(bytes),
                Bitwise::Xor(DataAttribute::Value(bytes)) => plain &= bytes.iter().all(|b| *b == 0),
                Bitwise::Op(operation) => plain &= *operation == 0,
                _ => {}
            }
        }
        let length = mask.len().max(1);
        let value = match from {
            Value::Of(field, None) if plain => Value::Of(field, Some(mask)),
            _ => Value::Other,
        };
        self.load(to, (value, length));
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
        let Some(set) = self.sets.get(name) else {
            self.missing.insert(name.to_owned());
            return;
        };
        let (key, lengths) = self.key(from, set.key_length);
        let elements = set.split(&lengths);
        if to == Some(Register::Verdict) {
            let ways = elements.iter().filter_map(|(element, verdict)| {
                let packets = among(&key, element)?;
                match (*verdict)? {
                    Verdict::Drop => Some((packets, None)),
                    verdict => Some((packets, Some(target(verdict)?.to_owned()))),
                }
            });
            self.rule.effect = Some(Effect::LeadsSome(ways.collect()));
            return;
        }
        let tests = elements.iter().filter_map(|(element, _)| among(&key, element)).collect();
        self.rule.tests.push(if inverted { Test::Not(tests) } else { Test::Among(tests) });
        self.load(to, (Value::Other, 4));
    }

    fn immediate(&mut self, attributes: &[Immediate]) {
        let (mut code, mut chain) = (None, None);
        for attribute in attributes {
            let Immediate::Data(DataAttribute::Verdict(verdict)) = attribute else { continue };
            for attribute in verdict {
                match attribute {
                    VerdictAttribute::Code(verdict) => code = Some(u32::from(*verdict)),
                    VerdictAttribute::Chain(name) => chain = Some(&**name),
                    _ => {}
                }
            }
        }
        let verdict = code.and_then(|code| foreign_set::verdict(code, chain));
        if verdict == Some(Verdict::Drop) {
            self.rule.effect = Some(Effect::Drops);
        }
        if let Some(chain) = verdict.as_ref().and_then(target) {
            self.rule.effect = Some(Effect::Leads(chain.to_owned()));
        }
    }

    fn other(&mut self, name: &str, values: &BTreeMap<u16, Vec<u8>>) {
        let number = |kind: u16| Some(u32::from_be_bytes(values.get(&kind)?[..].try_into().ok()?));
        match name {
            // NFTA_RANGE_SREG, _OP, _FROM_DATA and _TO_DATA.
            "range" => self.range(number(1), number(2), values),
            // NFTA_NAT_TYPE.
            "nat" if number(1) == Some(DESTINATION) => self.rule.effect = Some(Effect::Translates),
            "redir" => self.rule.effect = Some(Effect::Translates),
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO.
            "match" => {
                let info = values.get(&3).map_or(&[][..], |info| info);
                self.rule.tests.extend(xtables::ports(text(values, 1), info));
            }
            "target" if xtables::translates(text(values, 1)) => {
                self.rule.effect = Some(Effect::Translates);
            }
            "target" if xtables::verdict(text(values, 1)) == Some(Verdict::Drop) => {
                self.rule.effect = Some(Effect::Drops);
            }
            "reject" => self.rule.effect = Some(Effect::Drops),
            // NFTA_FIB_DREG; NFTA_CT_DREG and others have the same number.
            "fib" | "ct" | "numgen" | "hash" | "socket" | "rt" | "exthdr" | "osf" => {
                if let Some(register) = number(1) {
                    self.registers.insert(word(register), (Value::Other, 4));
                }
            }
            _ => {}
        }
    }

    fn range(
        &mut self,
        register: Option<u32>,
        operator: Option<u32>,
        values: &BTreeMap<u16, Vec<u8>>,
    ) {
        let value = register.and_then(|register| self.registers.get(&word(register)));
        let Some((Value::Of(field, None), _)) = value else { return };
        let end = |kind: u16| {
            let mut data = NlasIterator::new(values.get(&kind)?).map_while(Result::ok);
            number(data.find(|data| data.kind() == VALUE)?.value())
        };
        let (Some(low), Some(high)) = (end(3), end(4)) else { return };
        let test = vec![Packets::ALL.with(*field, low, high)];
        let outside = operator == Some(OUTSIDE);
        self.rule.tests.push(if outside { Test::Not(test) } else { Test::Among(test) });
    }

    fn at(&self, register: Register) -> Value {
        let value = self.registers.get(&word(register.into()));
        value.map_or(Value::Other, |(value, _)| value.clone())
    }

    /// Returns the values of a key, and their lengths.
    fn key(&self, register: Option<Register>, length: u32) -> (Vec<Value>, Vec<usize>) {
        register::key(&self.registers, register, length, &Value::Other)
    }
}

/// Returns the packets that an element of a set stands for; `None` if it can stand for none.
fn among(key: &[Value], element: &Element) -> Option<Packets> {
    key.iter().zip(element).try_fold(Packets::ALL, |packets, (value, (low, high))| match value {
        Value::Of(field, None) => {
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then(|| packets.with(*field, low, high))
        }
        Value::Family if *low != [IPV4] => None,
        _ => Some(packets),
    })
}

/// Returns the chain that a verdict leads to.
fn target(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// Returns a number in network byte order, of at most four bytes.
fn number(bytes: &[u8]) -> Option<u32> {
    (!bytes.is_empty() && bytes.len() <= 4)
        .then(|| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// Returns the mask of a network: bits that are set, and after these none.
fn network(mask: &[u8]) -> Option<u32> {
    let mask: u32 = number(mask).filter(|_| mask.len() == 4)?;
    (mask.leading_ones() + mask.trailing_zeros() == u32::BITS).then_some(mask)
}
