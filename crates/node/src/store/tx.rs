use std::{cell::Cell, collections::BTreeSet, ops::Deref};

use rusqlite::{Params, Transaction, TransactionBehavior};

use super::{
    Generation, Phase, Record, Setting, Store, StoreError, Unreadable, key, reserved, sql,
};
use riklet_core::{
    definition,
    model::{InstanceName, Slot, Workload},
};

/// A transaction of the store, which can be read through it as well. If it is dropped without [`Tx::commit`], nothing
/// is changed.
#[derive(Debug)]
pub struct Tx<'a> {
    store: &'a Store,
    transaction: Transaction<'a>,
    /// True if the journal is written: its followers are woken after the commit.
    pub(super) wakes: Cell<bool>,
}

impl Deref for Tx<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store
    }
}

impl<'a> Tx<'a> {
    pub(super) fn begin(store: &'a mut Store) -> Result<Self, StoreError> {
        let store = &*store;
        let begun = Transaction::new_unchecked(&store.connection, TransactionBehavior::Immediate);
        let transaction = begun.map_err(store.failed("begin a transaction"))?;
        // A `down --purge` of another process may have removed the database while this one waited, and an `up` have made
        // another.
        if store.is_lost() {
            return Err(StoreError::Gone { path: store.path.clone() });
        }
        Ok(Self { store, transaction, wakes: Cell::default() })
    }

    /// Commits the changes.
    ///
    /// # Errors
    /// Fails if they cannot be written; then nothing is changed.
    pub fn commit(self) -> Result<(), StoreError> {
        self.execute("commit", "COMMIT", [])?;
        if self.wakes.get() {
            self.store.wake_followers();
        }
        Ok(())
    }

    /// Does a part of the transaction. If it fails, the part leaves nothing behind, and earlier parts stay, unless the
    /// transaction [is over](Self::is_over).
    ///
    /// # Errors
    /// Fails if the part fails, or the database cannot be written.
    pub fn attempt<T, E: From<StoreError>>(
        &self,
        part: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let operation = "write a part";
        self.execute(operation, "SAVEPOINT part", [])?;
        let done = part();
        if done.is_err() && !self.roll_back_part() {
            return done;
        }
        self.execute(operation, "RELEASE part", [])?;
        done
    }

    /// Undoes a part that failed. Returns `false` if the whole transaction is undone, by SQLite or because a part of it
    /// cannot be.
    fn roll_back_part(&self) -> bool {
        let operation = "undo a part";
        if !self.is_over() && self.execute(operation, "ROLLBACK TO part", []).is_err() {
            let _over_already = self.execute(operation, "ROLLBACK", []);
        }
        !self.is_over()
    }

