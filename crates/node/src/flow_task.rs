//! Tasks that forget flows, so that operations need not wait for one another while the kernel looks through all tracked
//! connections.
//!
//! An operation that leaves flows to a task has done everything else. Its records say so only once the task is done:
//! until then they count as unsettled for every other process, and for the next one if this one is killed.

use std::collections::BTreeSet;

use super::{NodeError, Report};
use crate::store::Lock;
use riklet_core::{
    flows::Flows,
    model::{Exposure, InstanceName, Slot, Workload},
    plan::Step,
};
use riklet_kernel::{Conntrack, KernelError};

/// Identifies a task that forgets flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Flows to forget, by any thread, with its own handle on the kernel in the same network namespace. If it is not done, or
/// not completed, the next operation finds the records of those who need it unsettled, and forgets the flows.
#[derive(Debug)]
#[must_use = "whoever needs the flows forgotten waits for it"]
pub struct FlowTask {
    ticket: Ticket,
    flows: BTreeSet<Flows>,
    lock: Option<Lock>,
}

/// The outcome of a task that forgets flows, for [`WarmNode::finish_flows`](crate::WarmNode::finish_flows).
#[derive(Debug)]
pub struct FlowOutcome {
    ticket: Ticket,
    flows: BTreeSet<Flows>,
    result: Result<(), KernelError>,
    _lock: Option<Lock>,
}

/// The answers of [`WarmNode::begin`](crate::WarmNode::begin), and what is left to do.
#[derive(Debug)]
#[must_use = "its tasks have to be done"]
#[non_exhaustive]
pub struct Begun {
    /// The answer to each request, in order; `None` if it has to be asked again, after the next task is done. An answer
    /// with a [ticket](Report::ticket) holds once the task of it is done.
    pub answers: Vec<Option<Result<Report, NodeError>>>,
    /// The tasks, in order.
    pub tasks: Vec<FlowTask>,
}

impl FlowTask {
    /// Forgets the flows. Holds the lock of the node that created the task.
    pub fn run(self, kernel: &mut impl Conntrack) -> FlowOutcome {
        let Self { ticket, flows, lock } = self;
        let result = kernel.forget_flows(&flows);
        FlowOutcome { ticket, flows, result, _lock: lock }
    }
}

impl FlowOutcome {
    /// Returns the ticket of the answers that wait for this task.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Returns the error of each answer that waits for the task, if flows could not be forgotten.
    #[must_use]
    pub fn error(&self) -> Option<NodeError> {
        let source = self.result.as_ref().err()?.clone();
        let step = Box::new(Step::ForgetFlows(self.flows.clone()));
        Some(NodeError::Halted { step, source })
    }
}

/// The tasks that were created, and are not done yet.
#[derive(Debug, Default)]
pub(crate) struct FlowTasks {
    last: u64,
    open: Vec<Open>,
    /// The tasks that were not taken yet; `None` if operations forget flows themselves.
    untaken: Option<Vec<FlowTask>>,
}

/// A task that is not done yet.
#[derive(Debug)]
struct Open {
    ticket: Ticket,
    flows: BTreeSet<Flows>,
    /// The instances that were changed.
    names: BTreeSet<InstanceName>,
    /// Their slots.
    slots: BTreeSet<Slot>,
    /// The draining slots whose flows are forgotten.
    draining: BTreeSet<Slot>,
}

impl FlowTasks {
    /// Has operations leave flows to tasks from now on.
    pub(crate) fn begin(&mut self) {
        self.untaken.get_or_insert_default();
    }

    /// Returns the tasks created since [`Self::begin`]. From now on operations forget flows themselves again.
    pub(crate) fn take(&mut self) -> Vec<FlowTask> {
        self.untaken.take().unwrap_or_default()
    }

    /// Returns whether operations leave flows to tasks.
    pub(crate) const fn are_in_use(&self) -> bool {
        self.untaken.is_some()
    }

    /// Creates a task for the flows of an operation that changed these instances, in the first slots, and for those of the
    /// others, which are draining.
    pub(crate) fn open(
        &mut self,
        flows: BTreeSet<Flows>,
        names: BTreeSet<InstanceName>,
        (slots, draining): (BTreeSet<Slot>, BTreeSet<Slot>),
        lock: Option<Lock>,
    ) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.open.push(Open { ticket, flows: flows.clone(), names, slots, draining });
        self.untaken.get_or_insert_default().push(FlowTask { ticket, flows, lock });
        ticket
    }

    /// Notes that a task is done. Returns the draining slots whose flows it was to forget.
    pub(crate) fn close(&mut self, ticket: Ticket) -> BTreeSet<Slot> {
        let (done, open) =
            std::mem::take(&mut self.open).into_iter().partition(|open| open.ticket == ticket);
        self.open = open;
        let done: Vec<Open> = done;
        done.into_iter().flat_map(|done| done.draining).collect()
    }

    /// Returns whether a task that is not done yet has flows of this slot. The slot must not be used again before.
    pub(crate) fn concern(&self, slot: Slot) -> bool {
        self.open.iter().any(|open| open.slots.contains(&slot) || open.draining.contains(&slot))
    }

    /// Returns whether a change must wait for a task: that of an instance of it, or the publication of a port whose flows it
    /// forgets. `names` are those of the instances that are changed; `None` stands for all.
    pub(crate) fn are_ahead_of(
        &self,
        names: Option<&BTreeSet<InstanceName>>,
        published: &[Workload],
    ) -> bool {
        let is_ahead = |open: &Open| {
            names.is_none_or(|names| !names.is_disjoint(&open.names))
                || published.iter().flat_map(Workload::exposures).any(|e| open.has_port_of(e))
        };
        self.open.iter().any(is_ahead)
    }
}

impl Open {
    fn has_port_of(&self, exposure: &Exposure) -> bool {
        self.flows.iter().any(|flows| match *flows {
            Flows::Exposed { protocol, host_address, host_ports, .. } => {
                exposure.takes(protocol, host_address, host_ports)
            }
            Flows::Guest { .. }
            | Flows::Sent { .. }
            | Flows::SentByOthers { .. }
            | Flows::Direct { .. }
            | Flows::Untranslated { .. } => false,
        })
    }
}
