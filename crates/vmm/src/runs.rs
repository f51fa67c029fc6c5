//! The runs of a node: how they begin, how they are found and stopped, and how the remains of a crash are removed.

pub(crate) mod grace;
mod lost;
mod places;
mod recovered;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use self::places::{MACHINES, marks, marks_of_all};
pub use self::{
    lost::{Orphan, Orphans, Repaired, clear_lost, lost, repair},
    places::{directory, home, log, mark, socket, vmm_log},
    recovered::recover,
};
use super::{
    handle::{Handle, Patience, Stopped, within},
    image,
    supervisor::epoch_millis,
};
use riklet_core::model::{InstanceName, Vmm};
use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    Drift, NodeError, NodeOperations, Report, Selector,
    store::{End, Run, Store, StoreError},
};
use rustix::process::Signal;

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunState {
    /// Its images are obtained.
    Preparing,
    /// The published ports do not answer yet.
    Starting,
    /// The published ports answered, or nobody waits for that.
    Running,
    /// Somebody asked it to stop.
    Stopping,
    /// It has ended, and nothing remains of it.
    Ended,
    /// Its supervisor has died; `repair` removes what remains.
    Lost,
}

impl RunState {
    /// Returns the state as a word for output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Lost => "lost",
        }
    }

    /// Returns the state of a run, given whether its supervisor is alive. Pure.
    #[must_use]
    pub const fn of(run: &Run, supervised: bool) -> Self {
        match run {
            Run { end: Some(_), .. } => Self::Ended,
            _ if !supervised => Self::Lost,
            Run { stopping: true, .. } => Self::Stopping,
            Run { preparing: true, .. } => Self::Preparing,
            Run { ready: Some(_), .. } => Self::Running,
            _ => Self::Starting,
        }
    }
}

/// The reason why a run cannot be begun, found or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The records cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The instance is running, or its network cannot be taken down.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The instance neither runs nor ran.
    #[error("no run of {name} is recorded")]
    Unknown {
        /// The instance.
        name: InstanceName,
        /// The most similar name of a run.
        nearest: Option<InstanceName>,
    },
    /// A process cannot be examined or signalled.
    #[error("cannot {operation} the process of {name}")]
    Process {
        /// The operation.
        operation: &'static str,
        /// The instance.
        name: InstanceName,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The files that a run left in its directory cannot be removed.
    #[error("cannot remove {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The supervisor died, so that nobody can tell how the run ended.
    #[error("the supervisor of {name} has died")]
    Lost {
        /// The instance.
        name: InstanceName,
    },
    /// The instance was run again after the run had ended, so that the record is that of the new run.
    #[error("{name} was run again: how its earlier run ended is not known")]
    RunAgain {
        /// The instance.
        name: InstanceName,
    },
    /// The record names a VMM that this version does not know.
    #[error("{name} was run by {vmm}, which this version does not know")]
    Vmm {
        /// The instance.
        name: InstanceName,
        /// The recorded name of the VMM.
        vmm: String,
    },
}

/// Removes the private copies of the images of an instance whose VMM has ended, from this directory of images. If that fails,
/// the next run of the instance does it.
pub fn remove_copies(image_dir: &Path, name: &InstanceName) {
    if let Err(error) = image::remove_copies(image_dir, name) {
        tracing::warn!(%error, %name, "cannot remove the private copies of its images");
    }
}

/// Returns the present state of a run.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub fn state(run: &Run) -> Result<RunState, RunError> {
    if run.end.is_some() {
        return Ok(RunState::Ended);
    }
    let supervised = run.supervisor.is_alive();
    let supervised = supervised.map_err(|source| process_error("look at", &run.name, source))?;
    Ok(RunState::of(run, supervised))
}

/// Records that this process obtains the images of a run.
///
/// # Errors
/// Fails if it is running.
pub(crate) fn prepare(
    state_dir: &Path,
    name: &InstanceName,
    vmm: Vmm,
    now: u64,
) -> Result<(), RunError> {
    let ours = ProcessId::current().map_err(|source| process_error("look at", name, source))?;
    let mut store = Store::open(state_dir)?;
    let tx = store.transaction()?;
    refuse_running(&tx, name)?;
    tx.prepare_run(name, vmm.as_str(), ours, now)?;
    Ok(tx.commit()?)
}

