//! Definition files as the desired state: what they define is up, and what they no longer define goes. Functions that
//! others brought up are not touched. An invalid file is ignored; its last valid contents stay.
//!
//! A function that somebody takes down stays down until its file changes or the daemon restarts. Meanwhile no file
//! owns it, so whoever brings it up owns it.

mod decide;
mod directory;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use self::{decide::decide, directory::Directory};
use super::{
    engine::Engine,
    events::{EventKind, Events},
    local::{LocalNode, document},
    now,
};
use riklet_api::{ApiError, NodeApi};
use riklet_core::model::{InstanceName, Workload};
use riklet_sdn::{NodeError, Request, store::Store};

/// The time without a change after which the files are read.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The time after the first change after which the files are read in any case.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(500);
/// The time after which refused operations are retried, although no file has changed.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The thread that follows the files.
#[derive(Debug)]
pub struct Manifests {
    thread: Option<JoinHandle<()>>,
    end: Arc<OwnedFd>,
}

/// The state of the thread.
struct Follower {
    directory: Directory,
    engine: Engine,
    events: Events,
    /// The workloads of each file as they were last brought up.
    applied: BTreeMap<String, Vec<Workload>>,
    /// The last complaint about each invalid file.
    complaints: BTreeMap<String, String>,
    /// The time of the next attempt, if something was refused.
    retry_at: Option<Instant>,
}

/// The files and other subjects of refused operations, each with the reason.
type Refused = BTreeMap<String, String>;

/// Names, each with the file that owns it from now on, or `None`.
type Owned = BTreeMap<InstanceName, Option<String>>;

impl Manifests {
    /// Applies the files of the directory, and follows their changes.
    ///
    /// # Errors
    /// Fails if the directory cannot be watched. A refused operation is an event.
    pub fn follow(path: &Path, engine: Engine, events: Events) -> io::Result<Self> {
        let directory = Directory::watch(path)?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (applied, complaints) = Default::default();
        let mut follower =
            Follower { directory, engine, events, applied, complaints, retry_at: None };
        follower.apply_or_complain();
        let ending = Arc::clone(&end);
        let thread = thread::Builder::new().name("manifests".to_owned());
        let thread = thread.spawn(move || follower.run(&ending))?;
        Ok(Self { thread: Some(thread), end })
    }

