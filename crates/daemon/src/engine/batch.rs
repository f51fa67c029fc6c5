//! Requests that wait are done together, and each gets its reply.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{core::Core, healer::Subject, slots::DRAIN_DELAY};
use crate::now;
use riklet_core::{model::Slot, plan::Step};
use riklet_sdn::{NodeError, Report, Request};

/// The most requests of one batch.
pub(super) const BATCH_SIZE: usize = 512;

pub(super) type Reply = oneshot::Sender<Result<Report, NodeError>>;

impl Core {
    /// Does these together, and replies to each. One that finds no slot or port free waits where a background task may
    /// free one.
    pub(super) fn change(&mut self, batch: Vec<(Request, Reply)>) {
        if batch.is_empty() {
            return;
        }
        let (requests, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let results = self.local.node.apply(&requests);
        let now = now();
        let may_free = !self.background.is_idle() || self.draining_since.is_some();
        for ((request, reply), result) in requests.into_iter().zip(replies).zip(results) {
            match &result {
                Err(error) if error.is_exhausted() && may_free => {
                    self.waiting.push((request, reply));
                    self.draining_since = Some(now.checked_sub(DRAIN_DELAY).unwrap_or(now));
                    continue;
                }
                Err(_) => {}
                Ok(report) => self.note_change(&request, report, now),
            }
            let _nobody_waits = reply.send(result);
        }
        self.last_request = now;
    }

    /// Notes what a request did, as an event and for what is looked at and done later.
    fn note_change(&mut self, request: &Request, report: &Report, now: Instant) {
        for step in &report.done {
            match step {
                Step::DrainLinks(names) => {
                    let slots = names.keys().filter_map(|n| Slot::of_interface(n.as_str()));
                    self.changed_by_us.extend(slots);
                    self.draining_since = self.draining_since.or(Some(now));
                }
                step => self.changed_by_us.extend(step.slot()),
            }
        }
        self.refill |= matches!(request, Request::Up(..));
        self.events.changed(request, report);
        for failure in report.failures.iter().chain(&report.others) {
            self.healer.failed(Subject::Slot(failure.slot), now);
        }
    }
}
