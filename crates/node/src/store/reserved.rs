//! Slots that nobody holds and that are not free either.

use std::collections::BTreeMap;

use rusqlite::Row;

use super::{Record, Store, StoreError, Tx, sql};
use riklet_core::model::Slot;

/// The number in the column `state` of a slot that is free.
pub(super) const FREE: i64 = 0;

/// The state of a reserved slot.
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
            Self::Creating => 1,
            Self::Ready => 2,
            Self::Draining => 3,
        }
    }
}

impl Store {
    /// Returns the state of this slot; `None` if it is not reserved.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn spare_of(&self, slot: Slot) -> Result<Option<ReservedSlot>, StoreError> {
        let row = self.row("look up a slot", sql::SPARE, [slot.number()], |row| row.get(0))?;
        Ok(row.and_then(|state: i64| {
            ReservedSlot::ALL.into_iter().find(|spare| spare.number() == state)
        }))
    }

    /// Returns the number of slots in each of these states.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn count_spares(&self) -> Result<BTreeMap<ReservedSlot, usize>, StoreError> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let rows: Vec<(i64, usize)> =
            self.rows("count the spare slots", sql::COUNT_SPARES, [], read)?;
        let spare = |number| ReservedSlot::ALL.into_iter().find(|spare| spare.number() == number);
        Ok(rows.into_iter().filter_map(|(number, count)| Some((spare(number)?, count))).collect())
    }

    /// The spare slots in this state, lowest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn spares(&self, spare: ReservedSlot) -> Result<Vec<Slot>, StoreError> {
        let state = [spare.number()];
        let slots: Vec<u16> =
            self.rows("list the spare slots", sql::SPARES, state, |row| row.get(0))?;
        Ok(slots.into_iter().map(Slot::new).collect())
    }
}

impl Tx<'_> {
    /// Takes so many of the lowest free slots below `capacity`, those to `avoid` and to pass over left out, as
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
        let passed = self.passed_over()?;
        let avoid = |slot| avoid(slot) || passed.contains(&slot);
        let mut taken = self.free_slots(count, avoid)?;
        let mut next = self.next_above()?;
        while taken.len() < count && next < capacity {
            let Ok(number) = u16::try_from(next) else { break };
            let slot = Slot::new(number);
            if avoid(slot) {
                self.execute("free a slot", sql::SET_SPARE, (number, FREE))?;
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
        let statement = self.connection.prepare_cached(sql::FREE);
        let mut statement = statement.map_err(self.failed(operation))?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(self.failed(operation))?;
        let slots = rows.map(|row| row.map(Slot::new).map_err(self.failed(operation)));
        slots.filter(|slot| slot.as_ref().map_or(true, |&slot| !avoid(slot))).take(count).collect()
    }

    /// Records the state of a slot that no instance holds; one that an instance holds is left as it is.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn set_spare(&self, slot: Slot, spare: ReservedSlot) -> Result<(), StoreError> {
        self.execute("spare a slot", sql::SET_SPARE, (slot.number(), spare.number())).map(drop)
    }

    /// Records that a slot that was being prepared is warm. One that is not spare any more is left as it is.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn warm(&self, slot: Slot) -> Result<(), StoreError> {
        let (from, to) = (ReservedSlot::Creating.number(), ReservedSlot::Ready.number());
        self.execute("warm a slot", sql::CHANGE_SPARE, (to, slot.number(), from)).map(drop)
    }

    /// Frees a spare slot that is in this state. One that is not, since an instance has it by now or another process
    /// was quicker, is left as it is.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn free_spare(&self, slot: Slot, spare: ReservedSlot) -> Result<(), StoreError> {
        let params = (FREE, slot.number(), spare.number());
        self.execute("free a spare slot", sql::CHANGE_SPARE, params).map(drop)
    }

    /// Removes a record, and frees its ports; its slot becomes [`ReservedSlot::Draining`]. Returns `false` where it was
    /// changed or removed since it was read: then nothing is changed.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn drain(&self, record: &Record) -> Result<bool, StoreError> {
        self.forget(record, ReservedSlot::Draining.number())
    }
}
