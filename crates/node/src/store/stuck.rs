//! Openings of a database that may keep it locked although nobody works with it.
//!
//! SQLite does not unlock again what the kernel once refused to unlock (`unixShmLock` of `os_unix.c`). All openings of a
//! process share such a lock: any of them may find it, and it goes when all of them are closed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The number of the last opening by this process.
static LAST: AtomicU64 = AtomicU64::new(0);
/// The number of the last opening of each database that is suspect.
static SUSPECT: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// Returns a number for a new opening.
pub(super) fn number() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Makes all openings of a database up to now suspect: it is locked, and no other process was found to have done it.
pub(super) fn suspect_all(database: &Path) {
    suspect().insert(database.to_owned(), LAST.load(Ordering::Relaxed));
}

/// Reports whether the opening of this number is suspect.
pub(super) fn is_suspect(database: &Path, opening: u64) -> bool {
    suspect().get(database).is_some_and(|last| opening <= *last)
}

fn suspect() -> MutexGuard<'static, BTreeMap<PathBuf, u64>> {
    SUSPECT.lock().unwrap_or_else(PoisonError::into_inner)
}
