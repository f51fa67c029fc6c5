//! Removes a database that has nothing in it.

#![expect(clippy::disallowed_methods, reason = "the files of the store, which only it removes")]

use std::{fs, io::ErrorKind, path::Path};

use super::{LOCK_TIMEOUT, Lock, Store, StoreError, daemon, file, journal, room};

/// Removes the database in this directory, if nothing is recorded in it and nobody has it open, this process included.
/// Returns whether it was removed. Repetition changes nothing more.
///
/// The file of the lock stays, and so does the directory: a process that waits for the lock would get that of a removed file,
/// while another one locks a new file of this name.
///
/// # Errors
/// Fails if the database cannot be read or removed; then it stays, at least in part, and is removed on repetition.
pub(crate) fn remove_blank(dir: &Path) -> Result<bool, StoreError> {
    if daemon(dir).is_some() || !is_blank(dir)? {
        return Ok(false);
    }
    let _lock = Lock::exclusive_within(dir, LOCK_TIMEOUT)?;
    let Some(_alone) = Lock::of_removal(dir)? else { return Ok(false) };
    // Somebody may have used it meanwhile.
    let Some(store) = Store::open_alone(dir)? else { return Ok(false) };
    if !store.is_blank()? {
        return Ok(false);
    }
    let path = file::path(dir);
    for removed in ["", "-journal", "-wal", "-shm"]
        .map(|suffix| file::suffixed(&path, suffix))
        .into_iter()
        .chain([dir.join(journal::WAKE), dir.join(room::FILE)])
    {
        match fs::remove_file(&removed) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(StoreError::Io { operation: "remove", path: removed, source });
            }
            _ => {}
        }
    }
    Ok(true)
}

/// Reports whether there is a database in this directory in which nothing is recorded.
fn is_blank(dir: &Path) -> Result<bool, StoreError> {
    Store::open_existing(dir)?.map_or(Ok(false), |store| store.is_blank())
}

impl Store {
    /// Reports whether nothing is recorded.
    fn is_blank(&self) -> Result<bool, StoreError> {
        Ok(self.count()? == 0
            && self.count_reserved()?.is_empty()
            && self.runs()?.is_empty()
            && self.settings()?.0.is_empty()
            && self.recorded_sysctls()?.is_empty())
    }
}
