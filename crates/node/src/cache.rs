//! The cache that a long-lived node keeps from one operation to the next.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use super::{
    converge::LeftFlows,
    flow_task::{FlowTasks, Ticket},
    host::Host,
    record::Changes,
};
use crate::store::{
    Generation, Lock, Phase, Record, ReservedSlot, SettingsVersion, Store, StoreError, Tx,
};
use riklet_core::{
    model::{Exposure, PortRange, Protocol, Slot},
    plan::LinkDeletion,
};
use riklet_kernel::process::ProcessId;

/// The way to treat work that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Strategy {
    /// An operation does everything before it returns.
    #[default]
    Immediate,
    /// A background task deletes TAPs, and the next operation commits the outcome.
    Deferred,
}

/// The cache of a node. A node that is not long-lived begins each operation with an empty one.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    strategy: Strategy,
    /// This process, while it is notified of changes.
    watcher: Option<ProcessId>,
    /// The lock, while a background task or an operation holds it.
    lock: Weak<OwnedFd>,
    /// The reserved slots that a background task works on.
    in_progress: BTreeSet<Slot>,
    /// The slots whose TAPs could not be created.
    unusable: BTreeSet<Slot>,
    /// The draining slots, and the exposures that led to them: their flows are still there.
    draining_exposures: BTreeMap<Slot, Vec<Exposure>>,
    /// The slots that could not be repaired when everything was looked at, each with the generation of its record at
    /// that time.
    broken: BTreeMap<Slot, Generation>,
    /// The outcomes that are not committed yet.
    deferred: Vec<DeferredOutcome>,
    /// The flows that are left to tasks.
    pub(crate) flow_tasks: FlowTasks,
    /// The host as it was last found, if there was nothing to record about it.
    host: Option<(HostVersion, Arc<Host>)>,
    /// True if the records had to be written again, and the caller was not told yet.
    restored: Cell<bool>,
}

/// The version of everything that decides about a [`Host`]: of the kernel's answers, and of the settings.
pub(crate) type HostVersion = (u64, SettingsVersion);

/// The outcome for an instance that was brought up or taken down. It names the generation of the record: if another
/// process has changed the record since, its change stays.
#[derive(Debug)]
struct DeferredOutcome {
    record: Record,
    /// [`Phase::Removing`] if it was taken down, [`Phase::Up`] if it was brought up.
    phase: Phase,
    /// The task that has to be done before the outcome is committed.
    ticket: Option<Ticket>,
}

/// The strategy.
impl Cache {
    /// Creates the cache of a long-lived node.
    pub(crate) fn deferring() -> Self {
        let (strategy, watcher) = (Strategy::Deferred, ProcessId::current().ok());
        Self { strategy, watcher, ..Self::default() }
    }

    /// Returns this process, if it is notified of changes.
    pub(crate) const fn watcher(&self) -> Option<ProcessId> {
        self.watcher
    }

    /// Notes that this process is no longer notified of changes; `false` if it was not before either.
    pub(crate) fn stop_watching(&mut self) -> bool {
        self.watcher.take().is_some()
    }

    /// Reports whether it is that of a long-lived node.
    pub(crate) fn is_kept(&self) -> bool {
        self.strategy == Strategy::Deferred
    }

    /// Returns when the TAPs of instances that leave are deleted.
    pub(crate) const fn link_deletion(&self) -> LinkDeletion {
        match self.strategy {
            Strategy::Immediate => LinkDeletion::Immediate,
            Strategy::Deferred => LinkDeletion::Deferred,
        }
    }

    /// Returns the number of processes that are looked at for the one that has a TAP open: few where others wait.
    pub(crate) const fn most_processes(&self) -> usize {
        match self.strategy {
            Strategy::Immediate => usize::MAX,
            Strategy::Deferred => 64,
        }
    }

    /// Returns whether an operation on some slots also looks at the foreign chains: a watched kernel has them in
    /// memory.
    pub(crate) fn looks_at_foreign_chains(&self) -> bool {
        self.strategy == Strategy::Deferred
    }

    /// Returns whether the process announces its operations itself, as a daemon does; otherwise they go to the journal.
    pub(crate) fn announces_itself(&self) -> bool {
        self.strategy == Strategy::Deferred
    }

    /// Notes that the records were written again.
    pub(crate) fn note_restored(&self) {
        self.restored.set(true);
    }

    /// Returns whether the records were written again since this was last asked.
    pub(crate) fn take_restored(&self) -> bool {
        self.restored.take()
    }

