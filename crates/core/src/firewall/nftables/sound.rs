//! Checks messages before the library decodes them: it trusts the lengths of some nested attributes, and panics if they
//! are wrong.

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_netfilter::NetfilterProtoFamily;

use super::attribute::{EXPRESSION_DATA, EXPRESSION_NAME, RULE_EXPRESSIONS};

/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` of `<linux/netfilter/nf_tables.h>`.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
pub(super) const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
/// `sizeof(struct nlmsghdr)` and `sizeof(struct nfgenmsg)`.
pub(super) const HEADERS: usize = 20;
/// The place of `nfgen_family` of `struct nfgenmsg` in a message.
const FAMILY: usize = 16;
/// `NFTA_SET_EXPR`.
const SET_EXPRESSION: u16 = 17;
/// The attributes that hold one attribute, whose length the library trusts: `NFTA_BITWISE_MASK`, `_XOR` and `_DATA`,
/// `NFTA_CMP_DATA` and `NFTA_IMMEDIATE_DATA`.
pub(super) const HOLDERS_OF_BITWISE: &[u16] = &[4, 5, 7];
pub(super) const HOLDERS_OF_CMP: &[u16] = &[3];
pub(super) const HOLDERS_OF_IMMEDIATE: &[u16] = &[2];
const NESTED: [(&[u8], &[u16]); 3] = [
    (b"cmp\0", HOLDERS_OF_CMP),
    (b"bitwise\0", HOLDERS_OF_BITWISE),
    (b"immediate\0", HOLDERS_OF_IMMEDIATE),
];

/// Reports whether a message, with its header, is about a table, a chain, a rule or a set, and can be decoded without a
/// panic.
#[must_use]
pub fn is_sound(message: &[u8]) -> bool {
    let Some((kind, attributes)) = kind(message).zip(message.get(HEADERS..)) else { return false };
    match kind {
        NEW_TABLE | NEW_CHAIN => true,
        NEW_RULE => values(attributes, RULE_EXPRESSIONS)
            .all(|list| nested(list).all(|item| is_sound_expression(item.value))),
        NEW_SET => values(attributes, SET_EXPRESSION).all(holds_one),
        _ => false,
    }
}

/// Returns the kind of a message of nf_tables (`NFT_MSG_*`); `None` if it is of another subsystem.
pub(super) fn kind(message: &[u8]) -> Option<u16> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    (kind >> 8 == SUBSYSTEM).then_some(kind & 0xff)
}

/// Returns the family of the table that a message is about.
pub(super) fn family(message: &[u8]) -> Option<NetfilterProtoFamily> {
    message.get(FAMILY).map(|family| NetfilterProtoFamily::from(*family))
}

fn is_sound_expression(expression: &[u8]) -> bool {
    values(expression, EXPRESSION_NAME).all(|name| {
        let kinds = NESTED.iter().find(|(named, _)| *named == name).map_or(&[][..], |(_, k)| k);
        values(expression, EXPRESSION_DATA).all(|data| {
            nested(data).all(|part| !kinds.contains(&part.kind) || holds_one(part.value))
        })
    })
}

/// An attribute.
struct Attribute<'a> {
    kind: u16,
    value: &'a [u8],
}

/// Returns the attributes up to the first malformed one, at which the library fails.
fn nested(attributes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    NlasIterator::new(attributes).map_while(Result::ok).filter_map(|found| {
        let (kind, end) = (found.kind(), usize::from(found.length()));
        Some(Attribute { kind, value: found.into_inner().get(4..end)? })
    })
}

fn values(attributes: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    nested(attributes).filter(move |found| found.kind == wanted).map(|found| found.value)
}

/// Reports whether this begins with a complete attribute.
fn holds_one(value: &[u8]) -> bool {
    NlaBuffer::new_checked(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &[u8] = include_bytes!("../../../../../fuzz/corpus/nftables/rules");
    const CMP: &[u8] =
        include_bytes!("../../../../../fuzz/corpus/nftables/cmp_with_a_wrong_length");
    const IMMEDIATE: &[u8] =
        include_bytes!("../../../../../fuzz/corpus/nftables/immediate_with_a_wrong_length");

    /// Returns the number of messages about rules that are not sound.
    fn unsound(mut received: &[u8]) -> usize {
        let mut count = 0;
        while let Some(length) = received.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
            let (message, rest) = received.split_at(usize::try_from(length).unwrap());
            let is_rule = message[4..6] == 0x0a06_u16.to_ne_bytes();
            count += usize::from(is_rule && !is_sound(message));
            received = rest;
        }
        count
    }

    #[test]
    fn a_length_beyond_its_attribute_is_not_sound() {
        assert_eq!(unsound(RULES), 0);
        assert_eq!(unsound(CMP), 1);
        assert_eq!(unsound(IMMEDIATE), 1);
    }
}
