//! What is recorded of an instance.

use rusqlite::Row;

use super::{Store, StoreError, key, sql};
use riklet_core::{
    definition,
    model::{InstanceName, Slot, Workload},
    nearest::nearest,
};

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

    /// The number in the column `state`.
    pub(super) const fn number(self) -> i64 {
        match self {
            Self::Pending => 4,
            Self::Up => 5,
            Self::Removing => 6,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub(super) i64);

/// What the store keeps of an instance.
///
/// A process that writes later what it learnt of a record says by its [`Generation`] which state it means: nothing is
/// written of a record that was changed since.
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

impl Store {
    /// The record of this name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn get(&self, name: &InstanceName) -> Result<Option<Record>, StoreError> {
        let row = self.row("read a record", sql::GET, key(name), raw_record)?;
        row.as_ref().map(|raw| self.record(raw)).transpose()
    }

    /// The record that holds this slot.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn holder(&self, slot: Slot) -> Result<Option<Record>, StoreError> {
        let raw = self.row("look up a slot", sql::HOLDER, [slot.number()], raw_record)?;
        raw.as_ref().map(|raw| self.record(raw)).transpose()
    }

    /// Returns `false` where the record was changed or removed since it was read.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn holds(&self, record: &Record) -> Result<bool, StoreError> {
        let params = (record.slot.number(), record.generation.0);
        Ok(self.row("look up a record", sql::HOLDS, params, |_row| Ok(()))?.is_some())
    }

    /// All records, ordered by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        self.records("list the records", sql::ALL)
    }

    /// The records that the kernel may not follow yet (any phase but [`Phase::Up`]), ordered by name. Costs
    /// as much as there are of them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn unsettled(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = self.records("list the unsettled records", sql::UNSETTLED)?;
        records.sort_by(|one, other| one.workload.name().cmp(other.workload.name()));
        Ok(records)
    }

    /// How many records there are.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn count(&self) -> Result<u32, StoreError> {
        let count = self.row("count the records", sql::COUNT, [], |row| row.get::<_, u32>(0))?;
        Ok(count.unwrap_or_default())
    }

    /// The recorded name that `name` was probably meant to be. Looks at all of them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn nearest(&self, name: &str) -> Result<Option<InstanceName>, StoreError> {
        let operation = "list the names";
        let names: Vec<String> = self.rows(operation, sql::NAMES, [], |row| row.get(0))?;
        nearest(name, names).map(|name| self.name(operation, &name)).transpose()
    }

    fn records(&self, operation: &'static str, sql: &str) -> Result<Vec<Record>, StoreError> {
        let rows = self.rows(operation, sql, [], raw_record)?;
        rows.iter().map(|raw| self.record(raw)).collect()
    }

    fn record(&self, raw: &RawRecord) -> Result<Record, StoreError> {
        let operation = "read a record";
        let workload = definition::from_json(&raw.definition)
            .map_err(|source| self.corrupt(operation, source.into()))?;
        let phase = Phase::ALL.into_iter().find(|known| known.number() == raw.state);
        let phase = phase.ok_or_else(|| self.corrupt(operation, "unknown phase".into()))?;
        let (slot, generation) = (Slot::new(raw.slot), Generation(raw.generation));
        Ok(Record { workload, slot, phase, generation })
    }
}

/// A record as its columns have it.
struct RawRecord {
    slot: u16,
    state: i64,
    generation: i64,
    definition: String,
}

fn raw_record(row: &Row<'_>) -> rusqlite::Result<RawRecord> {
    Ok(RawRecord {
        slot: row.get(0)?,
        state: row.get(1)?,
        generation: row.get(2)?,
        definition: row.get(3)?,
    })
}
