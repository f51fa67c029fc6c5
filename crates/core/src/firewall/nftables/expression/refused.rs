//! Expressions that count refused packets, and tell of some.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, Immediate, MetaKey, Register,
};

use super::{
    COUNTER, Expression,
    flow_limit::{UPDATE, dynset, limit, text},
    meta,
};
use crate::firewall::refusal::PACKET_LENGTH;

/// The expression `limit`.
const LIMIT: &str = "limit";

/// `update @set { iif . <number> counter }`
pub(in super::super) fn count_for_interface(set: &str, number: u32) -> Vec<Expression> {
    let number = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg32_01),
        Immediate::Data(DataAttribute::Value(number.to_ne_bytes().to_vec())),
    ]);
    // NFTA_COUNTER_BYTES, _PACKETS
    let zero = || 0_u64.to_be_bytes().to_vec();
    let counter = dynset(UPDATE, set, COUNTER, [(1, zero()), (2, zero())]);
    vec![meta(MetaKey::Iif, Register::Reg1), number, counter]
}

/// `update @set { iif limit rate <rate>/second burst <burst> packets }`
pub(in super::super) fn few_for_interface(set: &str, (rate, burst): (u32, u32)) -> Vec<Expression> {
    let limited = dynset(UPDATE, set, LIMIT, limit(rate, burst, 0));
    vec![meta(MetaKey::Iif, Register::Reg1), limited]
}

/// `limit rate <rate>/second burst <burst> packets`
pub(in super::super) fn few((rate, burst): (u32, u32)) -> Vec<Expression> {
    let attributes = limit(rate, burst, 0);
    let attributes = attributes.map(|(kind, value)| DefaultNla::new(kind, value)).into();
    vec![Expressions::Other { expression_type: LIMIT.to_owned(), attributes }]
}

/// `log prefix "<prefix>" group <group> snaplen <length>`
pub(in super::super) fn log(prefix: &str, group: u16) -> Vec<Expression> {
    // NFTA_LOG_PREFIX, _GROUP, _SNAPLEN
    let attributes = [
        (2, text(prefix)),
        (1, group.to_be_bytes().to_vec()),
        (3, PACKET_LENGTH.to_be_bytes().to_vec()),
    ];
    let attributes = attributes.map(|(kind, value)| DefaultNla::new(kind, value)).into();
    vec![Expressions::Other { expression_type: "log".to_owned(), attributes }]
}