    /// Ends the thread. Functions stay up.
    pub fn stop(mut self) {
        let _cannot_be_full = rustix::io::write(&*self.end, &1_u64.to_ne_bytes());
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

impl Follower {
    fn run(mut self, end: &OwnedFd) {
        loop {
            let patience = self.retry_at.map(|at| at.saturating_duration_since(now()));
            match self.wait(end, patience) {
                Ok(Woken::Ended) => return,
                Ok(Woken::Elsewhere) => continue,
                Ok(Woken::Changed) => {
                    if self.debounce(end) {
                        return;
                    }
                }
                Ok(Woken::Quiet) => {}
                Err(error) => {
                    self.events.error(&error);
                    // Waits for the end only: waiting for the directory would fail again at once.
                    if ends_within(end, RETRY_INTERVAL) {
                        return;
                    }
                }
            }
            self.apply_or_complain();
        }
    }

    /// Waits until no more changes come. Returns whether the daemon ends.
    fn debounce(&mut self, end: &OwnedFd) -> bool {
        let first = now();
        while now().duration_since(first) < DEBOUNCE_LIMIT {
            match self.wait(end, Some(DEBOUNCE)) {
                Ok(Woken::Ended) => return true,
                Ok(Woken::Changed | Woken::Elsewhere) => {}
                Ok(Woken::Quiet) | Err(_) => break,
            }
        }
        false
    }

    fn wait(&mut self, end: &OwnedFd, limit: Option<Duration>) -> io::Result<Woken> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut files =
            [PollFd::new(end, PollFlags::IN), PollFd::new(&self.directory, PollFlags::IN)];
        match poll(&mut files, limit.as_ref()) {
            Ok(0) => return Ok(Woken::Quiet),
            Err(rustix::io::Errno::INTR) => return Ok(Woken::Elsewhere),
            polled => polled?,
        };
        let [end, _] = files;
        if !end.revents().is_empty() {
            return Ok(Woken::Ended);
        }
        Ok(if self.directory.read_changes()? { Woken::Changed } else { Woken::Elsewhere })
    }

    /// Applies the files. A refusal becomes an event, and is retried later.
    fn apply_or_complain(&mut self) {
        let refused = match self.apply() {
            Ok(complaints) => {
                self.complain(complaints);
                !self.complaints.is_empty()
            }
            Err(error) => {
                self.events.error(&*error);
                true
            }
        };
        self.retry_at = refused.then(|| now() + RETRY_INTERVAL);
    }

    fn apply(&mut self) -> Result<Refused, Box<dyn Error>> {
        let files = self.directory.read()?;
        let known = self.engine.with(|LocalNode { node }| {
            let owners = node.look_at_records(Store::manifests)??;
            // A name whose record cannot be read belongs to somebody as well.
            let recorded = node.look_at_records(Store::all)??.names().cloned().collect();
            Ok::<(_, BTreeSet<_>), NodeError>((owners, recorded))
        });
        let (owners, recorded) = known.wait()??;
        self.applied.retain(|file, _| files.contains_key(file));
        let mut decision = decide(&files, &owners, &recorded, &self.applied);
        // Names are claimed before anything is brought up: a function that is up without an owner is somebody else's.
        let taken = decision.owners.iter().filter(|(name, file)| owners.get(name) != Some(file));
        let mut changes: Owned =
            taken.map(|(name, file)| (name.clone(), Some(file.clone()))).collect();
        let left = |name: &&InstanceName| {
            !(decision.owners.contains_key(*name) || decision.down.contains(*name))
        };
        changes.extend(owners.keys().filter(left).map(|name| (name.clone(), None)));
        if !self.claim(changes)?.is_empty() {
            // Somebody else brought it up meanwhile.
            return self.apply();
        }
        let mut complaints = std::mem::take(&mut decision.complaints);
        let leaving = |name: InstanceName| owners.get(&name).cloned().map(|file| (name, file));
        complaints.extend(self.take_down(decision.down.into_iter().filter_map(leaving).collect()));
        let wanted = decision.up.clone();
        let refused = self.bring_up(decision.up, &recorded);
        let names = wanted.iter().filter(|(file, _)| refused.contains_key(*file));
        let names = names.flat_map(|(_, workloads)| workloads).map(Workload::name);
        let names: Vec<_> = names.filter(|name| !recorded.contains(*name)).cloned().collect();
        self.release(names)?;
        complaints.extend(refused);
        Ok(complaints)
    }

    /// Publishes the new ones among these complaints.
    fn complain(&mut self, complaints: BTreeMap<String, String>) {
        for (file, why) in &complaints {
            if self.complaints.get(file) != Some(why) {
                let located = why.starts_with(&format!("{file}:"));
                let text = if located { why.clone() } else { format!("{file}: {why}") };
                tracing::warn!("{text}");
                self.events.say(EventKind::Manifest, None, text);
            }
        }
        self.complaints = complaints;
    }

    /// Takes these functions down together or, if that is refused, each that can be.
    fn take_down(&mut self, owned: BTreeMap<InstanceName, String>) -> Refused {
        let mut refused = Refused::new();
        if owned.is_empty() || matches!(self.withdraw(owned.clone()), Ok(Withdrawn::Down)) {
            return refused;
        }
        for (name, file) in owned {
            if let Err(error) = self.withdraw([(name.clone(), file)].into()) {
                refused.insert(format!("no file defines {name} any more"), error.to_string());
            }
        }
        refused
    }

    /// Takes these functions down, provided that these files still own them.
    fn withdraw(&self, owned: BTreeMap<InstanceName, String>) -> Result<Withdrawn, ApiError> {
        let listed: Vec<_> = owned.keys().map(ToString::to_string).collect();
        match self.engine.change(Request::Withdraw(owned)).wait()? {
            // Somebody took it down meanwhile. Whoever brings it up next owns it.
            Err(NodeError::Disowned { .. }) => return Ok(Withdrawn::Disowned),
            done => drop(document(done)?),
        }
        let text = format!("no file defines {} any more", listed.join(", "));
        self.events.say(EventKind::Manifest, None, text);
        Ok(Withdrawn::Down)
    }

    /// Brings up all of these functions together, since a port may move from one file to another. A refused file is
    /// left out, and tried by itself after the others.
    fn bring_up(
        &mut self,
        mut files: BTreeMap<String, Vec<Workload>>,
        recorded: &BTreeSet<InstanceName>,
    ) -> Refused {
        let mut refused = BTreeMap::new();
        let mut alone = BTreeMap::new();
        while !files.is_empty() {
            match self.up(&files, recorded) {
                Ok(failed) => {
                    refused.extend(failed);
                    break;
                }
                Err(error) => {
                    let of = |name: &str| {
                        files.iter().find(|(_, all)| all.iter().any(|w| w.name().as_str() == name))
                    };
                    let file = error.name.as_deref().and_then(of).map(|(file, _)| file.clone());
                    let left_out = file.and_then(|file| files.remove_entry(&file));
                    // If the refusal names no function, each file is tried by itself.
                    let left_out = left_out.map(|entry| [entry].into());
                    alone.extend(left_out.unwrap_or_else(|| std::mem::take(&mut files)));
                }
            }
        }
        for (file, workloads) in alone {
            match self.up(&[(file.clone(), workloads)].into(), recorded) {
                Ok(failed) => refused.extend(failed),
                Err(error) => drop(refused.insert(file, error.to_string())),
            }
        }
        refused
    }

    /// Brings these functions up, all or none. Returns the failures of each file.
    fn up(
        &mut self,
        files: &BTreeMap<String, Vec<Workload>>,
        recorded: &BTreeSet<InstanceName>,
    ) -> Result<Refused, ApiError> {
        let mut workloads: Vec<_> = files.values().flatten().cloned().collect();
        // If two functions want one port, the one that is already up keeps it.
        workloads.sort_by_key(|workload| !recorded.contains(workload.name()));
        let report = self.engine.up(&workloads, false)?;
        let mut failed = Refused::new();
        for (file, workloads) in files {
            let mine = |name| workloads.iter().any(|workload| workload.name().as_str() == name);
            if let Some(failure) = report.failures.iter().find(|failure| mine(&failure.name)) {
                failed.insert(file.clone(), failure.error.clone());
                continue;
            }
            self.applied.insert(file.clone(), workloads.clone());
            if !report.steps.is_empty() {
                self.events.say(EventKind::Manifest, None, format!("{file}: applied"));
            }
        }
        Ok(failed)
    }

    /// Records the owners of these names. Returns the names that belong to somebody else.
    fn claim(&self, changes: Owned) -> Result<BTreeSet<InstanceName>, Box<dyn Error>> {
        if changes.is_empty() {
            return Ok(BTreeSet::new());
        }
        Ok(self.engine.with(move |local| local.node.set_manifests(&changes)).wait()??)
    }

    /// Gives up names whose functions are not up after all. Whoever brings one up meanwhile owns it.
    fn release(&self, names: Vec<InstanceName>) -> Result<(), Box<dyn Error>> {
        if names.is_empty() {
            return Ok(());
        }
        let released = self.engine.with(move |LocalNode { node }| {
            let mut gone = Owned::new();
            for name in names {
                if node.look_at_records(|store| store.get(&name))??.is_none() {
                    gone.insert(name, None);
                }
            }
            node.set_manifests(&gone).map(drop)
        });
        Ok(released.wait()??)
    }
}

/// Tells whether the daemon ends within this time.
fn ends_within(end: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    poll(&mut [PollFd::new(end, PollFlags::IN)], limit.as_ref()).is_ok_and(|ready| ready > 0)
}

/// The outcome of taking down functions that no file defines any more.
enum Withdrawn {
    Down,
    /// A function no longer belongs to its file. Nothing was changed.
    Disowned,
}

/// The reason why a wait is over.
enum Woken {
    Ended,
    Changed,
    /// Something outside the directory changed.
    Elsewhere,
    /// The time is up.
    Quiet,
}
