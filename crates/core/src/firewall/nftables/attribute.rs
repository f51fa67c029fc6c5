//! Attributes of messages about rules (`struct nlattr` of `<linux/netlink.h>`).
//!
//! Reading these is faster than by the library, which matters for tens of thousands of rules.

use netlink_packet_core::NLA_TYPE_MASK;

/// `NFTA_RULE_TABLE`, `_CHAIN`, `_HANDLE`, `_EXPRESSIONS` and `_USERDATA` (`<linux/netfilter/nf_tables.h>`).
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
/// `NFTA_LIST_ELEM`; `NFTA_EXPR_NAME` and `_DATA`.
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
/// `NFTA_PAYLOAD_DREG`, `NFTA_CMP_SREG` and `NFTA_MATCH_NAME`.
pub(super) const PAYLOAD_DESTINATION: u16 = 1;
pub(super) const CMP_SOURCE: u16 = 1;
pub(super) const MATCH_NAME: u16 = 1;

/// The length of an attribute's header.
pub(super) const HEADER: usize = 4;

/// The attributes of a message, each with its kind, up to the first malformed one.
pub(in crate::firewall) struct Attributes<'a>(pub(in crate::firewall) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Returns the next attribute with its header; `None` at the end, and at a malformed one.
    fn advance(&mut self) -> Option<(u16, &'a [u8])> {
        let &[first, second, third, fourth, ..] = self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([first, second]));
        let kind = u16::from_ne_bytes([third, fourth]) & NLA_TYPE_MASK;
        let attribute = self.0.get(..length).filter(|attribute| attribute.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some((kind, attribute))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, attribute) = self.advance()?;
        Some((kind, attribute.get(HEADER..)?))
    }
}

/// Passes each attribute with its kind and its header to a function; `None` if the function returns that, or an attribute is
/// malformed.
pub(super) fn each<'a>(
    attributes: &'a [u8],
    mut act: impl FnMut(u16, &'a [u8]) -> Option<()>,
) -> Option<()> {
    let mut rest = Attributes(attributes);
    while !rest.0.is_empty() {
        let (kind, attribute) = rest.advance()?;
        act(kind, attribute)?;
    }
    Some(())
}

/// Returns the last attribute of this kind: whoever decodes the whole message takes that.
pub(super) fn one(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).filter(|(kind, _)| *kind == wanted).last().map(|(_, value)| value)
}

/// Returns the text of a value, without the byte 0 at its end; `None` if it is none.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
}
