//! Commits how far the kernel followed the records.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Failure, NodeError, Report, Warning,
    cache::Cache,
    converge::{Converged, Outcome},
    error::InstanceError,
    flow_task::Ticket,
    record::Changes,
    session::Session,
};
use crate::store::{
    Generation, JournalKind, Phase, Record, Records, ReservedSlot, Setting, StoreError, Tx,
};
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
    /// The task that flows are left to, and the slots that wait for it.
    pub(crate) task: Option<(Ticket, BTreeSet<Slot>)>,
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
        let Converged { outcome, scope, deletion, unusable, rules, left } = converged;
        let cache = &mut *self.context.cache;
        let task = left.map(|left| cache.leave_flows(left, records));
        if scope.is_some() && outcome.is_clean() && cache.defer(records, task.as_ref()) {
            cache.note_broken(BTreeMap::new(), scope);
            let Outcome { done, cut_offs, .. } = outcome;
            return Ok(Committed { done, failures: vec![], cut_offs, task });
        }
        let rules = match rules.filter(|_| outcome.is_clean()) {
            Some(rules) => rules.after(&outcome.done, self.context.kernel)?,
            None => None,
        };
        let cache = &mut *self.context.cache;
        let tx = self.store.transaction()?;
        if let Some(rules) = rules {
            tx.set_setting(Setting::Ruleset, &rules)?;
        }
        let announcer = Announcer::of(cache, &outcome, records);
        let mut failures = commit_records(cache, &tx, &outcome, (scope, deletion), &announcer)?;
        if !announcer.by_caller && records.is_empty() && !outcome.done.is_empty() {
            let lines: Vec<_> = outcome.done.iter().map(ToString::to_string).collect();
            tx.announce(JournalKind::Repaired, None, &lines.join("\n"))?;
        }
        if let Some((step, source)) =
            outcome.halted.as_ref().filter(|_| !announcer.by_caller && !announcer.unchanged)
        {
            let text = format!("{step}: {}", chain(source));
            for record in records {
                tx.announce(JournalKind::Failed, Some(record.workload.name()), &text)?;
            }
        }
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
        Ok(Committed { done: outcome.done, failures, cut_offs: outcome.cut_offs, task: None })
    }
}

/// Decides which outcomes go to the journal: those that nobody else announces.
struct Announcer {
    /// The slots that this operation is for.
    asked: BTreeSet<Slot>,
    /// True if the caller announces the outcome for these.
    by_caller: bool,
    /// True if nothing was done in the kernel.
    unchanged: bool,
}

impl Announcer {
    fn of(cache: &Cache, outcome: &Outcome, records: &[Record]) -> Self {
        let unchanged = outcome.done.is_empty() && outcome.failed.is_empty();
        let asked = records.iter().map(|record| record.slot).collect();
        Self { asked, by_caller: cache.announces_itself(), unchanged }
    }

    /// Returns whether an outcome is announced. The process that began an operation which another one completes did not
    /// come to announce it. It may have left nothing in the kernel of what is taken down now.
    fn announces(&self, slot: Slot, kind: JournalKind) -> bool {
        let nothing_new = self.unchanged && kind != JournalKind::Down;
        !(self.by_caller || nothing_new) || !self.asked.contains(&slot)
    }
}

/// Records how far the kernel followed the records that were looked at. Returns the failures.
fn commit_records(
    cache: &mut Cache,
    tx: &Tx<'_>,
    outcome: &Outcome,
    (scope, deletion): (Option<&Changes>, LinkDeletion),
    announcer: &Announcer,
) -> Result<Vec<Failure>, NodeError> {
    let mut failures = Vec::new();
    let Records { readable, unreadable } = tx.unsettled()?;
    // The kernel objects of unreadable records are only found by looking at everything.
    for leaving in unreadable.iter().filter(|_| scope.is_none()) {
        let name = &leaving.record.name;
        match outcome.failed.get(&leaving.slot) {
            Some(error) => failures.push(failure(name, leaving.slot, error)),
            None if outcome.halted.is_some() => {}
            None if tx.remove_unreadable(leaving)? && !announcer.by_caller => {
                tx.announce(JournalKind::Down, Some(name), "")?;
            }
            None => {}
        }
    }
    for record in readable {
        if scope.is_some_and(|changes| !changes.contains_key(&record.slot)) {
            continue;
        }
        let name = record.workload.name();
        let changed = match (outcome.failed.get(&record.slot), record.phase) {
            (Some(error), _) => {
                let failed = failure(name, record.slot, error);
                if !announcer.by_caller && announcer.asked.contains(&record.slot) {
                    tx.announce(JournalKind::Failed, Some(name), &chain(&failed))?;
                }
                failures.push(failed);
                cache.withdraw_outcome(&record);
                None
            }
            (None, _) if outcome.halted.is_some() || cache.awaits_flows(&record) => None,
            (None, Phase::Removing) if deletion == LinkDeletion::Deferred => {
                cache.keep_flows(&record);
                tx.drain(&record)?.then_some(JournalKind::Down)
            }
            (None, Phase::Removing) => tx.remove(&record)?.then_some(JournalKind::Down),
            (None, Phase::Pending | Phase::Up) => {
                tx.set_phase(&record, Phase::Up)?.map(|_| JournalKind::Up)
            }
        };
        if let Some(kind) = changed.filter(|kind| announcer.announces(record.slot, *kind)) {
            tx.announce(kind, Some(name), "")?;
        }
    }
    Ok(failures)
}

/// Returns the text of an error, with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
            if !cache.in_progress().contains(&slot) && !cache.flow_tasks.concern(slot) {
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
