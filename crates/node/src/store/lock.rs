use std::{
    fs::OpenOptions,
    io,
    os::fd::OwnedFd,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{StoreError, file};

const FILE: &str = "lock";

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
    /// Fails if the lock's file cannot be made or opened.
    pub fn exclusive(dir: &Path) -> Result<Self, StoreError> {
        file::make_dir(dir)?;
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        // The file is opened for reading as well: programs that keep the lock get it as their standard input.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened = options.open(&path);
        let opened = opened.and_then(|file| Self::take(file.into(), FlockOperation::LockExclusive));
        opened.map_err(|source| StoreError::Io { operation: "lock", path, source })
    }

    /// Waits until nobody else holds the lock, and takes it exclusively; `None` if that takes longer than `limit`.
    ///
    /// # Errors
    /// Fails as [`Self::exclusive`] does.
    pub(crate) fn exclusive_within(
        dir: &Path,
        limit: Duration,
    ) -> Result<Option<Self>, StoreError> {
        let (dir, (sender, receiver)) = (dir.to_owned(), mpsc::channel());
        // flock(2) has no time limit. A thread that still waits ends with the process, or takes the lock and drops it.
        thread::spawn(move || {
            let _too_late = sender.send(Self::exclusive(&dir));
        });
        receiver.recv_timeout(limit).ok().transpose()
    }

    /// Waits until nobody holds the lock exclusively, and takes it shared with other readers. `None` if nobody ever
    /// took the lock here: then there is nothing to read either, and nothing is created.
    ///
    /// # Errors
    /// Fails if the lock's file cannot be opened.
    pub(crate) fn shared(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let taken = match OpenOptions::new().read(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| Self::take(file.into(), FlockOperation::LockShared)),
        };
        taken.map(Some).map_err(|source| StoreError::Io { operation: "lock", path, source })
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

    fn take(file: OwnedFd, operation: FlockOperation) -> io::Result<Self> {
        loop {
            match flock(&file, operation) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map(|()| Self { file: Arc::new(file) })?),
            }
        }
    }
}
