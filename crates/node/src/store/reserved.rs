//! Slots that no instance holds and that are not free either.

use std::collections::BTreeMap;

use rusqlite::Row;

use super::{Record, Store, StoreError, Tx, sql};
use riklet_core::model::Slot;

/// The number in the column `state` of a slot that is free.
pub(super) const FREE: i64 = 0;

/// The state of a reserved slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ReservedSlot {
    /// Its TAP is being created; the kernel may have all, some or none of its objects.
    Creating,
    /// Its TAP exists and waits for an instance. A new name takes the lowest of these.
    Ready,
    /// The instance that had it is gone; its TAP and its flows may still exist.
    Draining,
}

impl ReservedSlot {
    pub(crate) const ALL: [Self; 3] = [Self::Creating, Self::Ready, Self::Draining];

    /// Returns the number in the column `state`.
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
    /// Fails if the database cannot be read.
    pub(crate) fn reserved_state(&self, slot: Slot) -> Result<Option<ReservedSlot>, StoreError> {
        let row = self.row("look up a slot", sql::STATE, [slot.number()], |row| row.get(0))?;
        Ok(row.and_then(|state: i64| {
            ReservedSlot::ALL.into_iter().find(|known| known.number() == state)
        }))
    }

    /// Returns the number of slots in each of these states.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn count_reserved(&self) -> Result<BTreeMap<ReservedSlot, usize>, StoreError> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let rows: Vec<(i64, usize)> =
            self.rows("count the reserved slots", sql::COUNT_RESERVED, [], read)?;
        let state = |number| ReservedSlot::ALL.into_iter().find(|known| known.number() == number);
        Ok(rows.into_iter().filter_map(|(number, count)| Some((state(number)?, count))).collect())
    }

    /// Returns the reserved slots in this state, lowest first.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn reserved(&self, state: ReservedSlot) -> Result<Vec<Slot>, StoreError> {
        let state = [state.number()];
        let slots: Vec<u16> =
            self.rows("list the reserved slots", sql::RESERVED, state, |row| row.get(0))?;
        Ok(slots.into_iter().map(Slot::new).collect())
    }
}

impl Tx<'_> {
    /// Reserves the `count` lowest free slots below `capacity` as [`ReservedSlot::Creating`], and returns them. There are
    /// fewer of them if not so many are free. Slots to `avoid` and slots to pass over are left out.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn reserve(
        &self,
        count: usize,
        capacity: u32,
        mut avoid: impl FnMut(Slot) -> bool,
    ) -> Result<Vec<Slot>, StoreError> {
        let passed = self.passed_over()?;
        let mut avoid = |slot| passed.contains(&slot) || avoid(slot);
        let mut taken = self.free_slots(count, &mut avoid)?;
        let mut next = self.next_above()?;
        while taken.len() < count && next < capacity {
            let Ok(number) = u16::try_from(next) else { break };
            let slot = Slot::new(number);
            if avoid(slot) {
                self.execute("free a slot", sql::SET_RESERVED, (number, FREE))?;
            } else {
                taken.push(slot);
            }
            next += 1;
        }
        for &slot in &taken {
            self.set_reserved(slot, ReservedSlot::Creating)?;
        }
        Ok(taken)
    }

    fn free_slots(
        &self,
        count: usize,
        mut avoid: impl FnMut(Slot) -> bool,
    ) -> Result<Vec<Slot>, StoreError> {
        let operation = "look for free slots";
        let statement = self.connection.prepare_cached(sql::FREE);
        let mut statement = statement.map_err(self.failed(operation))?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(self.failed(operation))?;
        let slots = rows.map(|row| row.map(Slot::new).map_err(self.failed(operation)));
        slots.filter(|slot| slot.as_ref().map_or(true, |&slot| !avoid(slot))).take(count).collect()
    }

    /// Records the state of a slot that no instance holds. A slot that an instance holds is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn set_reserved(&self, slot: Slot, state: ReservedSlot) -> Result<(), StoreError> {
        self.execute("reserve a slot", sql::SET_RESERVED, (slot.number(), state.number())).map(drop)
    }

    /// Changes a slot from *creating* to *ready*. A slot that is not *creating* any more is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn set_ready(&self, slot: Slot) -> Result<(), StoreError> {
        let (from, to) = (ReservedSlot::Creating.number(), ReservedSlot::Ready.number());
        self.execute("record that a slot is ready", sql::CHANGE_RESERVED, (to, slot.number(), from))
            .map(drop)
    }

    /// Frees a reserved slot that is in this state. A slot that is not, because an instance has it by now or another
    /// process was faster, is left as it is.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn free_reserved(&self, slot: Slot, state: ReservedSlot) -> Result<(), StoreError> {
        let params = (FREE, slot.number(), state.number());
        self.execute("free a reserved slot", sql::CHANGE_RESERVED, params).map(drop)
    }

    /// Removes a record, and frees its ports; its slot becomes [`ReservedSlot::Draining`]. Returns `false` if it was
    /// changed or removed since it was read: then nothing is changed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn drain(&self, record: &Record) -> Result<bool, StoreError> {
        self.forget(record, ReservedSlot::Draining.number())
    }
}
