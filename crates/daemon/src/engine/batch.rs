//! Applies waiting requests together, and replies to each.

use std::{collections::BTreeSet, time::Instant};

use tokio::sync::oneshot;

use super::{core::Core, flows::Unconfirmed, healer::Subject, slots::DRAIN_DELAY};
use crate::{names, now};
use riklet_core::{
    model::{EgressPolicy, Slot, Workload},
    plan::Step,
};
use riklet_kernel::Links;
use riklet_sdn::{Begun, Failure, LinkStatus, NodeError, Report, Request, Warning};

/// The largest number of requests in one batch.
pub(super) const BATCH_SIZE: usize = 512;

pub(super) type Reply = oneshot::Sender<Result<Report, NodeError>>;

fn is_cut_off(warning: &Warning) -> bool {
    matches!(warning, Warning::CutOff(_))
}

impl Core {
    /// Applies these requests together, and replies to each. A request that finds no free slot or port waits if a
    /// background task may free one. The reply to one that leaves flows to be forgotten waits for that.
    pub(super) fn change(&mut self, batch: Vec<(Request, Reply)>) {
        let batch = self.hold_back(batch);
        if batch.is_empty() {
            return;
        }
        let (requests, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        self.expect_names(&requests);
        let Begun { answers, tasks, .. } = self.local.node.begin(&requests);
        self.hear_others();
        let now = now();
        let is_draining = self.draining_since.is_some() || self.local.node.draining() > 0;
        let may_free = is_draining || !self.background.is_idle() || !self.flows.is_idle();
        for ((request, reply), answer) in requests.into_iter().zip(replies).zip(answers) {
            let Some(result) = answer else {
                self.held.push((request, reply));
                continue;
            };
            match &result {
                Err(error) if error.is_exhausted() && may_free => {
                    self.waiting.push((request, reply));
                    self.draining_since = Some(now.checked_sub(DRAIN_DELAY).unwrap_or(now));
                    continue;
                }
                Err(_) => {}
                Ok(report) => {
                    self.names.changed_by(&request, report);
                    self.note_change(&request, report, now);
                }
            }
            match result {
                Ok(report) if report.ticket().is_some() => {
                    self.unconfirmed.extend(Unconfirmed::of(request, report, reply));
                }
                result => {
                    if let Ok(report) = &result {
                        self.announce(&request, report);
                    }
                    let _nobody_waits = reply.send(result);
                }
            }
        }
        self.last_request = now;
        self.forget_flows(tasks);
    }

    /// Notes the names that policies get, so that what guests were told for those that they keep is not lost. Without it, they
    /// ask again.
    fn expect_names(&mut self, requests: &[Request]) {
        let workloads = requests.iter().flat_map(Request::brought_up);
        let has_names =
            |workload: &&Workload| workload.egress().is_some_and(EgressPolicy::has_names);
        let named: Vec<_> = workloads.filter(has_names).collect();
        if named.is_empty() {
            return;
        }
        let found = self.local.node.look_at_records(|store| names::to_come(store, named));
        match found.flatten() {
            Ok(found) => {
                for (guest, set, names) in found {
                    self.pins.expect(guest, &set, names);
                }
            }
            Err(error) => tracing::debug!(%error, "guests may have to ask for names again"),
        }
    }

    /// Schedules the checks and tasks that follow from a request.
    fn note_change(&mut self, request: &Request, report: &Report, now: Instant) {
        for step in &report.done {
            match step {
                Step::DrainLinks(names) => {
                    let slots = names.keys().filter_map(|n| Slot::of_interface(n.as_str()));
                    self.changed_by_us.extend(slots);
                }
                Step::RetireLinks(names) => {
                    let slots = names.iter().filter_map(|n| Slot::of_interface(n.as_str()));
                    self.changed_by_us.extend(slots);
                }
                step => self.changed_by_us.extend(step.slot()),
            }
        }
        let taken = match request {
            Request::Up(workloads, _) => workloads.len(),
            _ => 0,
        };
        self.refill |= taken > 0;
        self.least_ready = self.least_ready.map(|ready| ready.saturating_sub(taken));
        // The events of a request that changed nothing have no warnings.
        if !report.done.is_empty() {
            self.warnings.found.extend(report.warnings.iter().filter(|w| !is_cut_off(w)).cloned());
        }
        for failure in report.failures.iter().chain(&report.others) {
            self.healer.failed(Subject::Slot(failure.slot), now);
        }
    }
}

impl Core {
    /// Publishes the effect of a request.
    pub(super) fn announce(&mut self, request: &Request, report: &Report) {
        // Nobody has opened a TAP that was created just now. Of others the kernel is asked.
        let made: BTreeSet<_> = report.done.iter().filter_map(Step::slot).collect();
        let Self { local, events, .. } = self;
        events.changed(request, report, |instance| {
            if made.contains(&instance.slot) {
                return LinkStatus::Ready;
            }
            let link = local.node.kernel().link(&instance.interface());
            LinkStatus::of_own(link.ok().flatten().as_ref())
        });
        report.failures.iter().for_each(|failure| self.announce_failure(failure));
    }

    /// Publishes that an instance is not as it should be.
    pub(super) fn announce_failure(&mut self, failure: &Failure) {
        let found = self.local.node.inspect(&failure.name).ok();
        self.events.failed(failure, found.as_ref());
    }
}
