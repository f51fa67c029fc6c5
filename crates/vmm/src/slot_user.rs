//! The user of a slot: one function has it at a time, and nothing that runs as it is left when another function gets it.
//!
//! A VMM that was taken over may empty its environment and leave its group and its session, so neither finds all of it; its
//! user it cannot leave. Two nodes of a host with the same `vmm_uid_base` would have the same users. So a user is locked for
//! the whole host while a VMM runs as it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use riklet_core::model::{Account, SlotAccounts};
use riklet_kernel::process;
use riklet_sdn::store::Record;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};

use super::same_file::is_at;

/// The directory of the locks. It exists while a VMM runs as the user of a slot.
const LOCKS: &str = "/run/riklet-sdn-users";

/// The number of a slot's user, and of the block that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUser {
    uid: u32,
    accounts: SlotAccounts,
}

/// The user of a slot, held by this process. The kernel releases it when this process ends.
#[derive(Debug)]
pub(crate) struct HeldUser {
    user: SlotUser,
    lock: File,
    path: PathBuf,
}

impl SlotUser {
    /// Returns the user of this number; `None` if the block does not contain it.
    #[must_use]
    pub fn new(uid: u32, accounts: SlotAccounts) -> Option<Self> {
        accounts.contains(uid).then_some(Self { uid, accounts })
    }

    /// Returns its number.
    #[must_use]
    pub const fn uid(self) -> u32 {
        self.uid
    }

    /// Returns the user that a function of this record runs as, if it is that of its slot.
    fn of(record: &Record) -> Option<Self> {
        match record.workload.execution().user {
            Some(Account::OfSlot(accounts)) => Self::new(accounts.of(record.slot), accounts),
            _ => None,
        }
    }

    /// Locks the user, and ends what runs as it.
    ///
    /// # Errors
    /// Fails if another process holds the user, the lock cannot be made, or a process does not end.
    pub(crate) fn hold(self) -> io::Result<HeldUser> {
        self.hold_in(Path::new(LOCKS))
    }

    fn hold_in(self, directory: &Path) -> io::Result<HeldUser> {
        let path = directory.join(self.uid.to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default());
        let lock = loop {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let lock = match options.open(&path) {
                // Another process has just removed the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock?,
            };
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&lock, &path)? => break lock,
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let words = "another process runs a VMM as this user";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
                }
                Err(errno) => return Err(errno.into()),
            }
        };
        let held = HeldUser { user: self, lock, path };
        held.end()?;
        Ok(held)
    }
}

impl HeldUser {
    /// Ends what runs as the user.
    ///
    /// # Errors
    /// Fails if a process does not end.
    pub(crate) fn end(&self) -> io::Result<()> {
        process::end_all_of(self.user.uid, self.user.accounts.shared())
    }

    /// Gives the user back.
    pub(crate) fn release(self) {
        // While it is locked, nobody else has a lock at this path.
        let removed = remove(&self.path);
        let _others = self.path.parent().map(fs::remove_dir);
        drop(self.lock);
        if let Err(error) = removed {
            tracing::debug!(%error, "the lock of user {} stays", self.user.uid);
        }
    }
}

/// Ends what runs as the user of a recorded function's slot, unless another process runs a VMM as this user. Without a
/// record there is no slot, and whoever gets it next ends what is left.
///
/// # Errors
/// Fails if a process does not end. The slot must not be given away then.
pub(crate) fn end_of(record: Option<&Record>) -> io::Result<()> {
    let user = record.and_then(SlotUser::of).filter(|_| geteuid().is_root());
    match user.map(SlotUser::hold) {
        None => Ok(()),
        Some(Ok(held)) => {
            held.release();
            Ok(())
        }
        Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Some(Err(error)) => Err(error),
    }
}

#[expect(clippy::disallowed_methods, reason = "the lock is this module's own")]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

#[cfg(all(test, privileged))]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_held_once_on_a_host() {
        let directory = std::env::temp_dir().join(format!("riklet-held-{}", std::process::id()));
        let accounts = SlotAccounts::new(4_210_000_000).unwrap();
        let number = accounts.shared() + std::process::id() % 60_000;
        let slot = SlotUser::new(number, accounts).unwrap();
        let hold = || slot.hold_in(&directory);
        let once = hold().unwrap();
        assert_eq!(hold().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        once.release();
        assert!(!directory.exists());
        // A killed process leaves its lock's file behind.
        drop(hold().unwrap());
        hold().unwrap().release();
        assert!(!directory.exists());
    }
}
