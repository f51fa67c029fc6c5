//! Sets and maps of others, with their elements.

use super::{element, object::Set};
use crate::firewall::passage::{Element, Verdict};

/// `NFT_SET_ELEM_INTERVAL_END` and `NFT_SET_ELEM_CATCHALL`.
const INTERVAL_END: u32 = 1;
const CATCH_ALL: u32 = 2;
/// `NFT_SET_INTERVAL`.
const INTERVAL: u32 = 4;
/// `NFTA_SET_ELEM_KEY`, `_DATA`, `_FLAGS` and `_KEY_END`; `NFTA_DATA_VALUE` and `_VERDICT`;
/// `NFTA_VERDICT_CODE` and `_CHAIN` (`<linux/netfilter/nf_tables.h>`).
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const CODE: u16 = 1;
const CHAIN: u16 = 2;
/// `NF_DROP`, `NF_ACCEPT` and `NF_QUEUE` of `<linux/netfilter.h>`; the number of a queue stands in the upper bits.
pub(super) const NF_DROP: u32 = 0;
pub(super) const NF_ACCEPT: u32 = 1;
const NF_QUEUE: u32 = 3;
const NF_VERDICT: u32 = 0xff;
/// `NFT_JUMP`, `NFT_GOTO` and `NFT_RETURN`.
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// A foreign set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForeignSet {
    /// The length of a key in bytes.
    pub key_length: u32,
    /// True if it holds intervals.
    pub intervals: bool,
    /// The elements.
    pub elements: Vec<ForeignElement>,
}

/// An element of such a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForeignElement {
    key: Vec<u8>,
    /// The last key of an interval, in a set of concatenations.
    key_end: Option<Vec<u8>>,
    flags: u32,
    /// The verdict, in a map of verdicts.
    pub(super) verdict: Option<Verdict>,
}

/// Returns the verdict of this code; `None` if the packet goes on to the next rule.
pub(super) fn verdict(code: u32, chain: Option<&str>) -> Option<Verdict> {
    let chain = || chain.unwrap_or_default().to_owned();
    Some(match code.cast_signed() {
        JUMP => Verdict::Jump(chain()),
        GOTO => Verdict::Goto(chain()),
        RETURN => Verdict::Return,
        other if other < 0 => return None,
        _ => match code & NF_VERDICT {
            NF_DROP => Verdict::Drop,
            NF_ACCEPT => Verdict::Accept,
            NF_QUEUE => Verdict::Queue,
            _ => return None,
        },
    })
}

/// Reads the elements of a message of the kernel (`NFT_MSG_NEWSETELEM`, with its header).
#[must_use]
pub fn read(message: &[u8]) -> Option<Vec<ForeignElement>> {
    Some(element::each(message)?.map(ForeignElement::read).collect())
}

impl ForeignElement {
    fn read(attributes: &[u8]) -> Self {
        let value =
            |kind| Some(element::attribute(element::attribute(attributes, kind)?, VALUE)?.to_vec());
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
        let verdict = || {
            let data = element::attribute(element::attribute(attributes, DATA)?, VERDICT)?;
            let chain =
                element::attribute(data, CHAIN).and_then(|chain| chain.split(|b| *b == 0).next());
            let chain = chain.and_then(|chain| std::str::from_utf8(chain).ok());
            verdict(number(element::attribute(data, CODE)?)?, chain)
        };
        Self {
            key: value(KEY).unwrap_or_default(),
            key_end: value(KEY_END),
            flags: element::attribute(attributes, FLAGS).and_then(number).unwrap_or_default(),
            verdict: verdict(),
        }
    }
}

impl ForeignSet {
    /// Returns a set without its elements.
    #[must_use]
    pub fn new(set: &Set, elements: Vec<ForeignElement>) -> Self {
        Self { key_length: set.key.1, intervals: set.flags & INTERVAL != 0, elements }
    }

    /// Returns the elements with their ranges, for keys of parts with these lengths in bytes. Each part is padded to
    /// four bytes.
    pub(super) fn split(&self, parts: &[usize]) -> Vec<(Element, Option<&Verdict>)> {
        let mut sorted: Vec<_> = self.elements.iter().collect();
        sorted.sort_by(|one, other| one.key.cmp(&other.key));
        let mut found = Vec::new();
        for (index, element) in sorted.iter().enumerate() {
            let ends_before = |next: &&&ForeignElement| predecessor(&next.key);
            let high = match &element.key_end {
                _ if element.flags & INTERVAL_END != 0 => continue,
                _ if element.flags & CATCH_ALL != 0 => {
                    found.push((Element::new(), element.verdict.as_ref()));
                    continue;
                }
                Some(end) => end.clone(),
                // One element is the start of an interval, and the next its end.
                None if self.intervals => sorted
                    .get(index + 1)
                    .as_ref()
                    .map_or_else(|| vec![u8::MAX; element.key.len()], ends_before),
                None => element.key.clone(),
            };
            found.push((ranges(&element.key, &high, parts), element.verdict.as_ref()));
        }
        // The catch-all element comes last.
        found.sort_by_key(|(element, _)| element.is_empty());
        found
    }
}

/// Returns the key before this one.
fn predecessor(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            break;
        }
    }
    key
}

fn ranges(low: &[u8], high: &[u8], parts: &[usize]) -> Element {
    let mut at = 0;
    let part = |key: &[u8], at: usize, length: usize| {
        key.get(at..(at + length).min(key.len())).unwrap_or_default().to_vec()
    };
    let one = |&length: &usize| {
        let range = (part(low, at, length), part(high, at, length));
        at += length.next_multiple_of(4);
        range
    };
    parts.iter().map(one).collect()
}
