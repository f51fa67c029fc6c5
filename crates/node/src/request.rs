use std::collections::{BTreeMap, BTreeSet};

use riklet_core::model::{InstanceName, Selector, Workload};
use riklet_kernel::process::ProcessId;

/// A change of the records, and of the kernel with them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// [`Node::up`](crate::Node::up).
    Up(Vec<Workload>, UpOptions),
    /// [`Node::down`](crate::Node::down), without `purge`.
    Down(Selector),
    /// [`Node::down_as`](crate::Node::down_as), without `purge`.
    DownAs(ProcessId, Selector),
    /// [`Node::down`](crate::Node::down) of the instances that these definition files asked for, without `purge`.
    /// Refused if a file does not own its instance any more: another process took the instance down, and may have
    /// brought it up again.
    Withdraw(BTreeMap<InstanceName, String>),
}

/// Options of [`Node::up`](crate::Node::up).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UpOptions {
    /// Refuses exposures that take packets of others ([`Shadow`](crate::Shadow)) even if their definition says
    /// `shadow: true`. Then nothing is changed.
    pub strict: bool,
}

impl UpOptions {
    /// Refuses such exposures, or only warns of them.
    #[must_use]
    pub const fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }
}

impl Request {
    /// Returns the selector of the instances that it takes down; `None` if it brings some up.
    #[must_use]
    pub fn taken_down(&self) -> Option<Selector> {
        self.down().map(|(selector, _)| selector)
    }

    /// Returns whether the order of both requests matters: they are for the same instance, or publish the same port.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (Some(names), Some(others)) = (self.names(), other.names()) else { return true };
        let exposures = || self.brought_up().iter().flat_map(Workload::exposures);
        let mut published = other.brought_up().iter().flat_map(Workload::exposures);
        !names.is_disjoint(&others) || published.any(|p| exposures().any(|e| e.clashes_with(p)))
    }

    /// Returns the workloads that it brings up.
    #[must_use]
    pub fn brought_up(&self) -> &[Workload] {
        match self {
            Self::Up(workloads, _) => workloads,
            _ => &[],
        }
    }

    /// Returns the names that it is for; `None` if it is for all instances.
    pub(crate) fn names(&self) -> Option<BTreeSet<InstanceName>> {
        match self {
            Self::Up(workloads, _) => Some(workloads.iter().map(|w| w.name().clone()).collect()),
            Self::Down(selector) | Self::DownAs(_, selector) => match selector {
                Selector::Named(names) => Some(names.clone()),
                Selector::All => None,
            },
            Self::Withdraw(owned) => Some(owned.keys().cloned().collect()),
        }
    }

    /// Returns the instances that the request takes down, and the supervisor whose runs do not prevent that; `None` if
    /// it takes none down.
    pub(crate) fn down(&self) -> Option<(Selector, Option<ProcessId>)> {
        match self {
            Self::Up(..) => None,
            Self::Down(selector) => Some((selector.clone(), None)),
            Self::DownAs(supervisor, selector) => Some((selector.clone(), Some(*supervisor))),
            Self::Withdraw(owned) => Some((Selector::Named(owned.keys().cloned().collect()), None)),
        }
    }
}
