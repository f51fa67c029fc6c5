//! The users that VMMs run as: what escapes from a guest has nothing of another function, nor of the host.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use riklet_core::model::{Accelerator, Account, Execution, InstanceName, Slot, SlotAccounts};
use riklet_kernel::{AccountKind, Kernel, process::Credentials};
use riklet_sdn::Node;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::geteuid,
};

use super::{SupervisorError, prepare::KVM};
use crate::slot_user::SlotUser;

/// The user of a VMM.
#[derive(Debug, Clone, Default)]
pub(super) struct VmmUser {
    pub(super) uid: Uid,
    gid: Option<u32>,
    /// The groups besides its own: that of images, and for the user of a slot that of `/dev/kvm`.
    pub(super) groups: Vec<u32>,
}

/// The number of a VMM's user.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Uid {
    /// The user of this process.
    #[default]
    Ours,
    /// The one that the definition names.
    Named(u32),
    /// The one of the instance's slot.
    OfSlot(SlotAccounts),
}

impl VmmUser {
    /// Returns the user for an execution. If it names none, and `users` has some, it gets that of its slot.
    pub(super) fn of<K: Kernel>(
        node: &mut Node<K>,
        execution: &mut Execution,
        users: Option<SlotAccounts>,
        accelerator: Accelerator,
    ) -> Result<Self, SupervisorError> {
        let mut number = |kind, account: &Option<Account>| match account {
            None | Some(Account::OfSlot(_)) => Ok(None),
            Some(Account::Id(id)) => Ok(Some(*id)),
            Some(Account::Name(name)) => {
                let found = node.kernel().account(kind, name)?;
                let unknown = || SupervisorError::Account { kind, name: name.to_string() };
                found.map(Some).ok_or_else(unknown)
            }
        };
        if execution.user.is_none() {
            execution.user = users.map(Account::OfSlot);
        }
        let uid = match (&execution.user, number(AccountKind::User, &execution.user)?) {
            (_, Some(id)) => Uid::Named(id),
            (Some(Account::OfSlot(accounts)), None) => Uid::OfSlot(*accounts),
            _ => Uid::Ours,
        };
        let gid = number(AccountKind::Group, &execution.group)?;
        let images = users.map(SlotAccounts::shared);
        let needs_kvm = matches!(uid, Uid::OfSlot(_)) && accelerator == Accelerator::Kvm;
        let kvm = needs_kvm.then(kvm_group).flatten();
        Ok(Self { uid, gid, groups: images.into_iter().chain(kvm).collect() })
    }

    /// Returns the number that the definition names, if it names one.
    pub(super) const fn own(&self) -> Option<u32> {
        match self.uid {
            Uid::Named(uid) => Some(uid),
            Uid::Ours | Uid::OfSlot(_) => None,
        }
    }

    /// Returns the credentials in this slot; `None` for those of this process. Without a group in the definition, the
    /// user's group of passwd(5) applies, or that of the slot.
    pub(super) fn credentials(&self, slot: Slot) -> Option<Credentials> {
        self.with(|accounts| accounts.of(slot))
    }

    /// Returns the user of this slot, if that is the one.
    pub(super) fn of_slot(&self, slot: Slot) -> Option<SlotUser> {
        match self.uid {
            Uid::OfSlot(accounts) => SlotUser::new(accounts.of(slot), accounts),
            Uid::Ours | Uid::Named(_) => None,
        }
    }

    /// Returns credentials to try access with, before the slot is known: no slot has a file, so all may do the same.
    pub(super) fn tried(&self) -> Option<Credentials> {
        self.with(SlotAccounts::shared)
    }

    fn with(&self, of_slot: impl FnOnce(SlotAccounts) -> u32) -> Option<Credentials> {
        let own = |uid: u32| nix::unistd::User::from_uid(uid.into()).ok().flatten();
        let group = |uid| self.gid.unwrap_or_else(|| own(uid).map_or(uid, |u| u.gid.as_raw()));
        match (self.uid, self.gid) {
            (Uid::Ours, None) => None,
            (Uid::Ours, Some(gid)) => Some(Credentials { uid: geteuid().as_raw(), gid }),
            (Uid::Named(uid), _) => Some(Credentials { uid, gid: group(uid) }),
            (Uid::OfSlot(accounts), gid) => {
                let uid = of_slot(accounts);
                Some(Credentials { uid, gid: gid.unwrap_or(uid) })
            }
        }
    }
}

/// Returns the group that may open `/dev/kvm`, if there is such a group. VMMs of slots that use KVM have it.
#[must_use]
pub fn kvm_group() -> Option<u32> {
    const READ_AND_WRITE: u32 = 0o060;
    let found = fs::metadata(KVM).ok()?;
    (found.mode() & READ_AND_WRITE == READ_AND_WRITE && found.gid() != 0).then(|| found.gid())
}

/// A user that a function has for itself, or shares with others that say so. The kernel releases it when this process ends.
#[derive(Debug)]
pub(super) struct UserLock {
    _file: File,
}

impl UserLock {
    /// Takes a user for a function. The lock is a file in the state directory, so that this costs the same with many
    /// functions.
    ///
    /// # Errors
    /// Fails if another function has the user, unless both share it.
    pub(super) fn take(
        state_dir: &Path,
        name: &InstanceName,
        uid: u32,
        shared: bool,
    ) -> Result<Self, SupervisorError> {
        let failed = |source| SupervisorError::UserLock { name: name.clone(), uid, source };
        let directory = state_dir.join("users");
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(directory.join(uid.to_string())).map_err(failed)?;
        let operation = if shared {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match flock(&file, operation) {
            Ok(()) => note(&mut file, name).map_err(failed)?,
            Err(Errno::WOULDBLOCK) => {
                let mut other = String::new();
                file.read_to_string(&mut other).map_err(failed)?;
                let name = name.clone();
                return Err(SupervisorError::UserTaken { name, uid, other });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        Ok(Self { _file: file })
    }
}

/// Writes the name of the function that has the user.
fn note(file: &mut File, name: &InstanceName) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_taken_once_unless_all_share_it() {
        let state_dir = std::env::temp_dir().join(format!("riklet-users-{}", std::process::id()));
        let take = |name: &str, uid, shared| {
            UserLock::take(&state_dir, &name.parse().unwrap(), uid, shared)
        };
        let first = take("first", 1000, false).unwrap();
        let refused = |shared| take("second", 1000, shared).unwrap_err().to_string();
        for shared in [false, true] {
            assert_eq!(refused(shared), "second cannot be run: first runs as user 1000 already");
        }
        take("second", 1001, false).unwrap();
        drop(first);
        let shared = take("first", 1000, true).unwrap();
        let both = take("second", 1000, true).unwrap();
        take("third", 1000, false).unwrap_err();
        drop((shared, both));
        take("third", 1000, false).unwrap();
        fs::remove_dir_all(&state_dir).unwrap();
    }
}