/// Records that these runs fail before they begin, those whose images this process obtains.
///
/// # Errors
/// Fails if the records cannot be changed.
pub(crate) fn give_up<'a>(
    state_dir: &Path,
    names: impl IntoIterator<Item = &'a InstanceName>,
    reason: &str,
    now: u64,
) -> Result<(), RunError> {
    let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(()) };
    let tx = store.transaction()?;
    for name in names {
        if let Some(run) = tx.run(name)?.filter(|run| run.preparing && is_ours(run)) {
            tx.end_run(name, run.supervisor, &End::new(now, reason.to_owned(), true))?;
        }
    }
    Ok(tx.commit()?)
}

/// Reports whether this process supervises a run.
fn is_ours(run: &Run) -> bool {
    ProcessId::current().is_ok_and(|ours| ours == run.supervisor)
}

/// Records the start of these runs, with the given process as their supervisor. Records all of them or none.
///
/// # Errors
/// Fails if one of them is running.
pub fn begin(
    store: &mut Store,
    names: &[(InstanceName, Vmm)],
    supervisor: ProcessId,
    now: u64,
) -> Result<(), RunError> {
    let tx = store.transaction()?;
    for (name, vmm) in names {
        refuse_running(&tx, name)?;
        tx.begin_run(name, vmm.as_str(), supervisor, now)?;
    }
    Ok(tx.commit()?)
}

/// Fails if the run is in progress, unless it is one whose images this process has obtained.
fn refuse_live(run: &Run) -> Result<(), RunError> {
    match state(run)? {
        RunState::Ended | RunState::Lost => Ok(()),
        RunState::Preparing if is_ours(run) => Ok(()),
        RunState::Preparing | RunState::Starting | RunState::Running | RunState::Stopping => {
            Err(NodeError::already_running(run).into())
        }
    }
}

/// Returns the drift of the kernel from the records, and the runs whose supervisor has died.
///
/// # Errors
/// Fails as [`NodeOperations::check`] and [`lost()`] do.
pub fn check(node: &mut impl NodeOperations) -> Result<(Drift, Vec<Run>), RunError> {
    let drift = node.check()?;
    let store = Store::open_existing(&node.config().state_dir)?;
    Ok((drift, store.map(|store| lost(&store)).transpose()?.unwrap_or_default()))
}

impl RunError {
    /// Tells whether this process lacks the capability to end the processes of another user.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Process { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(source) => source.hint(),
            Self::Node(source) => source.hint(),
            Self::Unknown { nearest: Some(nearest), .. } => {
                Some(format!("did you mean {nearest}?"))
            }
            Self::Unknown { nearest: None, .. } => Some("`riklet-sdn ps` shows all".to_owned()),
            denied if denied.is_denied() => {
                Some("as root, `riklet-sdn --no-daemon repair` ends it".to_owned())
            }
            Self::Lost { .. } => Some("`riklet-sdn repair` clears away what it left".to_owned()),
            _ => None,
        }
    }
}

/// Refuses a new run of an instance that is running.
///
/// # Errors
/// Fails if it is running, or the records cannot be read.
pub fn refuse_running(store: &Store, name: &InstanceName) -> Result<(), RunError> {
    store.run(name)?.as_ref().map_or(Ok(()), refuse_live)
}

/// Returns the handle that ends the VMM of a run; `None` if it was not started.
///
/// # Errors
/// Fails if the record names an unknown VMM.
pub fn handle(state_dir: &Path, run: &Run) -> Result<Option<Handle>, RunError> {
    let unknown = || RunError::Vmm { name: run.name.clone(), vmm: run.vmm.clone() };
    let vmm = Vmm::from_name(&run.vmm).ok_or_else(unknown)?;
    let (socket, mark) = (socket(state_dir, &run.name), mark(state_dir, &run.name, run.supervisor));
    Ok(run.process.map(|process| Handle { vmm, process, socket, mark }))
}

fn process_error(operation: &'static str, name: &InstanceName, source: io::Error) -> RunError {
    RunError::Process { operation, name: name.clone(), source }
}

