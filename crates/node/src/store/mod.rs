//! What the node remembers: records, the slots and ports that they hold, and what was changed on the host.
//!
//! A SQLite database in the state directory. Its transactions decide between processes: who gets a slot or a
//! port has it once [`Tx::commit`] returned. Nothing that an `up` or a `down` needs of it reads a whole table.

mod error;
mod file;
mod lock;
mod manifests;
mod reserved;
mod runs;
#[cfg(test)]
mod tests;
mod tx;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Params, Row};

pub use error::StoreError;
pub use lock::Lock;
pub use reserved::ReservedSlot;
pub use runs::{End, Run};
pub use tx::Tx;

use riklet_core::{
    definition,
    model::{InstanceName, Slot, Workload},
    nearest::nearest,
};

/// How long an operation waits for a transaction of another process.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the kernel follows a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Recorded; the kernel may have all, some or nothing of it.
    Pending,
    /// The kernel has all of it.
    Up,
    /// Being taken down; the kernel may have all, some or nothing of it. The slot and the ports stay taken.
    Removing,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Pending, Self::Up, Self::Removing];

    /// The phase as output has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Up => "up",
            Self::Removing => "removing",
        }
    }

    /// The number in the column `phase`.
    const fn number(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Up => 1,
            Self::Removing => 2,
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Tells one state of a record from all others: it changes whenever the record does, and is not used again, not
/// even where the record is removed and comes again, or the database is made anew.
///
/// A process that writes later what it learnt of a record says by this which state it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(i64);

/// What the store keeps of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The definition.
    pub workload: Workload,
    /// The slot that it holds.
    pub slot: Slot,
    /// How far the kernel follows.
    pub phase: Phase,
    /// Which state of the record this is.
    pub generation: Generation,
}

/// What was decided once for the node, and stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The firewall's backend.
    Backend,
    /// The pool.
    Pool,
    /// The firewall's tables that were there before us.
    Tables,
}

impl Setting {
    const fn key(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Pool => "pool",
            Self::Tables => "tables",
        }
    }
}

/// The database, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Which file it was as it was opened.
    file: Option<file::Identity>,
}

impl Store {
    /// Opens the store in this directory; makes both where they are missing, the directory for its owner
    /// only.
    ///
    /// # Errors
    /// Where the directory cannot be used, or the database is newer, another program's or corrupt; then it
    /// is left as it is.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        file::make_dir(dir)?;
        let path = file::path(dir);
        let connection = file::open(&path)?;
        Ok(Self { connection, file: file::identity(&path), path })
    }

    /// Opens the store in this directory; `None` where there is none. Makes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = file::path(dir);
        let connection = file::open_existing(&path)?;
        Ok(connection.map(|connection| Self { connection, file: file::identity(&path), path }))
    }

    /// A store that ends with the value.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from(":memory:");
        Ok(Self { connection: file::open_in_memory(&path)?, file: None, path })
    }

    /// Moves the database in this directory, whatever it holds, out of the way, to the first free name
    /// `riklet-sdn.db.corrupt-<n>`, and returns that; `None` where there is none. Nobody may have it open.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn set_aside(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        file::set_aside(&file::path(dir))
    }

    /// For a process that keeps the database open: commits go to a write-ahead log, a fifth of the writing. Others
    /// go along with it; it ends by [`Self::close`], or where the process is killed, with the next that stays.
    ///
    /// # Errors
    /// Where the database cannot be read. That others have it open is none: then it goes on as it is.
    pub fn stay_open(&self) -> Result<(), StoreError> {
        file::set_log(&self.connection, &self.path, "WAL")
    }

    /// Ends what [`Self::stay_open`] began.
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<(), StoreError> {
        file::set_log(&self.connection, &self.path, "PERSIST")
    }

    /// Whether the file that it has open is still the database: somebody may have set it aside since, or removed it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.file.is_some() && self.file == file::identity(&self.path)
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a transaction: nobody else writes until it ends. Waits [`BUSY_TIMEOUT`] for that of another.
    ///
    /// # Errors
    /// Where that was not long enough, or the database cannot be written.
    pub fn transaction(&mut self) -> Result<Tx<'_>, StoreError> {
        Tx::begin(self)
    }

    /// The record of this name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn get(&self, name: &InstanceName) -> Result<Option<Record>, StoreError> {
        let row = self.row("read a record", sql::GET, [name.as_str()], raw_record)?;
        row.map(|raw| self.record(raw)).transpose()
    }

    /// The record that holds this slot.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn holder(&self, slot: Slot) -> Result<Option<Record>, StoreError> {
        let raw = self.row("look up a slot", sql::HOLDER, [slot.number()], raw_record)?;
        raw.map(|raw| self.record(raw)).transpose()
    }

    /// The generation that the record of this name has now; `None` where there is no such record.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn generation(&self, name: &InstanceName) -> Result<Option<Generation>, StoreError> {
        let read = |row: &Row<'_>| row.get(0).map(Generation);
        self.row("read a generation", sql::GENERATION, [name.as_str()], read)
    }

    /// All records, ordered by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        let sql = "SELECT slot, phase, definition, generation FROM records ORDER BY name";
        self.records("list the records", sql)
    }

    /// The records that the kernel may not follow yet (any phase but [`Phase::Up`]), ordered by name. Costs
    /// as much as there are of them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn unsettled(&self) -> Result<Vec<Record>, StoreError> {
        self.records("list the unsettled records", sql::UNSETTLED)
    }

    /// How many records there are.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn count(&self) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM records";
        let count = self.row("count the records", sql, [], |row| row.get::<_, u32>(0))?;
        Ok(count.unwrap_or_default())
    }

    /// The recorded name that `name` was probably meant to be. Looks at all of them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn nearest(&self, name: &str) -> Result<Option<InstanceName>, StoreError> {
        let operation = "list the names";
        let names: Vec<String> =
            self.rows(operation, "SELECT name FROM records ORDER BY name", |row| row.get(0))?;
        nearest(name, names).map(|name| self.name(operation, &name)).transpose()
    }

    /// The value of a setting, where it was decided.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn setting(&self, setting: Setting) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        self.row("read a setting", sql, [setting.key()], |row| row.get(0))
    }

    /// The sysctls that were changed, and the values that they had before.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn recorded_sysctls(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let sql = "SELECT name, value FROM sysctls";
        let rows = self.rows("read the sysctls", sql, |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().collect())
    }

    /// What `work` answers, and how many instructions of SQLite's virtual machine it took (those that jump, which is
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

    fn records(&self, operation: &'static str, sql: &str) -> Result<Vec<Record>, StoreError> {
        let rows = self.rows(operation, sql, raw_record)?;
        rows.into_iter().map(|raw| self.record(raw)).collect()
    }

    fn record(
        &self,
        (slot, phase, definition, generation): RawRecord,
    ) -> Result<Record, StoreError> {
        let operation = "read a record";
        let workload = definition::from_json(&definition)
            .map_err(|source| self.corrupt(operation, source.into()))?;
        let phase = Phase::ALL.into_iter().find(|known| known.number() == phase);
        let phase = phase.ok_or_else(|| self.corrupt(operation, "no such phase".into()))?;
        Ok(Record { workload, slot: Slot::new(slot), phase, generation: Generation(generation) })
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

    /// The first row, where there is one.
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
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let statement = self.connection.prepare_cached(sql);
        let rows = statement.and_then(|mut statement| statement.query_map([], read)?.collect());
        rows.map_err(self.failed(operation))
    }
}

