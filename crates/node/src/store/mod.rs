//! The store: records, the slots and ports that they hold, and the settings of the host that were changed.
//!
//! A SQLite database in the state directory. Its transactions decide between processes: an instance has a slot or a
//! port once [`Tx::commit`] has returned. An `up` or a `down` reads no whole table, and writes as few pages as
//! possible: a slot and its holder are one row.

mod adopted;
mod blank;
mod error;
mod file;
mod journal;
mod lock;
mod manifests;
mod passed;
mod ports;
mod queue;
mod record;
mod reserved;
mod restore;
mod room;
mod runs;
mod sql;
mod stuck;
#[cfg(test)]
mod tests;
mod tx;
mod upgrade;
mod verify;

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::Ipv6Net;
use rusqlite::{Connection, OptionalExtension, Params, Row};

pub(crate) use blank::remove_blank;
pub use error::{DatabaseError, StoreError};
pub(crate) use error::{REBUILD, rebuild_one};
pub use journal::{Journal, JournalEntry, JournalFollower, JournalKind};
pub use lock::{
    LOCK_TIMEOUT, Lock, await_rest, daemon, daemon_lock, is_awaited, let_others, lock_holder,
};
pub use record::{Generation, Phase, Record, Records, Unreadable};
pub use reserved::ReservedSlot;
pub(crate) use restore::Reopened;
pub use runs::{End, Run};
pub use tx::Tx;

use riklet_core::model::{Egress, InstanceName, OwnerId, Pool};

/// The longest wait for a transaction of another process.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A decision that was made once for the node, and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Setting {
    /// The firewall's backend.
    Backend,
    /// The pool.
    Pool,
    /// The firewall's tables that were there before us.
    Tables,
    /// The identifier of the state directory, and its path.
    Owner,
    /// The slots that are passed over.
    PassedOver,
    /// The interfaces that were there when the first was switched to forward.
    Neighbours,
    /// The process that is notified when forwarding of the host changes. May change later.
    Watcher,
    /// The marks of the uplinks. May change later.
    Marks,
    /// The uplinks, if they were set. May change later.
    Uplinks,
    /// The MTU of the TAPs, if it was set. May change later.
    Mtu,
    /// The interfaces that had an address when they were last listed. May change later.
    Addressed,
    /// The bits of marks that are ours to use, if they were set. May change later.
    MarkMask,
    /// The reach of guests, if it was set. May change later.
    Egress,
    /// The limit of flows, if it was set. May change later.
    Flows,
    /// The choice of IPv6, if it was set. May change later.
    Ipv6,
    /// The range of the guests' IPv6 addresses, once it was chosen.
    PoolV6,
    /// The interfaces that were there when the first was switched to forward IPv6.
    NeighboursV6,
    /// The version of the rules at the end of the last operation, what they stood for, and the ports that others translated.
    /// May change later.
    Ruleset,
}

impl Setting {
    const fn key(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Pool => "pool",
            Self::Tables => "tables",
            Self::Owner => "owner",
            Self::PassedOver => "passed_over",
            Self::Neighbours => "neighbours",
            Self::Watcher => "watcher",
            Self::Marks => "marks",
            Self::Uplinks => "uplinks",
            Self::Mtu => "mtu",
            Self::Addressed => "addressed",
            Self::MarkMask => "mark_mask",
            Self::Egress => "egress",
            Self::Flows => "flows",
            Self::Ipv6 => "ipv6",
            Self::PoolV6 => "pool6",
            Self::NeighboursV6 => "neighbours6",
            Self::Ruleset => "ruleset",
        }
    }
}

/// The settings that were decided, with their values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Returns the value of a setting, if it was decided.
    pub(crate) fn get(&self, setting: Setting) -> Option<&str> {
        self.0.get(setting.key()).map(String::as_str)
    }
}

/// The database, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// The identity of the file when it was opened.
    file: Option<file::Identity>,
    /// Keeps others from removing the file. `None` for who removes it.
    _stays: Option<Lock>,
    /// The number of changes of settings and sysctls by this process.
    settings_changed: Cell<u64>,
    /// Tells this opening of a database from all others of this process.
    opening: u64,
}

