//! Keys of sets and maps, and look-ups by them.

use netlink_packet_netfilter::nftables::{MetaKey, Register};

use super::{
    DESTINATION_PORT, Expression, after_address, destination_address, lookup, meta, of_family,
    payload, source_address, tcp,
};
use crate::model::Family;

/// `meta l4proto . th dport`, the key of a look-up.
pub(in super::super) fn by_port() -> Vec<Expression> {
    vec![meta(MetaKey::L4Proto, Register::Reg1), payload(DESTINATION_PORT, Register::Reg32_01)]
}

/// `ip daddr . meta l4proto . th dport`, the key of a look-up; for IPv6 with `ip6 daddr`.
pub(in super::super) fn by_address(family: Family) -> Vec<Expression> {
    let [protocol, port, _] = after_address(family);
    let key = vec![
        payload(destination_address(family), Register::Reg1),
        meta(MetaKey::L4Proto, protocol),
        payload(DESTINATION_PORT, port),
    ];
    [of_family(family), key].concat()
}

/// `ip saddr . tcp dport`, the key of a look-up; for IPv6 with `ip6 saddr`.
pub(in super::super) fn by_source_and_tcp_port(family: Family) -> Vec<Expression> {
    let [port, ..] = after_address(family);
    let key =
        vec![payload(source_address(family), Register::Reg1), payload(DESTINATION_PORT, port)];
    [of_family(family), tcp(), key].concat()
}

/// `ip saddr`, `ip6 saddr`, the key of a look-up.
pub(super) fn source_key(family: Family) -> Vec<Expression> {
    [of_family(family), vec![payload(source_address(family), Register::Reg1)]].concat()
}

/// `ip saddr @set`, `ip6 saddr @set`
pub(in super::super) fn source_in(family: Family, set: &str) -> Vec<Expression> {
    [source_key(family), is_in(set)].concat()
}

/// `ip saddr vmap @map`, `ip6 saddr vmap @map`
pub(in super::super) fn decided_by_guest(family: Family, map: &str) -> Vec<Expression> {
    [source_key(family), vec![lookup(map, Some(Register::Verdict))]].concat()
}

/// `<key> @set`
pub(in super::super) fn is_in(set: &str) -> Vec<Expression> {
    vec![lookup(set, None)]
}

/// `ip saddr . ip daddr @set`, `ip6 saddr . ip6 daddr @set`
pub(in super::super) fn addresses_in(family: Family, set: &str) -> Vec<Expression> {
    let [next, ..] = after_address(family);
    let load = vec![
        payload(source_address(family), Register::Reg1),
        payload(destination_address(family), next),
        lookup(set, None),
    ];
    [of_family(family), load].concat()
}
