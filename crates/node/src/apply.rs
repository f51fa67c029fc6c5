//! Brings instances up and takes them down: record, plan, apply, commit.
//!
//! Waiting requests are done together: one transaction of the store, one of the firewall, one `send` for each kind of
//! change to the interfaces. Each has its own answer.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    InUse, NodeError, Report, Request, Selector, UpOptions, Warning, accounts,
    answer::{Answers, Waiting},
    host::Interfaces,
    ownership::unless_claimed,
    record::Recorded,
    session::{Context, Operations, Session},
};
use crate::store::Tx;
use riklet_core::{
    model::{InstanceName, Workload},
    plan::Observed,
};
use riklet_kernel::{HostFacts, Kernel};

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn up(
        &mut self,
        workloads: &[Workload],
        options: UpOptions,
    ) -> Result<Report, NodeError> {
        self.apply_one(&Request::Up(workloads.to_vec(), options))
    }

    pub(crate) fn down(&mut self, request: &Request, purge: bool) -> Result<Report, NodeError> {
        match request.down() {
            Some((selector, supervisor)) if purge => self.purge(&selector, supervisor),
            _ => self.apply_one(request),
        }
    }

    pub(crate) fn apply(&mut self, requests: &[Request]) -> Vec<Result<Report, NodeError>> {
        self.begin(requests).into_iter().flatten().collect()
    }

    /// Does these requests, except those that have to wait for a task which forgets flows.
    pub(crate) fn begin(&mut self, requests: &[Request]) -> Vec<Option<Result<Report, NodeError>>> {
        let mut answers = Answers::to(requests);
        self.hold(&mut answers);
        // Each round answers at least the first waiting request.
        while let Some((first, request)) = answers.first_waiting() {
            if let Err(error) = self.apply_together(&mut answers) {
                if answers.give_everyone(&error) {
                    break;
                }
                // A failure of the whole batch is reported by each request: each is done alone, and fails in its own
                // words.
                answers.give(first, self.apply_one(request));
            }
            self.hold(&mut answers);
        }
        answers.into_results()
    }

    fn hold(&self, answers: &mut Answers<'_>) {
        let tasks = &self.context.cache.flow_tasks;
        if tasks.are_in_use() {
            let is_ahead_of = |r: &Request| tasks.are_ahead_of(r.names().as_ref(), r.brought_up());
            answers.hold(is_ahead_of);
        }
    }

    fn apply_one(&mut self, request: &Request) -> Result<Report, NodeError> {
        let mut answers = Answers::to(std::slice::from_ref(request));
        self.apply_together(&mut answers)?;
        answers.into_results().pop().flatten().unwrap_or_else(|| Ok(Report::default()))
    }

    /// Does those of the waiting requests that can be done together, and answers them.
    fn apply_together(&mut self, answers: &mut Answers<'_>) -> Result<(), NodeError> {
        let waiting = resolved(self.context.kernel, answers);
        let Some((_, first)) = waiting.first() else { return Ok(()) };
        if first.down().is_some() && self.is_blank()? {
            // Nothing was ever recorded, so there is nothing to take down, and no records are created.
            self.refuse_blank()?;
            for (index, request) in &waiting {
                let Some((selector, _)) = request.down() else { break };
                answers.give(*index, self.context.down_of_nothing(&selector));
            }
            return Ok(());
        }
        self.session()?.apply(&waiting, answers)
    }
}

impl<K: Kernel> Session<'_, K> {
    fn apply(&mut self, waiting: &[Waiting], answers: &mut Answers<'_>) -> Result<(), NodeError> {
        // Record.
        let (tx, context) = self.begin()?;
        let mut interrupted = context.interrupted(&tx)?;
        let any_up = waiting.iter().any(|(_, request)| matches!(request, Request::Up(..)));
        let host = if any_up {
            Some(context.decide(&tx, Interfaces::Recorded)?)
        } else {
            let host = context.decided_or_unclaimed(&tx, Interfaces::Recorded)?;
            host.map(|host| Arc::unwrap_or_clone(host).for_leaving().into())
        };
        let Some(host) = host else {
            for (index, request) in waiting {
                if let Some((selector, supervisor)) = request.down() {
                    let found = context.leaving(&tx, &selector, supervisor);
                    answers.give(*index, found.map(|_| Report::default()));
                }
            }
            return Ok(());
        };
        let mut rules = context.known_rules(&tx, &host)?;
        let mut recorded = record_together(waiting, answers, &tx, |request| {
            context.record((&host, &tx, &mut rules), request)
        })?;
        if recorded.is_empty() {
            return Ok(());
        }
        // The remaining instances need forwarding, which another program may have turned off meanwhile.
        host.record(&tx)?;
        let changes = recorded.iter().flat_map(|(_, r)| r.changes.clone()).collect();
        // The kernel objects of unreadable records are only found by looking at everything.
        let unreadable = recorded.iter().flat_map(|(_, r)| &r.unreadable);
        interrupted.extend(unreadable.map(|unreadable| unreadable.slot));
        let sight = unless_claimed(context.look(&tx, &host, &changes, (&interrupted, rules)))?;
        context.commit(tx)?;

        // Plan and apply.
        let sight = sight?;
        self.context.warn_of_users(waiting, &mut recorded, sight.found());
        let converged = self.converge(&host, sight, &interrupted)?;

        // Commit.
        let records: Vec<_> = recorded.iter().flat_map(|(_, r)| r.records.clone()).collect();
        let committed = self.commit_outcome(converged, &records)?;
        answers.give_all(recorded, &host, &committed);
        Ok(())
    }
}

