//! Expressions that limit the flows of each guest.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{Expressions, MetaKey, Register};

use super::{
    Expression, conntrack_bits, emitted, equals, meta, other, payload, source_address, source_key,
};
use crate::{
    firewall::nftables::attribute::{EXPRESSION_DATA, EXPRESSION_NAME},
    model::Family,
};

/// `IPS_CONFIRMED` of `<linux/netfilter/nf_conntrack_common.h>`: the flow is in the table.
const CONFIRMED: u32 = 1 << 3;

/// `ct status ! confirmed`, which a packet has that no entry was made for yet
pub(in super::super) fn begins_flow() -> Vec<Expression> {
    // NFT_CT_STATUS
    [conntrack_bits(2, CONFIRMED), vec![equals(&[0; 4])]].concat()
}

/// `NFT_DYNSET_OP_UPDATE`.
pub(super) const UPDATE: u32 = 1;

/// `update @set { ip saddr limit rate over <rate>/second burst <burst> packets }`; for IPv6 with `ip6 saddr`
pub(in super::super) fn begins_more_than(
    family: Family,
    rate: u32,
    burst: u32,
    set: &str,
) -> Vec<Expression> {
    more_than(source_key(family), rate, burst, set)
}

/// The same, in a rule that is for this family already: nft(8) does not ask for it twice.
pub(in super::super) fn sends_more_than(
    family: Family,
    rate: u32,
    burst: u32,
    set: &str,
) -> Vec<Expression> {
    more_than(vec![payload(source_address(family), Register::Reg1)], rate, burst, set)
}

/// `update @set { iifname limit rate over <rate>/second burst <burst> packets }`
pub(in super::super) fn discovers_more_than(rate: u32, burst: u32, set: &str) -> Vec<Expression> {
    more_than(vec![meta(MetaKey::Iifname, Register::Reg1)], rate, burst, set)
}

fn more_than(key: Vec<Expression>, rate: u32, burst: u32, set: &str) -> Vec<Expression> {
    /// `NFT_LIMIT_F_INV`.
    const OVER: u32 = 1;
    [key, vec![dynset(UPDATE, set, "limit", limit(rate, burst, OVER))]].concat()
}

/// Returns the attributes of a limit in packets, with these flags.
pub(super) fn limit(rate: u32, burst: u32, flags: u32) -> [(u16, Vec<u8>); 5] {
    /// `NFT_LIMIT_PKTS`.
    const PACKETS: u32 = 0;
    let long = |number: u32| u64::from(number).to_be_bytes().to_vec();
    let short = |number: u32| number.to_be_bytes().to_vec();
    // NFTA_LIMIT_RATE, _UNIT (seconds), _BURST, _TYPE, _FLAGS
    [(1, long(rate)), (2, long(1)), (3, short(burst)), (4, short(PACKETS)), (5, short(flags))]
}

/// `add @set { ip saddr ct count over <limit> }`; for IPv6 with `ip6 saddr`. The kernel removes an element whose flows have ended (`nft_connlimit_gc`
/// of `net/netfilter/nft_connlimit.c`).
pub(in super::super) fn has_begun_more_than(
    family: Family,
    limit: u32,
    set: &str,
) -> Vec<Expression> {
    /// `NFT_DYNSET_OP_ADD` and `NFT_CONNLIMIT_F_INV`.
    const ADD: u32 = 0;
    const OVER: u32 = 1;
    // NFTA_CONNLIMIT_COUNT, _FLAGS
    let count = [(1, limit), (2, OVER)].map(|(kind, value)| (kind, value.to_be_bytes().to_vec()));
    for_source(family, ADD, set, "connlimit", count)
}

/// `<operation> @set { ip saddr <expression> }`; for IPv6 with `ip6 saddr`
fn for_source<const N: usize>(
    family: Family,
    operation: u32,
    set: &str,
    expression: &str,
    attributes: [(u16, Vec<u8>); N],
) -> Vec<Expression> {
    [source_key(family), vec![dynset(operation, set, expression, attributes)]].concat()
}

/// `<operation> @set { <key> <expression> }`. The expression's attributes are in the order in which the kernel lists them.
pub(super) fn dynset<const N: usize>(
    operation: u32,
    set: &str,
    expression: &str,
    attributes: [(u16, Vec<u8>); N],
) -> Expression {
    let attributes = attributes.map(|(kind, value)| DefaultNla::new(kind, value));
    let expression = [
        DefaultNla::new(EXPRESSION_NAME, text(expression)),
        DefaultNla::new(EXPRESSION_DATA, emitted(&attributes.as_slice())),
    ];
    // NFTA_DYNSET_OP, _SREG_KEY; _SET_NAME, _EXPR
    let mut dynset = other("dynset", &[(3, operation), (4, Register::Reg1.into())]);
    if let Expressions::Other { attributes, .. } = &mut dynset {
        attributes.push(DefaultNla::new(1, text(set)));
        attributes.push(DefaultNla::new(7, emitted(&expression.as_slice())));
    }
    dynset
}

/// Returns the value of an attribute that is a text.
pub(super) fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}
