use super::{NodeError, host::Host};
use crate::store::{Phase, Record};
use riklet_core::{
    link::LinkState,
    model::{Addresses, Exposure, InstanceName, InterfaceName, Kind, MacAddress, Slot, Workload},
    workload::{self, NodeFacts},
};

/// A recorded instance, with everything that its slot determines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The definition.
    pub workload: Workload,
    /// The slot.
    pub slot: Slot,
    /// The phase: how far the kernel followed the last operation.
    pub phase: Phase,
    /// The two ends of its link.
    pub addresses: Addresses,
    /// The MTU of its link in bytes.
    pub mtu: u32,
}

impl Instance {
    /// Creates an instance of these parts, such as those of a document.
    #[must_use]
    pub const fn new(
        workload: Workload,
        slot: Slot,
        phase: Phase,
        addresses: Addresses,
        mtu: u32,
    ) -> Self {
        Self { workload, slot, phase, addresses, mtu }
    }

    pub(crate) fn of(node: &NodeFacts, record: &Record) -> Result<Self, NodeError> {
        let fragment = workload::fragment(&record.workload, record.slot, node)?;
        Ok(Self {
            workload: record.workload.clone(),
            slot: record.slot,
            phase: record.phase,
            addresses: fragment.addresses,
            mtu: fragment.link.mtu,
        })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.workload.kind()
    }

    /// Returns the name of the interface.
    #[must_use]
    pub fn interface(&self) -> InterfaceName {
        self.slot.interface()
    }

    /// Returns the MAC address that the guest's NIC must have.
    #[must_use]
    pub const fn guest_mac(&self) -> MacAddress {
        self.slot.guest_mac()
    }

    /// Returns the exposures.
    #[must_use]
    pub fn exposures(&self) -> &[Exposure] {
        self.workload.exposures()
    }
}

/// The state of an instance's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkStatus {
    /// It exists and is up, and a VMM has the TAP open, or the other end of the veth is up as well.
    Attached,
    /// It exists and is up, and nobody is at the other end.
    Ready,
    /// It exists and is down.
    Down,
    /// It does not exist, or a foreign interface has its name.
    Missing,
}

impl LinkStatus {
    /// Returns the status as output has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Ready => "ready",
            Self::Down => "down",
            Self::Missing => "missing",
        }
    }

    pub(crate) fn of(host: &Host, link: Option<&LinkState>) -> Self {
        Self::of_own(link.filter(|link| host.owns(link)))
    }

    /// Returns the status of an interface that is ours, or of none.
    #[must_use]
    pub fn of_own(link: Option<&LinkState>) -> Self {
        match link {
            None => Self::Missing,
            Some(link) if !link.up => Self::Down,
            Some(link) if link.carrier => Self::Attached,
            Some(_) => Self::Ready,
        }
    }
}
