//! Reserved slots: background tasks create TAPs in advance, and delete those of draining slots.

use std::time::{Duration, Instant};

use super::{core::Core, drift::REFRESH_INTERVAL, healer::Subject};
use crate::now;
use riklet_sdn::{NodeError, TaskOutcome, store::ReservedSlot};

/// The time without a request after which outcomes are committed and TAPs are created. If half of the ready slots are
/// gone, TAPs are created at once.
const QUIET_PERIOD: Duration = Duration::from_millis(3);
/// The largest number of TAPs that one task creates.
const CREATE_BATCH_SIZE: usize = 16;
/// The number of draining TAPs that starts their deletion at once.
const DELETE_BATCH_SIZE: usize = 256;
/// The time after which fewer draining TAPs are deleted too.
pub(super) const DRAIN_DELAY: Duration = Duration::from_millis(50);

impl Core {
    /// Returns the time of the next task that nothing else wakes the engine for.
    pub(super) fn next_task(&self) -> Option<Instant> {
        let quiet = self.last_request + QUIET_PERIOD;
        let flush = self.local.node.has_deferred().then_some(quiet.max(self.flush_after));
        // The outcome of a task in progress wakes the engine.
        if !self.background.is_idle() || self.turn.is_over() || !self.alone.is_empty() {
            return flush;
        }
        let drain = self.draining_since.map(|since| since + DRAIN_DELAY);
        let refill = (self.refill && self.options.ready_slots > 0).then_some(quiet);
        drain.into_iter().chain(refill).chain(flush).min()
    }

    /// Commits outcomes, and gives the background thread a task, if one is due.
    pub(super) fn give_tasks(&mut self) {
        if self.stopping {
            return;
        }
        if self.local.node.has_deferred()
            && now() >= self.flush_after.max(self.last_request + QUIET_PERIOD)
            && let Err(error) = self.local.node.flush()
        {
            self.events.error(&error);
            self.flush_after = now() + REFRESH_INTERVAL;
        }
        if !self.background.is_idle() || !self.alone.is_empty() || self.leaves_lock() {
            return;
        }
        if let Err(error) = self.give_task() {
            self.events.error(&error);
            // The next refresh tries again.
            self.refill = false;
            self.draining_since = None;
        }
    }

    fn give_task(&mut self) -> Result<(), NodeError> {
        let now = now();
        if !self.refill && self.draining_since.is_none() {
            return Ok(());
        }
        let due = self.draining_since.is_some_and(|since| now >= since + DRAIN_DELAY);
        let quiet = now >= self.last_request + QUIET_PERIOD;
        // A count reads the records, and requests that follow closely would wait for it.
        let wanted = self.options.ready_slots;
        let few = self.least_ready.is_none_or(|ready| ready * 2 <= wanted);
        let urgent = self.refill && few || self.local.node.draining() >= DELETE_BATCH_SIZE;
        if !(due || quiet || urgent) {
            return Ok(());
        }
        let reserved = self.local.node.reserved()?;
        let count = |state| reserved.get(&state).copied().unwrap_or_default();
        let (ready, draining) = (count(ReservedSlot::Ready), count(ReservedSlot::Draining));
        self.least_ready = Some(ready);
        if draining == 0 {
            self.draining_since = None;
        } else if (due || draining >= DELETE_BATCH_SIZE)
            && let draining = self.local.node.drain()?
        {
            // If others forget flows of all of them, they are drained after that.
            self.draining_since = None;
            if let Some(task) = draining {
                let _ended = self.background.give(task);
                return Ok(());
            }
        }
        let wanted = self.options.ready_slots.saturating_sub(ready + count(ReservedSlot::Creating));
        if wanted == 0 {
            self.refill = false;
        } else if self.refill && (quiet || ready * 2 <= self.options.ready_slots) {
            match self.local.node.reserve(wanted.min(CREATE_BATCH_SIZE))? {
                Some(task) => drop(self.background.give(task)),
                None => self.refill = false,
            }
        }
        Ok(())
    }

    /// Records the outcome of a task: its slots are ready or free now.
    pub(super) fn finish(&mut self, outcome: &TaskOutcome) {
        self.background.finished();
        self.changed_by_us.extend(outcome.ready.iter().chain(&outcome.freed));
        let now = now();
        if let Err(error) = self.local.node.finish(outcome) {
            self.events.error(&error);
            self.healer.suspect(Subject::All, now);
        }
        let kept = outcome.kept.as_ref().map(|(_, error)| error);
        for error in outcome.failed.values().chain(kept) {
            self.events.error(error);
        }
        if outcome.kept.is_some() {
            self.draining_since = Some(now + REFRESH_INTERVAL);
        }
        self.refill = true;
        self.least_ready = None;
    }
}
