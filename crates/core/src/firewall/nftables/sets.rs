//! The sets and maps of the table. None of them depends on instances; their elements do.

use super::{
    base_ruleset,
    object::{INTERFACE, Set},
};
use crate::{
    firewall::{
        BaseRuleset,
        names::nftables::{
            ASKED, BOUND, BOUND_RANGES, BOUND_RANGES_V6, BOUND_V6, CONFINED, CONFINED_V6,
            DISCOVERIES, EXPOSURES, EXPOSURES_V6, FLOWS, FLOWS_V6, HAIRPIN, HAIRPIN_V6,
            HOST_POLICIES, HOST_POLICIES_V6, NAMED, POLICIES, POLICIES_V6, PROXIES, RANGES,
            RANGES_V6, RATES, RATES_V6, REACH_ALL, REACH_ALL_V6, REACH_INTERNET, REACH_INTERNET_V6,
            REACH_NONE, REACH_NONE_V6, REFUSED, TOLD, UPLINKS,
        },
    },
    model::Family,
    names::MOST_PINS,
};

/// `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_TIMEOUT`, `NFT_SET_EVAL` and `NFT_SET_CONCAT`.
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const EXPIRING: u32 = 0x10;
const DYNAMIC: u32 = 0x20;
const CONCATENATION: u32 = 0x80;
/// Types of nft(8) (`enum datatypes` of its datatype.h); a concatenation has six bits for each.
const ADDRESS: u32 = 7;
const ADDRESS_V6: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const MARK: u32 = 19;
const INTERFACE_INDEX: u32 = 20;
/// `NFT_DATA_VERDICT`, and `sizeof(struct nft_verdict)` of a 64-bit kernel.
const VERDICT: (u32, u32) = (0xffff_ff00, 16);
/// The number of slots. The kernel lets a guest begin flows uncounted if the set is full.
const MOST_GUESTS: u32 = 1 << u16::BITS;
/// A time after which each guest may begin a full burst of flows again, in milliseconds.
const REFILLED: u64 = 60_000;
/// The most counts of refused packets: no more are counted, nor told of, if all are in use.
const MOST_COUNTS: u32 = 1 << 18;
/// A time after which the count of an interface that nothing was refused to ends, in milliseconds: the interface may be gone.
const COUNTED: u64 = 3_600_000;

/// Returns the sets and maps. The kernel looks up elements by hash, and ranges in lookup tables, one for each half byte
/// of the key (`net/netfilter/nft_set_pipapo.c`).
#[must_use]
pub fn all(base_ruleset: &BaseRuleset) -> Vec<Set> {
    let mut sets = of(Family::V4);
    sets.extend(base_ruleset.pool.v6().map(|_| of(Family::V6)).unwrap_or_default());
    sets
}

