//! Supervises functions: brings up their network, starts their VMMs, and removes everything again, whatever happens.
//!
//! ```text
//! prepare (choose a VMM, obtain its files) ► supervise: record ► up ► start ► ready ► watch ► stop ► down ► record the end
//! ```
//!
//! The supervisor of a run is the calling process: the kernel ends its VMMs with it (`PR_SET_PDEATHSIG`), and a run whose
//! supervisor died is cleared away by the next operation ([`crate::runs::clear_lost`]).

mod error;
mod guests;
mod prepare;
mod readiness;
#[cfg(test)]
mod tests;
mod user;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    time::{Duration, Instant, SystemTime},
};

use riklet_core::model::{InstanceName, Vmm};
use riklet_kernel::{
    Kernel,
    process::{self, ProcessId},
};
use riklet_sdn::{
    Instance, Node, NodeError, Report, Selector, UpOptions,
    store::{End, ReservedSlot, Store},
};

use self::{
    error::Played,
    guests::{Event, RunningGuests},
    readiness::{Outcome, Wait},
};
pub use self::{
    error::{ConsoleEnd, SupervisorError},
    guests::Ended,
    prepare::{Player, Prepared, Sources, facts, prepare, refuse_sources},
    readiness::{PortAnswer, Readiness, tcp_exposures},
    user::kvm_group,
};
use crate::{
    attachment::{Attachment, without_resolver},
    handle::Patience,
    runs, slot_user,
};

/// Options of a supervisor.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The time that the guests have to boot, and their published ports to answer.
    pub ready_timeout: Duration,
    /// Takes the functions for ready as soon as their VMMs run: no port and no carrier is waited for.
    pub no_wait: bool,
    /// Starts the built-in guest, for a function that no VMM runs.
    pub player: Player<'a>,
    /// Readable once the supervisor shall stop: a signal came, say.
    pub stop: BorrowedFd<'a>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("ready_timeout", &self.ready_timeout)
            .finish_non_exhaustive()
    }
}

/// The durations of the parts of a start, each after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Bringing up the network.
    pub network: Duration,
    /// Starting the VMMs.
    pub vmm: Duration,
    /// The guests' boot, until each of them has answered, if only with a refusal.
    pub boot: Duration,
    /// The time from then until every published port accepts a connection.
    pub answer: Duration,
}

/// Functions that are ready.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The instances in the order in which they were prepared, and what runs them.
    pub instances: &'a [(&'a Instance, Vmm)],
    /// The prepared functions.
    pub prepared: &'a [Prepared],
    /// The answers of their ports.
    pub readiness: &'a Readiness,
    /// The durations of the parts.
    pub times: Times,
    /// The report of the `up`.
    pub report: &'a Report,
}

/// Observes a supervisor. An error of one of these methods ends the run, as any other error does.
pub trait Observer<K> {
    /// The type of the errors that end a run.
    type Error: From<SupervisorError>;

    /// Called when the network of every instance is up.
    ///
    /// # Errors
    /// An error ends the run.
    fn networked(&mut self, report: &Report) -> Result<(), Self::Error>;

    /// Called when the VMM of an instance has started, and boots.
    ///
    /// # Errors
    /// An error ends the run.
    fn started(&mut self, node: &Node<K>, instance: &Instance) -> Result<(), Self::Error>;

    /// Called while functions are not ready, whenever this changes: what the first of them waits for, in words, and the number
    /// of the others that wait.
    fn waiting(&mut self, _first: &str, _others: usize) {}

    /// Called when every function is ready.
    ///
    /// # Errors
    /// An error ends the run.
    fn ready(&mut self, node: &mut Node<K>, ready: &Ready<'_>) -> Result<(), Self::Error>;

    /// Called when a VMM has ended by itself.
    fn ended(&mut self, ended: &Ended);

    /// Called when the network of every instance is down again.
    ///
    /// # Errors
    /// An error makes the run count as failed.
    fn left(&mut self, report: &Report) -> Result<(), Self::Error>;

    /// Returns the text of an error, which is recorded as the reason why the runs ended.
    fn words(error: &Self::Error) -> String;
}

/// Refuses functions that are recorded. They belong to whoever brought them up, and running them would take them down
/// in the end.
///
/// # Errors
/// Fails if one of them is recorded or running, or the records cannot be read.
pub fn refuse_recorded<'a, K: Kernel>(
    node: &Node<K>,
    names: impl IntoIterator<Item = &'a InstanceName>,
) -> Result<(), SupervisorError> {
    let Some(store) = Store::open_existing(&node.config().state_dir)? else { return Ok(()) };
    for name in names {
        runs::refuse_running(&store, name)?;
        if store.get(name)?.is_some() {
            return Err(SupervisorError::Recorded { name: name.clone() });
        }
    }
    Ok(())
}

