//! What each kind of workload needs from the node: one file a kind. Pure.

pub mod alias;
mod function;

use std::collections::BTreeSet;

use crate::{
    firewall::Entry,
    link::LinkSpec,
    model::{AccountName, Addresses, Exposure, InstanceName, Owner, Pool, Slot, Workload},
};

/// What an implementation may know of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// What the slots' addresses are cut from.
    pub pool: Pool,
    /// The MTU of the interfaces, in bytes.
    pub mtu: u32,
    /// The state directory that the interfaces belong to.
    pub owner: Owner,
}

/// What one instance needs from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Its interface.
    pub link: LinkSpec,
    /// The two ends of its link.
    pub addresses: Addresses,
    /// Its entries of the firewall.
    pub entries: BTreeSet<Entry>,
}

/// Why nothing can be said of what an instance needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The pool has no such slot: it was recorded with a larger pool.
    #[error("the pool {pool} has no slot {slot}: it has {capacity}", capacity = pool.capacity())]
    NoSuchSlot {
        /// The pool.
        pool: Pool,
        /// The slot.
        slot: Slot,
    },
    /// An exposure is bound to an address of a family that the pool has no range of.
    #[error(
        "{name}: {exposure} needs a guest with an address of the same family, and {pool} has none"
    )]
    NoAddress {
        /// The instance.
        name: InstanceName,
        /// The exposure.
        exposure: Exposure,
        /// The pool.
        pool: Pool,
    },
    /// A TAP is given to numbers, and only the host knows which number a name has.
    #[error("{name} is for {account}, whose number was not looked up")]
    Unresolved {
        /// The instance.
        name: InstanceName,
        /// The user or the group.
        account: AccountName,
    },
}

/// What this workload needs in this slot. The kind selects the implementation.
///
/// # Errors
/// Where the pool has no such slot, or the workload's user or group is a name.
pub fn fragment(
    workload: &Workload,
    slot: Slot,
    node: &NodeFacts,
) -> Result<Fragment, FragmentError> {
    match workload {
        Workload::Function(function) => function::fragment(function, slot, node),
    }
}

/// What a warm slot needs: as much of what an instance will need as can be there before it.
///
/// # Errors
/// Where the pool has no such slot.
pub fn spare(slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
    function::spare(slot, node)
}
