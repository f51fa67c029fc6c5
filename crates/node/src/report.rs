use std::fmt;

use super::{AbsentAddress, Failure, Instance, Shadow, Ticket};
use crate::store::Phase;
use riklet_core::{
    model::{InstanceName, InterfaceName, Workload},
    plan::{CutOff, Plan, Step},
    reach::{self, Idle},
};

/// Something that succeeded, but possibly not as expected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Warning {
    /// An exposure takes the packets of a local process, or of a translation of another program.
    Shadows(Shadow),
    /// An exposure is on an address that the host does not have.
    AbsentAddress(AbsentAddress),
    /// A foreign chain drops the packets of functions, and we cannot change it.
    CutOff(CutOff),
    /// An entry of an instance's policy changes nothing.
    Idle(IdleEntry),
    /// The TAP of an instance that was taken down was open in a process: its guest has lost the network.
    InUse(InUse),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shadows(shadow) => shadow.fmt(f),
            Self::AbsentAddress(absent) => absent.fmt(f),
            Self::CutOff(cut_off) => cut_off.fmt(f),
            Self::Idle(idle) => idle.fmt(f),
            Self::InUse(in_use) => in_use.fmt(f),
        }
    }
}

/// An entry of an instance's policy that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct IdleEntry {
    /// The instance.
    pub name: InstanceName,
    /// The entry, and why.
    pub idle: Idle,
}

impl IdleEntry {
    /// Returns those of a workload.
    pub(crate) fn of(workload: &Workload) -> impl Iterator<Item = Self> {
        let name = workload.name();
        let idle = workload.egress().map(reach::idle).unwrap_or_default();
        idle.into_iter().map(move |idle| Self { name: name.clone(), idle })
    }
}

impl fmt::Display for IdleEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.idle)
    }
}

/// An instance that was taken down while a process had its TAP open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct InUse {
    /// The instance.
    pub name: InstanceName,
    /// Its TAP.
    pub tap: InterfaceName,
    /// The process, as `name (pid 123)`; `None` if it was not found.
    pub process: Option<String>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tap, process } = self;
        let process = process.as_deref().unwrap_or("a process");
        write!(f, "{name}: {process} had {tap} open, and its guest has lost the network")
    }
}

/// The outcome of an operation.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The requested instances that are as requested.
    pub instances: Vec<Instance>,
    /// The changes, in order. Empty if everything was as it should be.
    pub done: Vec<Step>,
    /// The requested instances that are not as requested, each with the reason.
    pub failures: Vec<Failure>,
    /// The other instances that are not as they should be: an earlier operation on them failed, and this one could not
    /// repair them.
    pub others: Vec<Failure>,
    /// Succeeded, but possibly not as expected.
    pub warnings: Vec<Warning>,
    /// The task that has to be done before the report holds.
    pub(crate) ticket: Option<Ticket>,
}

impl Report {
    /// Returns the task that has to be done before the report holds; `None` if it holds already. Only
    /// [`WarmNode::begin`](crate::WarmNode::begin) leaves such tasks.
    #[must_use]
    pub const fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }
}

/// The differences between the kernel and the records.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drift {
    /// The plan of [`Node::repair`](crate::Node::repair).
    pub plan: Plan,
    /// The differences of the firewall, if they require more than adding and removing entries.
    pub firewall: Vec<String>,
    /// The instances whose last operation was not completed.
    pub unsettled: Vec<(InstanceName, Phase)>,
    /// Surprises for users that are no difference: exposures that take packets of others, and those on addresses that the
    /// host does not have.
    pub warnings: Vec<Warning>,
}

impl Drift {
    /// Returns whether there is none. Warnings do not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.unsettled.is_empty()
    }
}