/// Slot, phase, definition and generation as their columns have them.
type RawRecord = (u16, i64, String, i64);

fn raw_record(row: &Row<'_>) -> rusqlite::Result<RawRecord> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

/// The statements of an `up` and a `down`: a test holds that none of them scans a table.
mod sql {
    pub(super) const GET: &str =
        "SELECT slot, phase, definition, generation FROM records WHERE name = ?";
    pub(super) const GENERATION: &str = "SELECT generation FROM records WHERE name = ?";
    pub(super) const SLOT: &str = "SELECT slot FROM records WHERE name = ?";
    pub(super) const HOLDER: &str =
        "SELECT slot, phase, definition, generation FROM records WHERE slot = ?";
    pub(super) const UNSETTLED: &str =
        "SELECT slot, phase, definition, generation FROM records WHERE phase <> 1 ORDER BY name";
    pub(super) const FREE: &str = "SELECT min(slot) FROM free_slots";
    pub(super) const SPARE: &str = "SELECT state FROM spares WHERE slot = ?";
    pub(super) const WARM: &str = "SELECT min(slot) FROM spares WHERE state = 1";
    pub(super) const HIGHEST_SPARE: &str = "SELECT max(slot) FROM spares";
    pub(super) const TAKE_SPARE: &str = "DELETE FROM spares WHERE slot = ?";
    pub(super) const FREE_SPARE: &str = "DELETE FROM spares WHERE slot = ? AND state = ?";
    pub(super) const FREE_SLOT: &str = "INSERT INTO free_slots (slot) VALUES (?)";
    pub(super) const HIGHEST_TAKEN: &str = "SELECT max(slot) FROM records";
    pub(super) const HIGHEST_FREE: &str = "SELECT max(slot) FROM free_slots";
    pub(super) const TAKE_SLOT: &str = "DELETE FROM free_slots WHERE slot = ?";
    pub(super) const CLASH: &str = "SELECT slot FROM ports \
         WHERE protocol = ?1 AND port BETWEEN ?2 AND ?3 AND slot <> ?5 \
         AND (host_address = 0 OR ?4 = 0 OR host_address = ?4) ORDER BY port LIMIT 1";
    pub(super) const RELEASE_PORTS: &str = "DELETE FROM ports WHERE slot = ?";
    pub(super) const PUT: &str = "INSERT INTO records (slot, name, phase, definition, generation) \
         VALUES (?, ?, ?, ?, random() & 0x3fffffffffffffff) \
         ON CONFLICT (slot) DO UPDATE SET phase = excluded.phase, \
         definition = excluded.definition, generation = generation + 1 RETURNING generation";
    pub(super) const SET_PHASE: &str = "UPDATE records SET phase = ?, generation = generation + 1 \
         WHERE name = ? AND generation = ? RETURNING generation";
    pub(super) const REMOVE: &str =
        "DELETE FROM records WHERE name = ? AND generation = ? RETURNING slot";
    pub(super) const FORGET_MANIFEST: &str = "DELETE FROM manifests WHERE name = ?";
}
