//! Records of instances.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Params, Row};

use super::{Store, StoreError, key, sql};
use riklet_core::{
    definition,
    model::{InstanceName, Slot, Workload},
    nearest::nearest,
    plan::UnreadableRecord,
};

/// The phase of a record: how far the kernel follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Recorded; the kernel may have all, some or none of its objects.
    Pending,
    /// The kernel has all of its objects.
    Up,
    /// Being taken down; the kernel may have all, some or none of its objects. The slot and the ports stay taken.
    Removing,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Pending, Self::Up, Self::Removing];

    /// Returns the name of the phase in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Up => "up",
            Self::Removing => "removing",
        }
    }

    /// Returns the number in the column `state`.
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

/// Identifies one state of a record: it changes whenever the record does, and is never used again, even if the record
/// is removed and added again, or the database is created anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub(super) i64);

/// The record of an instance.
///
/// A process that writes an outcome later names the state of the record by its [`Generation`]: if the record was
/// changed since, nothing is written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The definition.
    pub workload: Workload,
    /// The slot that it holds.
    pub slot: Slot,
    /// The phase.
    pub phase: Phase,
    /// The generation of this state of the record.
    pub generation: Generation,
}

/// A record of which only the name and the slot can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// The instance, and what is wrong with its record.
    pub record: UnreadableRecord,
    /// The slot that it holds.
    pub slot: Slot,
    /// True if it is being taken down ([`Phase::Removing`]).
    pub removing: bool,
    /// The generation of this state of the record.
    pub generation: Generation,
}

/// Records, and those that cannot be read: each concerns its own instance only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Records {
    /// The readable records.
    pub readable: Vec<Record>,
    /// The unreadable records.
    pub unreadable: Vec<Unreadable>,
}

impl Records {
    /// Returns the names of all of them.
    pub fn names(&self) -> impl Iterator<Item = &InstanceName> {
        let readable = self.readable.iter().map(|record| record.workload.name());
        readable.chain(self.unreadable.iter().map(|unreadable| &unreadable.record.name))
    }

    /// Returns the slots of all of them.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        let unreadable = self.unreadable.iter().map(|unreadable| unreadable.slot);
        self.readable.iter().map(|record| record.slot).chain(unreadable)
    }

    fn add(&mut self, read: Result<Record, Unreadable>) {
        match read {
            Ok(record) => self.readable.push(record),
            Err(unreadable) => self.unreadable.push(unreadable),
        }
    }
}

impl Store {
    /// Returns the record of this name.
    ///
    /// # Errors
    /// Fails if the record ([`StoreError::Unreadable`]) or the database cannot be read.
    pub fn get(&self, name: &InstanceName) -> Result<Option<Record>, StoreError> {
        self.one("read a record", sql::GET, key(name))
    }

