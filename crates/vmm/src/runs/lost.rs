//! Lost runs, whose supervisor has died: finds them, ends their VMMs, and cleans up.

use std::path::Path;

use super::{RunError, RunState, handle, marks, process_error, remove_copies, state, take_down};
use crate::{cgroup, handle::Patience, slot_user};
use riklet_core::model::InstanceName;
use riklet_kernel::process::{self, ProcessId};
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
    runs: Vec<Orphan>,
    /// The first failure. The other runs are cleaned up nevertheless.
    failed: Option<RunError>,
}

/// A lost run whose VMM was ended, and whose network is still up. This process acts as its supervisor.
#[derive(Debug)]
#[must_use = "its network is up until it is taken down"]
pub struct Orphan {
    run: Run,
    ours: ProcessId,
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

impl Orphan {
    /// Takes over the run of this name, if its supervisor has died, and ends its VMM. `None` if it is not lost, or another
    /// process cleans it up. This can take seconds, and needs no node.
    ///
    /// # Errors
    /// Fails if the records or `/proc` cannot be read, or the VMM cannot be ended; then the run stays lost.
    pub fn take_over(state_dir: &Path, name: &InstanceName) -> Result<Option<Self>, RunError> {
        let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(None) };
        match store.run(name)? {
            Some(run) if state(&run)? == RunState::Lost => Self::end(&mut store, state_dir, run),
            _ => Ok(None),
        }
    }

    /// Returns the name of the instance.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        &self.run.name
    }

    /// Returns the process that may take the network down: this one.
    #[must_use]
    pub const fn supervisor(&self) -> ProcessId {
        self.ours
    }

    /// Records that the run has ended, if its network was taken down; otherwise it is lost again.
    ///
    /// # Errors
    /// Fails if the records cannot be changed.
    pub fn release(self, state_dir: &Path, is_down: bool, now: u64) -> Result<Run, RunError> {
        let Self { run, ours } = self;
        let mut store = Store::open(state_dir)?;
        let tx = store.transaction()?;
        tx.hand_over_run(&run.name, ours, run.supervisor)?;
        if is_down {
            let end = End::new(now, "its supervisor died".to_owned(), true);
            tx.end_lost_run(&run.name, run.supervisor, &end)?;
        }
        tx.commit()?;
        Ok(run)
    }

    /// Takes a run over and ends its VMM. Returns `None` if another process took it over.
    fn end(store: &mut Store, state_dir: &Path, run: Run) -> Result<Option<Self>, RunError> {
        let ours = this_process(&run)?;
        let tx = store.transaction()?;
        let taken = tx.hand_over_run(&run.name, run.supervisor, ours)?;
        tx.commit()?;
        if !taken {
            return Ok(None);
        }
        let ended = kill(state_dir, &run).and_then(|()| end_user(store, &run));
        if ended.is_err() {
            let tx = store.transaction()?;
            tx.hand_over_run(&run.name, ours, run.supervisor)?;
            tx.commit()?;
        }
        ended.map(|()| Some(Self { run, ours }))
    }

    /// Takes down the network, and releases the run.
    fn clear(self, node: &mut impl NodeOperations, now: u64) -> Result<(Run, Report), RunError> {
        let state_dir = node.config().state_dir.clone();
        let report = take_down(node, self.ours, self.name());
        remove_copies(&node.config().vmm.image_dir, self.name());
        let run = self.release(&state_dir, report.is_ok(), now)?;
        Ok((run, report?))
    }
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
            match Orphan::end(&mut store, state_dir, run) {
                // If there is none, another process cleans it up, or has done so.
                Ok(orphan) => orphans.runs.extend(orphan),
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
            match run.clear(node, now) {
                Ok(done) => cleared.push(done),
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

/// Kills the VMM at once: the guest's work has no recipient any more.
fn kill(state_dir: &Path, run: &Run) -> Result<(), RunError> {
    let failed = |source| process_error("end", &run.name, source);
    if let Some(handle) = handle(state_dir, run)? {
        handle.end(Patience::default()).map_err(failed)?;
    }
    cgroup::end(state_dir, &run.name);
    // Its supervisor may have died before it recorded the process, and no other run of this name has begun since.
    process::end_marked(&marks(state_dir, &run.name)).map_err(failed)
}

/// Ends what runs as the user of the run's slot: the slot is given away next.
fn end_user(store: &Store, run: &Run) -> Result<(), RunError> {
    let record = store.get(&run.name)?;
    let ended = slot_user::end_of(record.as_ref());
    ended.map_err(|source| process_error("end", &run.name, source))
}

fn this_process(run: &Run) -> Result<ProcessId, RunError> {
    ProcessId::current().map_err(|source| process_error("look at", &run.name, source))
}
