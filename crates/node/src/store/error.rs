use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Error as Sqlite, ErrorCode};
use rustix::fs::{Access, access};

use super::{Unreadable, file::suffixed, stuck};
use riklet_core::model::{Exposure, InstanceName, Slot};
use riklet_kernel::process::LockHolder;

/// The reason why the store did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process kept the lock for longer than [`super::LOCK_TIMEOUT`], or the database locked for longer than
    /// [`super::BUSY_TIMEOUT`].
    #[error(
        "cannot {operation}: {} stays locked by {}", path.display(),
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    )]
    Busy {
        /// The operation.
        operation: &'static str,
        /// The file that is locked.
        path: PathBuf,
        /// The process that keeps it locked, if it can be told.
        holder: Option<LockHolder>,
    },
    /// Another process removed the database while this one waited for it. Nothing was written.
    #[error("{} was removed meanwhile: try again", path.display())]
    Gone {
        /// The database.
        path: PathBuf,
    },
    /// A later version wrote the database. It was left as it is.
    #[error("{} has format {found}; this version knows formats up to {known}", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The latest format known.
        known: i64,
    },
    /// The database is another program's. It was left as it is.
    #[error("{} is a database of another program", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// The database does not hold what was once written to it.
    #[error("cannot {operation}: {} is corrupt", path.display())]
    Corrupt {
        /// The operation.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record cannot be read. Others can.
    #[error("{}", .0.record)]
    Unreadable(Box<Unreadable>),
    /// Another instance has the port of the host.
    #[error("cannot expose {exposure} for {name}: {holder} has {held}")]
    PortTaken {
        /// The instance that asked.
        name: InstanceName,
        /// The exposure that was asked for.
        exposure: Exposure,
        /// The instance that has the port.
        holder: InstanceName,
        /// The holder's exposure.
        held: Exposure,
    },
    /// All slots are taken.
    #[error("no free slot for {name}: the pool has {capacity}, and all are taken")]
    PoolExhausted {
        /// The instance that asked.
        name: InstanceName,
        /// The number of slots of the pool.
        capacity: u32,
    },
    /// Another instance has the slot, or the instance has another slot.
    #[error("cannot record {name} in slot {slot}: {holder} is in slot {held}")]
    SlotTaken {
        /// The instance that asked.
        name: InstanceName,
        /// The slot that it asked for.
        slot: Slot,
        /// The instance that prevents it.
        holder: InstanceName,
        /// Its slot.
        held: Slot,
    },
    /// The state directory cannot be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// SQLite could not do something for another reason.
    #[error("cannot {operation} in {}", path.display())]
    Database {
        /// The operation.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's own words.
        source: DatabaseError,
    },
}

/// An error of the database, in SQLite's own words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(Sqlite);

/// The hint for a damaged database.
pub(crate) const REBUILD: &str = "run `riklet-sdn repair --rebuild`: it sets the database aside \
     and records anew what runs, as the interfaces' aliases have it";

/// Returns the hint for a record that cannot be read.
pub(crate) fn rebuild_one(name: &InstanceName) -> String {
    format!(
        "run `riklet-sdn repair --rebuild`: it records {name} anew, as its interface's alias has it; or \
         `riklet-sdn down {name}`, and bring it up again from its file"
    )
}

/// Returns the process besides this one that holds a lock on a database: on its file, or with a write-ahead log on the index
/// of that (<https://sqlite.org/walformat.html#wal_locks>).
pub(super) fn holder(database: &Path) -> Option<LockHolder> {
    LockHolder::of(&[&suffixed(database, "-shm"), database])
}

/// Reports whether the holder of a lock on this file of a state directory is the daemon there.
fn is_daemon(holder: &LockHolder, path: &Path) -> bool {
    let daemon = path.parent().and_then(super::lock::daemon);
    daemon.is_some_and(|daemon| daemon.pid == holder.pid)
}

/// The hint for a state directory that does not serve. Another one would not have the functions that are up.
const WRITABLE: &str = "the state directory must be on a local file system that can be written";

