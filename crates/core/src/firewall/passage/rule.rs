use std::collections::{BTreeMap, BTreeSet};

use super::Packet;

/// The chains of one foreign table that forwarded packets can reach, by name, without our own rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The chains.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The hook at which packets enter, if it is a base chain.
    pub hook: Option<Hook>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// The number of rules and elements of maps that lead to it, wherever they are; `None` if all of them are in
    /// [`Rules`].
    pub references: Option<usize>,
}

/// The hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// True if it is the hook `forward`.
    pub forward: bool,
    /// True if the policy drops.
    pub drops: bool,
}

/// A rule: the verdict applies to packets that pass all tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// The tests.
    pub tests: Vec<Test>,
    /// The verdict, or `None` if the packet goes on to the next rule, as after a log or a counter.
    pub verdict: Option<Verdict>,
}

/// The effect of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ends the base chain; the packet lives.
    Accept,
    /// Drops or rejects the packet.
    Drop,
    /// Hands the packet to another program, which decides.
    Queue,
    /// Continues in another chain, and comes back at its end.
    Jump(String),
    /// Continues in another chain, and does not come back.
    Goto(String),
    /// Leaves the chain.
    Return,
    /// Looks the verdict up in a map; a packet that is not found goes on to the next rule.
    Map {
        /// The key.
        key: Vec<Value>,
        /// The elements.
        elements: Vec<(Element, Self)>,
        /// The verdict for packets that no element matches.
        default: Option<Box<Self>>,
    },
}

/// A question about a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// A property in which packets of ours differ, such as an address or a port; the text names it.
    Other(String),
    /// Compares a value with these bytes; a value that is longer is compared up to their length.
    Compare(Value, Operator, Vec<u8>),
    /// Looks values up in a set.
    In(Vec<Value>, Vec<Element>),
    /// True if one of the tests is.
    Any(Vec<Self>),
    /// True if the test is not.
    Not(Box<Self>),
}

/// A comparison of bytes, the first of which counts most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

/// An element of a set: for each value of the key, the lowest and the highest that it stands for. An element without
/// ranges matches everything.
pub type Element = Vec<(Vec<u8>, Vec<u8>)>;

/// A part of a packet, or a known property of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A field, of which only the bits of the mask count, if there is one; the others are 0.
    Of(Field, Option<Vec<u8>>),
    /// A property in which packets of ours differ; the text names it.
    Other(String),
}

/// A field that is known of all our traffic. Numbers of 32 bits are in the byte order of the host, as in registers of
/// nf_tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The name of the incoming interface, padded to 16 bytes.
    InInterface,
    /// The name of the outgoing interface, padded to 16 bytes.
    OutInterface,
    /// The index of the incoming interface, 32 bits.
    InIndex,
    /// The index of the outgoing interface, 32 bits.
    OutIndex,
    /// The address family, `NFPROTO_*`, one byte.
    Family,
    /// The protocol of the link's payload, `ETH_P_*`, 16 bits in network byte order.
    EtherType,
    /// The transport protocol, one byte.
    Protocol,
    /// `PACKET_*` of packet(7), one byte.
    PacketType,
    /// The mark, 32 bits.
    Mark,
    /// The mark of the connection, 32 bits.
    ConnectionMark,
    /// The bit of the connection's state (`NF_CT_STATE_BIT`), 32 bits.
    State,
    /// The status of the connection, `IPS_*`, 32 bits.
    Status,
    /// The destination address, 32 bits in network byte order. It is known of packets of one exposure.
    Address,
    /// The destination port, 16 bits in network byte order. It is known of packets of one exposure.
    Port,
    /// The destination port of the connection before it was translated, as [`Self::Port`].
    OriginalPort,
}

/// The answer of a rule to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged<'a> {
    /// It does not apply.
    No,
    /// It applies, whatever the packet's addresses and ports are.
    Yes(&'a Verdict),
    /// It applies to some packets of ours, and not to others.
    Perhaps(&'a Verdict),
}

impl Value {
    /// Returns a field with all its bits.
    #[must_use]
    pub const fn field(field: Field) -> Self {
        Self::Of(field, None)
    }
}

impl Rule {
    pub(super) fn judge(&self, packet: &Packet) -> Judged<'_> {
        let Some(verdict) = &self.verdict else { return Judged::No };
        let mut certain = true;
        for test in &self.tests {
            match test.holds(packet) {
                Some(true) => {}
                Some(false) => return Judged::No,
                None => certain = false,
            }
        }
        match verdict.of(packet) {
            Judged::Yes(verdict) if !certain => Judged::Perhaps(verdict),
            judged => judged,
        }
    }

    /// Reports whether the rule can be left out: it tests a property in which our packets differ, and only decides
    /// about those that have it. A rule that leaves the chain has an effect on the others as well.
    pub(in crate::firewall) fn is_specific(&self) -> bool {
        let specific = self.tests.iter().any(|test| matches!(test, Test::Other(_)));
        match &self.verdict {
            None => true,
            Some(Verdict::Accept | Verdict::Drop | Verdict::Queue | Verdict::Jump(_)) => specific,
            Some(Verdict::Return | Verdict::Goto(_) | Verdict::Map { .. }) => false,
        }
    }

    /// Returns the chains that it leads to, one for each way.
    pub(in crate::firewall) fn targets(&self) -> Vec<&str> {
        let verdicts = self.verdict.iter().flat_map(Verdict::alternatives);
        verdicts.filter_map(Verdict::target).collect()
    }
}

