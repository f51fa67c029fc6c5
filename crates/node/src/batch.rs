//! Requests that are done together: one transaction of the store, one of the firewall, one `send` for each kind of
//! change to the interfaces. Each has its own answer.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Instance, Node, NodeError, Report, Selector, UpOptions, Warning, accounts, fragment,
    host::Host, ownership::unless_claimed, settle::Settled,
};
use crate::store::{Phase, Record, Store, StoreError, Tx};
use riklet_core::{
    firewall,
    model::{InstanceName, Pool, Slot, Workload},
    plan::Step,
};
use riklet_kernel::Kernel;

/// A change of the records, and of the kernel with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// [`Node::up`].
    Up(Vec<Workload>, UpOptions),
    /// [`Node::down`], without `purge`.
    Down(Selector),
}

/// What a request changed in the records.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) records: Vec<Record>,
    pub(super) changes: BTreeMap<Slot, Change>,
    pub(super) warnings: Vec<Warning>,
}

/// What becomes of the requests of a batch, each at its place; `None` is not done yet.
type Answers = Vec<Option<Result<Report, NodeError>>>;

impl<K: Kernel> Node<K> {
    /// Does all of these, as if one after another, and answers each as [`Self::up`] and [`Self::down`] would. Those
    /// that do not depend on each other are done together.
    pub fn apply(&mut self, requests: &[Request]) -> Vec<Result<Report, NodeError>> {
        let mut answers: Answers = requests.iter().map(|_| None).collect();
        // Each round does the first of those that are left, if nothing else.
        while let Some(first) = answers.iter().position(Option::is_none) {
            if self.round(requests, &mut answers).is_err() {
                // What fails for all is said to each: one after another, each with its own words.
                if let (Some(request), Some(answer)) = (requests.get(first), answers.get_mut(first))
                {
                    *answer = Some(self.apply_one(request));
                }
            }
        }
        answers.into_iter().flatten().collect()
    }

    /// Does one.
    pub(super) fn apply_one(&mut self, request: &Request) -> Result<Report, NodeError> {
        let mut answer = vec![None];
        self.round(std::slice::from_ref(request), &mut answer)?;
        answer.pop().flatten().unwrap_or_else(|| Ok(Report::default()))
    }

    /// Does together what of the requests that are left can be done together.
    fn round(&mut self, requests: &[Request], answers: &mut Answers) -> Result<(), NodeError> {
        let mut left = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let Some(answer) = answers.get_mut(index).filter(|answer| answer.is_none()) else {
                continue;
            };
            match self.resolved(request) {
                Ok(request) => left.push((index, request)),
                Err(error) => *answer = Some(Err(error)),
            }
        }
        let Some((_, first)) = left.first() else { return Ok(()) };
        self.refuse_blank()?;
        if matches!(first, Request::Down(_)) && self.is_blank()? {
            // There is nothing to take down, and nothing is made.
            for (index, request) in &left {
                let Request::Down(selector) = request else { break };
                if let Some(answer) = answers.get_mut(*index) {
                    *answer = Some(self.down_of_nothing(selector));
                }
            }
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut store = self.take_store()?;
        let done = self.round_in(&mut store, &left, answers);
        self.keep_store(store);
        done
    }

    fn round_in(
        &mut self,
        store: &mut Store,
        left: &[(usize, Request)],
        answers: &mut Answers,
    ) -> Result<(), NodeError> {
        let tx = store.transaction()?;
        self.write_deferred(&tx)?;
        let interrupted = self.interrupted(&tx)?;
        let any_up = left.iter().any(|(_, request)| matches!(request, Request::Up(..)));
        let host = if any_up { Some(self.decide(&tx, false)?) } else { self.decided(&tx, false)? };
        if host.as_ref().is_none_or(|host| host.first_use) {
            self.refuse_unrecorded()?;
        }
        let Some(host) = host else {
            for (index, request) in left {
                if let (Request::Down(selector), Some(answer)) = (request, answers.get_mut(*index))
                {
                    *answer = Some(self.leaving(&tx, selector).map(|_| Report::default()));
                }
            }
            return Ok(());
        };
        let done = self.record_each(&host, &tx, left, answers);
        if done.is_empty() {
            return Ok(());
        }
        // Those that stay need forwarding, which somebody may have turned off meanwhile.
        host.record(&tx)?;
        let changes = done.values().flat_map(|recorded| recorded.changes.clone()).collect();
        let look = self.look(&tx, &host, Some(&changes), &interrupted);
        let look = unless_claimed(look)?;
        tx.commit()?;
        self.deferred_are_written();
        let records: Vec<_> = done.values().flat_map(|recorded| recorded.records.clone()).collect();
        let settled = self.settle(store, &host, look?, &interrupted, &records)?;
        let alone = done.len() == 1;
        let asked = records.iter().map(|record| record.workload.name()).collect();
        for (index, recorded) in done {
            let report = report(&host, &settled, recorded, &asked, alone);
            if let Some(answer) = answers.get_mut(index) {
                *answer = Some(report);
            }
        }
        Ok(())
    }