fn of(family: Family) -> Vec<Set> {
    let address = address(family);
    let target = Some((concatenation(&[address.0, PORT]), address.1 + 4));
    let guests = |name, key| Set { size: Some(MOST_GUESTS), ..set(name, key, None) };
    let of_flows = |name, key| Set { flags: DYNAMIC, ..guests(name, key) };
    let of_rates = |name, key| {
        let (flags, timeout) = (DYNAMIC | EXPIRING, Some(REFILLED));
        Set { flags, timeout, ..guests(name, key) }
    };
    let (to, port) = ([address, PROTOCOL_FIELD, PORT_FIELD], [PROTOCOL_FIELD, PORT_FIELD]);
    let pair = (concatenation(&[address.0, address.0]), 2 * address.1);
    let bound = (concatenation(&[address.0, PROTOCOL, PORT]), address.1 + 8);
    let by_port = (concatenation(&[PROTOCOL, PORT]), 8);
    if family == Family::V6 {
        return vec![
            set(EXPOSURES_V6, by_port, target),
            set(BOUND_V6, bound, target),
            ranges(RANGES_V6, &port, Some(address)),
            ranges(BOUND_RANGES_V6, &to, Some(address)),
            set(HAIRPIN_V6, pair, None),
            set(POLICIES_V6, address, Some(VERDICT)),
            set(HOST_POLICIES_V6, address, Some(VERDICT)),
            set(REACH_INTERNET_V6, address, None),
            set(REACH_ALL_V6, address, None),
            set(REACH_NONE_V6, address, None),
            set(CONFINED_V6, interfaces(), None),
            of_flows(FLOWS_V6, address),
            of_rates(RATES_V6, address),
            of_rates(DISCOVERIES, (INTERFACE, 16)),
        ];
    }
    vec![
        set(EXPOSURES, by_port, target),
        set(BOUND, bound, target),
        ranges(RANGES, &port, Some(address)),
        ranges(BOUND_RANGES, &to, Some(address)),
        set(HAIRPIN, pair, None),
        set(POLICIES, address, Some(VERDICT)),
        set(HOST_POLICIES, address, Some(VERDICT)),
        set(REACH_INTERNET, address, None),
        set(REACH_ALL, address, None),
        set(REACH_NONE, address, None),
        set(PROXIES, (concatenation(&[ADDRESS, PORT]), 8), target),
        set(NAMED, address, None),
        of_rates(ASKED, address),
        set(UPLINKS, (INTERFACE, 16), None),
        set(CONFINED, interfaces(), None),
        of_flows(FLOWS, address),
        of_rates(RATES, address),
        Set {
            flags: DYNAMIC | EXPIRING,
            timeout: Some(COUNTED),
            size: Some(MOST_COUNTS),
            ..set(REFUSED, (concatenation(&[INTERFACE_INDEX, MARK]), 8), None)
        },
        of_rates(TOLD, (INTERFACE_INDEX, 4)),
    ]
}

const PROTOCOL_FIELD: (u32, u32) = (PROTOCOL, 1);
const PORT_FIELD: (u32, u32) = (PORT, 2);

const fn address(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (ADDRESS, 4),
        Family::V6 => (ADDRESS_V6, 16),
    }
}

fn set(name: &str, key: (u32, u32), data: Option<(u32, u32)>) -> Set {
    Set {
        table: base_ruleset::name(),
        name: name.to_owned(),
        flags: if data.is_some() { MAP } else { 0 },
        key,
        data,
        fields: vec![],
        size: None,
        timeout: None,
    }
}

/// Each field of the key has a range of its own; its length is without the padding.
fn ranges(name: &str, fields: &[(u32, u32)], data: Option<(u32, u32)>) -> Set {
    let types: Vec<_> = fields.iter().map(|(number, _)| *number).collect();
    let length = fields.iter().map(|(_, length)| length.next_multiple_of(4)).sum();
    Set {
        flags: INTERVAL | CONCATENATION | if data.is_some() { MAP } else { 0 },
        fields: fields.iter().map(|(_, length)| *length).collect(),
        ..set(name, (concatenation(&types), length), data)
    }
}

/// Returns a set of destinations of this family, or of ports of the host.
pub(super) fn of_destinations(name: &str, family: Family, host: bool) -> Set {
    let address = (!host).then_some(address(family));
    let fields: Vec<_> = address.into_iter().chain([PROTOCOL_FIELD, PORT_FIELD]).collect();
    ranges(name, &fields, None)
}

/// Returns a set of the addresses of this family that were told for names, each at a port and with a lifetime.
pub(super) fn of_pins(name: &str, family: Family) -> Set {
    let address = address(family);
    let key = (concatenation(&[address.0, PROTOCOL, PORT]), address.1 + 8);
    Set { flags: EXPIRING, size: u32::try_from(MOST_PINS).ok(), ..set(name, key, None) }
}

/// Returns the type of a pair of interfaces, and its length in bytes.
pub(super) fn interfaces() -> (u32, u32) {
    (concatenation(&[INTERFACE, INTERFACE]), 32)
}

fn concatenation(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}
