//! Writes the database again if its file was removed while it was open.
//!
//! A removed file lives on while a process has it open (unlink(2)), so nothing is lost as long as that process lives.

use std::{fs, path::Path};

use super::{Setting, Store, StoreError, file};

/// The outcome of [`Store::reopen`].
#[derive(Debug)]
pub(crate) enum Reopened {
    /// The same records, written again.
    Restored(Store),
    /// Other records, which another process put there.
    Replaced(Store),
    /// No records: there were none, and there are none.
    Unused,
}

impl Store {
    /// Reopens records whose file is no longer the open one. If the file was removed, or emptied by being created
    /// again, the records are written again.
    ///
    /// # Errors
    /// Fails if the present file cannot be read, or nothing can be written: then this store is returned as well, and
    /// has its records still.
    pub(crate) fn reopen(self, dir: &Path) -> Result<Reopened, Box<(Self, StoreError)>> {
        match self.reopened(dir) {
            Ok(reopened) => Ok(reopened),
            Err(error) => Err(Box::new((self, error))),
        }
    }

    fn reopened(&self, dir: &Path) -> Result<Reopened, StoreError> {
        if let Some(present) = Self::open_existing(dir)?
            && present.is_used()?
        {
            return Ok(Reopened::Replaced(present));
        }
        if !self.is_used()? {
            return Ok(Reopened::Unused);
        }
        file::make_dir(dir)?;
        let copy = file::suffixed(&self.path, ".restored");
        file::remove(&copy)?;
        self.copy_to(&copy)?;
        // Files left beside the removed database would be taken for those of the new one.
        for suffix in ["-journal", "-wal", "-shm"] {
            file::remove(&file::suffixed(&self.path, suffix))?;
        }
        fs::rename(&copy, &self.path).map_err(|source| StoreError::Io {
            operation: "write",
            path: self.path.clone(),
            source,
        })?;
        Self::open(dir).map(Reopened::Restored)
    }

    /// Copies the records to a new file, for its owner only.
    pub(super) fn copy_to(&self, copy: &Path) -> Result<(), StoreError> {
        file::make(copy);
        let text = copy.to_string_lossy();
        let copied = self.connection.execute("VACUUM INTO ?", [&*text]);
        copied.map(drop).map_err(self.failed("copy the database"))
    }

    /// Reports whether the node was used with these records.
    pub(super) fn is_used(&self) -> Result<bool, StoreError> {
        Ok(self.setting(Setting::Backend)?.is_some())
    }
}
