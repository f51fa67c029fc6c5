//! The guests that a supervisor plays, and what happens to them.

use std::{io, os::fd::AsFd, path::PathBuf, thread, time::Duration};

use riklet_core::model::InstanceName;
use riklet_kernel::{Kernel, process::ProcessId};
use riklet_sdn::{
    Node,
    store::{End, Store},
};
use riklet_vmm::{
    console,
    handle::{Handle, Patience, Stopped},
    launch::{self, Launch, Running},
    runs,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::signals::Signals;
use crate::error::CliError;

/// The runs of one supervisor: this process.
pub(super) struct Fleet {
    signals: Signals,
    state_dir: PathBuf,
    supervisor: ProcessId,
    running: Vec<Running>,
}

/// What a supervisor waits for.
pub(super) enum Event {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// A VMM has ended, and its instance is down.
    Ended(Ended),
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) name: InstanceName,
    pub(super) reason: String,
    /// Whether nobody asked for it.
    pub(super) failed: bool,
}

impl Fleet {
    pub(super) fn new(signals: Signals, state_dir: PathBuf, supervisor: ProcessId) -> Self {
        Self { signals, state_dir, supervisor, running: vec![] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts the VMM of an instance whose network is up, and has it boot.
    pub(super) fn start<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        name: &InstanceName,
        launch: &Launch,
    ) -> Result<(), CliError> {
        /// How long a VMM that does not answer may take to end, where it dies.
        const EXIT_GRACE: Duration = Duration::from_millis(200);
        let failed = |source| CliError::Launch { name: name.to_string(), source };
        let running = Running::start(&self.state_dir, name, launch).map_err(failed)?;
        let process = running.handle().process;
        // From here on it is ended with the others.
        self.running.push(running);
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        tx.set_run_process(name, self.supervisor, process)?;
        let stopping = tx.run(name)?.is_some_and(|run| run.stopping);
        tx.commit()?;
        if stopping {
            // Who asked for it found no process to end, and waits for us.
            return Err(CliError::GuestEnded { name: name.to_string(), reason: "stopped".into() });
        }
        let Some(mut running) = self.running.pop() else { return Ok(()) };
        let booted = running.boot(launch);
        // One that has ended says why better than its socket does.
        if booted.is_err() && running.ends_within(EXIT_GRACE).unwrap_or(false) {
            return Err(self.bury(node, running, None)?.into());
        }
        self.running.push(running);
        booted.map_err(failed)
    }

    /// Records that all of them answer, and after how many milliseconds.
    pub(super) fn set_ready(&self, after: u64) -> Result<(), CliError> {
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        for running in &self.running {
            tx.set_run_ready(running.name(), self.supervisor, after)?;
        }
        Ok(tx.commit()?)
    }

    /// Waits for an event; `None` where there was none in this time.
    pub(super) fn wait<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        limit: Option<Duration>,
    ) -> Result<Option<Event>, CliError> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut files = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        files.extend(
            self.running.iter().map(|r| PollFd::from_borrowed_fd(r.as_fd(), PollFlags::IN)),
        );
        match poll(&mut files, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            result => result.map_err(|errno| CliError::Signals { source: errno.into() })?,
        };
        let ready: Vec<_> = files.iter().map(|file| !file.revents().is_empty()).collect();
        // The end of a VMM comes first: its port must not lead nowhere while the others are stopped.
        if let Some(index) = ready.iter().skip(1).position(|ready| *ready) {
            let running = self.running.remove(index);
            return Ok(Some(Event::Ended(self.bury(node, running, None)?)));
        }
        Ok(Some(Event::Signal))
    }

    /// What is to be done when a VMM has ended: first the port, then the records, then the words. Where we ended
    /// it for a failure of ours, that is the reason. Where the port cannot be closed, the run has not ended: it is
    /// tried again when the supervisor leaves.
    fn bury<K: Kernel>(
        &self,
        node: &mut Node<K>,
        running: Running,
        failure: Option<&str>,
    ) -> Result<Ended, CliError> {
        let name = running.name().clone();
        let vmm = running.handle().vmm;
        let down = runs::take_down(node, &name);
        let status = running.finish();
        let status = status.map_err(|source| CliError::Wait { name: name.to_string(), source })?;
        down?;
        let mut store = Store::open(&self.state_dir)?;
        let run = store.run(&name)?;
        let stopping = run.as_ref().is_some_and(|run| run.stopping);
        let was_ready = run.is_some_and(|run| run.ready.is_some());
        let said = console::last_line(&runs::log(&self.state_dir, &name));
        let (reason, failed) = launch::reason(vmm, status, stopping, said.as_deref());
        // A guest that powers off unasked has done its work, unless it never came to it.
        let failed = failed || failure.is_some() || !stopping && !was_ready;
        let reason = failure.map_or(reason, ToOwned::to_owned);
        let tx = store.transaction()?;
        let end = End { at: super::epoch_millis(), reason: reason.clone(), failed };
        tx.end_run(&name, self.supervisor, &end)?;
        tx.commit()?;
        Ok(Ended { name, reason, failed })
    }

    /// Ends all of them at once, each in its own time, and takes their instances down. `failure` is why, for
    /// those that nobody has asked to stop.
    pub(super) fn stop<K: Kernel>(
        &mut self,
        node: &mut Node<K>,
        patience: Patience,
        failure: Option<&str>,
    ) -> Result<(), CliError> {
        let mut store = Store::open(&self.state_dir)?;
        let tx = store.transaction()?;
        let mut asked = Vec::new();
        for running in &self.running {
            asked.push(tx.run(running.name())?.is_some_and(|run| run.stopping));
            tx.set_run_stopping(running.name(), self.supervisor)?;
        }
        tx.commit()?;
        let results: Vec<io::Result<Stopped>> = thread::scope(|scope| {
            let stop = |running: &Running| {
                let handle = running.handle().clone();
                // A guest whose start failed has nothing to put in order.
                let end = if failure.is_some() { Handle::end } else { Handle::stop };
                scope.spawn(move || end(&handle, patience))
            };
            let threads: Vec<_> = self.running.iter().map(stop).collect();
            let panicked = || Err(io::Error::other("the thread that stops it panicked"));
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_panic| panicked())).collect()
        });
        let mut first = Ok(());
        let running = std::mem::take(&mut self.running).into_iter();
        for ((running, result), asked) in running.zip(results).zip(asked) {
            let name = running.name().to_string();
            let failure = failure.filter(|_| !asked);
            let ended = match result {
                Ok(_) => self.bury(node, running, failure).map(drop),
                // It holds its TAP: what is left of it is for `repair`, once it is gone.
                Err(source) => Err(CliError::Wait { name, source }),
            };
            first = first.and(ended);
        }
        first
    }
}
