//! Addresses that guests were told for names, as elements of the firewall that have a lifetime.

use super::Linux;
use crate::KernelError;
use riklet_core::{firewall::Backend, names::Pin};

impl Linux {
    /// Lets the guest of this set (`nftables::names::set_of`) begin connections to these addresses for their lifetimes, from the
    /// return of this call on. Repetition renews the lifetimes. Established connections go on after them.
    ///
    /// No lock is needed: nothing else changes these elements.
    ///
    /// # Errors
    /// Fails if the kernel refuses, as it does if the guest has another policy by now; then nothing has changed.
    pub fn pin(&mut self, backend: Backend, set: &str, pins: &[Pin]) -> Result<(), KernelError> {
        self.nftables.pin(backend, set, pins).map_err(|source| KernelError::Pin { source })
    }
}