    /// Returns `true` if an instance of this name is recorded, whether or not the record can be read.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn is_recorded(&self, name: &InstanceName) -> Result<bool, StoreError> {
        Ok(self.row("look up a record", sql::RECORDED, key(name), |_row| Ok(()))?.is_some())
    }

    /// Returns the instances that hold these slots. Free and reserved slots, and unreadable records, are left out.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn instances_of(
        &self,
        slots: &BTreeSet<Slot>,
    ) -> Result<BTreeMap<Slot, InstanceName>, StoreError> {
        let mut found = BTreeMap::new();
        for &slot in slots {
            match self.holder(slot) {
                Err(StoreError::Unreadable(_)) => {}
                holder => found.extend(holder?.map(|held| (slot, held.workload.name().clone()))),
            }
        }
        Ok(found)
    }

    /// Returns the record that holds this slot; `None` if there is none, if its instance is being taken down, or if it cannot be
    /// read.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn present(&self, slot: Slot) -> Result<Option<Record>, StoreError> {
        match self.holder(slot) {
            Err(StoreError::Unreadable(_)) => Ok(None),
            holder => Ok(holder?.filter(|record| record.phase != Phase::Removing)),
        }
    }

    /// Returns the record that holds this slot.
    ///
    /// # Errors
    /// Fails as [`Self::get`] does.
    pub(crate) fn holder(&self, slot: Slot) -> Result<Option<Record>, StoreError> {
        self.one("look up a slot", sql::HOLDER, [slot.number()])
    }

    /// Returns `false` if the record was changed or removed since it was read.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn holds(&self, record: &Record) -> Result<bool, StoreError> {
        let params = (record.slot.number(), record.generation.0);
        Ok(self.row("look up a record", sql::HOLDS, params, |_row| Ok(()))?.is_some())
    }

    /// Returns all records, ordered by name.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn all(&self) -> Result<Records, StoreError> {
        self.records("list the records", sql::ALL)
    }

    /// Returns the records that the kernel may not follow yet (any phase but [`Phase::Up`]), ordered by name. Costs as
    /// much as there are of them. One that cannot be read is among them only while it is being taken down.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn unsettled(&self) -> Result<Records, StoreError> {
        let mut records = self.records("list the unsettled records", sql::UNSETTLED)?;
        records.readable.sort_by(|one, other| one.workload.name().cmp(other.workload.name()));
        records.unreadable.retain(|unreadable| unreadable.removing);
        records.unreadable.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        Ok(records)
    }

    /// Returns the number of records.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn count(&self) -> Result<u32, StoreError> {
        let count = self.row("count the records", sql::COUNT, [], |row| row.get::<_, u32>(0))?;
        Ok(count.unwrap_or_default())
    }

    /// Returns the recorded name that `name` was probably meant to be. Looks at all names.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn nearest(&self, name: &str) -> Result<Option<InstanceName>, StoreError> {
        let operation = "list the names";
        let names: Vec<String> = self.rows(operation, sql::NAMES, [], |row| row.get(0))?;
        nearest(name, names).map(|name| self.name(operation, &name)).transpose()
    }

    fn one(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<Record>, StoreError> {
        let row = self.row(operation, sql, params, raw_record)?;
        let Some(raw) = row else { return Ok(None) };
        let unreadable = |unreadable| StoreError::Unreadable(Box::new(unreadable));
        self.record(operation, &raw)?.map(Some).map_err(unreadable)
    }

    fn records(&self, operation: &'static str, sql: &str) -> Result<Records, StoreError> {
        let mut records = Records::default();
        for raw in self.rows(operation, sql, [], raw_record)? {
            records.add(self.record(operation, &raw)?);
        }
        Ok(records)
    }

    fn record(
        &self,
        operation: &'static str,
        raw: &RawRecord,
    ) -> Result<Result<Record, Unreadable>, StoreError> {
        let (slot, generation) = (Slot::new(raw.slot), Generation(raw.generation));
        let phase = Phase::ALL.into_iter().find(|known| known.number() == raw.state);
        let read = || {
            let phase = phase.ok_or_else(|| format!("its state is {}", raw.state))?;
            let text = std::str::from_utf8(&raw.definition).map_err(|error| error.to_string())?;
            let workload = definition::from_json(text).map_err(|errors| first(&errors))?;
            Ok(Record { workload, slot, phase, generation })
        };
        Ok(match read() {
            Ok(record) => Ok(record),
            Err(reason) => {
                let name = self.name(operation, &raw.workload)?;
                let removing = phase == Some(Phase::Removing);
                let record = UnreadableRecord { name, reason };
                Err(Unreadable { record, slot, removing, generation })
            }
        })
    }
}

/// Returns the first of the reasons, which have a line each.
fn first(errors: &definition::Errors) -> String {
    errors.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The columns of a record.
struct RawRecord {
    slot: u16,
    state: i64,
    generation: i64,
    workload: String,
    definition: Vec<u8>,
}

fn raw_record(row: &Row<'_>) -> rusqlite::Result<RawRecord> {
    Ok(RawRecord {
        slot: row.get(0)?,
        state: row.get(1)?,
        generation: row.get(2)?,
        workload: row.get(3)?,
        definition: row.get_ref(4)?.as_bytes()?.to_vec(),
    })
}
