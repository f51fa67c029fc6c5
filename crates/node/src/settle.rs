//! Converging the kernel to the records, and saying in the records how far it came.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Failure, Node, NodeError, Report,
    converge::{All, Named, Observe, Outcome},
    error::InstanceError,
    host::Host,
};
use crate::store::{Generation, Phase, Record, ReservedSlot, Store, Tx};
use riklet_core::{
    model::Slot,
    plan::{LinkDeletion, Observed, Step},
};
use riklet_kernel::Kernel;

/// How far it came.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What was changed, in order.
    pub(super) done: Vec<Step>,
    /// The instances that are not as they should be.
    pub(super) failures: Vec<Failure>,
}

impl Settled {
    /// Of an operation that was for all.
    pub(super) fn report(self) -> Report {
        Report { done: self.done, failures: self.failures, ..Report::default() }
    }
}

/// The part of the desired state that an operation is about, and what the kernel had of it before the records changed.
pub(super) enum Look<'a> {
    /// The changed slots.
    Named(Named<'a>, Observed),
    /// Everything.
    All(All<'a>, Observed),
}

/// How far a converge came, and the slots that it was about, where it was not about all.
type Converged<'a> = (Outcome, Option<&'a BTreeMap<Slot, Change>>);

impl<K: Kernel> Node<K> {
    /// Looks at the kernel, before what is to be changed is recorded.
    ///
    /// Looks at the changed slots only, where there are some and that is enough: where every earlier operation
    /// came to its end, and the firewall has what the records say it has.
    ///
    /// # Errors
    /// Where something belongs to other records, or the kernel cannot be read.
    pub(super) fn look<'a>(
        &mut self,
        store: &Store,
        host: &'a Host,
        changes: Option<&'a BTreeMap<Slot, Change>>,
        interrupted: &BTreeSet<Slot>,
    ) -> Result<Look<'a>, NodeError> {
        let changes = changes.filter(|_| interrupted.is_empty());
        let named = changes.and_then(|changes| Named::new(host, changes));
        let named = named.map(|named| self.as_resident(named, store)).transpose()?;
        if let Some(named) = named
            && let Some(found) = named.observe(&mut self.kernel)?
        {
            self.refuse(named.claims(&found))?;
            return Ok(Look::Named(named, found));
        }
        let all = self.all(host, store, interrupted, LinkDeletion::Immediate)?;
        let found = self.look_at_all(&all)?;
        Ok(Look::All(all, found))
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(super) fn look_at_all(&mut self, all: &All<'_>) -> Result<Observed, NodeError> {
        let found = all.look(&mut self.kernel)?;
        self.refuse(all.claims(&found))?;
        Ok(found)
    }

    /// Converges the kernel to the records.
    fn converge<'a>(
        &mut self,
        store: &Store,
        host: &Host,
        look: Look<'a>,
        interrupted: &BTreeSet<Slot>,
    ) -> Result<Converged<'a>, NodeError> {
        let outcome = match look {
            Look::Named(named, found) => {
                if let Some(outcome) = named.converge(&mut self.kernel, found)? {
                    return Ok((outcome, Some(named.changes())));
                }
                let all = self.all(host, store, interrupted, LinkDeletion::Immediate)?;
                let found = self.look_at_all(&all)?;
                all.converge(&mut self.kernel, found)?
            }
            Look::All(all, found) => all.converge(&mut self.kernel, found)?,
        };
        Ok((outcome.unwrap_or_default(), None))
    }

    /// Converges the kernel to the records, and says in the records how far it came.
    ///
    /// `records` are those whose operation comes to its end by this.
    pub(super) fn settle(
        &mut self,
        store: &mut Store,
        host: &Host,
        look: Look<'_>,
        interrupted: &BTreeSet<Slot>,
        records: &[Record],
    ) -> Result<Settled, NodeError> {
        let (outcome, looked_at) = self.converge(store, host, look, interrupted)?;
        let deletion = match (&self.resident, looked_at) {
            (Some(_), Some(_)) => LinkDeletion::Deferred,
            _ => LinkDeletion::Immediate,
        };
        if looked_at.is_some() && outcome.is_clean() && self.defers(records) {
            self.note_settled(BTreeMap::new(), looked_at);
            return Ok(Settled { done: outcome.done, failures: vec![] });
        }
        let tx = store.transaction()?;
        let mut failures = self.settle_records(&tx, &outcome, looked_at, deletion)?;
        if looked_at.is_none() {
            failures.extend(unsettle(&tx, &outcome, &failures)?);
            self.settle_spares(&tx, &outcome)?;
        }
        let failed = generations(&tx, outcome.failed.keys())?;
        tx.commit()?;
        self.note_settled(failed, looked_at);
        if let Some((step, source)) = outcome.halted {
            return Err(NodeError::Halted { step: Box::new(step), source });
        }
        Ok(Settled { done: outcome.done, failures })
    }

    /// Says of the records that were looked at how far the kernel followed; those that it did not follow.
    fn settle_records(
        &mut self,
        tx: &Tx<'_>,
        outcome: &Outcome,
        looked_at: Option<&BTreeMap<Slot, Change>>,
        deletion: LinkDeletion,
    ) -> Result<Vec<Failure>, NodeError> {
        let mut failures = Vec::new();
        for record in tx.unsettled()? {
            if looked_at.is_some_and(|changes| !changes.contains_key(&record.slot)) {
                continue;
            }
            match (outcome.failed.get(&record.slot), record.phase) {
                (Some(error), _) => {
                    failures.push(failure(&record, error));
                }
                (None, _) if outcome.halted.is_some() => {}
                (None, Phase::Removing) if deletion == LinkDeletion::Deferred => {
                    tx.drain(&record)?;
                    self.parts(&record);
                }
                (None, Phase::Removing) => drop(tx.remove(&record)?),
                (None, Phase::Pending | Phase::Up) => drop(tx.set_phase(&record, Phase::Up)?),
            }
        }
        Ok(failures)
    }

    /// Frees the slots whose interfaces are gone now, and warm ones that could not be kept as they must be.
    fn settle_spares(&mut self, tx: &Tx<'_>, outcome: &Outcome) -> Result<(), NodeError> {
        for slot in tx.spares(ReservedSlot::Ready)? {
            if outcome.failed.contains_key(&slot) {
                tx.free_spare(slot, ReservedSlot::Ready)?;
            }
        }
        if outcome.halted.is_some() {
            return Ok(());
        }
        for spare in [ReservedSlot::Creating, ReservedSlot::Draining] {
            for slot in tx.spares(spare)? {
                if !self.is_busy(slot) {
                    tx.free_spare(slot, spare)?;
                }
            }
        }
        if let Some(resident) = &mut self.resident {
            resident.forget_parted();
        }
        Ok(())
    }
}

/// Instances that were settled and turned out to be broken: the next operation shall look at them again.
fn unsettle(tx: &Tx<'_>, outcome: &Outcome, known: &[Failure]) -> Result<Vec<Failure>, NodeError> {
    let known: BTreeSet<_> = known.iter().map(|failure| &failure.name).collect();
    let mut found = Vec::new();
    for (&slot, error) in &outcome.failed {
        let record = tx.holder(slot)?.filter(|record| record.phase == Phase::Up);
        if let Some(record) = record.filter(|record| !known.contains(record.workload.name())) {
            tx.set_phase(&record, Phase::Pending)?;
            found.push(failure(&record, error));
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Which state of which record is in each of these slots; one that is spare has none.
fn generations<'a>(
    tx: &Tx<'_>,
    slots: impl Iterator<Item = &'a Slot>,
) -> Result<BTreeMap<Slot, Generation>, NodeError> {
    let mut found = BTreeMap::new();
    for &slot in slots {
        found.extend(tx.holder(slot)?.map(|record| (slot, record.generation)));
    }
    Ok(found)
}

fn failure(record: &Record, error: &InstanceError) -> Failure {
    Failure { name: record.workload.name().clone(), slot: record.slot, error: error.clone() }
}
