use std::collections::{BTreeMap, BTreeSet};

use crate::address::Slot;

/// The number of questions that every guest counts for itself, between two calls of [`Allowance::renew`].
///
/// A guest whose questions exceed it is muted: the kernel drops its further questions where the guest sends them, so a guest
/// that floods the host keeps no other guest waiting.
#[derive(Debug, Default)]
pub struct Allowance {
    counts: BTreeMap<Slot, u32>,
    muted: BTreeSet<Slot>,
}

/// The decision about a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Answer,
    /// It is not answered, and the guest has just been muted.
    Mute,
    /// It is not answered.
    Ignore,
}

impl Allowance {
    /// The number of questions of a guest that are answered. A guest that boots with both families asks about ten.
    pub const QUESTIONS: u32 = 32;
    /// The number of guests that can be muted at a time. The others that exceed their allowance are not answered.
    pub const MUTED: usize = 1000;

    /// Decides about a question of this guest.
    pub fn ask(&mut self, slot: Slot) -> Verdict {
        let count = self.counts.entry(slot).or_default();
        *count = count.saturating_add(1);
        if *count <= Self::QUESTIONS {
            Verdict::Answer
        } else if self.muted.len() < Self::MUTED && self.muted.insert(slot) {
            Verdict::Mute
        } else {
            Verdict::Ignore
        }
    }

    /// Returns the muted guests.
    #[must_use]
    pub const fn muted(&self) -> &BTreeSet<Slot> {
        &self.muted
    }

    /// Gives every guest its full allowance again. Returns whether any was muted.
    pub fn renew(&mut self) -> bool {
        self.counts.clear();
        !std::mem::take(&mut self.muted).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_exceeds_its_allowance_is_muted_and_others_are_answered() {
        let mut allowance = Allowance::default();
        let [first, second] = [0, 1].map(Slot::new);
        for _ in 0..Allowance::QUESTIONS {
            assert_eq!(allowance.ask(first), Verdict::Answer);
        }
        assert_eq!(allowance.ask(first), Verdict::Mute);
        assert_eq!(allowance.ask(first), Verdict::Ignore);
        assert_eq!(allowance.ask(second), Verdict::Answer);
        assert_eq!(allowance.muted().iter().collect::<Vec<_>>(), [&first]);
        assert!(allowance.renew());
        assert_eq!(allowance.ask(first), Verdict::Answer);
        assert!(!allowance.renew(), "none was muted");
    }

    #[test]
    fn number_of_muted_guests_is_bounded() {
        let mut allowance = Allowance::default();
        for slot in (0..2000).map(Slot::new) {
            for _ in 0..=Allowance::QUESTIONS {
                allowance.ask(slot);
            }
        }
        assert_eq!(allowance.muted().len(), Allowance::MUTED);
        assert_eq!(allowance.ask(Slot::new(1999)), Verdict::Ignore);
    }
}
