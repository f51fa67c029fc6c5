//! Decides when to look for drift, and how long repeated repairs back off. Pure: time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use riklet_core::model::Slot;

/// The number of consecutive repairs that do not back off. A firewall that starts or reloads undoes our rules up to four
/// times, and several of them may do so within the quiet period, as at boot.
const IMMEDIATE_REPAIRS: u32 = 16;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The time without a repair after which the count starts over.
const QUIET_PERIOD: Duration = Duration::from_secs(10);
/// The delay before looking at our own changes. Those that follow within it are looked at together.
const OWN_CHANGE_DELAY: Duration = Duration::from_millis(20);
/// The largest number of slots in one look, since requests wait meanwhile.
const BATCH_SIZE: usize = 256;

/// Something that may drift. Each subject backs off by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Everything: the firewall's rules have changed.
    All,
    /// Everything that all instances share: the base ruleset, foreign chains, sysctls.
    Shared,
    /// The interface of one slot.
    Slot(Slot),
}

impl Subject {
    /// Returns the slot of a subject that is one.
    pub(crate) const fn slot(self) -> Option<Slot> {
        match self {
            Self::All | Self::Shared => None,
            Self::Slot(slot) => Some(slot),
        }
    }
}

/// A look that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything.
    All,
    /// These slots, and what all share.
    Slots(BTreeSet<Slot>),
}

/// The subjects that are suspected of drift, and the repairs of each.
#[derive(Debug, Default)]
pub(crate) struct Healer {
    due: BTreeMap<Subject, Instant>,
    /// The time of the last planned look at our own changes.
    own: Option<Instant>,
    backoffs: BTreeMap<Subject, Backoff>,
}

/// The repairs of one subject.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    repairs: u32,
    last: Instant,
}

impl Backoff {
    fn pause(self) -> Duration {
        let Some(doublings) = self.repairs.checked_sub(IMMEDIATE_REPAIRS) else {
            return Duration::ZERO;
        };
        FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE)
    }
}

impl Healer {
    /// Notes a change by somebody else. A look at it is due now, or after its pause.
    pub(crate) fn suspect(&mut self, subject: Subject, now: Instant) {
        let pause = self.pause(subject, now);
        let due =
            self.backoffs.get(&subject).map_or(now, |backoff| (backoff.last + pause).max(now));
        self.due.entry(subject).and_modify(|present| *present = due.min(*present)).or_insert(due);
    }

    /// Notes our own change of a slot: somebody else may have changed it at the same time.
    pub(crate) fn changed_by_us(&mut self, slot: Slot, now: Instant) {
        let planned = self.own.filter(|planned| *planned > now);
        let due = *self.own.insert(planned.unwrap_or(now + OWN_CHANGE_DELAY));
        self.due.entry(Subject::Slot(slot)).or_insert(due);
    }

    /// Notes that a repair failed. It is retried after a pause.
    pub(crate) fn failed(&mut self, subject: Subject, now: Instant) {
        self.repaired(subject, now);
        let pause = self.pause(subject, now).max(FIRST_PAUSE);
        self.due.insert(subject, now + pause);
    }

    /// Notes a repair. Returns the pause that applies if the subject drifts again; `None` if there is none.
    pub(crate) fn repaired(&mut self, subject: Subject, now: Instant) -> Option<Duration> {
        let backoff = self.backoffs.entry(subject).or_insert(Backoff { repairs: 0, last: now });
        if now.duration_since(backoff.last) > QUIET_PERIOD.max(backoff.pause().saturating_mul(2)) {
            backoff.repairs = 0;
        }
        backoff.repairs += 1;
        backoff.last = now;
        Some(backoff.pause()).filter(|pause| !pause.is_zero())
    }

    /// Takes the look that is due; `None` if none is.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Look> {
        if self.due.get(&Subject::All).is_some_and(|due| *due <= now) {
            self.due.retain(|_, due| *due > now);
            return Some(Look::All);
        }
        let due = self.due.iter().filter(|(_, due)| **due <= now).map(|(subject, _)| *subject);
        let due: Vec<_> = due.take(BATCH_SIZE).collect();
        for subject in &due {
            self.due.remove(subject);
        }
        let slots: BTreeSet<_> = due.iter().filter_map(|subject| subject.slot()).collect();
        (!due.is_empty()).then_some(Look::Slots(slots))
    }

    /// Returns the time of the next look.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    fn pause(&self, subject: Subject, now: Instant) -> Duration {
        let backoff = self.backoffs.get(&subject).filter(|backoff| {
            now.duration_since(backoff.last) <= QUIET_PERIOD.max(backoff.pause().saturating_mul(2))
        });
        backoff.map_or(Duration::ZERO, |backoff| backoff.pause())
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
    fn repeated_repairs_back_off_up_to_a_minute() {
        let start = Instant::now();
        let mut healer = Healer::default();
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..28 {
            healer.suspect(SLOT, now);
            let due = healer.next().unwrap();
            pauses.push(due.duration_since(now));
            now = due;
            assert_eq!(healer.take(now), Some(slots(&[3])));
            healer.repaired(SLOT, now);
        }
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(millis[..16], [0; 16]);
        assert_eq!(
            millis[16..],
            [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000]
        );
        now += Duration::from_secs(121);
        healer.suspect(SLOT, now);
        assert_eq!(healer.take(now), Some(slots(&[3])), "the quiet period is over");
        assert_eq!(healer.repaired(SLOT, now), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn only_our_own_changes_are_checked_with_a_delay() {
        let now = Instant::now();
        let mut healer = Healer::default();
        healer.changed_by_us(Slot::new(1), now);
        healer.changed_by_us(Slot::new(2), now);
        assert_eq!(healer.take(now), None);
        healer.suspect(Subject::Slot(Slot::new(2)), now);
        assert_eq!(healer.take(now), Some(slots(&[2])));
        assert_eq!(healer.take(now + OWN_CHANGE_DELAY), Some(slots(&[1])));
        assert_eq!(healer.next(), None);
        healer.changed_by_us(Slot::new(1), now);
        healer.suspect(Subject::Shared, now);
        assert_eq!(healer.take(now), Some(slots(&[])));
        healer.suspect(Subject::All, now);
        assert_eq!(healer.take(now), Some(Look::All));
        assert_eq!(healer.take(now + OWN_CHANGE_DELAY), Some(slots(&[1])));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn own_changes_in_quick_succession_are_checked_together() {
        let start = Instant::now();
        let mut healer = Healer::default();
        for (slot, after) in [(1, 0), (2, 6), (3, 19), (4, 20)] {
            healer.changed_by_us(Slot::new(slot), start + Duration::from_millis(after));
        }
        assert_eq!(healer.next(), Some(start + OWN_CHANGE_DELAY));
        assert_eq!(healer.take(start + OWN_CHANGE_DELAY), Some(slots(&[1, 2, 3])));
        assert_eq!(healer.next(), Some(start + 2 * OWN_CHANGE_DELAY));
        assert_eq!(healer.take(start + 2 * OWN_CHANGE_DELAY), Some(slots(&[4])));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where time begins does not matter")]
    fn failed_repair_is_retried() {
        let now = Instant::now();
        let mut healer = Healer::default();
        healer.failed(SLOT, now);
        assert_eq!(healer.take(now), None);
        assert_eq!(healer.take(now + FIRST_PAUSE), Some(slots(&[3])));
    }
}