    /// Prepares newly opened records for staying open.
    pub(crate) fn kept_open(&self, store: Store) -> Result<Store, StoreError> {
        if self.strategy == Strategy::Deferred {
            store.stay_open()?;
        }
        Ok(store)
    }
}

/// The host.
impl Cache {
    /// Returns the host as it was found in this version.
    pub(crate) fn host(&self, version: HostVersion) -> Option<Arc<Host>> {
        let known = self.host.as_ref().filter(|(known, _)| *known == version);
        known.map(|(_, host)| Arc::clone(host))
    }

    /// Keeps the host that was found in this version, unless something about it has to be recorded.
    pub(crate) fn keep_host(&mut self, version: HostVersion, host: &Arc<Host>) {
        self.host = (!host.has_news()).then(|| (version, Arc::clone(host)));
    }
}

/// The lock.
impl Cache {
    /// Returns the lock, while this process has it.
    pub(crate) fn lent_lock(&self) -> Option<Lock> {
        Lock::shared_with(&self.lock)
    }

    pub(crate) fn lend(&mut self, lock: &Lock) {
        self.lock = lock.share();
    }
}

/// Reserved slots, and background tasks that work on them.
impl Cache {
    pub(crate) const fn in_progress(&self) -> &BTreeSet<Slot> {
        &self.in_progress
    }

    pub(crate) fn is_unusable(&self, slot: Slot) -> bool {
        self.unusable.contains(&slot)
    }

    pub(crate) fn begin_task<'a>(&mut self, slots: impl IntoIterator<Item = &'a Slot>) {
        self.in_progress.extend(slots);
    }

    pub(crate) fn end_task<'a>(&mut self, slots: impl IntoIterator<Item = &'a Slot>) {
        for slot in slots {
            self.in_progress.remove(slot);
        }
    }

    pub(crate) fn avoid<'a>(&mut self, slots: impl IntoIterator<Item = &'a Slot>) {
        self.unusable.extend(slots);
    }
}

/// Exposures whose flows are not forgotten yet.
impl Cache {
    /// Notes that an instance is gone, but its flows are not forgotten yet.
    pub(crate) fn keep_flows(&mut self, record: &Record) {
        self.draining_exposures.insert(record.slot, record.workload.exposures().to_vec());
    }

    /// Returns the number of instances that are gone, and whose flows are not forgotten yet.
    pub(crate) fn draining(&self) -> usize {
        self.draining_exposures.len()
    }

    /// Notes that the flows of these slots are forgotten.
    pub(crate) fn forget_flows(&mut self, slots: &BTreeSet<Slot>) {
        self.draining_exposures.retain(|slot, _| !slots.contains(slot));
    }

    /// Notes that the flows of all slots are forgotten.
    pub(crate) fn forget_all_flows(&mut self) {
        self.draining_exposures.clear();
    }

    /// Returns the draining slots that one of these ports led to: the flows of a port that now leads to another guest
    /// must be forgotten.
    pub(crate) fn clashing(
        &self,
        opened: impl FnOnce() -> BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
        store: &Store,
    ) -> Result<BTreeSet<Slot>, StoreError> {
        if self.draining_exposures.is_empty() {
            return Ok(BTreeSet::new());
        }
        let opened = opened();
        let takes = |exposure: &Exposure| {
            opened
                .iter()
                .any(|&(protocol, address, ports)| exposure.takes(protocol, address, ports))
        };
        let mut clashing = BTreeSet::new();
        for (&slot, exposures) in &self.draining_exposures {
            // Another process may have put an instance there since, whose flows must stay.
            if exposures.iter().any(takes)
                && store.reserved_state(slot)? == Some(ReservedSlot::Draining)
            {
                clashing.insert(slot);
            }
        }
        Ok(clashing)
    }
}

/// Broken instances.
impl Cache {
    /// Returns whether nothing could be done for this state of an instance.
    pub(crate) fn is_broken(&self, record: &Record) -> bool {
        self.broken.get(&record.slot) == Some(&record.generation)
    }

    /// Notes which slots are broken, among the changed slots or among all; the others of them are no longer broken.
    pub(crate) fn note_broken(
        &mut self,
        broken: BTreeMap<Slot, Generation>,
        changes: Option<&Changes>,
    ) {
        match changes {
            Some(changes) => self.broken.retain(|slot, _| !changes.contains_key(slot)),
            None => self.broken.clear(),
        }
        self.broken.extend(broken);
    }
}

