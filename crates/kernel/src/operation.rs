use std::{os::fd::OwnedFd, sync::Weak};

use crate::sealed::Sealed;

/// The lock under which the kernel is changed, shared with the programs that make the changes.
pub trait LockSharing: Sealed {
    /// Passes this lock on to every program that is started to change something, while somebody holds it.
    ///
    /// Such a program may outlive this process if the process is killed. The lock is free only when the
    /// program has ended as well, so its change cannot fall into the next process' work. A later call
    /// replaces the lock.
    fn share_lock(&mut self, lock: Weak<OwnedFd>);
}
