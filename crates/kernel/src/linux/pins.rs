//! Addresses that guests were told for names, as elements of the firewall that have a lifetime.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Linux;
use crate::KernelError;
use riklet_core::{
    firewall::Backend,
    flows::Tracked,
    names::{AllowedNames, Answered, Pins},
};

/// The addresses that guests were told for names. Handles on the kernel that share them keep them when one of them writes rules
/// anew or changes a policy, and when one forgets flows.
#[derive(Debug, Clone, Default)]
pub struct SharedPins(Arc<Mutex<Pins>>);

impl SharedPins {
    pub(super) fn lock(&self) -> MutexGuard<'_, Pins> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the policy that a guest gets next, by the set of what it allows (`nftables::names::set_of`): what the guest was told
    /// for names that it allows too is let through from the same transaction on.
    pub fn expect(&self, guest: IpAddr, set: &str, allowed: AllowedNames) {
        self.lock().expect(guest, set, allowed);
    }

    /// Reports whether a flow leads to what the guest was told for a name that it may reach still.
    pub(super) fn lead_to(&self, flow: &Tracked) -> bool {
        let Tracked { from, answerer, protocol, port, .. } = *flow;
        port.is_some_and(|port| self.lock().has_told(from, answerer, protocol, port))
    }
}

impl Linux {
    /// Shares what guests were told for names.
    #[must_use]
    pub fn with_pins(mut self, pins: &SharedPins) -> Self {
        self.nftables.share(pins);
        self
    }

    /// Lets a guest begin connections to the addresses that it is about to be told, at the ports of the name and for their
    /// lifetimes, from the return of this call on. Repetition renews the lifetimes. Established connections go on after them.
    /// Returns false, and changes nothing, if the guest has too many already.
    ///
    /// # Errors
    /// Fails if the kernel refuses, as it does if the guest has another policy by now; then nothing has changed.
    pub fn pin(&mut self, backend: Backend, answered: &Answered<'_>) -> Result<bool, KernelError> {
        self.nftables.pin(backend, answered).map_err(|source| KernelError::Pin { source })
    }
}
