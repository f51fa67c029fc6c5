//! Runs whose supervisor has died: found, ended, and cleared away.

use std::path::Path;

use super::{RunError, RunState, handle, process_error, state, take_down};
use crate::handle::Patience;
use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    NodeOperations, Report,
    store::{End, Run, Store},
};

/// Runs whose supervisor has died, with their VMMs ended and their network up still.
///
/// This process is their supervisor meanwhile: of several that clear away one does, and a new run of the same name is
/// refused until the old one's network is gone.
#[derive(Debug, Default)]
#[must_use = "their network is up until they are cleared"]
pub struct Orphans {
    runs: Vec<Run>,
    /// The first failure. The others are cleared all the same.
    failed: Option<RunError>,
}

/// The outcome of [`repair`].
#[derive(Debug)]
pub struct Repaired {
    /// The runs whose supervisor had died, each with what taking its network down changed.
    pub cleared: Vec<(Run, Report)>,
    /// The repair of the network that followed.
    pub report: Report,
}

/// Returns the runs whose supervisor has died.
///
/// # Errors
/// Where the records or `/proc` cannot be read.
pub fn lost(store: &Store) -> Result<Vec<Run>, RunError> {
    let mut lost = Vec::new();
    for run in store.runs_under_way()? {
        if state(&run)? == RunState::Lost {
            lost.push(run);
        }
    }
    Ok(lost)
}

impl Orphans {
    /// Takes over the runs whose supervisor has died, and ends their VMMs, which the kernel has done already unless it
    /// is about to. Nothing else is touched. This can take seconds, and needs no node.
    ///
    /// # Errors
    /// Where the records or `/proc` cannot be read. A VMM that cannot be ended is the error of [`Self::clear`], and its
    /// run is as lost as before.
    pub fn take_over(state_dir: &Path) -> Result<Self, RunError> {
        let mut orphans = Self::default();
        let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(orphans) };
        for run in lost(&store)? {
            match end(&mut store, state_dir, &run) {
                Ok(true) => orphans.runs.push(run),
                // Another process clears it away, or has.
                Ok(false) => {}
                Err(error) => orphans.fail(error),
            }
        }
        Ok(orphans)
    }

    /// Takes their network down, and records that they have ended.
    ///
    /// # Errors
    /// The first failure, also of [`Self::take_over`]: the network of a run cannot be taken down, or the records cannot
    /// be changed. Such a run is as lost as before; the others are cleared.
    pub fn clear(
        mut self,
        node: &mut impl NodeOperations,
        now: u64,
    ) -> Result<Vec<(Run, Report)>, RunError> {
        let mut cleared = Vec::new();
        for run in std::mem::take(&mut self.runs) {
            match clear(node, &run, now) {
                Ok(report) => cleared.push((run, report)),
                Err(error) => self.fail(error),
            }
        }
        self.failed.map_or(Ok(cleared), Err)
    }

    fn fail(&mut self, error: RunError) {
        self.failed.get_or_insert(error);
    }
}

/// Clears away what runs left whose supervisor has died.
///
/// # Errors
/// As [`Orphans::take_over`] and [`Orphans::clear`].
pub fn clear_lost(
    node: &mut impl NodeOperations,
    now: u64,
) -> Result<Vec<(Run, Report)>, RunError> {
    Orphans::take_over(&node.config().state_dir)?.clear(node, now)
}

/// Clears these runs away, then repairs the network.
///
/// # Errors
/// As [`Orphans::clear`] and [`NodeOperations::repair`]. Runs that were cleared before the error stay cleared.
pub fn repair(
    node: &mut impl NodeOperations,
    orphans: Orphans,
    now: u64,
) -> Result<Repaired, RunError> {
    Ok(Repaired { cleared: orphans.clear(node, now)?, report: node.repair()? })
}

/// Takes a run over and ends its VMM; returns whether nobody else did.
fn end(store: &mut Store, state_dir: &Path, run: &Run) -> Result<bool, RunError> {
    let ours = this_process(run)?;
    let tx = store.transaction()?;
    let taken = tx.hand_over_run(&run.name, run.supervisor, ours)?;
    tx.commit()?;
    if !taken {
        return Ok(false);
    }
    let ended = kill(state_dir, run);
    if ended.is_err() {
        let tx = store.transaction()?;
        tx.hand_over_run(&run.name, ours, run.supervisor)?;
        tx.commit()?;
    }
    ended.map(|()| true)
}

/// Kills at once: nobody is left whom the guest's work would matter to.
fn kill(state_dir: &Path, run: &Run) -> Result<(), RunError> {
    let Some(handle) = handle(state_dir, run)? else { return Ok(()) };
    let ended = handle.end(Patience::default());
    ended.map(drop).map_err(|source| process_error("end", &run.name, source))
}

/// Takes the network of a run down, and gives the run back, as ended where that succeeded.
fn clear(node: &mut impl NodeOperations, run: &Run, now: u64) -> Result<Report, RunError> {
    let ours = this_process(run)?;
    let report = take_down(node, ours, &run.name);
    let mut store = Store::open(&node.config().state_dir)?;
    let tx = store.transaction()?;
    tx.hand_over_run(&run.name, ours, run.supervisor)?;
    if report.is_ok() {
        let end = End::new(now, "its supervisor died".to_owned(), true);
        tx.end_run(&run.name, run.supervisor, &end)?;
    }
    tx.commit()?;
    Ok(report?)
}

fn this_process(run: &Run) -> Result<ProcessId, RunError> {
    ProcessId::current().map_err(|source| process_error("look at", &run.name, source))
}
