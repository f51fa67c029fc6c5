//! What a process that stays knows from one operation to the next: a daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Weak,
};

use super::{
    Change, Report, Sdn, SdnError,
    converge::{Named, Outcome},
    fragment,
    host::Host,
    interrupted,
};
use crate::{
    kernel::Kernel,
    model::{Exposure, Slot},
    network,
    plan::Reaping,
    store::{Lock, Phase, Record, Spare, Store},
};

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Resident {
    /// The lock, while a chore or an operation has it.
    lock: Weak<OwnedFd>,
    /// The spare slots that a chore works on.
    pub(super) busy: BTreeSet<Slot>,
    /// The condemned slots, and what led to them: their flows are still there.
    parted: BTreeMap<Slot, Vec<Exposure>>,
    /// Slots that nothing could be done for when all was looked at.
    pub(super) broken: BTreeSet<Slot>,
    /// Slots whose TAP could not be made.
    pub(super) avoid: BTreeSet<Slot>,
}

impl Resident {
    pub(super) const fn busy(&self) -> &BTreeSet<Slot> {
        &self.busy
    }

    pub(super) fn settled(
        &mut self,
        outcome: &Outcome,
        looked_at: Option<&BTreeMap<Slot, Change>>,
    ) {
        match looked_at {
            Some(changes) => self.broken.retain(|slot| !changes.contains_key(slot)),
            None => self.broken.clear(),
        }
        self.broken.extend(outcome.failed.keys());
    }

    pub(super) fn forget_parted(&mut self) {
        self.parted.clear();
    }

    pub(super) fn reaped(&mut self, slots: &BTreeSet<Slot>) {
        self.parted.retain(|slot, _| !slots.contains(slot));
    }
}

impl<K: Kernel> Sdn<K> {
    /// For a process that stays, and has another thread for what takes long: `down` leaves TAPs condemned, to be
    /// deleted by a [`super::Chore`]; an instance that nothing can be done for does not make every operation look
    /// at everything.
    #[must_use]
    pub fn resident(mut self) -> Self {
        self.resident = Some(Resident::default());
        self
    }

    /// Decides for a node that has not been used yet, so that slots can be prepared before its first instance.
    ///
    /// # Errors
    /// Where nothing can be decided, or not be recorded. [`Self::repair`] then makes what all instances share.
    pub fn begin(&mut self) -> Result<(), SdnError> {
        let _lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let host = Host::decide(&mut self.kernel, &self.config, &tx)?;
        host.record(&mut self.kernel, &tx)?;
        tx.commit()?;
        self.keep_store(store);
        Ok(())
    }

    /// Looks at the records, as they are kept open from one operation to the next.
    ///
    /// # Errors
    /// Where they cannot be opened.
    pub fn look_at_records<T>(&mut self, look: impl FnOnce(&Store) -> T) -> Result<T, SdnError> {
        let store = self.open_store()?;
        let found = look(&store);
        self.keep_store(store);
        Ok(found)
    }