/// Returns the waiting requests, with numbers instead of the names of users and groups. Answers the requests whose
/// names the host does not know.
fn resolved(kernel: &mut impl HostFacts, answers: &mut Answers<'_>) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for (index, request) in answers.waiting() {
        let resolved = match request {
            Request::Up(workloads, options) => accounts::resolved(kernel, workloads)
                .map(|workloads| Request::Up(workloads, *options)),
            down => Ok(down.clone()),
        };
        match resolved {
            Ok(request) => waiting.push((index, request)),
            Err(error) => answers.give(index, Err(error)),
        }
    }
    waiting
}

/// Records requests that can be recorded together, and answers those that are refused. Stops at the first request that
/// concerns an instance of an earlier one, or is refused because of what an earlier one holds; what one that is held back
/// may free is waited for. Fails if one of them ends the transaction: then none is recorded.
///
/// If a single request is refused, the transaction may have a part of it, and must not be committed. So a single one costs
/// no copies of what it changes.
fn record_together(
    waiting: &[Waiting],
    answers: &mut Answers<'_>,
    tx: &Tx<'_>,
    mut record: impl FnMut(&Request) -> Result<Recorded, NodeError>,
) -> Result<Vec<(usize, Recorded)>, NodeError> {
    let mut done: Vec<(usize, Recorded)> = Vec::new();
    let mut touched: BTreeSet<InstanceName> = BTreeSet::new();
    for (index, request) in waiting {
        let names = request.names();
        let meets = names.as_ref().map_or(!done.is_empty(), |names| !names.is_disjoint(&touched));
        if meets {
            break;
        }
        let recorded = match waiting {
            [_alone] => record(request),
            _ => tx.attempt(|| record(request)),
        };
        match recorded {
            Ok(recorded) => done.push((*index, recorded)),
            Err(error) if tx.is_over() => return Err(error),
            Err(error) if error.is_contended() && !done.is_empty() => break,
            Err(error) if error.is_contended() && answers.has_held() => answers.hold_one(*index),
            Err(error) => answers.give(*index, Err(error)),
        }
        match names {
            Some(names) => touched.extend(names),
            None => break,
        }
    }
    Ok(done)
}

impl<K: Kernel> Context<'_, K> {
    /// Warns of processes that have the TAPs of leaving instances open, unless the supervisor of the run asks, who ended
    /// them. Processes are looked at only if there are such TAPs.
    fn warn_of_users(
        &mut self,
        waiting: &[Waiting],
        recorded: &mut [(usize, Recorded)],
        found: &Observed,
    ) {
        for (index, recorded) in recorded {
            let request = waiting.iter().find(|(waiting, _)| waiting == index);
            if !matches!(request.and_then(|(_, request)| request.down()), Some((_, None))) {
                continue;
            }
            for record in &recorded.records {
                let Some(link) = found.links.get(&record.slot).filter(|link| link.open) else {
                    continue;
                };
                let process = self.kernel.tap_user(&link.name, self.cache.most_processes());
                let (name, tap) = (record.workload.name().clone(), link.name.clone());
                recorded.warnings.push(Warning::InUse(InUse { name, tap, process }));
            }
        }
    }

    /// Answers a `down` if nothing was ever recorded.
    pub(crate) fn down_of_nothing(&self, selector: &Selector) -> Result<Report, NodeError> {
        match selector {
            Selector::Named(names) => match names.first() {
                Some(name) => Err(self.unknown(name, None)),
                None => Ok(Report::default()),
            },
            Selector::All => Ok(Report::default()),
        }
    }
}