impl StoreError {
    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Busy { holder: Some(LockHolder { pid, is_stopped: true, .. }), .. } => {
                format!("`kill -CONT {pid}` lets it go on; `kill -KILL {pid}` ends it")
            }
            Self::Busy { holder: Some(holder), path, .. } if is_daemon(holder, path) => {
                "it is the daemon, and has much to do: try again, or ask it instead of using --no-daemon".into()
            }
            Self::Busy { holder: Some(LockHolder { pid, .. }), .. } => {
                format!("try again when it has ended; `kill {pid}` ends it")
            }
            Self::Busy { holder: None, .. } => "try again when it has ended".into(),
            Self::Newer { .. } => "use the version of riklet-sdn that wrote it, or a later one; \
                 `riklet-sdn repair --rebuild --force` sets the database aside"
                .into(),
            Self::Foreign { .. } => "it belongs to another program, or is damaged: \
                 `riklet-sdn repair --rebuild --force` sets it aside"
                .into(),
            Self::Corrupt { .. } => REBUILD.into(),
            Self::Unreadable(unreadable) => rebuild_one(&unreadable.record.name),
            Self::PortTaken { holder, .. } => {
                format!("choose another port, or run `riklet-sdn down {holder}` first")
            }
            Self::PoolExhausted { .. } => {
                "take an instance down; or all with `riklet-sdn down --all --purge`, and set pool \
                 to a larger network"
                    .into()
            }
            _ if self.is_permission() => "run it as root".into(),
            Self::Io { .. } => WRITABLE.into(),
            Self::Database { source, .. } => match source.0.sqlite_error_code()? {
                ErrorCode::DiskFull => "make room on the file system of the state directory".into(),
                ErrorCode::CannotOpen => WRITABLE.into(),
                _ => return None,
            },
            Self::SlotTaken { .. } | Self::Gone { .. } => return None,
        })
    }

    /// Reports whether the files exist, but this user may not use them.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Database { source, .. } => matches!(
                source.0.sqlite_error_code(),
                Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            ),
            _ => false,
        }
    }

    /// Reports whether the file system of the records is full.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Database { source, .. } => {
                source.0.sqlite_error_code() == Some(ErrorCode::DiskFull)
            }
            _ => false,
        }
    }

    /// Returns the same error again, if others that wait for the same lock would get it as well.
    pub(crate) fn repeated(&self) -> Option<Self> {
        let Self::Busy { operation, path, holder } = self else { return None };
        Some(Self::Busy { operation, path: path.clone(), holder: holder.clone() })
    }

    /// Reports whether the database must be set aside and rebuilt.
    #[must_use]
    pub const fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    pub(super) fn sqlite(operation: &'static str, path: PathBuf, source: Sqlite) -> Self {
        match &source {
            // A column does not hold what was written to it, or a table is missing.
            Sqlite::SqlInputError { .. }
            | Sqlite::FromSqlConversionFailure(..)
            | Sqlite::InvalidColumnType(..)
            | Sqlite::IntegralValueOutOfRange(..)
            | Sqlite::Utf8Error(..) => Self::Corrupt { operation, path, source: source.into() },
            _ => match source.sqlite_error_code() {
                _ if is_moved(&source) => Self::Gone { path },
                // The last: of a reader that has waited ten seconds for a lock of the write-ahead log (SQLITE_PROTOCOL).
                Some(
                    ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::FileLockingProtocolFailed,
                ) => {
                    let holder = holder(&path);
                    if holder.is_none() {
                        stuck::suspect_all(&path);
                    }
                    Self::Busy { operation, path, holder }
                }
                // Unknown is SQLITE_ERROR: a table or a column is missing. A statement that may legitimately violate a
                // constraint is preceded by a look-up, so a violation is damage.
                Some(
                    ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::Unknown
                    | ErrorCode::ConstraintViolation,
                ) => Self::Corrupt { operation, path, source: source.into() },
                // If the file itself can be written, its damaged header claims that it cannot.
                Some(ErrorCode::ReadOnly) if access(&path, Access::WRITE_OK).is_ok() => {
                    Self::Corrupt { operation, path, source: source.into() }
                }
                _ => Self::Database { operation, path, source: DatabaseError(source) },
            },
        }
    }
}

/// Reports whether the database's file is no longer at its path.
fn is_moved(error: &Sqlite) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_READONLY_DBMOVED)
}
