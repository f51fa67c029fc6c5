//! Kinds of workloads: everything specific to a kind is in one file, `workload/<kind>.rs`. Pure.
//!
//! [`Workload`] and [`Kind`] dispatch to it: the compiler names everything that a new kind lacks.

pub mod alias;
mod function;
mod implementation;
mod kind;
mod parts;
mod pod;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "toy-kind"))]
mod toy;

use alias::Marked;
pub use function::Function;
pub(crate) use implementation::Implementation;
pub use kind::{Kind, Workload};
pub use pod::{Container, Pod};
#[cfg(any(test, feature = "toy-kind"))]
pub use toy::Toy;

use crate::{
    firewall::{Backend, Entry},
    link::{Device, LinkSpec, Tap},
    model::{AccountName, Addresses, Exposure, InstanceName, Owner, Pool, ProxyAddress, Slot},
};

/// The facts about the node that an implementation may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The range that the slots' addresses are taken from.
    pub pool: Pool,
    /// The MTU of the interfaces, in bytes.
    pub mtu: u32,
    /// The state directory that the interfaces belong to.
    pub owner: Owner,
    /// The backend of the firewall.
    pub backend: Backend,
    /// True if functions may have policies: they need nf_tables, whatever the backend is.
    pub policies: bool,
}

/// Everything that one instance needs from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Its interface.
    pub link: LinkSpec,
    /// The two ends of its link.
    pub addresses: Addresses,
    /// Its entries of the firewall, sorted, without duplicates: a tree of two would take six times the memory.
    pub entries: Vec<Entry>,
}

/// The reason why the needs of an instance cannot be determined.
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
    /// Policies stand in nf_tables, and the kernel has none.
    #[error("{name}: network.egress needs nf_tables, which the kernel of this node lacks")]
    Policy {
        /// The instance.
        name: InstanceName,
    },
    /// The proxy of a policy is a guest, and guests do not reach each other by their own addresses.
    #[error(
        "{name}: network.egress.via {proxy} is in {pool}, which guests have: a proxy is another machine, or this one"
    )]
    Proxy {
        /// The instance.
        name: InstanceName,
        /// The proxy.
        proxy: ProxyAddress,
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
    /// A pod lives in a network namespace, and none was named, or nobody looked at it.
    #[error("{name}: a Pod needs a network namespace")]
    NoNamespace {
        /// The instance.
        name: InstanceName,
    },
}

/// Returns the needs of this workload in this slot. The kind selects the implementation.
///
/// # Errors
/// Fails if the pool has no such slot or no address of a family that an exposure needs, or the workload's user or group
/// is a name.
pub fn fragment(
    workload: &Workload,
    slot: Slot,
    node: &NodeFacts,
) -> Result<Fragment, FragmentError> {
    workload.fragment(slot, node)
}

/// Returns the needs of a reserved slot: the TAP of its next holder, complete except for its alias if the definition
/// asks for no other user, group or queues. It belongs to no kind: each kind decides whether its instances begin with
/// it ([`Kind::takes_reserved`]).
///
/// # Errors
/// Fails if the pool has no such slot.
pub fn reserved(slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
    let tap = Tap { owner: Some(Tap::ROOT), ..Tap::default() };
    let device = Device::Tap(tap);
    let (link, addresses) = parts::link(slot, node, alias::reserved(&node.owner), device)?;
    Ok(Fragment { link, addresses, entries: Vec::new() })
}

/// Returns the workload that left this mark on an interface, which is this TAP if it is one. Fields that neither shows are
/// lost.
#[must_use]
pub fn recover(marked: &Marked, tap: Option<Tap>) -> Workload {
    marked.kind.recover(marked, tap)
}