    /// Records what can be recorded together, and answers what is refused: up to the first request that concerns an
    /// instance of an earlier one, or is refused for what an earlier one holds.
    fn record_each(
        &mut self,
        host: &Host,
        tx: &Tx<'_>,
        left: &[(usize, Request)],
        answers: &mut Answers,
    ) -> BTreeMap<usize, Recorded> {
        let mut done: BTreeMap<usize, Recorded> = BTreeMap::new();
        let mut touched: BTreeSet<InstanceName> = BTreeSet::new();
        for (index, request) in left {
            let names = names(request);
            let meets =
                names.as_ref().map_or(!done.is_empty(), |names| !names.is_disjoint(&touched));
            if meets {
                break;
            }
            match tx.attempt(|| self.record_one(host, tx, request)) {
                Ok(recorded) => drop(done.insert(*index, recorded)),
                Err(error) if error.is_contended() && !done.is_empty() => break,
                Err(error) => {
                    if let Some(answer) = answers.get_mut(*index) {
                        *answer = Some(Err(error));
                    }
                }
            }
            match names {
                Some(names) => touched.extend(names),
                None => break,
            }
        }
        done
    }

    fn record_one(
        &mut self,
        host: &Host,
        tx: &Tx<'_>,
        request: &Request,
    ) -> Result<Recorded, NodeError> {
        match request {
            Request::Up(workloads, options) => {
                let recorded = self.record(host, tx, workloads)?;
                if let Some(warning) = recorded.warnings.first().filter(|_| options.strict) {
                    return Err(NodeError::Shadows { warning: Box::new(warning.clone()) });
                }
                Ok(recorded)
            }
            Request::Down(selector) => {
                let mut recorded = Recorded::default();
                for record in self.leaving(tx, selector)? {
                    let before = Some(fragment(host, &record)?);
                    recorded.changes.insert(record.slot, Change { before, after: None });
                    recorded.records.extend(tx.set_phase(&record, Phase::Removing)?);
                }
                Ok(recorded)
            }
        }
    }

    fn resolved(&mut self, request: &Request) -> Result<Request, NodeError> {
        Ok(match request {
            Request::Up(workloads, options) => {
                Request::Up(accounts::resolved(&mut self.kernel, workloads)?, *options)
            }
            Request::Down(selector) => Request::Down(selector.clone()),
        })
    }

    /// Whether nothing was ever recorded here.
    pub(super) fn is_blank(&self) -> Result<bool, NodeError> {
        let open = self.store.as_ref().is_some_and(Store::is_current);
        Ok(!open && Store::open_existing(&self.config.state_dir)?.is_none())
    }

    pub(super) fn down_of_nothing(&self, selector: &Selector) -> Result<Report, NodeError> {
        match selector {
            Selector::Named(names) => match names.first() {
                Some(name) => Err(self.unknown(name, None)),
                None => Ok(Report::default()),
            },
            Selector::All => Ok(Report::default()),
        }
    }
}

/// The instances that a request names; `None` where it is for all.
fn names(request: &Request) -> Option<BTreeSet<InstanceName>> {
    match request {
        Request::Up(workloads, _) => Some(workloads.iter().map(|w| w.name().clone()).collect()),
        Request::Down(Selector::Named(names)) => Some(names.clone()),
        Request::Down(Selector::All) => None,
    }
}

/// What of all that was done answers one request.
fn report(
    host: &Host,
    settled: &Settled,
    recorded: Recorded,
    asked: &BTreeSet<&InstanceName>,
    alone: bool,
) -> Result<Report, NodeError> {
    let Recorded { records, changes, warnings } = recorded;
    let done = if alone {
        settled.done.clone()
    } else {
        let slots = changes.keys().copied().collect();
        let part = |step| part(step, &slots, host.node.pool);
        settled.done.iter().filter_map(part).collect()
    };
    let failed: BTreeSet<_> = settled.failures.iter().map(|failure| &failure.name).collect();
    let mine: BTreeSet<_> = records.iter().map(|record| record.workload.name()).collect();
    let of = |wanted: &dyn Fn(&InstanceName) -> bool| {
        settled.failures.iter().filter(|failure| wanted(&failure.name)).cloned().collect()
    };
    let (failures, others) = (of(&|name| mine.contains(name)), of(&|name| !asked.contains(name)));
    let mut instances = Vec::new();
    for record in &records {
        if record.phase != Phase::Removing && !failed.contains(record.workload.name()) {
            let up = Record { phase: Phase::Up, ..record.clone() };
            instances.push(Instance::new(&host.node, &up)?);
        }
    }
    instances.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(Report { instances, done, failures, others, warnings })
}

/// The part of a step that is for these slots, or for all.
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
        other => Some(other.clone()),
    }
}

impl NodeError {
    /// Whether it may be otherwise once what is under way has come to its end: a port or a slot is still held.
    fn is_contended(&self) -> bool {
        matches!(self, Self::Store(StoreError::PortTaken { .. })) || self.is_exhausted()
    }

    /// Whether every slot is taken. Those of instances that are gone become free once their TAPs are.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        matches!(self, Self::Store(StoreError::PoolExhausted { .. }))
    }
}
