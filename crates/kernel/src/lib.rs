//! The one interface to the system: links, addresses, neighbours, firewall, flows, sysctls.
//!
//! There is one trait for each concern: [`Links`] and [`LinkDeletion`], [`Firewall`], [`ForeignChains`] and
//! [`ImplicitTables`], [`Conntrack`], [`Sysctls`], [`NetworkManagers`], [`Routes`], [`HostFacts`], [`OperationScope`].
//! [`Kernel`] is their sum. All are sealed: [`linux::Linux`] is the real kernel, [`linux::watched::Watched`] is the
//! same with a memory for a long-lived process, and [`fake::FakeKernel`] obeys the same laws in memory.

mod conntrack;
mod error;
pub mod fake;
mod firewall;
mod host;
mod links;
pub mod linux;
#[cfg(fuzzing)]
pub use linux::fuzz;
mod managers;
mod operation;
pub mod process;
mod procfs;
mod routes;
mod sysctls;
pub mod threads;
pub mod timer;

pub use conntrack::Conntrack;
pub use error::{KernelError, Refusal};
pub use firewall::{Firewall, ForeignChains, ImplicitTables, OwnChanges, RulesetVersion};
pub use host::{AccountKind, HostFacts, Listener, ListeningPort};
pub use links::{LinkDeletion, Links};
pub use managers::NetworkManagers;
pub use operation::OperationScope;
pub use routes::Routes;
pub use sysctls::Sysctls;

/// All effects on the system, and all observations of it.
///
/// Each effect is either done or not, except where its documentation says what a partial failure leaves;
/// each may be repeated. Nothing here decides.
pub trait Kernel:
    Links
    + LinkDeletion
    + Firewall
    + ForeignChains
    + ImplicitTables
    + Conntrack
    + Sysctls
    + NetworkManagers
    + Routes
    + HostFacts
    + OperationScope
{
}

impl<K> Kernel for K where
    K: Links
        + LinkDeletion
        + Firewall
        + ForeignChains
        + ImplicitTables
        + Conntrack
        + Sysctls
        + NetworkManagers
        + Routes
        + HostFacts
        + OperationScope
{
}

/// Keeps the traits of this crate from being implemented elsewhere, so that a new method breaks no other code.
mod sealed {
    pub trait Sealed {}

    impl Sealed for crate::fake::FakeKernel {}
    impl Sealed for crate::linux::Linux {}
    impl Sealed for crate::linux::watched::Watched {}
}
