//! Recognizes rules of others that are for ports nobody asks about, without decoding them.
//!
//! A host that publishes many ports, as of containers or services, has as many rules that translate them.

use super::{
    attribute::{
        Attributes, CMP_SOURCE, EXPRESSION_DATA, EXPRESSION_NAME, LIST_ELEMENT, MATCH_NAME,
        PAYLOAD_DESTINATION, RULE_EXPRESSIONS, one, text,
    },
    sound::{HEADERS, NEW_RULE, kind},
};
use crate::firewall::{
    translation::{Test, Wanted},
    xtables,
};

/// `NFTA_PAYLOAD_BASE`, `_OFFSET` and `_LEN`, and their values for the destination port of a packet.
const PORT: [(u16, u32); 3] = [(2, 2), (3, 2), (4, 2)];
/// `NFTA_CMP_OP` and `_DATA`; `NFTA_DATA_VALUE`; `NFT_CMP_EQ`.
const OPERATOR: u16 = 2;
const COMPARED: u16 = 3;
const VALUE: u16 = 1;
const EQUAL: u32 = 0;
/// `NFTA_MATCH_INFO`.
const MATCH_INFO: u16 = 3;

/// The ports that are asked about, of whatever protocol and address.
#[derive(Debug)]
pub struct AskedPorts(Vec<bool>);

impl AskedPorts {
    /// Returns the ports of these.
    #[must_use]
    pub fn of(wanted: &Wanted) -> Self {
        let mut asked = vec![false; usize::from(u16::MAX) + 1];
        for (_, _, ports) in wanted {
            let range = usize::from(ports.first())..=usize::from(ports.last());
            asked.get_mut(range).unwrap_or_default().fill(true);
        }
        Self(asked)
    }

    fn any(&self, low: u32, high: u32) -> bool {
        let index = |port| usize::try_from(port).unwrap_or(usize::MAX).min(self.0.len() - 1);
        let asked = self.0.get(index(low)..=index(high)).unwrap_or_default();
        asked.contains(&true)
    }

    /// Reports whether a message of the kernel, with its header, has a rule that no packet to one of these ports passes. One
    /// that is not recognized may be such a rule as well.
    #[must_use]
    pub fn misses(&self, message: &[u8]) -> bool {
        kind(message) == Some(NEW_RULE)
            && message
                .get(HEADERS..)
                .and_then(|attributes| one(attributes, RULE_EXPRESSIONS))
                .is_some_and(|expressions| self.is_missed_by(expressions))
    }

    fn is_missed_by(&self, expressions: &[u8]) -> bool {
        // The register that holds the destination port since the expression before.
        let mut loaded: Option<&[u8]> = None;
        for (kind, expression) in Attributes(expressions) {
            // The kernel sends no others, nor an attribute twice. They would be decoded in another way.
            if kind != LIST_ELEMENT || Attributes(expression).count() > 2 {
                return false;
            }
            let name = one(expression, EXPRESSION_NAME).and_then(text).unwrap_or_default();
            let data = one(expression, EXPRESSION_DATA).unwrap_or_default();
            match name {
                "payload" => {
                    let is_port =
                        PORT.iter().all(|(kind, wanted)| number(data, *kind) == Some(*wanted));
                    loaded = one(data, PAYLOAD_DESTINATION).filter(|_| is_port);
                }
                "cmp" => {
                    let compares = loaded.is_some() && loaded == one(data, CMP_SOURCE);
                    let value = one(data, COMPARED).and_then(|data| one(data, VALUE));
                    if compares
                        && number(data, OPERATOR) == Some(EQUAL)
                        && let Some(&[high, low]) = value
                    {
                        let port = u16::from_be_bytes([high, low]).into();
                        if !self.any(port, port) {
                            return true;
                        }
                    }
                }
                "match" if self.is_missed_by_match(data) => return true,
                _ => loaded = None,
            }
        }
        false
    }

    fn is_missed_by_match(&self, data: &[u8]) -> bool {
        let name = one(data, MATCH_NAME).and_then(text).unwrap_or_default();
        let tests = one(data, MATCH_INFO).and_then(|info| xtables::ports(name, info));
        let Some(Test::Among(tests)) = tests else { return false };
        tests.iter().all(|packets| {
            let (low, high) = packets.ports();
            !self.any(low, high)
        })
    }
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    one(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}
