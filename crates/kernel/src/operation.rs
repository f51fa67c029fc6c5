use std::{os::fd::OwnedFd, sync::Weak};

use crate::{KernelError, sealed::Sealed};

/// The frame of an operation: its start, and the lock under which it changes the kernel.
pub trait OperationScope: Sealed {
    /// Notes that an operation starts, under its lock. A kernel that answers from memory brings its memory up to date
    /// now, and for the rest of the operation only after its own changes.
    ///
    /// # Errors
    /// Fails if the kernel's notifications cannot be read.
    fn start_operation(&mut self) -> Result<(), KernelError>;

    /// Returns a number that differs from every earlier one if an answer about the host may differ from those given
    /// before: its uplinks, their MTU, its routing, and its switches of forwarding. `None` if that is not known, as with
    /// a kernel that is asked anew each time.
    ///
    /// # Errors
    /// Fails if the kernel's notifications cannot be read.
    fn host_version(&mut self) -> Result<Option<u64>, KernelError>;

    /// Removes what a long-lived process keeps in the firewall for as long as it runs. For one whose records are gone.
    /// Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then nothing has changed.
    fn abandon_firewall(&mut self) -> Result<(), KernelError>;

    /// Passes this lock on to every program that is started to change something, while somebody holds it.
    ///
    /// If this process is killed, the kernel kills such a program as well. The lock is free only when the
    /// program has ended as well, so its change cannot fall into the next process' work. A later call
    /// replaces the lock.
    fn share_lock(&mut self, lock: Weak<OwnedFd>);
}
