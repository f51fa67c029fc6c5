//! The progress of the engine's thread, for those who do not wait in its queue.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::SlotCounts;
use crate::now;
use riklet_sdn::store;

/// The progress of the engine's thread. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    busy_since: Option<Instant>,
    counts: SlotCounts,
}

/// The reason why the engine does not answer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// The time that the engine has been busy for.
    pub busy: Duration,
    /// The process that the engine waits for, if another process holds the lock or the database.
    pub waits_for: Option<String>,
}

impl Progress {
    /// Notes that the thread has work from now on.
    pub(super) fn begin(&self) {
        self.state().busy_since = Some(now());
    }

    /// Notes that the thread waits for work.
    pub(super) fn end(&self) {
        self.state().busy_since = None;
    }

    /// Notes the number of slots in each state.
    pub(super) fn note_counts(&self, counts: SlotCounts) {
        self.state().counts = counts;
    }

    /// Returns the last known number of slots in each state.
    pub(super) fn counts(&self) -> SlotCounts {
        self.state().counts
    }

    /// Returns why the thread does not answer; `None` if it waits for work.
    pub(super) fn delay(&self, state_dir: &Path) -> Option<Delay> {
        let busy = now().saturating_duration_since(self.state().busy_since?);
        let waits_for = store::lock_holder(state_dir).map(|holder| holder.to_string());
        Some(Delay { busy, waits_for })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