    /// Reports whether the transaction was undone already: SQLite undoes it where it cannot write, for example on a full file
    /// system (<https://sqlite.org/lang_transaction.html>, section 3). What is written from then on is a transaction of its
    /// own.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.transaction.is_autocommit()
    }

    /// Records a workload as [`Phase::Pending`]. A new name takes the lowest ready slot, or else the lowest free
    /// one below `capacity`; a recorded one keeps its slot, and its definition and ports are replaced.
    ///
    /// # Errors
    /// Fails if another instance has one of its ports, or all slots are taken: then nothing is changed. If the database
    /// cannot be written, the transaction must not be committed: it may have half of the change.
    pub fn put(&self, workload: &Workload, capacity: u32) -> Result<Record, StoreError> {
        self.attempt(|| {
            let before = self.get(workload.name())?;
            self.release_before(before.as_ref())?;
            self.put_over(workload, before.as_ref(), capacity)
        })
    }

    /// Records these workloads together, each as [`Self::put`] does: a port may go from one of them to another. Returns
    /// of each what was recorded before, and what is now.
    ///
    /// # Errors
    /// Fails as [`Self::put`] does, but if one is refused, others may have been recorded: call it within
    /// [`Self::attempt`], or do not commit.
    pub(crate) fn put_all(
        &self,
        workloads: &[Workload],
        capacity: u32,
    ) -> Result<Vec<(Option<Record>, Record)>, StoreError> {
        let mut before = Vec::new();
        for workload in workloads {
            let record = self.get(workload.name())?;
            self.release_before(record.as_ref())?;
            before.push(record);
        }
        let mut put = Vec::new();
        for (workload, before) in workloads.iter().zip(before) {
            let record = self.put_over(workload, before.as_ref(), capacity)?;
            put.push((before, record));
        }
        Ok(put)
    }

    /// Records a workload as [`Phase::Pending`] in this slot, in which its interface was found.
    ///
    /// # Errors
    /// Fails as [`Self::put`] does; also if another instance has the slot, or this one another slot.
    pub(crate) fn put_at(&self, workload: &Workload, slot: Slot) -> Result<Record, StoreError> {
        let name = workload.name();
        let taken =
            |holder, held| Err(StoreError::SlotTaken { name: name.clone(), slot, holder, held });
        self.attempt(|| {
            let before = self.get(name)?;
            match &before {
                Some(before) if before.slot != slot => return taken(name.clone(), before.slot),
                Some(_) => {}
                None => match self.holder(slot)? {
                    Some(holder) => return taken(holder.workload.name().clone(), slot),
                    None => self.free_below(slot)?,
                },
            }
            self.release_before(before.as_ref())?;
            self.write(workload, slot)
        })
    }

    /// Records how far the kernel follows, and returns the record as it is then. `None` if it was changed or removed
    /// since it was read: then nothing is changed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn set_phase(
        &self,
        record: &Record,
        phase: Phase,
    ) -> Result<Option<Record>, StoreError> {
        let params = (phase.number(), record.slot.number(), record.generation.0);
        let set = self.row("set a phase", sql::SET_PHASE, params, |row| row.get(0))?;
        let changed = |generation| Record { phase, generation, ..record.clone() };
        Ok(set.map(Generation).map(changed))
    }

    /// Records that an instance whose record cannot be read is being taken down, and returns it as it is then. `None`
    /// if it was changed or removed since it was read: then nothing is changed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn leave_unreadable(
        &self,
        from: &Unreadable,
    ) -> Result<Option<Unreadable>, StoreError> {
        let phase = Phase::Removing.number();
        let params = (phase, from.slot.number(), from.generation.0);
        let set = self.row("set a phase", sql::SET_PHASE, params, |row| row.get(0))?;
        let changed = |generation| Unreadable { generation, removing: true, ..from.clone() };
        Ok(set.map(Generation).map(changed))
    }

    /// Removes a record that cannot be read, and frees its slot, and all ports that the slot has. Returns `false` if it
    /// was changed or removed since it was read: then nothing is changed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn remove_unreadable(&self, unreadable: &Unreadable) -> Result<bool, StoreError> {
        let operation = "remove a record";
        let slot = unreadable.slot.number();
        let params = (reserved::FREE, slot, unreadable.generation.0);
        if self.execute(operation, sql::FORGET, params)? == 0 {
            return Ok(false);
        }
        self.execute(operation, sql::RELEASE_UNKNOWN_PORTS, [slot])?;
        let name = unreadable.record.name.as_str();
        self.execute(operation, sql::FORGET_MANIFEST, [name]).map(|_| true)
    }

    /// Removes a record, and frees its slot and ports. Returns `false` if it was changed or removed since it was read:
    /// then nothing is changed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn remove(&self, record: &Record) -> Result<bool, StoreError> {
        self.forget(record, reserved::FREE)
    }

    /// Sets a setting, whether or not it was set before.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_setting(&self, setting: Setting, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)";
        self.execute_on_settings("write a setting", sql, (setting.key(), value)).map(drop)
    }

    /// Forgets all settings.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn clear_settings(&self) -> Result<(), StoreError> {
        self.execute_on_settings("clear the settings", "DELETE FROM settings", []).map(drop)
    }

    /// Records the value that a sysctl had before it was first changed. A later call changes nothing.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn record_sysctl(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO sysctls (name, value) VALUES (?, ?)";
        self.execute_on_settings("record a sysctl", sql, (name, value)).map(drop)
    }

    /// Forgets a setting. Succeeds if it was not set.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn forget_setting(&self, setting: Setting) -> Result<(), StoreError> {
        let sql = "DELETE FROM settings WHERE name = ?";
        self.execute_on_settings("forget a setting", sql, [setting.key()]).map(drop)
    }

    /// Forgets one sysctl, if it is recorded.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn forget_sysctl(&self, name: &str) -> Result<(), StoreError> {
        self.execute_on_settings("forget a sysctl", "DELETE FROM sysctls WHERE name = ?", [name])
            .map(drop)
    }

    /// Forgets all sysctls, after they were set to their former values.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn forget_sysctls(&self) -> Result<(), StoreError> {
        self.execute_on_settings("forget the sysctls", "DELETE FROM sysctls", []).map(drop)
    }

    /// Forgets every instance, slot, port, setting, sysctl and definition file. The runs stay.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(super) fn empty(&self) -> Result<(), StoreError> {
        for table in ["slots", "ports", "settings", "sysctls", "manifests"] {
            let sql = format!("DELETE FROM {table}");
            self.execute_on_settings("empty the records", &sql, [])?;
        }
        Ok(())
    }

    fn release_before(&self, before: Option<&Record>) -> Result<(), StoreError> {
        before.map_or(Ok(()), |before| self.release_ports(before))
    }

    /// Replaces the recorded definition of a workload, and releases its former ports.
    fn put_over(
        &self,
        workload: &Workload,
        before: Option<&Record>,
        capacity: u32,
    ) -> Result<Record, StoreError> {
        let slot = match before {
            Some(before) => before.slot,
            None => self.lowest_free(workload, capacity)?,
        };
        self.write(workload, slot)
    }

    pub(super) fn write(&self, workload: &Workload, slot: Slot) -> Result<Record, StoreError> {
        let operation = "write a record";
        for exposure in workload.exposures() {
            self.refuse_clash(workload.name(), slot, exposure)?;
        }
        let (phase, (name, ordinal)) = (Phase::Pending, key(workload.name()));
        let json = definition::to_json(workload);
        let params = (slot.number(), phase.number(), name, ordinal, json);
        let generation = self.row(operation, sql::PUT, params, |row| row.get(0).map(Generation))?;
        let generation = generation
            .ok_or_else(|| self.corrupt(operation, "the slot is another instance's".into()))?;
        self.take_ports(slot, workload.exposures())?;
        Ok(Record { workload: workload.clone(), slot, phase, generation })
    }

    /// Forgets a record, and which file asked for it, and frees its ports; its slot gets this state.
    pub(super) fn forget(&self, record: &Record, state: i64) -> Result<bool, StoreError> {
        let operation = "remove a record";
        let params = (state, record.slot.number(), record.generation.0);
        if self.execute(operation, sql::FORGET, params)? == 0 {
            return Ok(false);
        }
        self.release_ports(record)?;
        self.execute(operation, sql::FORGET_MANIFEST, [record.workload.name().as_str()])?;
        Ok(true)
    }

    /// Returns the lowest ready slot, if the kind begins with one, or else the lowest free one. Slots that are passed
    /// over come last.
    pub(super) fn lowest_free(
        &self,
        workload: &Workload,
        capacity: u32,
    ) -> Result<Slot, StoreError> {
        let name = workload.name();
        let ready = workload.kind().takes_reserved().then_some(sql::LOWEST_READY);
        let passed: BTreeSet<u32> =
            self.passed_over()?.into_iter().map(|s| s.number().into()).collect();
        for sql in ready.into_iter().chain([sql::LOWEST_FREE]) {
            let mut from = 0;
            while let Some(lowest) = self.number(sql, [from])? {
                if !passed.contains(&lowest) {
                    return below(lowest, name, capacity);
                }
                from = lowest + 1;
            }
        }
        let above = (self.next_above()?..capacity).find(|slot| !passed.contains(slot));
        let slot = match above {
            Some(slot) => Some(slot),
            None => self.number(sql::LOWEST_FREE, [0])?,
        };
        let slot = below(slot.unwrap_or(capacity), name, capacity)?;
        self.free_below(slot)?;
        Ok(slot)
    }

    /// Returns the slot above the highest one ever taken.
    pub(super) fn next_above(&self) -> Result<u32, StoreError> {
        Ok(self.number(sql::HIGHEST, [])?.map_or(0, |slot| slot + 1))
    }

    /// Records the slots below `slot` that were never taken as free, since `slot` is taken out of turn.
    fn free_below(&self, slot: Slot) -> Result<(), StoreError> {
        for passed in self.next_above()?..u32::from(slot.number()) {
            self.execute("free a slot", sql::SET_RESERVED, (passed, reserved::FREE))?;
        }
        Ok(())
    }

    /// Returns a number; `None` if it is NULL.
    fn number(&self, sql: &str, params: impl Params) -> Result<Option<u32>, StoreError> {
        Ok(self.row("look for a free slot", sql, params, |row| row.get(0))?.flatten())
    }

    /// Executes a statement that changes settings or recorded sysctls.
    fn execute_on_settings(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<usize, StoreError> {
        self.settings_changed.set(self.settings_changed.get() + 1);
        self.execute(operation, sql, params)
    }

    pub(super) fn execute(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<usize, StoreError> {
        let statement = self.transaction.prepare_cached(sql);
        let changed = statement.and_then(|mut statement| statement.execute(params));
        changed.map_err(self.failed(operation))
    }
}

/// Returns a slot, if the pool has it.
fn below(slot: u32, name: &InstanceName, capacity: u32) -> Result<Slot, StoreError> {
    let slot = u16::try_from(slot).ok().filter(|&slot| u32::from(slot) < capacity);
    slot.map(Slot::new).ok_or_else(|| StoreError::PoolExhausted { name: name.clone(), capacity })
}
