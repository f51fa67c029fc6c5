//! Turns at the lock: tasks of other threads keep it, and while one follows another, no other process would ever have it.

use std::time::{Duration, Instant};

use super::core::Core;
use crate::now;
use riklet_sdn::store;

/// The time for which tasks may follow each other while another process waits.
const TURN: Duration = Duration::from_secs(1);
/// The longest wait for the other process to take the lock. It only has to wake up.
const HAND_OVER: Duration = Duration::from_millis(100);

/// The turn of the daemon.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The time since which tasks are in progress, or of the last look for others.
    since: Option<Instant>,
    is_over: bool,
}

impl Turn {
    /// Reports whether nothing new is begun until all tasks are done.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Core {
    fn has_tasks(&self) -> bool {
        !self.background.is_idle() || !self.flows.is_idle()
    }

    /// Reports whether another process has waited for long enough: then nothing new is begun until all tasks are done.
    pub(super) fn leaves_lock(&mut self) -> bool {
        if !self.has_tasks() {
            self.turn = Turn::default();
            return false;
        }
        let now = now();
        let since = *self.turn.since.get_or_insert(now);
        if !self.turn.is_over && now >= since + TURN {
            let is_over = store::is_awaited(&self.local.node.config().state_dir);
            self.turn = Turn { since: Some(now), is_over };
        }
        self.turn.is_over
    }

    /// Goes on with the requests that waited for a task, which is done. Others have their turn before, if it is over.
    pub(super) fn go_on(&mut self) {
        if self.turn.is_over && !self.has_tasks() {
            store::let_others(&self.local.node.config().state_dir, HAND_OVER);
            self.turn = Turn::default();
        }
        let mut again = std::mem::take(&mut self.held);
        again.append(&mut self.waiting);
        self.change(again);
    }
}
