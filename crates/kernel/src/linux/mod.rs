//! The real kernel, in the network namespace of the thread that first asks it.

mod account;
mod conntrack;
mod firewall;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod host;
mod link;
mod link_state;
mod listeners;
mod managers;
pub mod namespace;
mod netlink;
mod opener;
pub mod pins;
pub mod questions;
pub mod refusals;
pub mod resolvers;
mod route;
mod rule;
mod shaping;
mod socket_option;
pub mod stats;
mod sysctl;
pub mod tap;
mod tap_user;
mod uplink_route;
mod veth;
pub mod watched;

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Weak};

use crate::{KernelError, OperationScope, Refusal, process::Launcher};
use conntrack::Conntrack;
use firewall::{
    confinement::Keeper,
    iptables::{KnownVariant, Listed},
    nftables::Nftables,
};
use riklet_core::{
    firewall::{Backend, Confinement},
    link::LinkState,
};
use route::Route;

/// The Linux kernel. Its sockets are opened when they are first needed, in the network namespace of the
/// thread that needs them, and stay with that namespace.
#[derive(Debug, Default)]
pub struct Linux {
    route: Option<Route>,
    nftables: Nftables,
    listed: Listed,
    iptables: KnownVariant,
    conntrack: Option<Conntrack>,
    /// The socket of `sock_diag(7)`.
    diag: Option<netlink::Socket>,
    launcher: Launcher,
    keeper: Keeper,
}

impl Linux {
    /// Returns the kernel; nothing is opened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn route(
        &mut self,
        wrap: impl FnOnce(Refusal) -> KernelError,
    ) -> Result<&mut Route, KernelError> {
        opened(&mut self.route, Route::open).map_err(wrap)
    }

    /// Returns all interfaces named `rik<digits>`, by their indices.
    fn links_by_index(&mut self) -> Result<BTreeMap<u32, LinkState>, KernelError> {
        self.route(|source| KernelError::ListLinks { source })?.links_by_index()
    }
}

fn opened<T>(
    place: &mut Option<T>,
    open: impl FnOnce() -> Result<T, Refusal>,
) -> Result<&mut T, Refusal> {
    let value = match place.take() {
        Some(value) => value,
        None => open()?,
    };
    Ok(place.insert(value))
}

impl OperationScope for Linux {
    /// Does nothing: each answer is the kernel's own.
    fn start_operation(&mut self) -> Result<(), KernelError> {
        Ok(())
    }

    fn host_version(&mut self) -> Result<Option<u64>, KernelError> {
        Ok(None)
    }

    fn abandon_firewall(&mut self) -> Result<(), KernelError> {
        self.confine(&Confinement::default()).map(drop).map_err(|source| {
            KernelError::ChangeFirewall { backend: Backend::Nftables.as_str(), source }
        })
    }

    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.launcher = Launcher::keeping(lock);
    }
}