/// Takes down the network of an instance that this supervisor runs. Succeeds if it is down already.
///
/// # Errors
/// Fails as [`NodeOperations::down_as`] does.
pub fn take_down(
    node: &mut impl NodeOperations,
    supervisor: ProcessId,
    name: &InstanceName,
) -> Result<Report, NodeError> {
    let selector = Selector::Named(BTreeSet::from([name.clone()]));
    match node.down_as(supervisor, &selector, false) {
        Err(NodeError::Unknown { .. }) => Ok(Report::default()),
        report => report,
    }
}

/// Asks a run to stop, and waits until its VMM has ended. The supervisor then takes the network down. Does nothing if the
/// run has ended, also if there is a later one of the same name.
///
/// # Errors
/// Fails if its process cannot be ended.
pub fn stop(
    store: &mut Store,
    state_dir: &Path,
    run: &Run,
    patience: Patience,
) -> Result<Stopped, RunError> {
    let name = &run.name;
    if run.end.is_some() {
        return Ok(Stopped::Before);
    }
    let tx = store.transaction()?;
    // The process is read now: a supervisor that records it later sees the request to stop.
    let now = tx.run(name)?.filter(|now| now.end.is_none() && now.started == run.started);
    let Some(run) = now else {
        return Ok(Stopped::Before);
    };
    if run.preparing {
        tx.commit()?;
        return stop_preparing(store, state_dir, &run, patience);
    }
    tx.set_run_stopping(name, run.supervisor)?;
    tx.commit()?;
    match handle(state_dir, &run)? {
        Some(handle) => match handle.stop(patience) {
            // A daemon need not have the capabilities to signal the processes of other users.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                ask_supervisor(store, state_dir, &run, handle.process, patience)
            }
            stopped => stopped,
        }
        .map_err(|source| process_error("end", name, source)),
        None => Ok(Stopped::Before),
    }
}

/// Ends the process that obtains the images of a run, and records the end of all of its runs: none of them has begun. This
/// process takes them over meanwhile, so that none begins, and nobody takes them for lost.
fn stop_preparing(
    store: &mut Store,
    state_dir: &Path,
    run: &Run,
    patience: Patience,
) -> Result<Stopped, RunError> {
    let failed = |source| process_error("end", &run.name, source);
    let (theirs, ours) = (run.supervisor, ProcessId::current().map_err(failed)?);
    let tx = store.transaction()?;
    let mut taken = Vec::new();
    for other in tx.runs_under_way()?.into_iter().filter(|other| other.preparing) {
        if other.supervisor == theirs && tx.hand_over_run(&other.name, theirs, ours)? {
            tx.set_run_stopping(&other.name, ours)?;
            taken.push(other.name);
        }
    }
    tx.commit()?;
    if !taken.contains(&run.name) {
        // It has begun, or somebody else stops it.
        return stop(store, state_dir, run, patience);
    }
    let ended = end_process(theirs, patience.process).map_err(failed);
    let tx = store.transaction()?;
    for name in &taken {
        tx.hand_over_run(name, ours, theirs)?;
        if ended.is_ok() {
            tx.end_run(name, theirs, &End::new(epoch_millis(), "stopped".to_owned(), false))?;
        }
    }
    tx.commit()?;
    ended
}

/// Asks a process that has no VMM to end, and waits for that.
fn end_process(process: ProcessId, limit: Duration) -> io::Result<Stopped> {
    let Some(ended) = process.open()? else { return Ok(Stopped::Before) };
    process.signal(Signal::TERM)?;
    if within(&ended, limit)? {
        return Ok(Stopped::Terminated);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("{process} does not end")))
}

/// Has the supervisor of a run end it, and waits until its VMM has ended. One that has other runs would end these too.
fn ask_supervisor(
    store: &Store,
    state_dir: &Path,
    run: &Run,
    process: ProcessId,
    patience: Patience,
) -> io::Result<Stopped> {
    /// The time that the supervisor may take besides.
    const MORE: Duration = Duration::from_secs(5);
    let same = |other: &Run| other.supervisor == run.supervisor && other.name != run.name;
    let others = store.runs_under_way().map_err(io::Error::other)?;
    if others.iter().any(same) {
        let words = "only root may end it alone, since its supervisor has other runs";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    grace::set(state_dir, &run.name, patience.guest)?;
    let Some(ended) = process.open()? else { return Ok(Stopped::Before) };
    run.supervisor.signal(Signal::TERM)?;
    if within(&ended, patience.guest + patience.process * 2 + MORE)? {
        return Ok(Stopped::BySupervisor);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("{process} does not end")))
}