    /// How many slots are spare, by what is the matter with them, and how many are taken.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn counts(&mut self) -> Result<(u32, BTreeMap<Spare, usize>), SdnError> {
        let store = self.open_store()?;
        let counts = (store.count()?, store.count_spares()?);
        self.keep_store(store);
        Ok(counts)
    }

    /// Waits until nobody else is at work, nor any program that a killed process left behind.
    pub(super) fn lock(&mut self) -> Result<Lock, SdnError> {
        let lent = self.resident.as_ref().and_then(|resident| Lock::shared_with(&resident.lock));
        let lock = lent.map_or_else(|| Lock::exclusive(&self.config.state_dir), Ok)?;
        self.kernel.share_lock(lock.share());
        if let Some(resident) = &mut self.resident {
            resident.lock = lock.share();
        }
        Ok(lock)
    }

    /// Waits until nobody changes anything. `None` where nobody ever did.
    pub(super) fn look_lock(&self) -> Result<Option<Lock>, SdnError> {
        let lent = self.resident.as_ref().and_then(|resident| Lock::shared_with(&resident.lock));
        match lent {
            Some(lock) => Ok(Some(lock)),
            None => Ok(Lock::shared(&self.config.state_dir)?),
        }
    }

    /// The store, open, and the directory made where it is missing.
    pub(super) fn open_store(&mut self) -> Result<Store, SdnError> {
        match self.store.take().filter(Store::is_current) {
            Some(store) => Ok(store),
            None => Ok(Store::open(&self.config.state_dir)?),
        }
    }

    /// Keeps the store for the next operation.
    pub(super) fn keep_store(&mut self, store: Store) {
        self.store = Some(store);
    }

    pub(super) fn is_busy(&self, slot: Slot) -> bool {
        self.resident.as_ref().is_some_and(|resident| resident.busy.contains(&slot))
    }

    /// The slots of these that an operation has to look at.
    pub(super) fn without_broken(&self, interrupted: BTreeSet<Slot>) -> BTreeSet<Slot> {
        match &self.resident {
            Some(resident) => interrupted.difference(&resident.broken).copied().collect(),
            None => interrupted,
        }
    }

    /// An instance is gone, and its flows are not.
    pub(super) fn parts(&mut self, record: &Record) {
        if let Some(resident) = &mut self.resident {
            resident.parted.insert(record.slot, record.workload.exposures().to_vec());
        }
    }

    /// A process that stays looks at the gates as well, and has TAPs deleted later. What leads to a guest by a port
    /// that led to another's a moment ago must begin anew at once, though.
    pub(super) fn as_resident<'a>(&self, named: Named<'a>) -> Named<'a> {
        let Some(resident) = &self.resident else { return named };
        let named = named.with_gates();
        if resident.parted.is_empty() {
            return named.reaping(Reaping::Later, BTreeSet::new());
        }
        let opened = named.opened();
        let clash = |exposures: &Vec<Exposure>| {
            exposures.iter().any(|parted| {
                let mut opened = opened.iter();
                opened.any(|&(protocol, address, port)| parted.takes(protocol, address, port))
            })
        };
        let parted = resident.parted.iter().filter(|(_, exposures)| clash(exposures));
        let condemned = parted.map(|(&slot, _)| slot).collect();
        named.reaping(Reaping::Later, condemned)
    }

    /// Makes these slots what the records say, and what all share: the firewall's skeleton, the gates, the sysctls.
    /// Where that is not enough, it is [`Self::repair`].
    ///
    /// # Errors
    /// As with [`Self::up`].
    pub fn heal(&mut self, slots: &BTreeSet<Slot>) -> Result<Report, SdnError> {
        let lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let Some(host) = Host::decided(&mut self.kernel, &self.config, &tx)? else {
            drop(tx);
            self.keep_store(store);
            return Ok(Report::default());
        };
        let interrupted = self.without_broken(interrupted(&tx)?);
        let mut changes = BTreeMap::new();
        for &slot in slots {
            let after = match (tx.holder(slot)?, tx.spare_of(slot)?) {
                _ if self.is_busy(slot) => continue,
                (Some(record), _) if record.phase == Phase::Removing => continue,
                (Some(record), _) => fragment(&host, &record)?,
                (None, Some(Spare::Warm)) => network::spare(slot, &host.node)?,
                (None, Some(Spare::Condemned)) => continue,
                _ if self.kernel.link(&slot.interface())?.is_none() => continue,
                // It leaked, or is a stranger's.
                _ => {
                    drop((tx, lock));
                    return self.repair();
                }
            };
            changes.insert(slot, Change { before: Some(after.clone()), after: Some(after) });
        }
        host.record(&mut self.kernel, &tx)?;
        tx.commit()?;
        let settled = self.settle(&mut store, &host, Some(&changes), &interrupted)?;
        self.keep_store(store);
        Ok(settled.report())
    }
}
