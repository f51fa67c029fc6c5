//! Extensions of iptables: as `iptables-save` names them, and as bytes in rules of iptables-nft.

use crate::firewall::{
    passage::{Field, Operator, Test, Value, Verdict},
    translation::{self, Packets},
};

/// `struct xt_conntrack_mtinfo3` of `<linux/netfilter/xt_conntrack.h>`: the offsets of `match_flags`, `invert_flags`,
/// `state_mask` and `status_mask`.
const MATCH_FLAGS: usize = 146;
const INVERT_FLAGS: usize = 148;
const STATE_MASK: usize = 150;
const STATUS_MASK: usize = 152;
/// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_STATUS` and `XT_CONNTRACK_STATE_ALIAS`.
const STATE: u16 = 1;
const STATUS: u16 = 1 << 6;
const ALIAS: u16 = 1 << 13;
/// `XT_CONNTRACK_STATE_SNAT` and `XT_CONNTRACK_STATE_DNAT`; the bits before them are those of nf_tables.
const SOURCE_TRANSLATED: u16 = 1 << 6;
const TRANSLATED: u16 = 1 << 7;
/// `IPS_SRC_NAT` and `IPS_DST_NAT`.
const STATUS_SOURCE_TRANSLATED: u32 = 1 << 4;
const STATUS_TRANSLATED: u32 = 1 << 5;

/// Returns the tests of a match extension.
pub(super) fn tests(name: &str, revision: u32, info: &[u8]) -> Vec<Test> {
    match (name, revision) {
        ("comment", _) => vec![],
        ("conntrack", 3) => conntrack(info).unwrap_or_else(|| vec![Test::Other(name.to_owned())]),
        ("mark", 1) => vec![marked(info).unwrap_or_else(|| Test::Other(name.to_owned()))],
        _ => vec![Test::Other(name.to_owned())],
    }
}

/// Reports whether a match extension tests a property in which our packets differ, whatever it is asked.
pub(super) fn is_specific(name: &str) -> bool {
    !["comment", "conntrack", "mark"].contains(&name)
}

/// Returns the verdict of a target extension; `None` if the packet goes on to the next rule.
pub(super) fn verdict(name: &str) -> Option<Verdict> {
    match name {
        "REJECT" | "DROP" | "TARPIT" | "DELUDE" => Some(Verdict::Drop),
        "ACCEPT" => Some(Verdict::Accept),
        "NFQUEUE" => Some(Verdict::Queue),
        _ => None,
    }
}

fn conntrack(info: &[u8]) -> Option<Vec<Test>> {
    let at = |offset: usize| Some(u16::from_ne_bytes(*info.get(offset..)?.first_chunk()?));
    let (asked, inverted) = (at(MATCH_FLAGS)?, at(INVERT_FLAGS)?);
    let mut tests = Vec::new();
    if asked & STATE != 0 {
        let states = at(STATE_MASK)?;
        let test = self::states(states);
        tests.push(if inverted & STATE != 0 { Test::Not(Box::new(test)) } else { test });
    }
    if asked & STATUS != 0 {
        let test = has(Field::Status, at(STATUS_MASK)?.into());
        tests.push(if inverted & STATUS != 0 { Test::Not(Box::new(test)) } else { test });
    }
    if asked & !(STATE | STATUS | ALIAS) != 0 {
        tests.push(Test::Other("conntrack".to_owned()));
    }
    Some(tests)
}

/// Returns the bit of a state.
pub(super) fn state(name: &str) -> Option<u16> {
    Some(match name {
        "INVALID" => 1,
        "ESTABLISHED" => 2,
        "RELATED" => 4,
        "NEW" => 8,
        "SNAT" => SOURCE_TRANSLATED,
        "DNAT" => TRANSLATED,
        // XT_CONNTRACK_STATE_UNTRACKED
        "UNTRACKED" => 1 << 8,
        _ => return None,
    })
}

/// Returns the test for one of these states.
pub(super) fn states(states: u16) -> Test {
    let mut any = vec![has(Field::State, (states & !(SOURCE_TRANSLATED | TRANSLATED)).into())];
    if states & SOURCE_TRANSLATED != 0 {
        any.push(has(Field::Status, STATUS_SOURCE_TRANSLATED));
    }
    if states & TRANSLATED != 0 {
        any.push(has(Field::Status, STATUS_TRANSLATED));
    }
    Test::Any(any)
}

/// Returns the test that a field has one of these bits.
fn has(field: Field, bits: u32) -> Test {
    let value = Value::Of(field, Some(bits.to_ne_bytes().into()));
    Test::Compare(value, Operator::NotEqual, vec![0; 4])
}

/// Returns the test of a `struct xt_mark_mtinfo1`: the mark, the mask, and a byte that inverts it.
fn marked(info: &[u8]) -> Option<Test> {
    let value = Value::Of(Field::Mark, Some(info.get(4..8)?.to_vec()));
    let test = Test::Compare(value, Operator::Equal, info.get(..4)?.to_vec());
    Some(if info.get(8) == Some(&1) { Test::Not(Box::new(test)) } else { test })
}

/// Returns the test for destination ports of a match extension; `None` if it tests none, or also others.
pub(super) fn ports(name: &str, info: &[u8]) -> Option<translation::Test> {
    let at =
        |offset: usize| Some(u32::from(u16::from_ne_bytes(*info.get(offset..)?.first_chunk()?)));
    let within = |low, high| Packets::ALL.with(translation::Field::Port, low, high);
    let (tests, inverted) = match name {
        // The offsets of `dpts` and of `invflags` in `struct xt_tcp` and `struct xt_udp`; `XT_TCP_INV_DSTPT`.
        "tcp" => (vec![within(at(4)?, at(6)?)], info.get(11)? & 2 != 0),
        "udp" => (vec![within(at(4)?, at(6)?)], info.get(8)? & 2 != 0),
        // `struct xt_sctp_info` begins with the destination; `flags` with `XT_SCTP_DEST_PORTS`, and `invflags`.
        "sctp" if at(284)? & 2 != 0 => (vec![within(at(0)?, at(2)?)], at(288)? & 2 != 0),
        "multiport" => multiport(info)?,
        _ => return None,
    };
    Some(if inverted { translation::Test::Not(tests) } else { translation::Test::Among(tests) })
}

/// Reads `struct xt_multiport_v1`: a byte that tells source and destination, the number of ports, 15 ports, 15 bytes that
/// tell which of them begin a range, and a byte that inverts it.
fn multiport(info: &[u8]) -> Option<(Vec<Packets>, bool)> {
    const DESTINATION: u8 = 1;
    let [direction, count, rest @ ..] = info else { return None };
    if *direction != DESTINATION {
        return None;
    }
    let (ports, rest) = rest.split_at_checked(30)?;
    let (begins_range, rest) = rest.split_at_checked(15)?;
    let ports =
        ports.chunks_exact(2).filter_map(|port| Some(u16::from_ne_bytes(*port.first_chunk()?)));
    let mut ports = ports.zip(begins_range).take((*count).into());
    let mut tests = Vec::new();
    while let Some((low, begins)) = ports.next() {
        let high = if *begins == 0 { low } else { ports.next()?.0 };
        tests.push(Packets::ALL.with(translation::Field::Port, low.into(), high.into()));
    }
    Some((tests, *rest.first()? != 0))
}

/// Reports whether a target extension translates destinations.
pub(super) fn translates(name: &str) -> bool {
    matches!(name, "DNAT" | "REDIRECT")
}