/// The state of the settings and the recorded sysctls: it changes whenever they may have been changed by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SettingsVersion {
    opening: u64,
    by_us: u64,
    by_others: i64,
}

impl Store {
    /// Opens the store in this directory. Creates both if they are missing, the directory for its owner only.
    ///
    /// # Errors
    /// Fails if the directory cannot be used, or the database is newer, another program's or corrupt; then it is left
    /// as it is.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        file::make_dir(dir)?;
        let stays = Lock::of_opening(dir)?;
        let path = file::path(dir);
        let connection = file::open(&path)?;
        Ok(Self { _stays: Some(stays), ..Self::of(connection, file::identity(&path), path) })
    }

    fn of(connection: Connection, file: Option<file::Identity>, path: PathBuf) -> Self {
        let (settings_changed, opening) = (Cell::new(0), stuck::number());
        Self { connection, path, file, _stays: None, settings_changed, opening }
    }

    /// Opens the store in this directory; `None` if there is none. Creates nothing.
    ///
    /// # Errors
    /// Fails as [`Self::open`] does.
    pub fn open_existing(dir: &Path) -> Result<Option<Self>, StoreError> {
        if !Self::exists(dir)? {
            return Ok(None);
        }
        let stays = Lock::of_opening(dir)?;
        let opened = Self::open_alone(dir)?;
        Ok(opened.map(|opened| Self { _stays: Some(stays), ..opened }))
    }

    /// Opens the store as [`Self::open_existing`] does, for who holds the lock of the directory.
    fn open_alone(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = file::path(dir);
        let connection = file::open_existing(&path)?;
        Ok(connection.map(|connection| Self::of(connection, file::identity(&path), path)))
    }

    /// Reports whether there is a database in this directory, whatever it holds.
    ///
    /// # Errors
    /// Fails if the directory cannot be searched.
    pub fn exists(dir: &Path) -> Result<bool, StoreError> {
        file::exists(&file::path(dir))
    }

    /// Creates a store in memory, which ends with the value.
    ///
    /// # Errors
    /// Fails if memory runs out.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from(":memory:");
        Ok(Self::of(file::open_in_memory(&path)?, None, path))
    }

    /// Moves the database in this directory, whatever it holds, out of the way, to the first free name
    /// `riklet-sdn.db.corrupt-<n>`, and returns that; `None` if there is none. Waits for a short time for those who have it
    /// open.
    ///
    /// # Errors
    /// Fails if it cannot be moved.
    pub fn set_aside(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        if !Self::exists(dir)? {
            return Ok(None);
        }
        // Who has it open for long, as a supervisor does, notices that it was moved.
        let _alone = Lock::of_removal(dir)?;
        file::set_aside(&file::path(dir))
    }

    /// Returns the path of this directory without symbolic links, or unchanged if it cannot be looked up.
    #[must_use]
    pub(crate) fn canonical(dir: &Path) -> PathBuf {
        file::canonical(dir)
    }

    /// Prepares for keeping the database open: commits go to a write-ahead log, which takes a fifth of the writing.
    /// Other processes use the log as well. The mode ends with [`Self::close`], or if the process is killed, with that
    /// of the next long-lived process.
    ///
    /// # Errors
    /// Fails if the database cannot be read. If other processes have it open, this succeeds, and the journal mode
    /// stays.
    pub(crate) fn stay_open(&self) -> Result<(), StoreError> {
        file::set_log(&self.connection, &self.path, "WAL")?;
        self.keep_room();
        Ok(())
    }

    /// Closes the database for a process that kept it open: the write-ahead log ends.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn close(self) -> Result<(), StoreError> {
        file::set_log(&self.connection, &self.path, "PERSIST")
    }

    /// Reports whether the open file is still the database: another process may have set it aside or removed it.
    #[must_use]
    pub(crate) fn is_current(&self) -> bool {
        self.file.is_some() && self.file == file::identity(&self.path)
    }

    /// Reports whether it has to be opened anew: it may be this opening that keeps the database locked.
    #[must_use]
    pub(crate) fn is_stuck(&self) -> bool {
        stuck::is_suspect(&self.path, self.opening)
    }

    /// Reports whether the open file was removed or set aside. A database in memory never is.
    fn is_lost(&self) -> bool {
        self.file.is_some() && !self.is_current()
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a transaction: no other process writes until it ends. Waits up to [`BUSY_TIMEOUT`] for that of another.
    ///
    /// # Errors
    /// Fails if the wait was not long enough, or the database cannot be written.
    pub fn transaction(&mut self) -> Result<Tx<'_>, StoreError> {
        Tx::begin(self)
    }

    /// Returns the value of a setting, if it was decided.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn setting(&self, setting: Setting) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        self.row("read a setting", sql, [setting.key()], |row| row.get(0))
    }

    /// Returns the reach of the node's guests, if it was set.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn egress(&self) -> Result<Option<Egress>, StoreError> {
        Ok(self.setting(Setting::Egress)?.and_then(|egress| egress.parse().ok()))
    }

    /// Returns all settings that were decided.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn settings(&self) -> Result<Settings, StoreError> {
        let sql = "SELECT name, value FROM settings";
        let rows = self.rows("read the settings", sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Settings(rows.into_iter().collect()))
    }

    /// Returns the version of the settings and the recorded sysctls.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn settings_version(&self) -> Result<SettingsVersion, StoreError> {
        // The number changes when another connection commits anything
        // (<https://sqlite.org/pragma.html#pragma_data_version>).
        let sql = "PRAGMA data_version";
        let by_others = self.row("look for changes", sql, [], |row| row.get(0))?;
        let (opening, by_us) = (self.opening, self.settings_changed.get());
        Ok(SettingsVersion { opening, by_us, by_others: by_others.unwrap_or_default() })
    }

    /// Returns a new identifier: 64 random bits. It is not recorded.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn random_owner(&self) -> Result<OwnerId, StoreError> {
        self.random("choose an identifier").map(OwnerId::new)
    }

    /// Returns a random unique local range of IPv6 addresses.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn random_range(&self) -> Result<Ipv6Net, StoreError> {
        self.random("choose a range of IPv6").map(Pool::unique_local)
    }

    fn random(&self, operation: &'static str) -> Result<u64, StoreError> {
        let read = |row: &Row<'_>| row.get::<_, i64>(0);
        let bits = self.row(operation, "SELECT random()", [], read)?;
        bits.map(i64::cast_unsigned).ok_or_else(|| self.corrupt(operation, "no row".into()))
    }

    /// Returns the sysctls that were changed, with their former values.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn recorded_sysctls(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let sql = "SELECT name, value FROM sysctls";
        let rows = self.rows("read the sysctls", sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().collect())
    }

    /// Returns the answer of `work`, and the number of instructions of SQLite's virtual machine that it took (those that jump, which is
    /// enough to tell one look-up from thousands).
    #[cfg(any(test, feature = "testing"))]
    #[expect(clippy::missing_panics_doc, clippy::unwrap_used, reason = "for tests")]
    pub fn steps<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (usize, T) {
        use std::sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        };
        let steps = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&steps);
        let count = move || {
            count.fetch_add(1, Ordering::Relaxed);
            false
        };
        self.connection.progress_handler(1, Some(count)).unwrap();
        let answer = work(self);
        self.connection.progress_handler(1, None::<fn() -> bool>).unwrap();
        (steps.load(Ordering::Relaxed), answer)
    }

    fn name(&self, operation: &'static str, name: &str) -> Result<InstanceName, StoreError> {
        InstanceName::try_from(name).map_err(|source| self.corrupt(operation, source.into()))
    }

    fn corrupt(
        &self,
        operation: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> StoreError {
        StoreError::Corrupt { operation, path: self.path.clone(), source }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
        move |source| StoreError::sqlite(operation, self.path.clone(), source)
    }

    /// Returns the first row, if there is one.
    fn row<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let statement = self.connection.prepare_cached(sql);
        let row = statement.and_then(|mut statement| statement.query_row(params, read).optional());
        row.map_err(self.failed(operation))
    }

    fn rows<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let statement = self.connection.prepare_cached(sql);
        let rows = statement.and_then(|mut statement| statement.query_map(params, read)?.collect());
        rows.map_err(self.failed(operation))
    }
}

/// Returns the columns by which an instance is looked up: its workload, and its number in it. A workload has one
/// instance, of its own name.
fn key(name: &InstanceName) -> (&str, u32) {
    (name.as_str(), 0)
}
