use std::ops::Deref;

use rusqlite::{Params, Transaction, TransactionBehavior};

use super::{Generation, Phase, Record, Setting, Store, StoreError, sql};
use riklet_core::{
    definition,
    model::{Exposure, InstanceName, Slot, Workload},
};

/// A transaction of the store, which it reads through as well. Dropped without [`Tx::commit`], it changed
/// nothing.
#[derive(Debug)]
pub struct Tx<'a> {
    store: &'a Store,
    transaction: Transaction<'a>,
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
        Ok(Self { store, transaction: begun.map_err(store.failed("begin a transaction"))? })
    }

    /// Makes the changes last.
    ///
    /// # Errors
    /// Where they cannot be written; then nothing is changed.
    pub fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().map_err(self.store.failed("commit"))
    }

    /// Does a part of the transaction, which leaves nothing behind where it fails; what came before it stays.
    ///
    /// # Errors
    /// Those of the part, and where the database cannot be written.
    pub fn attempt<T, E: From<StoreError>>(
        &self,
        part: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let operation = "write a part";
        self.execute(operation, "SAVEPOINT part", [])?;
        let done = part();
        if done.is_err() {
            self.execute(operation, "ROLLBACK TO part", [])?;
        }
        self.execute(operation, "RELEASE part", [])?;
        done
    }

    /// Records a workload as [`Phase::Pending`]. A new name takes the lowest warm slot, or else the lowest free
    /// one below `capacity`; a recorded one keeps its slot, and its definition and ports are replaced.
    ///
    /// # Errors
    /// Where another instance has one of its ports, or all slots are taken: then nothing is changed. Where
    /// the database cannot be written, the transaction must not be committed: it may have half of the change.
    pub fn put(&self, workload: &Workload, capacity: u32) -> Result<Record, StoreError> {
        let slot = match self.slot(workload.name())? {
            Some(slot) => slot,
            None => self.lowest_free(workload.name(), capacity)?,
        };
        self.write(workload, slot)
    }

    /// Records a workload as [`Phase::Pending`] in this slot, where it was found running.
    ///
    /// # Errors
    /// As [`Self::put`]; and where another instance has the slot, or this one another slot.
    pub fn put_at(&self, workload: &Workload, slot: Slot) -> Result<Record, StoreError> {
        let name = workload.name();
        let taken =
            |holder, held| Err(StoreError::SlotTaken { name: name.clone(), slot, holder, held });
        match self.slot(name)? {
            Some(held) if held != slot => return taken(name.clone(), held),
            Some(_) => {}
            None => match self.holder(slot)? {
                Some(holder) => return taken(holder.workload.name().clone(), slot),
                None => self.free_below(slot)?,
            },
        }
        self.write(workload, slot)
    }

    /// Gives the ports of a recorded instance free, for others that are recorded in the same transaction; it
    /// must be put again in it. A name that is not recorded has none.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn release_ports(&self, name: &InstanceName) -> Result<(), StoreError> {
        let Some(slot) = self.slot(name)? else { return Ok(()) };
        self.execute("release ports", sql::RELEASE_PORTS, [slot.number()]).map(drop)
    }

    /// Records how far the kernel follows a record of this generation, and returns the next one. `None` where the
    /// record was changed or removed since: then nothing is changed.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn set_phase(
        &self,
        name: &InstanceName,
        generation: Generation,
        phase: Phase,
    ) -> Result<Option<Generation>, StoreError> {
        let params = (phase.number(), name.as_str(), generation.0);
        self.row("set a phase", sql::SET_PHASE, params, |row| row.get(0).map(Generation))
    }

    /// Removes a record of this generation, and frees its slot and ports. Returns `false` where the record was
    /// changed or removed since: then nothing is changed.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn remove(&self, name: &InstanceName, generation: Generation) -> Result<bool, StoreError> {
        let Some(slot) = self.forget(name, generation)? else { return Ok(false) };
        self.execute("free a slot", sql::FREE_SLOT, [slot.number()]).map(|_| true)
    }

    /// Decides a setting, or decides it anew.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn set_setting(&self, setting: Setting, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)";
        self.execute("write a setting", sql, (setting.key(), value)).map(drop)
    }

    /// Forgets all settings.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn clear_settings(&self) -> Result<(), StoreError> {
        self.execute("clear the settings", "DELETE FROM settings", []).map(drop)
    }

    /// Remembers the value that a sysctl had before it was first changed; later values are not that.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn record_sysctl(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO sysctls (name, value) VALUES (?, ?)";
        self.execute("record a sysctl", sql, (name, value)).map(drop)
    }

    /// Forgets all sysctls: they have their former values again.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn forget_sysctls(&self) -> Result<(), StoreError> {
        self.execute("forget the sysctls", "DELETE FROM sysctls", []).map(drop)
    }

    fn write(&self, workload: &Workload, slot: Slot) -> Result<Record, StoreError> {
        let operation = "write a record";
        let number = slot.number();
        for exposure in workload.exposures() {
            self.refuse_clash(workload.name(), slot, exposure)?;
        }
        let phase = Phase::Pending;
        let json = definition::to_json(workload);
        let params = (number, workload.name().as_str(), phase.number(), json);
        let generation = self.row(operation, sql::PUT, params, |row| row.get(0).map(Generation))?;
        let generation =
            generation.ok_or_else(|| self.corrupt(operation, "a record is not kept".into()))?;
        self.execute(operation, sql::TAKE_SLOT, [number])?;
        self.execute(operation, sql::TAKE_SPARE, [number])?;
        self.execute(operation, sql::RELEASE_PORTS, [number])?;
        let sql = "INSERT INTO ports (protocol, port, host_address, slot) VALUES (?, ?, ?, ?)";
        for exposure in workload.exposures() {
            let (protocol, address) = (exposure.protocol().number(), address(exposure));
            for port in exposure.host_ports().iter() {
                self.execute(operation, sql, (protocol, port, address, number))?;
            }
        }
        Ok(Record { workload: workload.clone(), slot, phase, generation })
    }

    /// Refuses an exposure that clashes with one of another slot.
    fn refuse_clash(
        &self,
        name: &InstanceName,
        slot: Slot,
        exposure: &Exposure,
    ) -> Result<(), StoreError> {
        let operation = "look up a port";
        let ports = exposure.host_ports();
        let params = (
            exposure.protocol().number(),
            ports.first(),
            ports.last(),
            address(exposure),
            slot.number(),
        );
        let holder: Option<u16> = self.row(operation, sql::CLASH, params, |row| row.get(0))?;
        let Some(holder) = holder else { return Ok(()) };
        let holder = self.holder(Slot::new(holder))?;
        let held = holder.and_then(|holder| {
            let mut exposures = holder.workload.exposures().iter();
            let held = exposures.find(|held| held.clashes_with(exposure)).copied()?;
            Some((holder.workload.name().clone(), held))
        });
        let (holder, held) = held
            .ok_or_else(|| self.corrupt(operation, "a port's holder does not expose it".into()))?;
        Err(StoreError::PortTaken { name: name.clone(), exposure: *exposure, holder, held })
    }

    fn slot(&self, name: &InstanceName) -> Result<Option<Slot>, StoreError> {
        self.row("look up a slot", sql::SLOT, [name.as_str()], |row| row.get(0).map(Slot::new))
    }

    fn lowest_free(&self, name: &InstanceName, capacity: u32) -> Result<Slot, StoreError> {
        let warm = self.number(sql::WARM)?;
        let free = || self.number(sql::FREE);
        let lowest = match warm.map_or_else(free, |warm| Ok(Some(warm)))? {
            Some(slot) => slot,
            None => self.next_above()?,
        };
        let slot = u16::try_from(lowest).ok().filter(|&slot| u32::from(slot) < capacity);
        slot.map(Slot::new)
            .ok_or_else(|| StoreError::PoolExhausted { name: name.clone(), capacity })
    }

    /// The slot above the highest one ever taken.
    pub(super) fn next_above(&self) -> Result<u32, StoreError> {
        let free_or_spare = self.number(sql::HIGHEST_FREE)?.max(self.number(sql::HIGHEST_SPARE)?);
        let highest = self.number(sql::HIGHEST_TAKEN)?.max(free_or_spare);
        Ok(highest.map_or(0, |slot| slot + 1))
    }

    /// Frees the slots that are passed over where `slot` is taken out of turn.
    fn free_below(&self, slot: Slot) -> Result<(), StoreError> {
        for passed in self.next_above()?..u32::from(slot.number()) {
            self.execute("free a slot", sql::FREE_SLOT, [passed])?;
        }
        Ok(())
    }

    /// A number that may be NULL.
    fn number(&self, sql: &str) -> Result<Option<u32>, StoreError> {
        Ok(self.row("look for a free slot", sql, [], |row| row.get(0))?.flatten())
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

/// The column `host_address`: 0 is every address, which no exposure can be bound to by itself.
fn address(exposure: &Exposure) -> u32 {
    exposure.host_address().map_or(0, u32::from)
}
