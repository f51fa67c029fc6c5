//! Flows are forgotten on a thread of their own: for each task, the kernel looks through all tracked connections. Only the
//! replies that promise it wait for it, and the requests that meet it.

use super::{batch::Reply, core::Core, healer::Subject};
use crate::now;
use riklet_sdn::{FlowOutcome, FlowTask, Report, Request, Ticket};

/// A reply that waits for a task.
pub(super) struct Unconfirmed {
    pub(super) ticket: Ticket,
    pub(super) request: Request,
    pub(super) report: Report,
    pub(super) reply: Reply,
}

impl Unconfirmed {
    /// Returns the reply with this report, if it waits for a task.
    pub(super) fn of(request: Request, report: Report, reply: Reply) -> Option<Self> {
        Some(Self { ticket: report.ticket()?, request, report, reply })
    }
}

impl Core {
    /// Gives the thread these tasks.
    pub(super) fn forget_flows(&mut self, tasks: Vec<FlowTask>) {
        for task in tasks {
            if let Err(task) = self.flows.give(task) {
                let outcome = task.run(self.local.node.kernel());
                self.finish_flows(outcome);
            }
        }
    }

    /// Sends the replies that waited for a task, and retries the requests that did.
    pub(super) fn finish_flows(&mut self, outcome: FlowOutcome) {
        self.flows.finished();
        self.local.node.finish_flows(&outcome);
        let now = now();
        if outcome.error().is_some() {
            self.healer.suspect(Subject::All, now);
        }
        let unconfirmed = std::mem::take(&mut self.unconfirmed).into_iter();
        let (done, others) = unconfirmed.partition(|waiting| waiting.ticket == outcome.ticket());
        self.unconfirmed = others;
        for Unconfirmed { request, report, reply, .. } in done {
            let result = outcome.error().map_or(Ok(report), Err);
            if let Ok(report) = &result {
                self.announce(&request, report);
            }
            let _nobody_waits = reply.send(result);
        }
        // The slots whose flows are forgotten can be used again.
        self.draining_since = self.draining_since.or(Some(now));
        // Others may take the lock.
        drop(outcome);
        self.call_alone();
        self.go_on();
    }

    /// Moves those requests to the others that are held back which must not overtake one of them, or a call that waits until
    /// nothing is in progress.
    pub(super) fn hold_back(&mut self, batch: Vec<(Request, Reply)>) -> Vec<(Request, Reply)> {
        let all = self.leaves_lock() || !self.alone.is_empty() && !self.flows.is_idle();
        let (held, now): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|(request, _)| all || self.held.iter().any(|(held, _)| held.meets(request)));
        self.held.extend(held);
        now
    }
}
