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
/// `origdst_port` and `origdst_port_high`, in the byte order of the host.
const LOW_PORT: usize = 140;
const HIGH_PORT: usize = 156;
/// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_STATUS` and `XT_CONNTRACK_STATE_ALIAS`.
const STATE: u16 = 1;
const STATUS: u16 = 1 << 6;
const ALIAS: u16 = 1 << 13;
/// `XT_CONNTRACK_ORIGDST_PORT` and `XT_CONNTRACK_DIRECTION`.
const ORIGINAL_PORT: u16 = 1 << 9;
const DIRECTION: u16 = 1 << 12;
/// `XT_CONNTRACK_STATE_SNAT` and `XT_CONNTRACK_STATE_DNAT`; the bits before them are those of nf_tables.
const SOURCE_TRANSLATED: u16 = 1 << 6;
const TRANSLATED: u16 = 1 << 7;
/// `IPS_SRC_NAT` and `IPS_DST_NAT`.
const STATUS_SOURCE_TRANSLATED: u32 = 1 << 4;
const STATUS_TRANSLATED: u32 = 1 << 5;

/// Returns the tests of a match extension. Ports are properties in which our packets differ, unless they are asked for.
pub(super) fn tests(name: &str, revision: u32, info: &[u8], ports: bool) -> Vec<Test> {
    let other = || vec![Test::Other(name.to_owned())];
    match (name, revision) {
        ("comment", _) => vec![],
        ("conntrack", 3) => conntrack(info, ports).unwrap_or_else(other),
        _ if ports && asks_ports_only(name, info) => port_tests(name, info).unwrap_or_else(other),
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

fn conntrack(info: &[u8], ports: bool) -> Option<Vec<Test>> {
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
    let mut known = STATE | STATUS | ALIAS;
    if ports {
        known |= ORIGINAL_PORT | DIRECTION;
        if asked & ORIGINAL_PORT != 0 {
            let test = in_ranges(Field::OriginalPort, &[(at(LOW_PORT)?, at(HIGH_PORT)?)]);
            let inverted = inverted & ORIGINAL_PORT != 0;
            tests.push(if inverted { Test::Not(Box::new(test)) } else { test });
        }
        if asked & inverted & DIRECTION != 0 {
            // Only answers have the other direction.
            tests.push(Test::Any(vec![]));
        }
    }
    if asked & !known != 0 {
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

/// Returns the test for one of these ranges of ports.
pub(super) fn in_ranges(field: Field, ranges: &[(u16, u16)]) -> Test {
    let element =
        |(low, high): &(u16, u16)| vec![(low.to_be_bytes().into(), high.to_be_bytes().into())];
    Test::In(vec![Value::field(field)], ranges.iter().map(element).collect())
}

/// Reports whether a match extension asks for nothing but destination ports.
fn asks_ports_only(name: &str, info: &[u8]) -> bool {
    // `spts` is first in `struct xt_tcp` and `struct xt_udp`; `option` and `flg_mask` of the first, and the bit for
    // `spts` in `invflags`.
    let any_source = info.starts_with(&[0, 0, u8::MAX, u8::MAX]);
    match name {
        "tcp" => any_source && info.get(8..10) == Some(&[0, 0]),
        "udp" => any_source,
        // XT_SCTP_DEST_PORTS alone.
        "sctp" => {
            info.get(284..288)
                .and_then(|flags| flags.first_chunk())
                .copied()
                .map(u32::from_ne_bytes)
                == Some(2)
        }
        "multiport" => true,
        _ => false,
    }
}

/// Returns the tests of a match extension for destination ports; `None` if it is not understood.
fn port_tests(name: &str, info: &[u8]) -> Option<Vec<Test>> {
    let (tests, inverted) = match ports(name, info)? {
        translation::Test::Among(tests) => (tests, false),
        translation::Test::Not(tests) => (tests, true),
    };
    let port = |port: u32| u16::try_from(port).ok();
    let range = |packets: &Packets| {
        let (low, high) = packets.ports();
        Some((port(low)?, port(high)?))
    };
    let ranges: Option<Vec<_>> = tests.iter().map(range).collect();
    let test = in_ranges(Field::Port, &ranges?);
    Some(vec![if inverted { Test::Not(Box::new(test)) } else { test }])
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
