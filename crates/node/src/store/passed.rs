//! Free slots that are passed over because an interface that we may not use has their name.

use std::collections::BTreeSet;

use super::{Record, Setting, Store, StoreError, Tx, reserved, sql};
use riklet_core::model::Slot;

impl Store {
    /// Returns the slots that are passed over if another is free.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub(crate) fn passed_over(&self) -> Result<BTreeSet<Slot>, StoreError> {
        let text = self.setting(Setting::PassedOver)?.unwrap_or_default();
        let numbers = text.split(',').filter_map(|number| number.parse().ok());
        Ok(numbers.map(Slot::new).collect())
    }
}

impl Tx<'_> {
    /// Records which slots are passed over from now on.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub(crate) fn set_passed_over(&self, slots: &BTreeSet<Slot>) -> Result<(), StoreError> {
        if *slots == self.passed_over()? {
            return Ok(());
        }
        if slots.is_empty() {
            return self.forget_setting(Setting::PassedOver);
        }
        let numbers: Vec<_> = slots.iter().map(|slot| slot.number().to_string()).collect();
        self.set_setting(Setting::PassedOver, &numbers.join(","))
    }

    /// Moves an instance that was just recorded from its slot, which is passed over from now on, to the next that is
    /// free. If no other is free, it gets the lowest of those that are passed over.
    ///
    /// # Errors
    /// Fails if the database cannot be written; then the transaction must not be committed.
    pub(crate) fn pass_over(&self, record: &Record, capacity: u32) -> Result<Record, StoreError> {
        let mut passed = self.passed_over()?;
        passed.insert(record.slot);
        self.set_passed_over(&passed)?;
        let params = (reserved::FREE, record.slot.number(), record.generation.0);
        self.execute("free a slot", sql::FORGET, params)?;
        self.release_ports(record)?;
        let slot = self.lowest_free(&record.workload, capacity)?;
        self.write(&record.workload, slot)
    }
}