/// Runs these functions until `options.stop` is readable or no VMM is left, and takes their network down. Returns
/// whether every run ended without a failure.
///
/// # Errors
/// Fails without any change if one of them is recorded or running. Fails if one cannot be started, is not ready in
/// time, or the observer returns an error. Every VMM is ended then, and the network is down unless taking it down
/// failed too.
pub fn supervise<K: Kernel, O: Observer<K>>(
    node: &mut Node<K>,
    prepared: &[Prepared],
    options: &Options<'_>,
    observer: &mut O,
) -> Result<bool, O::Error> {
    let begun = begin(node, prepared);
    if let Err(error) = &begun {
        prepare::give_up(node.config(), prepared.iter().map(Prepared::name), error);
    }
    let (names, supervisor) = begun?;
    let state_dir = node.config().state_dir.clone();
    let guests = RunningGuests::new(options.stop, state_dir, supervisor);
    let mut supervision = Supervision { node, guests, options, observer };
    let supervised = supervision.run(prepared);
    // Everything is removed, whatever happened.
    let failure = supervised.as_ref().err().map(O::words);
    let Supervision { node, mut guests, observer, .. } = supervision;
    let stopped = guests.stop(node, Patience::default(), failure.as_deref());
    let left = leave(node, &names, supervisor, failure, observer);
    let sound = supervised?;
    stopped?;
    left?;
    Ok(sound)
}

/// Records the runs, with this process as their supervisor. Returns their names and VMMs, and the supervisor.
fn begin<K: Kernel>(
    node: &Node<K>,
    prepared: &[Prepared],
) -> Result<(Vec<(InstanceName, Vmm)>, ProcessId), SupervisorError> {
    // Downloads take time: somebody else may have brought a function up meanwhile.
    refuse_recorded(node, prepared.iter().map(Prepared::name))?;
    let identity = |source| SupervisorError::Identity { source };
    let supervisor = ProcessId::current().map_err(identity)?;
    process::adopt_orphans().map_err(identity)?;
    let names: Vec<_> = prepared.iter().map(|p| (p.name().clone(), p.choice.vmm)).collect();
    let mut store = Store::open(&node.config().state_dir)?;
    runs::begin(&mut store, &names, supervisor, epoch_millis())?;
    Ok((names, supervisor))
}

/// The functions of one supervisor, from bringing up their network to their end.
struct Supervision<'a, K, O> {
    node: &'a mut Node<K>,
    guests: RunningGuests<'a>,
    options: &'a Options<'a>,
    observer: &'a mut O,
}

impl<K: Kernel, O: Observer<K>> Supervision<'_, K, O> {
    fn run(&mut self, prepared: &[Prepared]) -> Result<bool, O::Error> {
        let started = now();
        let workloads: Vec<_> = prepared.iter().map(|p| p.workload.clone()).collect();
        let report = self.node.up(&workloads, UpOptions::default());
        let report = report.map_err(SupervisorError::from)?;
        self.observer.networked(&report)?;
        let networked = now();
        let instances: Vec<_> = prepared.iter().zip(ordered(&report, prepared)).collect();
        let deadline = self.start(&instances)?;
        let launched = now();
        let played: Vec<Played<'_>> = instances.iter().map(|(p, i)| (*i, p.choice.vmm)).collect();
        let wait =
            Wait { nothing: self.options.no_wait, limit: self.options.ready_timeout, deadline };
        let said = |first: &str, others| self.observer.waiting(first, others);
        let readiness = match readiness::wait(self.node, &mut self.guests, &played, wait, said)? {
            Outcome::Ready(readiness) => readiness,
            Outcome::Stopped => return Ok(true),
            Outcome::Ended(ended) => return Err(SupervisorError::from(ended).into()),
        };
        let times = Times {
            network: networked - started,
            vmm: launched - networked,
            boot: readiness.booted.saturating_duration_since(launched),
            answer: readiness.accepted - readiness.booted,
        };
        let after = u64::try_from((readiness.accepted - started).as_millis()).unwrap_or(u64::MAX);
        self.guests.set_ready(readiness.awaited.then_some(after))?;
        let (instances, readiness) = (&*played, &readiness);
        let ready = Ready { instances, prepared, readiness, times, report: &report };
        self.observer.ready(self.node, &ready)?;
        Ok(self.watch()?)
    }

    /// Starts the VMMs, and returns the time by which the functions shall be ready.
    fn start(&mut self, instances: &[(&Prepared, &Instance)]) -> Result<Instant, O::Error> {
        let resolvers = self.node.kernel().resolvers().map_err(SupervisorError::from)?;
        let mut launches = Vec::new();
        for (prepared, instance) in instances {
            if prepared.choice.vmm != Vmm::Builtin
                && let Some(warning) = without_resolver(&Attachment::of(instance, &resolvers))
            {
                tracing::warn!("{warning}");
            }
            let image_dir = &self.node.config().vmm.image_dir;
            let launch = prepared.launch(image_dir, instance, &resolvers, self.options.player);
            let name = || instance.name().clone();
            let failed = |source| SupervisorError::Launch { name: name(), source };
            launches.push(launch.map_err(failed)?);
        }
        let deadline = now() + self.options.ready_timeout;
        for ((_, instance), launch) in instances.iter().zip(&launches) {
            self.guests.start(instance.name(), launch)?;
            self.observer.started(self.node, instance)?;
        }
        // One that is slow keeps none of the others waiting.
        self.guests.boot(self.node, &launches, self.options.ready_timeout)?;
        Ok(deadline)
    }

    /// Waits until the supervisor shall stop or no VMM is left. The end of one VMM does not affect the others.
    fn watch(&mut self) -> Result<bool, SupervisorError> {
        let mut sound = true;
        while !self.guests.is_empty() {
            match self.guests.wait(self.node, None)? {
                Some(Event::Stop) => break,
                Some(Event::Ended(ended)) => {
                    self.observer.ended(&ended);
                    sound &= !ended.failed;
                }
                None => {}
            }
        }
        Ok(sound)
    }
}

