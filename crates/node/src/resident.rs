//! What a process that stays knows from one operation to the next: a daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Weak,
};

use super::{
    Change, Node, NodeError, Report,
    converge::Named,
    fragment,
    host::{Host, Scope},
};
use crate::store::{Generation, Lock, Phase, Record, ReservedSlot, Setting, Store, Tx};
use riklet_core::{
    model::{Exposure, InstanceName, Slot},
    plan::LinkDeletion,
    workload,
};
use riklet_kernel::{Kernel, process::ProcessId};

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Resident {
    /// This process, as long as it hears what changes.
    process: Option<ProcessId>,
    /// The lock, while a chore or an operation has it.
    lock: Weak<OwnedFd>,
    /// The spare slots that a chore works on.
    pub(super) busy: BTreeSet<Slot>,
    /// The condemned slots, and what led to them: their flows are still there.
    parted: BTreeMap<Slot, Vec<Exposure>>,
    /// Slots that nothing could be done for when all was looked at, as of one state of their records.
    broken: BTreeMap<Slot, Generation>,
    /// Slots whose TAP could not be made.
    pub(super) avoid: BTreeSet<Slot>,
    /// What the kernel has followed, and the records do not say yet.
    deferred: Vec<Deferred>,
}

/// An instance that came or went, as of one state of its record: another process may have changed that since, and
/// what it acknowledged holds.
#[derive(Debug)]
struct Deferred {
    record: Record,
    /// [`Phase::Removing`] where it went, [`Phase::Up`] where it came.
    phase: Phase,
}

impl Resident {
    pub(super) const fn busy(&self) -> &BTreeSet<Slot> {
        &self.busy
    }

    fn settled(
        &mut self,
        failed: BTreeMap<Slot, Generation>,
        looked_at: Option<&BTreeMap<Slot, Change>>,
    ) {
        match looked_at {
            Some(changes) => self.broken.retain(|slot, _| !changes.contains_key(slot)),
            None => self.broken.clear(),
        }
        self.broken.extend(failed);
    }

    pub(super) fn forget_parted(&mut self) {
        self.parted.clear();
    }

    pub(super) fn reaped(&mut self, slots: &BTreeSet<Slot>) {
        self.parted.retain(|slot, _| !slots.contains(slot));
    }
}

impl<K: Kernel> Node<K> {
    /// For a process that stays, and has another thread for what takes long: `down` leaves TAPs condemned, to be
    /// deleted by a [`super::BackgroundTask`]; an instance that nothing can be done for does not make every operation look
    /// at everything.
    #[must_use]
    pub fn resident(mut self) -> Self {
        let process = ProcessId::current().ok();
        self.resident = Some(Resident { process, ..Resident::default() });
        self
    }

    /// Decides for a node that has not been used yet, so that slots can be prepared before its first instance.
    ///
    /// # Errors
    /// Where nothing can be decided, or not be recorded. [`Self::repair`] then makes what all instances share.
    pub fn begin(&mut self) -> Result<(), NodeError> {
        let _lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let host = self.decide(&tx, true)?;
        if host.first_use {
            self.refuse_unrecorded()?;
        }
        host.record(&tx)?;
        tx.commit()?;
        self.keep_store(store);
        Ok(())
    }

    /// Looks at the records, as they are kept open from one operation to the next.
    ///
    /// # Errors
    /// Where they cannot be opened.
    pub fn look_at_records<T>(&mut self, look: impl FnOnce(&Store) -> T) -> Result<T, NodeError> {
        let store = self.open_store()?;
        let found = look(&store);
        self.keep_store(store);
        Ok(found)
    }

    /// Says of these names which definition file asks for each from now on, or that none does.
    ///
    /// # Errors
    /// Where the records cannot be written; then nothing is changed.
    pub fn set_manifests(
        &mut self,
        changes: &BTreeMap<InstanceName, Option<String>>,
    ) -> Result<(), NodeError> {
        let _lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        for (name, file) in changes {
            tx.set_manifest(name, file.as_deref())?;
        }
        tx.commit()?;
        self.keep_store(store);
        Ok(())
    }

    /// Looks at the runs in the records, of which nothing is ever deferred.
    ///
    /// # Errors
    /// Where the records cannot be opened.
    pub fn look_at_runs<T>(&mut self, look: impl FnOnce(&Store) -> T) -> Result<T, NodeError> {
        let store = self.take_store()?;
        let found = look(&store);
        self.keep_store(store);
        Ok(found)
    }

