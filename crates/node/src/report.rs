use super::{Failure, Instance, Warning};
use crate::store::Phase;
use riklet_core::{
    model::InstanceName,
    plan::{Plan, Step},
};

/// The outcome of an operation.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The instances that were asked for and are as asked.
    pub instances: Vec<Instance>,
    /// The changes, in order. Empty where everything was as it should be.
    pub done: Vec<Step>,
    /// The instances that were asked for and are not as they should be, and why.
    pub failures: Vec<Failure>,
    /// Those that were not asked for, and are not as they should be either: an earlier operation on them failed,
    /// and this one could not repair it.
    pub others: Vec<Failure>,
    /// Succeeded, but possibly not as expected.
    pub warnings: Vec<Warning>,
}

/// The differences between the kernel and the records.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drift {
    /// The plan of [`Node::repair`](crate::Node::repair).
    pub plan: Plan,
    /// The differences of the firewall, where they take more than adding and removing entries.
    pub firewall: Vec<String>,
    /// Instances whose last operation did not come to its end.
    pub unsettled: Vec<(InstanceName, Phase)>,
}

impl Drift {
    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.unsettled.is_empty()
    }
}
