//! Room that is kept on the file system of the records, so that instances can be taken down and repaired when it is full.
//!
//! A write-ahead log grows with each transaction until it is written back, a rollback journal with the pages that one
//! transaction changes, and the database with what is new in it (<https://sqlite.org/wal.html>,
//! <https://sqlite.org/lockingv3.html>). Beside the records is therefore a file of zeros, which goes when a transaction
//! that takes something down or repairs it finds no room.

#![expect(
    clippy::disallowed_methods,
    reason = "a file of the store, which only it makes and removes"
)]

use std::{fs, fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{Store, StoreError};

/// The name of the file.
pub(super) const FILE: &str = "riklet-sdn.room";
/// Its sizes in bytes, the first that leaves as much free, or else the last if it fits: the largest is more than the log
/// and the database need for taking some hundreds of instances down.
const SIZES: [u64; 4] = [512 << 10, 256 << 10, 128 << 10, 64 << 10];

impl Store {
    /// Keeps room, as far as there is any. Does nothing if some is kept already.
    pub(crate) fn keep_room(&self) {
        let path = self.path.with_file_name(FILE);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let Ok(file) = made else { return };
        let last = SIZES.last();
        let fits = |size: &u64| {
            (Some(size) == last || self.free().is_none_or(|free| free >= *size * 2))
                && fallocate(&file, FallocateFlags::empty(), 0, *size).is_ok()
        };
        if !SIZES.iter().any(fits) {
            let _stays = fs::remove_file(&path);
        }
    }

    /// Reports whether the file system has less free than the room that is kept where there is much.
    pub(crate) fn lacks_room(&self) -> bool {
        self.free().is_some_and(|free| free < SIZES[0])
    }

    /// Returns the free bytes of the file system, as far as they can be found out.
    fn free(&self) -> Option<u64> {
        let found = statvfs(self.path.parent()?).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }

    /// Gives up the room that is kept, and writes the log back, which begins anew then.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn make_room(&self) -> Result<(), StoreError> {
        let _kept_or_not = fs::remove_file(self.path.with_file_name(FILE));
        let done = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_row| Ok(()));
        done.map_err(self.failed("write the log back"))
    }
}
