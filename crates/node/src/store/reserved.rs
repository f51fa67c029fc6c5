//! Slots that nobody holds and that are not free either.

use std::collections::BTreeMap;

use super::{Generation, Store, StoreError, Tx, sql};
use riklet_core::model::{InstanceName, Slot};

/// What is the matter with a spare slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservedSlot {
    /// Its TAP is being made; the kernel may have all, some or nothing of it.
    Creating,
    /// Its TAP is there and waits for an instance. A new name takes the lowest of these.
    Ready,
    /// The instance that had it is gone; its TAP and its flows may still be there.
    Draining,
}

impl ReservedSlot {
    pub(crate) const ALL: [Self; 3] = [Self::Creating, Self::Ready, Self::Draining];

    /// The number in the column `state`.
    const fn number(self) -> i64 {
        match self {
            Self::Creating => 0,
            Self::Ready => 1,
            Self::Draining => 2,
        }
    }
}

impl Store {
    /// What is the matter with this slot; `None` where it is not spare.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn spare_of(&self, slot: Slot) -> Result<Option<ReservedSlot>, StoreError> {
        let row = self.row("look up a slot", sql::SPARE, [slot.number()], |row| row.get(0))?;
        Ok(row.and_then(|state: i64| {
            ReservedSlot::ALL.into_iter().find(|spare| spare.number() == state)
        }))
    }

    /// How many slots there are in each of these states.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn count_spares(&self) -> Result<BTreeMap<ReservedSlot, usize>, StoreError> {
        let sql = "SELECT state, count(*) FROM spares GROUP BY state";
        let rows: Vec<(i64, usize)> =
            self.rows("count the spare slots", sql, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let spare = |number| ReservedSlot::ALL.into_iter().find(|spare| spare.number() == number);
        Ok(rows.into_iter().filter_map(|(number, count)| Some((spare(number)?, count))).collect())
    }

    /// The spare slots in this state, lowest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn spares(&self, spare: ReservedSlot) -> Result<Vec<Slot>, StoreError> {
        let sql = format!("SELECT slot FROM spares WHERE state = {} ORDER BY slot", spare.number());
        let slots: Vec<u16> = self.rows("list the spare slots", &sql, |row| row.get(0))?;
        Ok(slots.into_iter().map(Slot::new).collect())
    }
}

impl Tx<'_> {
    /// Takes so many of the lowest free slots below `capacity`, those to `avoid` left out, as
    /// [`ReservedSlot::Creating`]; fewer where there are not so many.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn spare(
        &self,
        count: usize,
        capacity: u32,
        avoid: impl Fn(Slot) -> bool,
    ) -> Result<Vec<Slot>, StoreError> {
        let mut taken = Vec::new();
        for slot in self.free_slots(count, &avoid)? {
            self.execute("spare a slot", sql::TAKE_SLOT, [slot.number()])?;
            taken.push(slot);
        }
        let mut next = self.next_above()?;
        while taken.len() < count && next < capacity {
            let Ok(number) = u16::try_from(next) else { break };
            let slot = Slot::new(number);
            if avoid(slot) {
                self.execute("free a slot", sql::FREE_SLOT, [number])?;
            } else {
                taken.push(slot);
            }
            next += 1;
        }
        for &slot in &taken {
            self.set_spare(slot, ReservedSlot::Creating)?;
        }
        Ok(taken)
    }

    fn free_slots(
        &self,
        count: usize,
        avoid: impl Fn(Slot) -> bool,
    ) -> Result<Vec<Slot>, StoreError> {
        let operation = "look for free slots";
        let statement = self.connection.prepare_cached("SELECT slot FROM free_slots ORDER BY slot");
        let mut statement = statement.map_err(self.failed(operation))?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(self.failed(operation))?;
        let slots = rows.map(|row| row.map(Slot::new).map_err(self.failed(operation)));
        slots.filter(|slot| slot.as_ref().map_or(true, |&slot| !avoid(slot))).take(count).collect()
    }

    /// Says what is the matter with a slot that is spare, or that is neither recorded nor free.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn set_spare(&self, slot: Slot, spare: ReservedSlot) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO spares (slot, state) VALUES (?, ?)";
        self.execute("spare a slot", sql, (slot.number(), spare.number())).map(drop)
    }

    /// Says that a slot that was being prepared is warm. One that is not spare any more is left as it is.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn warm(&self, slot: Slot) -> Result<(), StoreError> {
        let sql = "UPDATE spares SET state = 1 WHERE slot = ? AND state = 0";
        self.execute("warm a slot", sql, [slot.number()]).map(drop)
    }

    /// Frees a spare slot that is in this state. One that is not, since an instance has it by now or another process
    /// was quicker, is left as it is.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn free_spare(&self, slot: Slot, spare: ReservedSlot) -> Result<(), StoreError> {
        let operation = "free a spare slot";
        if self.execute(operation, sql::FREE_SPARE, (slot.number(), spare.number()))? == 0 {
            return Ok(());
        }
        self.execute(operation, sql::FREE_SLOT, [slot.number()]).map(drop)
    }

    /// Removes a record of this generation, and frees its ports; its slot becomes [`ReservedSlot::Draining`]. Returns
    /// `false` where the record was changed or removed since: then nothing is changed.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn drain(&self, name: &InstanceName, generation: Generation) -> Result<bool, StoreError> {
        let Some(slot) = self.forget(name, generation)? else { return Ok(false) };
        self.set_spare(slot, ReservedSlot::Draining).map(|()| true)
    }

    /// Forgets a record, and which file asked for it, and frees its ports. Returns its slot.
    pub(super) fn forget(
        &self,
        name: &InstanceName,
        generation: Generation,
    ) -> Result<Option<Slot>, StoreError> {
        let operation = "remove a record";
        let params = (name.as_str(), generation.0);
        let slot: Option<u16> = self.row(operation, sql::REMOVE, params, |row| row.get(0))?;
        let Some(slot) = slot else { return Ok(None) };
        self.execute(operation, sql::RELEASE_PORTS, [slot])?;
        self.execute(operation, sql::FORGET_MANIFEST, [name.as_str()])?;
        Ok(Some(Slot::new(slot)))
    }
}
