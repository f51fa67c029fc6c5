//! The running guests of a supervisor: starts them, waits for them, and ends them.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use riklet_core::model::InstanceName;
use riklet_kernel::{Kernel, process::ProcessId, threads};
use riklet_sdn::{
    Node,
    store::{End, Store},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::SupervisorError;
use crate::{
    console,
    handle::{Handle, Patience},
    launch::{self, Launch, Running, Signs},
    runs,
};

/// The running guests of one supervisor, which is this process.
pub(super) struct RunningGuests<'a> {
    /// Readable once the supervisor shall stop.
    stop: BorrowedFd<'a>,
    state_dir: PathBuf,
    supervisor: ProcessId,
    running: Vec<Running>,
}

/// An event that a supervisor waits for.
pub(super) enum Event {
    /// The supervisor shall stop.
    Stop,
    /// A VMM has ended, and its instance is down.
    Ended(Ended),
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The instance.
    pub name: InstanceName,
    /// The end of the VMM, in words.
    pub reason: String,
    /// True for a failure. False if somebody asked for the end, or the guest ended by itself after it was ready.
    pub failed: bool,
}

impl<'a> RunningGuests<'a> {
    pub(super) fn new(stop: BorrowedFd<'a>, state_dir: PathBuf, supervisor: ProcessId) -> Self {
        Self { stop, state_dir, supervisor, running: vec![] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts the VMM of an instance whose network is up. It does not run its guest before [`Self::boot`].
    pub(super) fn start(
        &mut self,
        name: &InstanceName,
        launch: &Launch,
    ) -> Result<(), SupervisorError> {
        let failed = |source| SupervisorError::Launch { name: name.clone(), source };
        let running = Running::start(&self.state_dir, name, launch).map_err(failed)?;
        let process = running.handle().process;
        // From here on it is ended together with the others.
        self.running.push(running);
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        tx.set_run_process(name, self.supervisor, process)?;
        let stopping = tx.run(name)?.is_some_and(|run| run.stopping);
        tx.commit()?;
        if stopping {
            // The process that asked for the end found no VMM to end, and waits for this supervisor.
            return Err(SupervisorError::GuestEnded {
                name: name.clone(),
                reason: "stopped".into(),
            });
        }
        Ok(())
    }

    /// Makes the VMMs, which were started in the order of `launches`, boot their guests within `limit`: all of them at once.
    pub(super) fn boot<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        launches: &[Launch],
        limit: Duration,
    ) -> Result<(), SupervisorError> {
        /// The time in which a VMM that no longer answers is expected to end.
        const EXIT_GRACE: Duration = Duration::from_millis(200);
        let guests = self.running.iter_mut().zip(launches);
        let booted =
            threads::at_once(guests, usize::MAX, |(running, launch)| running.boot(launch, limit));
        let first = booted.into_iter().enumerate().find_map(|(i, booted)| Some((i, booted.err()?)));
        let Some((index, source)) = first else { return Ok(()) };
        let running = self.running.remove(index);
        // If the VMM has ended, its end gives a better reason than its socket does.
        if running.ends_within(EXIT_GRACE).unwrap_or(false) {
            return Err(self.on_exit(node, running, None)?.into());
        }
        let name = running.name().clone();
        self.running.insert(index, running);
        Err(SupervisorError::Launch { name, source })
    }

    /// Records that every guest answers, `after` so many milliseconds; or that nobody waits until it does.
    pub(super) fn set_ready(&self, after: Option<u64>) -> Result<(), SupervisorError> {
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        for running in &self.running {
            tx.set_run_ready(running.name(), self.supervisor, after)?;
        }
        Ok(tx.commit()?)
    }

    /// Waits for an event. Returns `None` if there is none in time.
    pub(super) fn wait<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        limit: Option<Duration>,
    ) -> Result<Option<Event>, SupervisorError> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut files = vec![PollFd::from_borrowed_fd(self.stop, PollFlags::IN)];
        files.extend(
            self.running.iter().map(|r| PollFd::from_borrowed_fd(r.as_fd(), PollFlags::IN)),
        );
        match poll(&mut files, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            result => result.map_err(|errno| SupervisorError::Poll { source: errno.into() })?,
        };
        let ready: Vec<_> = files.iter().map(|file| !file.revents().is_empty()).collect();
        // The end of a VMM is handled first: its port must not lead nowhere while the other VMMs are stopped.
        if let Some(index) = ready.iter().skip(1).position(|ready| *ready) {
            let running = self.running.remove(index);
            return Ok(Some(Event::Ended(self.on_exit(node, running, None)?)));
        }
        Ok(Some(Event::Stop))
    }

    /// Handles the end of a VMM: ends all that runs as the user of its slot, closes its ports, then records the end, then
    /// reports it. If the supervisor ended the VMM because of a `failure`, that is the reason. If something runs on, the
    /// slot stays taken. If the ports cannot be closed, the run counts as not ended, and the supervisor tries again when it
    /// leaves.
    fn on_exit<K: Kernel>(
        &self,
        node: &mut Node<K>,
        mut running: Running,
        failure: Option<&str>,
    ) -> Result<Ended, SupervisorError> {
        let name = running.name().clone();
        let vmm = running.handle().vmm;
        let waited = |source| SupervisorError::Wait { name: name.clone(), source };
        running.end_rest().map_err(waited)?;
        let down = runs::take_down(node, self.supervisor, &name);
        let (status, reset) = running.finish().map_err(waited)?;
        down?;
        runs::remove_copies(&node.config().vmm.image_dir, &name);
        let mut store = Store::open(&self.state_dir)?;
        let run = store.run(&name)?;
        let stopping = run.as_ref().is_some_and(|run| run.stopping);
        let was_ready = run.is_some_and(|run| run.ready.is_some());
        let said = [runs::vmm_log, runs::log].map(|log| log(&self.state_dir, &name));
        let said = said.iter().find_map(|log| console::last_line(log));
        let panic = console::kernel_panic(&runs::log(&self.state_dir, &name));
        let signs = Signs { stopping, reset, panic, said };
        let (reason, failed) = launch::reason(vmm, status, &signs);
        // A guest that powers off by itself has done its work, unless it never became ready.
        let failed = failed || failure.is_some() || !stopping && !was_ready;
        let reason = failure.map_or(reason, ToOwned::to_owned);
        let tx = store.transaction()?;
        let end = End::new(super::epoch_millis(), reason.clone(), failed);
        tx.end_run(&name, self.supervisor, &end)?;
        tx.commit()?;
        Ok(Ended { name, reason, failed })
    }

    /// Ends all VMMs concurrently, and takes their instances down. `failure` is the reason for those that nobody asked
    /// to stop.
    pub(super) fn stop<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        patience: Patience,
        failure: Option<&str>,
    ) -> Result<(), SupervisorError> {
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        let mut asked = Vec::new();
        for running in &self.running {
            asked.push(tx.run(running.name())?.is_some_and(|run| run.stopping));
            tx.set_run_stopping(running.name(), self.supervisor)?;
        }
        tx.commit()?;
        let asked_to = |running: &Running| {
            let said = runs::grace::get(&self.state_dir, running.name());
            let patience = Patience { guest: said.unwrap_or(patience.guest), ..patience };
            (running.handle().clone(), patience)
        };
        let handles: Vec<_> = self.running.iter().map(asked_to).collect();
        // A guest whose start failed has nothing to shut down properly.
        let end = if failure.is_some() { Handle::end } else { Handle::stop };
        let results =
            threads::at_once(handles, usize::MAX, |(handle, patience)| end(&handle, patience));
        let mut first = Ok(());
        let running = std::mem::take(&mut self.running).into_iter();
        for ((running, result), asked) in running.zip(results).zip(asked) {
            let name = running.name().clone();
            let failure = failure.filter(|_| !asked);
            let ended = match result {
                Ok(_) => self.on_exit(node, running, failure).map(drop),
                // The VMM still holds its TAP. `repair` removes the rest once the VMM has ended.
                Err(source) => Err(SupervisorError::Wait { name, source }),
            };
            first = first.and(ended);
        }
        first
    }
}
