//! What each kind of workload needs from the node: one file a kind. Pure.

pub mod alias;
mod function;

use std::collections::BTreeSet;

use crate::{
    firewall::Entry,
    kernel::LinkSpec,
    model::{Addresses, Pool, Slot, Workload},
};

/// What an implementation may know of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What the slots' addresses are cut from.
    pub pool: Pool,
    /// The MTU of the interfaces, in bytes.
    pub mtu: u32,
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

/// The pool has no such slot: it was recorded with a larger pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pool {pool} has no slot {slot}: it has {capacity}", capacity = pool.capacity())]
pub struct NoSuchSlot {
    /// The pool.
    pub pool: Pool,
    /// The slot.
    pub slot: Slot,
}

/// What this workload needs in this slot. The kind selects the implementation.
///
/// # Errors
/// Where the pool has no such slot.
pub fn fragment(workload: &Workload, slot: Slot, node: &Node) -> Result<Fragment, NoSuchSlot> {
    match workload {
        Workload::Function(function) => function::fragment(function, slot, node),
    }
}
