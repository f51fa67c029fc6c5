//! What is recorded, and what the kernel has of it.

use std::collections::BTreeMap;

use super::{Host, Node, NodeError};
use crate::store::{Phase, Record, Store};
use riklet_core::{
    link::LinkState,
    model::{Addresses, Exposure, InstanceName, InterfaceName, Kind, MacAddress, Slot, Workload},
    workload::{self, NodeFacts},
};
use riklet_kernel::Kernel;

/// A recorded instance, with all that its slot determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The definition.
    pub workload: Workload,
    /// The slot.
    pub slot: Slot,
    /// How far the kernel followed the last operation.
    pub phase: Phase,
    /// The two ends of its link.
    pub addresses: Addresses,
    /// The MTU of its link in bytes.
    pub mtu: u32,
}

impl Instance {
    pub(super) fn new(node: &NodeFacts, record: &Record) -> Result<Self, NodeError> {
        let fragment = workload::fragment(&record.workload, record.slot, node)?;
        Ok(Self {
            workload: record.workload.clone(),
            slot: record.slot,
            phase: record.phase,
            addresses: fragment.addresses,
            mtu: fragment.link.mtu,
        })
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        self.workload.name()
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.workload.kind()
    }

    /// The TAP.
    #[must_use]
    pub fn interface(&self) -> InterfaceName {
        self.slot.interface()
    }

    /// The MAC address that the guest's NIC must have.
    #[must_use]
    pub const fn guest_mac(&self) -> MacAddress {
        self.slot.guest_mac()
    }

    /// What it exposes.
    #[must_use]
    pub fn exposures(&self) -> &[Exposure] {
        self.workload.exposures()
    }
}

/// What has become of an instance's TAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkStatus {
    /// There, up, and a VMM has it open.
    Attached,
    /// There and up; no VMM has it open.
    Ready,
    /// There and down.
    Down,
    /// Not there, or an interface of somebody else's has its name.
    Missing,
}

impl LinkStatus {
    /// The status as output has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Ready => "ready",
            Self::Down => "down",
            Self::Missing => "missing",
        }
    }

    fn of(host: &Host, link: Option<&LinkState>) -> Self {
        match link.filter(|link| host.owns(link)) {
            None => Self::Missing,
            Some(link) if !link.up => Self::Down,
            Some(link) if link.carrier => Self::Attached,
            Some(_) => Self::Ready,
        }
    }
}

/// One line of [`Node::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What is recorded.
    pub instance: Instance,
    /// What the kernel has.
    pub link: LinkStatus,
}

/// What [`Node::inspect`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What is recorded.
    pub instance: Instance,
    /// What has become of the TAP.
    pub status: LinkStatus,
    /// The interface of that name; `None` where there is none.
    pub link: Option<LinkState>,
    /// In what the TAP is not as it should be.
    pub drift: Vec<String>,
    /// Whether the firewall has its exposures.
    pub exposed: bool,
}

impl<K: Kernel> Node<K> {
    /// All recorded instances, ordered by name.
    ///
    /// # Errors
    /// Where the store or the kernel cannot be read.
    pub fn list(&mut self) -> Result<Vec<Listed>, NodeError> {
        let _lock = self.look_lock()?;
        let Some((store, host)) = self.recorded()? else { return Ok(vec![]) };
        let links = self.kernel.links()?.into_iter();
        let links: BTreeMap<_, _> = links.map(|link| (link.name.clone(), link)).collect();
        let listed = |record: &Record| {
            let link = links.get(&record.slot.interface());
            let instance = Instance::new(&host.node, record)?;
            Ok(Listed { instance, link: LinkStatus::of(&host, link) })
        };
        store.all()?.iter().map(listed).collect()
    }

    /// One recorded instance, and what the kernel has of it.
    ///
    /// # Errors
    /// Where there is none of this name, or the store or the kernel cannot be read.
    pub fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError> {
        let _lock = self.look_lock()?;
        let Some((store, host)) = self.recorded()? else { return Err(self.unknown(name, None)) };
        let Some(record) = store.get(name)? else {
            return Err(self.unknown(name, store.nearest(name.as_str())?));
        };
        let link = self.kernel.link(&record.slot.interface())?;
        let fragment = super::fragment(&host, &record)?;
        let drift = link.as_ref().map(|link| fragment.link.differences(link)).unwrap_or_default();
        let exposed = match &host.base_ruleset {
            Some(base_ruleset) => {
                self.kernel.probe_firewall(host.backend, base_ruleset, &fragment.entries)?
            }
            None => false,
        };
        Ok(Inspection {
            instance: Instance::new(&host.node, &record)?,
            status: LinkStatus::of(&host, link.as_ref()),
            link,
            drift: drift.iter().map(ToString::to_string).collect(),
            exposed,
        })
    }

    fn recorded(&mut self) -> Result<Option<(Store, Host)>, NodeError> {
        self.flush()?;
        let Some(store) = Store::open_existing(&self.config.state_dir)? else { return Ok(None) };
        let host = self.decided(&store, false)?;
        Ok(host.map(|host| (store, host)))
    }
}
