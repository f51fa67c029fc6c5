//! Lost runs, whose supervisor has died: finds them, ends their VMMs, and cleans up.

use std::path::Path;

use super::{RunError, RunState, handle, process_error, state, take_down};
use crate::handle::Patience;
use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    NodeOperations, Report,
    store::{End, Run, Store},
};

/// Lost runs whose VMMs were ended and whose network is still up.
///
/// This process acts as their supervisor meanwhile: only one of several processes cleans up, and a new run of the same
/// name is refused until the old network is gone.
#[derive(Debug, Default)]
#[must_use = "their network is up until they are cleared"]
pub struct Orphans {
    runs: Vec<Run>,
    /// The first failure. The other runs are cleaned up nevertheless.
    failed: Option<RunError>,
}

/// The outcome of [`repair`].
#[derive(Debug)]
pub struct Repaired {
    /// The lost runs, each with the changes of taking its network down.
    pub cleared: Vec<(Run, Report)>,
    /// The report of the network repair that followed.
    pub report: Report,
}

/// Returns the runs whose supervisor has died.
///
/// # Errors
/// Fails if the records or `/proc` cannot be read.
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
    /// Takes over the lost runs, and ends their VMMs if the kernel has not done so already. Touches nothing else. This
    /// can take seconds, and needs no node.
    ///
    /// # Errors
    /// Fails if the records or `/proc` cannot be read. A VMM that cannot be ended is reported by [`Self::clear`], and
    /// its run stays lost.
    pub fn take_over(state_dir: &Path) -> Result<Self, RunError> {
        let mut orphans = Self::default();
        let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(orphans) };
        for run in lost(&store)? {
            match end(&mut store, state_dir, &run) {
                Ok(true) => orphans.runs.push(run),
                // Another process cleans it up, or has done so.
                Ok(false) => {}
                Err(error) => orphans.fail(error),
            }
        }
        Ok(orphans)
    }

    /// Takes down the network of these runs, and records that they have ended.
    ///
    /// # Errors
    /// Returns the first failure, also of [`Self::take_over`]: the network of a run cannot be taken down, or the
    /// records cannot be changed. Such a run stays lost; the others are cleaned up.
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

/// Cleans up the lost runs.
///
/// # Errors
/// Fails as [`Orphans::take_over`] and [`Orphans::clear`] do.
pub fn clear_lost(
    node: &mut impl NodeOperations,
    now: u64,
) -> Result<Vec<(Run, Report)>, RunError> {
    Orphans::take_over(&node.config().state_dir)?.clear(node, now)
}

/// Cleans up these runs, then repairs the network.
///
/// # Errors
/// Fails as [`Orphans::clear`] and [`NodeOperations::repair`] do. Runs that were cleaned up before the error stay so.
pub fn repair(
    node: &mut impl NodeOperations,
    orphans: Orphans,
    now: u64,
) -> Result<Repaired, RunError> {
    Ok(Repaired { cleared: orphans.clear(node, now)?, report: node.repair()? })
}

/// Takes a run over and ends its VMM. Returns `false` if another process took it over.
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

/// Kills the VMM at once: the guest's work has no recipient any more.
fn kill(state_dir: &Path, run: &Run) -> Result<(), RunError> {
    let Some(handle) = handle(state_dir, run)? else { return Ok(()) };
    let ended = handle.end(Patience::default());
    ended.map(drop).map_err(|source| process_error("end", &run.name, source))
}

/// Takes down the network of a run, and releases the run: as ended if that succeeded.
fn clear(node: &mut impl NodeOperations, run: &Run, now: u64) -> Result<Report, RunError> {
    let ours = this_process(run)?;
    let report = take_down(node, ours, &run.name);
    let mut store = Store::open(&node.config().state_dir)?;
    let tx = store.transaction()?;
    tx.hand_over_run(&run.name, ours, run.supervisor)?;
    if report.is_ok() {
        let end = End::new(now, "its supervisor died".to_owned(), true);
        tx.end_lost_run(&run.name, run.supervisor, &end)?;
    }
    tx.commit()?;
    Ok(report?)
}

fn this_process(run: &Run) -> Result<ProcessId, RunError> {
    ProcessId::current().map_err(|source| process_error("look at", &run.name, source))
}
