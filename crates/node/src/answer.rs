//! Splits the outcome of several requests into an answer for each.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Instance, NodeError, Report, Request, Ticket, host::Host, outcome::Committed, record::Recorded,
};
use crate::store::{Phase, Record};
use riklet_core::{
    firewall,
    model::{InstanceName, Pool, Slot},
    plan::Step,
};

/// A request that was not answered yet, and its index among all requests.
pub(crate) type Waiting = (usize, Request);

/// The answers to requests, each at the index of its request.
#[derive(Debug)]
pub(crate) struct Answers<'a> {
    requests: &'a [Request],
    given: Vec<Option<Result<Report, NodeError>>>,
    /// The requests that are not done, since they have to wait for a task.
    held: BTreeSet<usize>,
}

impl<'a> Answers<'a> {
    pub(crate) fn to(requests: &'a [Request]) -> Self {
        let given = requests.iter().map(|_| None).collect();
        Self { requests, given, held: BTreeSet::new() }
    }

    /// Returns the requests that were not answered yet.
    pub(crate) fn waiting(&self) -> Vec<(usize, &'a Request)> {
        let all = self.requests.iter().zip(&self.given).enumerate();
        let waiting =
            all.filter(|(index, (_, answer))| answer.is_none() && !self.held.contains(index));
        waiting.map(|(index, (request, _))| (index, request)).collect()
    }

    pub(crate) fn first_waiting(&self) -> Option<(usize, &'a Request)> {
        self.waiting().into_iter().next()
    }

    /// Holds back the requests that have to wait for a task, and those that come after one of them and meet it.
    pub(crate) fn hold(&mut self, is_ahead_of: impl Fn(&Request) -> bool) {
        for (index, request) in self.waiting() {
            let follows = |&held: &usize| self.requests.get(held).is_some_and(|h| h.meets(request));
            if is_ahead_of(request) || self.held.iter().any(follows) {
                self.held.insert(index);
            }
        }
    }

    /// Holds back this request.
    pub(crate) fn hold_one(&mut self, index: usize) {
        self.held.insert(index);
    }

    /// Returns whether any request is held back.
    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn give(&mut self, index: usize, answer: Result<Report, NodeError>) {
        if let Some(place) = self.given.get_mut(index) {
            *place = Some(answer);
        }
    }

    /// Answers every waiting request with this error, if all of them wait for the lock that another process keeps: one
    /// after another, each would wait as long. Returns `false` otherwise, and answers none.
    pub(crate) fn give_everyone(&mut self, error: &NodeError) -> bool {
        let NodeError::Store(busy) = error else { return false };
        let waiting: Vec<_> = self.waiting().into_iter().map(|(index, _)| index).collect();
        for index in waiting {
            let Some(busy) = busy.repeated() else { return false };
            self.give(index, Err(busy.into()));
        }
        true
    }

    /// Answers the recorded requests by how far the kernel followed them.
    pub(crate) fn give_all(
        &mut self,
        recorded: Vec<(usize, Recorded)>,
        host: &Host,
        committed: &Committed,
    ) {
        let alone = recorded.len() == 1;
        let asked = recorded.iter().flat_map(|(_, recorded)| recorded.names()).cloned().collect();
        for (index, recorded) in recorded {
            let brings_up = matches!(self.requests.get(index), Some(Request::Up(..)));
            let answer = report(host, committed, recorded, &asked, alone);
            let answer = answer.map(|mut report| {
                report.warnings.extend(committed.warnings().filter(|_| brings_up));
                report
            });
            self.give(index, answer);
        }
    }

    /// Returns the answers; `None` for a request that was held back.
    pub(crate) fn into_results(self) -> Vec<Option<Result<Report, NodeError>>> {
        self.given
    }
}

/// Returns the part of all that was done that answers one request.
fn report(
    host: &Host,
    committed: &Committed,
    recorded: Recorded,
    asked: &BTreeSet<InstanceName>,
    alone: bool,
) -> Result<Report, NodeError> {
    let mine: BTreeSet<_> = recorded.names().cloned().collect();
    let Recorded { records, changes, warnings, .. } = recorded;
    let done = if alone {
        committed.done.clone()
    } else {
        let slots = changes.keys().copied().collect();
        let part = |step| part(step, &slots, host.node.pool);
        committed.done.iter().filter_map(part).collect()
    };
    let failed: BTreeSet<_> = committed.failures.iter().map(|failure| &failure.name).collect();
    let of = |wanted: &dyn Fn(&InstanceName) -> bool| {
        committed.failures.iter().filter(|failure| wanted(&failure.name)).cloned().collect()
    };
    let (failures, others) = (of(&|name| mine.contains(name)), of(&|name| !asked.contains(name)));
    let mut instances = Vec::new();
    for record in &records {
        if record.phase != Phase::Removing && !failed.contains(record.workload.name()) {
            let up = Record { phase: Phase::Up, ..record.clone() };
            instances.push(Instance::of(&host.node, &up)?);
        }
    }
    instances.sort_by(|one, other| one.name().cmp(other.name()));
    let awaits = |(ticket, slots): &(Ticket, BTreeSet<Slot>)| {
        changes.keys().any(|slot| slots.contains(slot)).then_some(*ticket)
    };
    let ticket = committed.task.as_ref().and_then(awaits);
    Ok(Report { instances, done, failures, others, warnings, ticket })
}

/// Returns the part of a step that is for these slots, or for all.
fn part(step: &Step, slots: &BTreeSet<Slot>, pool: Pool) -> Option<Step> {
    if let Some(slot) = step.slot() {
        return slots.contains(&slot).then(|| step.clone());
    }
    match step {
        Step::Firewall(backend, firewall::Change::Delta { remove, add, owner }) => {
            let addresses = slots.iter().filter_map(|&slot| pool.addresses(slot));
            let guests: BTreeSet<_> = addresses.flat_map(|addresses| addresses.guests()).collect();
            let mine = |entries: &BTreeSet<firewall::Entry>| {
                entries.iter().filter(|entry| guests.contains(&entry.guest())).copied().collect()
            };
            let (remove, add): (BTreeSet<_>, BTreeSet<_>) = (mine(remove), mine(add));
            let any = !(remove.is_empty() && add.is_empty());
            let owner = owner.clone();
            let delta = firewall::Change::Delta { remove, add, owner };
            any.then_some(Step::Firewall(*backend, delta))
        }
        Step::DrainLinks(names) => {
            let interfaces = slots.iter().map(|slot| slot.interface());
            let mine: BTreeMap<_, _> = interfaces
                .filter_map(|name| names.get(&name).map(|addresses| (name, addresses.clone())))
                .collect();
            (!mine.is_empty()).then_some(Step::DrainLinks(mine))
        }
        Step::RetireLinks(names) => {
            let interfaces = slots.iter().map(|slot| slot.interface());
            let mine: BTreeSet<_> = interfaces.filter(|name| names.contains(name)).collect();
            (!mine.is_empty()).then_some(Step::RetireLinks(mine))
        }
        other => Some(other.clone()),
    }
}