/// Returns the instances of the report in the order of `prepared`.
fn ordered<'a>(report: &'a Report, prepared: &[Prepared]) -> Vec<&'a Instance> {
    let find = |p: &Prepared| report.instances.iter().find(|i| i.name() == p.name());
    prepared.iter().filter_map(find).collect()
}

/// Leaves the host as it was, unless instances of others remain. The network goes first, while the names are still
/// reserved: after a run has ended, another `run` or `up` may take its name.
fn leave<K: Kernel, O: Observer<K>>(
    node: &mut Node<K>,
    names: &[(InstanceName, Vmm)],
    supervisor: ProcessId,
    failure: Option<String>,
    observer: &mut O,
) -> Result<(), O::Error> {
    let report = take_down(node, names, supervisor, failure)?;
    observer.left(&report)
}

fn take_down<K: Kernel>(
    node: &mut Node<K>,
    names: &[(InstanceName, Vmm)],
    supervisor: ProcessId,
    failure: Option<String>,
) -> Result<Report, SupervisorError> {
    let store = Store::open(&node.config().state_dir)?;
    let mut remaining = BTreeSet::new();
    let mut occupied = BTreeMap::new();
    for (name, _) in names {
        let run = store.run(name)?;
        let ours = run.is_some_and(|run| run.supervisor == supervisor && run.end.is_none());
        let record = if ours { store.get(name)? } else { None };
        match slot_user::end_of(record.as_ref()) {
            Ok(()) if record.is_some() => drop(remaining.insert(name.clone())),
            Ok(()) => {}
            // Its slot stays taken, and the run counts as lost, until nothing runs as its user.
            Err(source) => drop(occupied.insert(name.clone(), source)),
        }
    }
    // A daemon's node: it keeps slots ready.
    let kept_ready = !store.reserved(ReservedSlot::Ready)?.is_empty();
    drop(store);
    let (selector, nothing) = (Selector::Named(remaining), Selector::Named(BTreeSet::new()));
    let report = match node.down_as(supervisor, &selector, !kept_ready) {
        Err(NodeError::Remaining { .. }) => {
            let report = node.down_as(supervisor, &selector, false);
            // Those that remained may have left meanwhile, and each may have taken the other for the last one.
            report.and_then(|report| match node.down_as(supervisor, &nothing, true) {
                Ok(_) | Err(NodeError::Remaining { .. }) => Ok(report),
                Err(error) => Err(error),
            })
        }
        report => report,
    };
    let failed = failure.is_some();
    let reason = failure.unwrap_or_else(|| "stopped".to_owned());
    let mut store = Store::open(&node.config().state_dir)?;
    let tx = store.transaction()?;
    for (name, _) in names.iter().filter(|(name, _)| !occupied.contains_key(name)) {
        let reason = reason.clone();
        tx.end_run(name, supervisor, &End::new(epoch_millis(), reason, failed))?;
    }
    tx.commit()?;
    let report = report?;
    let occupied = occupied.into_iter().next();
    occupied.map_or(Ok(report), |(name, source)| Err(SupervisorError::Wait { name, source }))
}

#[expect(clippy::disallowed_methods, reason = "a supervisor measures how long a start takes")]
fn now() -> Instant {
    Instant::now()
}

/// Returns the current time in milliseconds since 1970, as the records have it.
#[expect(clippy::disallowed_methods, reason = "a supervisor records when a run ended")]
pub(crate) fn epoch_millis() -> u64 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
