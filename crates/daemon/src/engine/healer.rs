//! When what drifted is looked at, and how long what keeps drifting is left alone. Pure: time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use riklet_core::model::Slot;

/// How often in a row something is repaired at once.
const AT_ONCE: u32 = 5;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// What stayed as it was for so long is no longer fought over.
const QUIET_PERIOD: Duration = Duration::from_secs(10);
/// What we changed ourselves is looked at when the rush is over.
const OWN: Duration = Duration::from_millis(20);
/// So many slots are looked at in one go: others wait meanwhile.
const SLOTS: usize = 256;

/// What may drift, in the unit that is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Anything: the firewall is not what it was.
    All,
    /// What all instances share: the firewall's skeleton, gates, sysctls.
    Shared,
    /// The interface of one slot.
    Slot(Slot),
}

impl Subject {
    /// The slot, where it is one.
    pub(crate) const fn slot(self) -> Option<Slot> {
        match self {
            Self::All | Self::Shared => None,
            Self::Slot(slot) => Some(slot),
        }
    }
}

/// What is to be looked at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything.
    All,
    /// These slots, and what all share.
    Slots(BTreeSet<Slot>),
}

/// What is suspected of drift.
#[derive(Debug, Default)]
pub(crate) struct Healer {
    due: BTreeMap<Subject, Instant>,
    fights: BTreeMap<Subject, Fight>,
}

/// Something that is repaired again and again.
#[derive(Debug, Clone, Copy)]
struct Fight {
    repairs: u32,
    last: Instant,
}

impl Fight {
    fn pause(self) -> Duration {
        let Some(doublings) = self.repairs.checked_sub(AT_ONCE) else { return Duration::ZERO };
        FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE)
    }
}

impl Healer {
    /// Something changed, and nobody here did it.
    pub(crate) fn suspect(&mut self, subject: Subject, now: Instant) {
        let pause = self.pause(subject, now);
        let due = self.fights.get(&subject).map_or(now, |fight| (fight.last + pause).max(now));
        self.due.entry(subject).and_modify(|present| *present = due.min(*present)).or_insert(due);
    }

    /// A slot changed, and we did it: somebody else may have changed it along with us.
    pub(crate) fn own(&mut self, slot: Slot, now: Instant) {
        self.due.entry(Subject::Slot(slot)).or_insert(now + OWN);
    }

    /// What could not be repaired is tried again after a while.
    pub(crate) fn failed(&mut self, subject: Subject, now: Instant) {
        self.repaired(subject, now);
        let pause = self.pause(subject, now).max(FIRST_PAUSE);
        self.due.insert(subject, now + pause);
    }

    /// What was repaired. Returns how long it is left alone if it drifts again, where that is not at once.
    pub(crate) fn repaired(&mut self, subject: Subject, now: Instant) -> Option<Duration> {
        let fight = self.fights.entry(subject).or_insert(Fight { repairs: 0, last: now });
        if now.duration_since(fight.last) > QUIET_PERIOD.max(fight.pause().saturating_mul(2)) {
            fight.repairs = 0;
        }
        fight.repairs += 1;
        fight.last = now;
        Some(fight.pause()).filter(|pause| !pause.is_zero())
    }

    /// What is to be looked at now; `None` where nothing is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Look> {
        if self.due.get(&Subject::All).is_some_and(|due| *due <= now) {
            self.due.retain(|_, due| *due > now);
            return Some(Look::All);
        }
        let due = self.due.iter().filter(|(_, due)| **due <= now).map(|(subject, _)| *subject);
        let due: Vec<_> = due.take(SLOTS).collect();
        for subject in &due {
            self.due.remove(subject);
        }
        let slots: BTreeSet<_> = due.iter().filter_map(|subject| subject.slot()).collect();
        (!due.is_empty()).then_some(Look::Slots(slots))
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    fn pause(&self, subject: Subject, now: Instant) -> Duration {
        let fight = self.fights.get(&subject).filter(|fight| {
            now.duration_since(fight.last) <= QUIET_PERIOD.max(fight.pause().saturating_mul(2))
        });
        fight.map_or(Duration::ZERO, |fight| fight.pause())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Subject = Subject::Slot(Slot::new(3));

    fn slots(slots: &[u16]) -> Look {
        Look::Slots(slots.iter().map(|&slot| Slot::new(slot)).collect())
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn what_is_fought_over_is_left_alone_for_longer_and_longer() {
        let start = Instant::now();
        let mut healer = Healer::default();
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..20 {
            healer.suspect(SLOT, now);
            let due = healer.next().unwrap();
            pauses.push(due.duration_since(now));
            now = due;
            assert_eq!(healer.take(now), Some(slots(&[3])));
            healer.repaired(SLOT, now);
        }
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(
            millis,
            [
                0, 0, 0, 0, 0, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000,
                60000, 60000, 60000, 60000
            ]
        );
        now += Duration::from_secs(121);
        healer.suspect(SLOT, now);
        assert_eq!(healer.take(now), Some(slots(&[3])), "it had its peace");
        assert_eq!(healer.repaired(SLOT, now), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn what_we_changed_waits_and_what_others_changed_does_not() {
        let now = Instant::now();
        let mut healer = Healer::default();
        healer.own(Slot::new(1), now);
        healer.own(Slot::new(2), now);
        assert_eq!(healer.take(now), None);
        healer.suspect(Subject::Slot(Slot::new(2)), now);
        assert_eq!(healer.take(now), Some(slots(&[2])));
        assert_eq!(healer.take(now + OWN), Some(slots(&[1])));
        assert_eq!(healer.next(), None);
        healer.own(Slot::new(1), now);
        healer.suspect(Subject::Shared, now);
        assert_eq!(healer.take(now), Some(slots(&[])));
        healer.suspect(Subject::All, now);
        assert_eq!(healer.take(now), Some(Look::All));
        assert_eq!(healer.take(now + OWN), Some(slots(&[1])));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn what_failed_is_tried_again() {
        let now = Instant::now();
        let mut healer = Healer::default();
        healer.failed(SLOT, now);
        assert_eq!(healer.take(now), None);
        assert_eq!(healer.take(now + FIRST_PAUSE), Some(slots(&[3])));
    }
}
