//! Commits how far the kernel followed the records.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Failure, NodeError, Report, Warning,
    cache::Cache,
    converge::{Converged, Outcome},
    error::InstanceError,
    record::Changes,
    session::Session,
};
use crate::store::{Generation, Phase, Record, Records, ReservedSlot, StoreError, Tx};
use riklet_core::{
    model::{InstanceName, Slot},
    plan::{CutOff, LinkDeletion, Step},
};
use riklet_kernel::Kernel;

/// An outcome that is committed, or will be with the next operation.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// The changes, in order.
    pub(crate) done: Vec<Step>,
    /// The instances that are not as they should be.
    pub(crate) failures: Vec<Failure>,
    /// The foreign chains that cut functions off.
    pub(crate) cut_offs: BTreeSet<CutOff>,
}

impl Committed {
    /// Returns the report of an operation that was for all instances.
    pub(crate) fn report(self) -> Report {
        let warnings = self.warnings().collect();
        Report { done: self.done, failures: self.failures, warnings, ..Report::default() }
    }

    /// Returns what its report has to warn of.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = Warning> + use<> {
        self.cut_offs.clone().into_iter().map(Warning::CutOff)
    }
}

impl<K: Kernel> Session<'_, K> {
    /// Records how far the kernel followed. `records` are those whose operation this completes.
    pub(crate) fn commit_outcome(
        &mut self,
        converged: Converged<'_>,
        records: &[Record],
    ) -> Result<Committed, NodeError> {
        let Converged { outcome, scope, deletion, unusable } = converged;
        let cache = &mut *self.context.cache;
        if scope.is_some() && outcome.is_clean() && cache.defer(records) {
            cache.note_broken(BTreeMap::new(), scope);
            let Outcome { done, cut_offs, .. } = outcome;
            return Ok(Committed { done, failures: vec![], cut_offs });
        }
        let tx = self.store.transaction()?;
        let mut failures = commit_records(cache, &tx, &outcome, scope, deletion)?;
        if scope.is_none() {
            failures.extend(reopen_broken(&tx, &outcome, &failures)?);
            commit_reserved(cache, &tx, &outcome)?;
        }
        if let Some(unusable) = unusable {
            tx.set_passed_over(&unusable)?;
        }
        let broken = generations(&tx, outcome.failed.keys())?;
        tx.commit()?;
        cache.note_broken(broken, scope);
        if let Some((step, source)) = outcome.halted {
            return Err(NodeError::Halted { step: Box::new(step), source });
        }
        Ok(Committed { done: outcome.done, failures, cut_offs: outcome.cut_offs })
    }
}

/// Records how far the kernel followed the records that were looked at. Returns the failures.
fn commit_records(
    cache: &mut Cache,
    tx: &Tx<'_>,
    outcome: &Outcome,
    scope: Option<&Changes>,
    deletion: LinkDeletion,
) -> Result<Vec<Failure>, NodeError> {
    let mut failures = Vec::new();
    let Records { readable, unreadable } = tx.unsettled()?;
    // The kernel objects of unreadable records are only found by looking at everything.
    for leaving in unreadable.iter().filter(|_| scope.is_none()) {
        match outcome.failed.get(&leaving.slot) {
            Some(error) => failures.push(failure(&leaving.record.name, leaving.slot, error)),
            None if outcome.halted.is_some() => {}
            None => drop(tx.remove_unreadable(leaving)?),
        }
    }
    for record in readable {
        if scope.is_some_and(|changes| !changes.contains_key(&record.slot)) {
            continue;
        }
        match (outcome.failed.get(&record.slot), record.phase) {
            (Some(error), _) => {
                failures.push(failure(record.workload.name(), record.slot, error));
            }
            (None, _) if outcome.halted.is_some() => {}
            (None, Phase::Removing) if deletion == LinkDeletion::Deferred => {
                tx.drain(&record)?;
                cache.keep_flows(&record);
            }
            (None, Phase::Removing) => drop(tx.remove(&record)?),
            (None, Phase::Pending | Phase::Up) => drop(tx.set_phase(&record, Phase::Up)?),
        }
    }
    Ok(failures)
}

/// Frees the slots whose interfaces are gone now, and ready slots whose interfaces could not be repaired.
fn commit_reserved(cache: &mut Cache, tx: &Tx<'_>, outcome: &Outcome) -> Result<(), NodeError> {
    for slot in tx.reserved(ReservedSlot::Ready)? {
        if outcome.failed.contains_key(&slot) {
            tx.free_reserved(slot, ReservedSlot::Ready)?;
        }
    }
    if outcome.halted.is_some() {
        return Ok(());
    }
    for state in [ReservedSlot::Creating, ReservedSlot::Draining] {
        for slot in tx.reserved(state)? {
            if !cache.in_progress().contains(&slot) {
                tx.free_reserved(slot, state)?;
            }
        }
    }
    cache.forget_all_flows();
    Ok(())
}

/// Records that instances which were up turned out to be broken: the next operation shall look at them again.
fn reopen_broken(
    tx: &Tx<'_>,
    outcome: &Outcome,
    known: &[Failure],
) -> Result<Vec<Failure>, NodeError> {
    let known: BTreeSet<_> = known.iter().map(|failure| &failure.name).collect();
    let mut found = Vec::new();
    for (&slot, error) in &outcome.failed {
        let record = match tx.holder(slot) {
            Err(StoreError::Unreadable(unreadable)) => {
                let name = &unreadable.record.name;
                found.extend((!known.contains(name)).then(|| failure(name, slot, error)));
                continue;
            }
            holder => holder?.filter(|record| record.phase == Phase::Up),
        };
        if let Some(record) = record.filter(|record| !known.contains(record.workload.name())) {
            tx.set_phase(&record, Phase::Pending)?;
            found.push(failure(record.workload.name(), slot, error));
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Returns the present generation of the record in each of these slots; a reserved one has none.
fn generations<'a>(
    tx: &Tx<'_>,
    slots: impl Iterator<Item = &'a Slot>,
) -> Result<BTreeMap<Slot, Generation>, NodeError> {
    let mut found = BTreeMap::new();
    for &slot in slots {
        match tx.holder(slot) {
            Err(StoreError::Unreadable(_)) => {}
            holder => found.extend(holder?.map(|record| (slot, record.generation))),
        }
    }
    Ok(found)
}

fn failure(name: &InstanceName, slot: Slot, error: &InstanceError) -> Failure {
    Failure { name: name.clone(), slot, error: error.clone() }
}
