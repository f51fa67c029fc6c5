//! Room that is kept on the file system of the records, so that instances can be taken down and repaired when it is full.
//!
//! A write-ahead log grows with each transaction until it is written back, and the database with what is new in it
//! (<https://sqlite.org/wal.html>). A process that keeps the records open therefore has a file of zeros beside them, and
//! removes it when a transaction finds no room.

#![expect(
    clippy::disallowed_methods,
    reason = "a file of the store, which only it makes and removes"
)]

use std::{fs, fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Store, StoreError};

/// The name of the file.
pub(super) const FILE: &str = "riklet-sdn.room";
/// Its sizes in bytes, the first that fits: the largest is more than the log and the database need for taking some hundreds
/// of instances down.
const SIZES: [u64; 4] = [512 << 10, 256 << 10, 128 << 10, 64 << 10];

impl Store {
    /// Keeps room, as far as there is any. Does nothing if some is kept already.
    pub(crate) fn keep_room(&self) {
        let path = self.path.with_file_name(FILE);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let Ok(file) = made else { return };
        let fits = |size: &u64| fallocate(&file, FallocateFlags::empty(), 0, *size).is_ok();
        if !SIZES.iter().any(fits) {
            let _stays = fs::remove_file(&path);
        }
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
