//! Parts of expressions that several readers of rules of others need: registers, and attributes of expressions that the
//! crate leaves undecoded.

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, NLA_TYPE_MASK, Nla};
use netlink_packet_netfilter::nftables::Register;

/// A register of 16 bytes is four of 4 bytes: `NFT_REG_1` and `NFT_REG32_00` are the same.
const WORDS: u32 = 4;
/// `NFT_REG32_00`.
const FIRST_WORD: u32 = 8;
/// `NFT_LOOKUP_F_INV`.
pub(super) const INVERTED: u32 = 1;
/// `NFT_RANGE_NEQ`.
pub(super) const OUTSIDE: u32 = 1;
/// `NFTA_DATA_VALUE`.
pub(super) const VALUE: u16 = 1;

/// The values of registers by their first word ([`word`]), and their lengths in bytes.
pub(super) type Registers<V> = BTreeMap<u32, (V, usize)>;

/// Returns the first word of a register.
pub(super) fn word(register: u32) -> u32 {
    if register < FIRST_WORD { register.saturating_sub(1) * WORDS } else { register - FIRST_WORD }
}

/// Returns the values of a key of this length in bytes, and their lengths. A register that holds nothing known is
/// `unknown`.
pub(super) fn key<V: Clone>(
    registers: &Registers<V>,
    first: Option<Register>,
    length: u32,
    unknown: &V,
) -> (Vec<V>, Vec<usize>) {
    let mut at = first.map_or(0, |register| word(register.into()));
    let end = at.saturating_add(length.div_ceil(4));
    let (mut values, mut lengths) = (Vec::new(), Vec::new());
    while at < end {
        let (value, length) = registers.get(&at).cloned().unwrap_or_else(|| (unknown.clone(), 4));
        let words = u32::try_from(length.div_ceil(4)).unwrap_or(u32::MAX).max(1);
        at = at.saturating_add(words);
        values.push(value);
        lengths.push(length);
    }
    (values, lengths)
}

/// Returns the values of attributes by their kind.
pub(super) fn values(attributes: &[DefaultNla]) -> BTreeMap<u16, Vec<u8>> {
    let value = |attribute: &DefaultNla| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        (attribute.kind() & NLA_TYPE_MASK, value)
    };
    attributes.iter().map(value).collect()
}

/// Returns the text of an attribute; empty if there is none.
pub(super) fn text(values: &BTreeMap<u16, Vec<u8>>, kind: u16) -> &str {
    let bytes = values.get(&kind).map_or(&[][..], |bytes| bytes);
    std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).unwrap_or_default()
}