/// Opens the store, which exists if anything was ever run.
///
/// # Errors
/// Fails if there is no store, since this name was never run then, or if it cannot be opened.
pub fn store_of(state_dir: &Path, name: &InstanceName) -> Result<Store, RunError> {
    let unknown = || RunError::Unknown { name: name.clone(), nearest: None };
    Store::open_existing(state_dir)?.ok_or_else(unknown)
}

/// Returns the last run of this name.
///
/// # Errors
/// Fails if there is none, or the records cannot be read.
pub fn find(store: &Store, name: &InstanceName) -> Result<Run, RunError> {
    if let Some(run) = store.run(name)? {
        return Ok(run);
    }
    let runs = store.runs()?;
    let nearest =
        riklet_core::nearest::nearest(name.as_str(), runs.iter().map(|run| run.name.as_str()));
    let nearest = nearest.and_then(|name| name.parse().ok());
    Err(RunError::Unknown { name: name.clone(), nearest })
}

/// Waits until a run has ended and its supervisor has recorded how. If that was the supervisor's last run, also waits
/// until the supervisor has removed what its runs shared.
///
/// # Errors
/// Fails if its supervisor dies first, or if the instance was run again before the end was seen.
pub fn wait(store: &Store, awaited: &Run) -> Result<End, RunError> {
    /// The pause between two looks at a living supervisor.
    const AGAIN: Duration = Duration::from_millis(20);
    /// The time that a supervisor without runs needs to end.
    const LEAVING: Duration = Duration::from_secs(10);
    let name = &awaited.name;
    let failed = |source| process_error("look at", name, source);
    // A run that another process takes over keeps the time of its start.
    let find = || match find(store, name)? {
        run if run.started == awaited.started => Ok(run),
        _ => Err(RunError::RunAgain { name: name.clone() }),
    };
    loop {
        let run = find()?;
        let supervisor = run.supervisor.open().map_err(failed)?;
        match (run.end, supervisor) {
            (Some(end), None) => return Ok(end),
            (Some(end), Some(supervisor)) => {
                if !store.supervises(run.supervisor)? {
                    within(&supervisor, LEAVING).map_err(failed)?;
                }
                return Ok(end);
            }
            (None, Some(supervisor)) => drop(within(&supervisor, AGAIN).map_err(failed)?),
            // The supervisor may have recorded the end before it died.
            (None, None) => {
                let found = find()?;
                match found.end {
                    Some(end) => return Ok(end),
                    // Another process took the run over, and cleans it up.
                    None if found.supervisor != run.supervisor => {}
                    None => return Err(RunError::Lost { name: name.clone() }),
                }
            }
        }
    }
}

/// Forgets the ended runs: their records, and their directories with the logs. The time depends on the number of
/// files. Needs no node.
///
/// # Errors
/// Fails if a directory cannot be removed, or the records cannot be changed. The runs before that one are forgotten
/// then.
pub fn forget_ended(state_dir: &Path) -> Result<(), RunError> {
    let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(()) };
    for run in store.runs()?.into_iter().filter(|run| run.end.is_some()) {
        forget_if_ended(&mut store, state_dir, &run.name)?;
    }
    // It stays if it has the directory of another run.
    let _in_use = std::fs::remove_dir(state_dir.join(MACHINES));
    Ok(())
}

/// Forgets a run, if it has ended. Works in one transaction, so that a new run of the same name, in the same
/// directory, cannot begin meanwhile.
fn forget_if_ended(
    store: &mut Store,
    state_dir: &Path,
    name: &InstanceName,
) -> Result<(), RunError> {
    let tx = store.transaction()?;
    if tx.run(name)?.is_none_or(|run| run.end.is_none()) {
        return Ok(());
    }
    let path = directory(state_dir, name);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(RunError::Directory { path, source });
        }
        _ => {}
    }
    tx.forget_run(name)?;
    Ok(tx.commit()?)
}

#[cfg(test)]
mod tests;
