use std::{
    fs::OpenOptions,
    io,
    os::fd::OwnedFd,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    BUSY_TIMEOUT, StoreError,
    error::holder,
    file,
    queue::{self, Waited},
};
use riklet_kernel::process::LockHolder;

/// The longest wait for the lock of another process.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for those who have the database open, before it stays.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(100);

const FILE: &str = "lock";
/// The file that a running daemon keeps locked.
const DAEMON: &str = "daemon.lock";

/// The advisory lock under which the kernel is changed: flock(2) on a file of the state directory, held
/// until the last clone of the value is dropped or the process ends, however it ends.
///
/// It holds between open files, not processes: a second lock in the same process waits for the first as well.
#[derive(Debug, Clone)]
pub struct Lock {
    file: Arc<OwnedFd>,
}

impl Lock {
    /// Waits until nobody else holds the lock, and takes it exclusively. Creates the state directory if it is missing.
    ///
    /// # Errors
    /// Fails with [`StoreError::Busy`], which names the process that holds it, after [`LOCK_TIMEOUT`], or earlier if
    /// that process is stopped. Also fails if the lock's file cannot be made or opened.
    pub fn exclusive(dir: &Path) -> Result<Self, StoreError> {
        Self::exclusive_within(dir, LOCK_TIMEOUT)
    }

    /// Takes the lock exclusively, as [`Self::exclusive`] does, but waits no longer than `limit`.
    ///
    /// # Errors
    /// Fails as [`Self::exclusive`] does.
    pub(crate) fn exclusive_within(dir: &Path, limit: Duration) -> Result<Self, StoreError> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let opened = match options.open(&path) {
            // The directory is missing, or something else has its name.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                file::make_dir(dir)?;
                options.open(&path)
            }
            opened => opened,
        };
        let opened = opened.map_err(failed(&path))?;
        Self::take(&path, opened.into(), Access::Exclusive, limit)
    }

    /// Reports whether anybody ever took the lock of this directory.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Waits until nobody holds the lock exclusively, and takes it shared with other readers. `None` if nobody ever
    /// took the lock here: then there is nothing to read either, and nothing is created.
    ///
    /// # Errors
    /// Fails with [`StoreError::Busy`] after `limit`, or if the lock's file cannot be opened.
    pub(crate) fn shared_within(dir: &Path, limit: Duration) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        match OpenOptions::new().read(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => {
                let opened = opened.map_err(failed(&path))?;
                Self::take(&path, opened.into(), Access::Shared, limit).map(Some)
            }
        }
    }

    /// Takes the lock of the directory itself (flock(2)), within [`BUSY_TIMEOUT`]. Each opening of the database holds it shared,
    /// and who removes the database exclusively: what is read by a removed file's name afterwards belongs to its successor.
    ///
    /// # Errors
    /// Fails with [`StoreError::Busy`] after that time, or if the directory cannot be opened.
    pub(super) fn of_opening(dir: &Path) -> Result<Self, StoreError> {
        Self::of_directory(dir, Access::Shared, BUSY_TIMEOUT)
    }

    /// Takes the same lock exclusively, within a short time. `None` if the database is still open in this process or another.
    ///
    /// # Errors
    /// Fails if the directory cannot be opened.
    pub(super) fn of_removal(dir: &Path) -> Result<Option<Self>, StoreError> {
        match Self::of_directory(dir, Access::Exclusive, REMOVAL_PATIENCE) {
            Err(StoreError::Busy { .. }) => Ok(None),
            lock => lock.map(Some),
        }
    }

    fn of_directory(dir: &Path, access: Access, limit: Duration) -> Result<Self, StoreError> {
        let opened = OpenOptions::new().read(true).open(dir).map_err(failed(dir))?;
        Self::take(dir, opened.into(), access, limit)
    }

    /// Returns the same lock, if another part of this process still holds it.
    #[must_use]
    pub(crate) fn shared_with(other: &Weak<OwnedFd>) -> Option<Self> {
        other.upgrade().map(|file| Self { file })
    }

    /// Returns the open file, for programs that are started under the lock and must not outlive it.
    #[must_use]
    pub(crate) fn share(&self) -> Weak<OwnedFd> {
        Arc::downgrade(&self.file)
    }

    fn take(
        path: &Path,
        file: OwnedFd,
        access: Access,
        limit: Duration,
    ) -> Result<Self, StoreError> {
        let taken = match flock(&file, access.at_once()) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => match queue::wait(path, file, access, limit) {
                Ok(Waited::Granted(file)) => Ok(file),
                Ok(Waited::InVain(holder)) => {
                    return Err(StoreError::Busy {
                        operation: "lock",
                        path: path.to_owned(),
                        holder,
                    });
                }
                Err(error) => Err(error),
            },
            Err(errno) => Err(errno.into()),
        };
        let file = taken.map_err(failed(path))?;
        Ok(Self { file: Arc::new(file) })
    }
}

/// Reports whether another process waits for the lock of this directory.
#[must_use]
pub fn is_awaited(dir: &Path) -> bool {
    LockHolder::is_awaited(&dir.join(FILE))
}

/// Waits until a process that waits for the lock of this directory has it, but no longer than `limit`. Who calls this has given
/// the lock back: taken again at once, it would be taken before the other process wakes up.
pub fn let_others(dir: &Path, limit: Duration) {
    let path = dir.join(FILE);
    queue::wait_while(limit, || {
        LockHolder::is_awaited(&path) && LockHolder::of(&[&path]).is_none()
    });
}

/// Waits until no operation is in progress on the records in this directory, but no longer than `limit`. Creates nothing.
///
/// # Errors
/// Fails with [`StoreError::Busy`], which names the process at work, after that time, or earlier if that process is stopped;
/// also if the lock cannot be opened.
pub fn await_rest(dir: &Path, limit: Duration) -> Result<(), StoreError> {
    Lock::shared_within(dir, limit).map(drop)
}

/// Returns another process that holds the lock of this directory, or else one that has a transaction of its database open.
#[must_use]
pub fn lock_holder(dir: &Path) -> Option<LockHolder> {
    let path = dir.join(FILE);
    LockHolder::of(&[&path]).or_else(|| holder(&file::path(dir)))
}

/// Returns the path of the file in this directory that a running daemon keeps locked (flock(2)).
#[must_use]
pub fn daemon_lock(dir: &Path) -> PathBuf {
    dir.join(DAEMON)
}

/// Returns the daemon that has the records in this directory open, unless it is this process.
#[must_use]
pub fn daemon(dir: &Path) -> Option<LockHolder> {
    LockHolder::of(&[&daemon_lock(dir)])
}

/// The way in which a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Exclusive,
    Shared,
}

impl Access {
    /// Returns the operation that waits.
    pub(super) const fn waiting(self) -> FlockOperation {
        match self {
            Self::Exclusive => FlockOperation::LockExclusive,
            Self::Shared => FlockOperation::LockShared,
        }
    }

    const fn at_once(self) -> FlockOperation {
        match self {
            Self::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Self::Shared => FlockOperation::NonBlockingLockShared,
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Io { operation: "lock", path, source }
}
