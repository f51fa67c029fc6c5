use std::collections::BTreeSet;

use riklet_core::model::{InstanceName, Selector, Workload};
use riklet_kernel::process::ProcessId;

/// A change of the records, and of the kernel with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// [`Node::up`](crate::Node::up).
    Up(Vec<Workload>, UpOptions),
    /// [`Node::down`](crate::Node::down), without `purge`.
    Down(Selector),
    /// [`Node::down_as`](crate::Node::down_as), without `purge`.
    DownAs(ProcessId, Selector),
}

/// Options of [`Node::up`](crate::Node::up).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpOptions {
    /// Treats each [`Warning`](crate::Warning) as an error: then nothing is changed.
    pub strict: bool,
}

impl Request {
    /// Returns the names that it is for; `None` where it is for all instances.
    pub(crate) fn names(&self) -> Option<BTreeSet<InstanceName>> {
        match self {
            Self::Up(workloads, _) => Some(workloads.iter().map(|w| w.name().clone()).collect()),
            Self::Down(selector) | Self::DownAs(_, selector) => match selector {
                Selector::Named(names) => Some(names.clone()),
                Selector::All => None,
            },
        }
    }

    /// Returns what it takes down, and whose runs do not stand in the way; `None` where it takes nothing down.
    pub(crate) const fn down(&self) -> Option<(&Selector, Option<ProcessId>)> {
        match self {
            Self::Up(..) => None,
            Self::Down(selector) => Some((selector, None)),
            Self::DownAs(supervisor, selector) => Some((selector, Some(*supervisor))),
        }
    }
}