    /// How many slots are taken, and how many are spare, by what is the matter with them. What is deferred counts as
    /// written, and is not written for this.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn counts(&mut self) -> Result<(u32, BTreeMap<ReservedSlot, usize>), NodeError> {
        let store = self.take_store()?;
        let (gone, spares) = self.spares_in(&store)?;
        let taken = store.count()?.saturating_sub(gone);
        self.keep_store(store);
        Ok((taken, spares))
    }

    /// The same of the spare slots only, which costs as much as there are of them.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn count_spares(&mut self) -> Result<BTreeMap<ReservedSlot, usize>, NodeError> {
        let store = self.take_store()?;
        let (_, spares) = self.spares_in(&store)?;
        self.keep_store(store);
        Ok(spares)
    }

    /// How many records are gone, but for what is deferred, and the spare slots, with those of these.
    fn spares_in(&self, store: &Store) -> Result<(u32, BTreeMap<ReservedSlot, usize>), NodeError> {
        let (mut gone, mut spares) = (0, store.count_spares()?);
        for deferred in self.resident.iter().flat_map(|resident| &resident.deferred) {
            if deferred.phase == Phase::Removing && store.holds(&deferred.record)? {
                gone += 1;
                *spares.entry(ReservedSlot::Draining).or_default() += 1;
            }
        }
        Ok((gone, spares))
    }

    /// How an operation of this process looks at the host.
    pub(super) fn scope(&self, lists: bool) -> Scope {
        Scope { lists, resident: self.resident.as_ref().and_then(|resident| resident.process) }
    }

    /// The node, with what was decided at its first use; `None` where it was not used yet.
    pub(super) fn decided(
        &mut self,
        store: &Store,
        lists: bool,
    ) -> Result<Option<Host>, NodeError> {
        let scope = self.scope(lists);
        Host::decided(&mut self.kernel, &self.config, store, scope)
    }

    /// The same, and decides where nothing is decided yet.
    pub(super) fn decide(&mut self, store: &Store, lists: bool) -> Result<Host, NodeError> {
        let scope = self.scope(lists);
        Host::decide(&mut self.kernel, &self.config, store, scope)
    }

    /// Waits until nobody else is at work, nor any program that a killed process left behind.
    pub(super) fn lock(&mut self) -> Result<Lock, NodeError> {
        let lent = self.resident.as_ref().and_then(|resident| Lock::shared_with(&resident.lock));
        let lock = lent.map_or_else(|| Lock::exclusive(&self.config.state_dir), Ok)?;
        self.kernel.share_lock(lock.share());
        if let Some(resident) = &mut self.resident {
            resident.lock = lock.share();
        }
        Ok(lock)
    }

    /// Waits until nobody changes anything. `None` where nobody ever did.
    pub(super) fn look_lock(&self) -> Result<Option<Lock>, NodeError> {
        let lent = self.resident.as_ref().and_then(|resident| Lock::shared_with(&resident.lock));
        match lent {
            Some(lock) => Ok(Some(lock)),
            None => Ok(Lock::shared(&self.config.state_dir)?),
        }
    }

    /// The store, open, and the directory made where it is missing. What was deferred is written.
    pub(super) fn open_store(&mut self) -> Result<Store, NodeError> {
        let mut store = self.take_store()?;
        if self.has_deferred() {
            let tx = store.transaction()?;
            self.write_deferred(&tx)?;
            tx.commit()?;
            self.deferred_are_written();
        }
        Ok(store)
    }

    /// The same, for a transaction that writes what was deferred itself.
    pub(super) fn take_store(&mut self) -> Result<Store, NodeError> {
        let open = self.store.take().filter(Store::is_current);
        if let Some(store) = open {
            return Ok(store);
        }
        let store = Store::open(&self.config.state_dir)?;
        if self.resident.is_some() {
            store.stay_open()?;
        }
        Ok(store)
    }

    /// Writes what was deferred, takes back what needs a process that hears what changes, and closes the records for
    /// one that stays.
    ///
    /// # Errors
    /// Where the records cannot be written, or the kernel refuses; then the next operation takes it back.
    pub fn leave(&mut self) -> Result<(), NodeError> {
        let deaf = self.hear_no_more();
        let store = self.open_store()?;
        store.close()?;
        deaf
    }

    fn hear_no_more(&mut self) -> Result<(), NodeError> {
        let Some(resident) = &mut self.resident else { return Ok(()) };
        if resident.process.take().is_none() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        tx.forget_setting(Setting::Watcher)?;
        tx.commit()?;
        self.keep_store(store);
        self.heal(&BTreeSet::new()).map(drop)
    }

    /// Whether something is deferred ([`Self::flush`]).
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.resident.as_ref().is_some_and(|resident| !resident.deferred.is_empty())
    }

    /// Has the records say how far the kernel followed. A process that stays writes that together with what it
    /// records next, or by this once it has nothing else to do: an operation is one transaction then. Where it is
    /// killed before, the operation counts as interrupted, and is looked at.
    ///
    /// # Errors
    /// Where the records cannot be written.
    pub fn flush(&mut self) -> Result<(), NodeError> {
        if self.has_deferred() {
            let store = self.open_store()?;
            self.keep_store(store);
        }
        Ok(())
    }

    /// Writes what was deferred, except of records that were changed since.
    pub(super) fn write_deferred(&self, tx: &Tx<'_>) -> Result<(), NodeError> {
        let deferred = self.resident.iter().flat_map(|resident| &resident.deferred);
        for Deferred { record, phase } in deferred {
            match phase {
                Phase::Removing => drop(tx.drain(record)?),
                phase => drop(tx.set_phase(record, *phase)?),
            }
        }
        Ok(())
    }

    pub(super) fn deferred_are_written(&mut self) {
        if let Some(resident) = &mut self.resident {
            resident.deferred.clear();
        }
    }

    /// Whether it defers saying that the kernel followed these records.
    pub(super) fn defers(&mut self, records: &[Record]) -> bool {
        let Some(resident) = &mut self.resident else { return false };
        for record in records {
            let phase = match record.phase {
                Phase::Removing => {
                    let exposures = record.workload.exposures().to_vec();
                    resident.parted.insert(record.slot, exposures);
                    Phase::Removing
                }
                Phase::Pending | Phase::Up => Phase::Up,
            };
            resident.deferred.push(Deferred { record: record.clone(), phase });
        }
        true
    }

    /// What is broken, and what is no longer.
    pub(super) fn note_settled(
        &mut self,
        failed: BTreeMap<Slot, Generation>,
        looked_at: Option<&BTreeMap<Slot, Change>>,
    ) {
        if let Some(resident) = &mut self.resident {
            resident.settled(failed, looked_at);
        }
    }

    /// Closes the store, which is about to be set aside.
    pub(super) fn forget_store(&mut self) {
        self.store = None;
    }

    /// Keeps the store for the next operation.
    pub(super) fn keep_store(&mut self, store: Store) {
        self.store = Some(store);
    }

    pub(super) fn is_busy(&self, slot: Slot) -> bool {
        self.resident.as_ref().is_some_and(|resident| resident.busy.contains(&slot))
    }

    /// The slots of the instances whose last operation did not come to its end, and that an operation has to look at.
    pub(super) fn interrupted(&self, store: &Store) -> Result<BTreeSet<Slot>, NodeError> {
        let broken = |record: &Record| {
            let resident = self.resident.as_ref();
            resident.and_then(|r| r.broken.get(&record.slot)) == Some(&record.generation)
        };
        let unsettled = store.unsettled()?.into_iter().filter(|record| !broken(record));
        Ok(unsettled.map(|record| record.slot).collect())
    }

    /// An instance is gone, and its flows are not.
    pub(super) fn parts(&mut self, record: &Record) {
        if let Some(resident) = &mut self.resident {
            resident.parted.insert(record.slot, record.workload.exposures().to_vec());
        }
    }

    /// A process that stays looks at the gates as well, and has TAPs deleted later. What leads to a guest by a port
    /// that led to another's a moment ago must begin anew at once, though.
    pub(super) fn as_resident<'a>(
        &self,
        named: Named<'a>,
        store: &Store,
    ) -> Result<Named<'a>, NodeError> {
        let Some(resident) = &self.resident else { return Ok(named) };
        let named = named.with_foreign_chains();
        if resident.parted.is_empty() {
            return Ok(named.deletion(LinkDeletion::Deferred, BTreeSet::new()));
        }
        let opened = named.opened();
        let clash = |exposures: &Vec<Exposure>| {
            exposures.iter().any(|parted| {
                let mut opened = opened.iter();
                opened.any(|&(protocol, address, port)| parted.takes(protocol, address, port))
            })
        };
        let parted = resident.parted.iter().filter(|(_, exposures)| clash(exposures));
        let mut draining = BTreeSet::new();
        for (&slot, _) in parted {
            // Another process may have put an instance there since, whose flows are its own.
            if store.spare_of(slot)? == Some(ReservedSlot::Draining) {
                draining.insert(slot);
            }
        }
        Ok(named.deletion(LinkDeletion::Deferred, draining))
    }

    /// Makes these slots what the records say, and what all share: the firewall's skeleton, the gates, the sysctls.
    /// Where that is not enough, it is [`Self::repair`].
    ///
    /// # Errors
    /// As with [`Self::up`].
    pub fn heal(&mut self, slots: &BTreeSet<Slot>) -> Result<Report, NodeError> {
        let lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let Some(host) = self.decided(&tx, true)? else {
            drop(tx);
            self.keep_store(store);
            return Ok(Report::default());
        };
        let interrupted = self.interrupted(&tx)?;
        let mut changes = BTreeMap::new();
        for &slot in slots {
            let after = match (tx.holder(slot)?, tx.spare_of(slot)?) {
                _ if self.is_busy(slot) => continue,
                (Some(record), _) if record.phase == Phase::Removing => continue,
                (Some(record), _) => fragment(&host, &record)?,
                (None, Some(ReservedSlot::Ready)) => workload::spare(slot, &host.node)?,
                (None, Some(ReservedSlot::Draining)) => continue,
                _ if self.kernel.link(&slot.interface())?.is_none() => continue,
                // It leaked, or is a stranger's.
                _ => {
                    drop((tx, lock));
                    return self.repair();
                }
            };
            changes.insert(slot, Change { before: Some(after.clone()), after: Some(after) });
        }
        host.record(&tx)?;
        let seen = self.look(&tx, &host, Some(&changes), &interrupted)?;
        tx.commit()?;
        let settled = self.settle(&mut store, &host, seen, &interrupted, &[])?;
        self.keep_store(store);
        Ok(settled.report())
    }
}