impl Rules {
    /// Returns the chains that packets can reach from these, themselves included.
    #[must_use]
    pub fn reachable<'a>(&'a self, from: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut left: Vec<&str> = from.into_iter().collect();
        let mut found = BTreeSet::new();
        while let Some(name) = left.pop() {
            if found.insert(name)
                && let Some(chain) = self.chains.get(name)
            {
                left.extend(chain.rules.iter().flat_map(Rule::targets));
            }
        }
        found
    }
}

impl Verdict {
    fn of(&self, packet: &Packet) -> Judged<'_> {
        let Self::Map { key, elements, default } = self else { return Judged::Yes(self) };
        let unknown = key.iter().all(|value| matches!(value, Value::Other(_)));
        if unknown && elements.first().is_some_and(|(element, _)| !element.is_empty()) {
            // Packets of ours differ in the whole key: no element needs to be looked at.
            return Judged::Perhaps(self);
        }
        let mut certain = true;
        for (element, verdict) in elements {
            match matches(key, element, packet) {
                Some(true) if certain => return verdict.of(packet),
                Some(false) => {}
                Some(true) | None => certain = false,
            }
        }
        match default {
            _ if !certain => Judged::Perhaps(self),
            Some(verdict) => verdict.of(packet),
            None => Judged::No,
        }
    }

    /// Returns the verdicts of a map, or the verdict itself.
    pub(super) fn alternatives(&self) -> Vec<&Self> {
        match self {
            Self::Map { elements, default, .. } => {
                let all = elements.iter().map(|(_, verdict)| verdict).chain(default.as_deref());
                all.flat_map(Self::alternatives).collect()
            }
            verdict => vec![verdict],
        }
    }

    pub(super) fn target(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

impl Test {
    /// Returns the answer, or `None` if packets of ours differ in it.
    pub(super) fn holds(&self, packet: &Packet) -> Option<bool> {
        match self {
            Self::Other(what) => packet.other(what),
            Self::Compare(value, operator, with) => compare(packet, value, *operator, with),
            Self::In(values, elements) => {
                any(elements.iter().map(|element| matches(values, element, packet)))
            }
            Self::Any(tests) => any(tests.iter().map(|test| test.holds(packet))),
            Self::Not(test) => test.holds(packet).map(|holds| !holds),
        }
    }
}

fn any(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut found = Some(false);
    for answer in answers {
        match answer {
            Some(true) => return Some(true),
            Some(false) => {}
            None => found = None,
        }
    }
    found
}

fn compare(packet: &Packet, value: &Value, operator: Operator, with: &[u8]) -> Option<bool> {
    let (mut bits, mut known) = packet.value(value)?;
    bits.truncate(with.len());
    known.truncate(with.len());
    let differs =
        bits.iter().zip(with).zip(&known).any(|((bit, with), known)| (bit ^ with) & known != 0);
    match operator {
        Operator::Equal if differs => return Some(false),
        Operator::NotEqual if differs => return Some(true),
        _ => {}
    }
    known.iter().all(|known| *known == u8::MAX).then(|| operator.holds(&bits, with))
}

impl Operator {
    fn holds(self, left: &[u8], right: &[u8]) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// Returns whether the element matches; if a part of the key is not known, another part can still decide.
fn matches(values: &[Value], element: &Element, packet: &Packet) -> Option<bool> {
    if element.is_empty() {
        return Some(true);
    }
    let mut certain = true;
    for (value, (low, high)) in values.iter().zip(element) {
        let within = if low == high {
            compare(packet, value, Operator::Equal, low)
        } else {
            let low = compare(packet, value, Operator::GreaterOrEqual, low);
            match (low, compare(packet, value, Operator::LessOrEqual, high)) {
                (Some(true), high) => high,
                (Some(false), _) | (_, Some(false)) => Some(false),
                (None, _) => None,
            }
        };
        match within {
            Some(true) => {}
            Some(false) => return Some(false),
            None => certain = false,
        }
    }
    certain.then_some(true)
}