/// Outcomes that are not committed yet.
impl Cache {
    /// Returns whether there are any that can be committed.
    pub(crate) fn has_deferred(&self) -> bool {
        self.deferred.iter().any(|outcome| outcome.ticket.is_none())
    }

    /// Defers the outcome of an operation that the kernel has followed; `false` if it must be committed now. The records of
    /// these slots wait for this task.
    pub(crate) fn defer(
        &mut self,
        records: &[Record],
        task: Option<&(Ticket, BTreeSet<Slot>)>,
    ) -> bool {
        if self.strategy == Strategy::Immediate {
            return false;
        }
        for record in records {
            let phase = match record.phase {
                Phase::Removing => {
                    self.keep_flows(record);
                    Phase::Removing
                }
                Phase::Pending | Phase::Up => Phase::Up,
            };
            let awaits = |(ticket, slots): &(Ticket, BTreeSet<Slot>)| {
                slots.contains(&record.slot).then_some(*ticket)
            };
            let ticket = task.and_then(awaits);
            self.deferred.push(DeferredOutcome { record: record.clone(), phase, ticket });
        }
        true
    }

    /// Writes the deferred outcomes, except those of records that were changed since, and those that wait for a task.
    pub(crate) fn write_deferred(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let due = self.deferred.iter().filter(|outcome| outcome.ticket.is_none());
        for DeferredOutcome { record, phase, .. } in due {
            match phase {
                Phase::Removing => drop(tx.drain(record)?),
                phase => drop(tx.set_phase(record, *phase)?),
            }
        }
        Ok(())
    }

    pub(crate) fn forget_deferred(&mut self) {
        self.deferred.retain(|outcome| outcome.ticket.is_some());
    }

    /// Returns a record as it will be once the deferred outcomes are committed; `None` if its instance is gone.
    pub(crate) fn as_committed(&self, record: Record) -> Option<Record> {
        let is_due =
            |outcome: &&DeferredOutcome| outcome.ticket.is_none() && outcome.is_of(&record);
        match self.deferred.iter().rfind(is_due).map(|outcome| outcome.phase) {
            Some(Phase::Removing) => None,
            Some(phase) => Some(Record { phase, ..record }),
            None => Some(record),
        }
    }

    /// Returns the slots of instances that are gone, and that the records do not have as draining yet.
    pub(crate) fn deferred_removals(&self, store: &Store) -> Result<BTreeSet<Slot>, StoreError> {
        let mut removals = BTreeSet::new();
        for DeferredOutcome { record, phase, .. } in &self.deferred {
            if *phase == Phase::Removing && store.holds(record)? {
                removals.insert(record.slot);
            }
        }
        Ok(removals)
    }
}

/// Outcomes that wait for a task which forgets flows.
impl Cache {
    /// Leaves flows to a task. Returns its ticket, and the slots that wait for it.
    pub(crate) fn leave_flows(
        &mut self,
        left: LeftFlows,
        records: &[Record],
    ) -> (Ticket, BTreeSet<Slot>) {
        let LeftFlows { flows, awaiting, draining } = left;
        let changed = records.iter().filter(|record| awaiting.contains(&record.slot));
        let names = changed.map(|record| record.workload.name().clone()).collect();
        let slots = (awaiting.clone(), draining);
        let ticket = self.flow_tasks.open(flows, names, slots, self.lent_lock());
        (ticket, awaiting)
    }

    /// Notes that a task is done: what waited for it can be committed. If it failed, the records stay unsettled.
    pub(crate) fn finish_flows(&mut self, ticket: Ticket, succeeded: bool) {
        let draining = self.flow_tasks.close(ticket);
        if succeeded {
            // Nothing leads there any more: no new flow can have begun.
            self.forget_flows(&draining);
        }
        self.deferred.retain(|outcome| succeeded || outcome.ticket != Some(ticket));
        for outcome in &mut self.deferred {
            outcome.ticket = outcome.ticket.filter(|&awaited| awaited != ticket);
        }
    }

    /// Returns whether the outcome for this state of an instance waits for a task.
    pub(crate) fn awaits_flows(&self, record: &Record) -> bool {
        self.deferred.iter().any(|outcome| outcome.ticket.is_some() && outcome.is_of(record))
    }

    /// Forgets an outcome that waits for a task, since it turned out not to be so. The record stays unsettled.
    pub(crate) fn withdraw_outcome(&mut self, record: &Record) {
        self.deferred.retain(|outcome| !outcome.is_of(record));
    }
}

impl DeferredOutcome {
    fn is_of(&self, record: &Record) -> bool {
        self.record.slot == record.slot && self.record.generation == record.generation
    }
}
