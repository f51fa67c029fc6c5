//! Definition files as the desired state: what they define is up, and what they no longer define goes. What was brought
//! up by others is not touched. A file at fault leaves in place what it asked for last.
//!
//! A function that somebody takes down stays down until its file changes, or the daemon starts anew.

mod decide;
mod directory;

use std::{
    collections::BTreeMap,
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
    engine::{Engine, Gone},
    events::{EventKind, Events},
};
use crate::{
    model::{InstanceName, Workload},
    sdn::{Request, UpOptions, Which},
    store::Store,
    wire::chain,
};

/// Files that change in one breath are read once: after so long a pause, or so long after the first.
const PAUSE: Duration = Duration::from_millis(50);
const BREATH: Duration = Duration::from_millis(500);
/// When what was refused is tried again although no file has changed.
const AGAIN: Duration = Duration::from_secs(30);

/// The thread that follows the files.
#[derive(Debug)]
pub struct Manifests {
    thread: Option<JoinHandle<()>>,
    end: Arc<OwnedFd>,
}

/// What the thread has.
struct Follower {
    directory: Directory,
    engine: Engine,
    events: Events,
    /// What was brought up of each file.
    applied: BTreeMap<String, Vec<Workload>>,
    /// What was last said of each file that is at fault.
    complaints: BTreeMap<String, String>,
}

impl Manifests {
    /// Applies what is in the directory, and follows it from then on.
    ///
    /// # Errors
    /// Where the directory cannot be watched. What cannot be applied is an event.
    pub fn follow(path: &Path, engine: Engine, events: Events) -> io::Result<Self> {
        let directory = Directory::watch(path)?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (applied, complaints) = Default::default();
        let mut follower = Follower { directory, engine, events, applied, complaints };
        follower.apply();
        let ending = Arc::clone(&end);
        let thread = thread::Builder::new().name("manifests".to_owned());
        let thread = thread.spawn(move || follower.run(&ending))?;
        Ok(Self { thread: Some(thread), end })
    }

    /// Ends the thread. What is up stays up.
    pub fn stop(mut self) {
        let _cannot_be_full = rustix::io::write(&*self.end, &1_u64.to_ne_bytes());
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

impl Follower {
    fn run(mut self, end: &OwnedFd) {
        loop {
            let patience = if self.complaints.is_empty() { None } else { Some(AGAIN) };
            match self.wait(end, patience) {
                Ok(Woken::Ended) => return,
                Ok(Woken::Changed) => {
                    let first = now();
                    while now().duration_since(first) < BREATH {
                        match self.wait(end, Some(PAUSE)) {
                            Ok(Woken::Ended) => return,
                            Ok(Woken::Changed) => {}
                            Ok(Woken::Quiet) | Err(_) => break,
                        }
                    }
                }
                Ok(Woken::Quiet) => {}
                Err(error) => {
                    self.events.error(&error);
                    return;
                }
            }
            self.apply();
        }
    }

    fn wait(&self, end: &OwnedFd, limit: Option<Duration>) -> io::Result<Woken> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut files =
            [PollFd::new(end, PollFlags::IN), PollFd::new(&self.directory, PollFlags::IN)];
        match poll(&mut files, limit.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Woken::Quiet),
            polled => polled?,
        };
        let [end, _] = files;
        if !end.revents().is_empty() {
            return Ok(Woken::Ended);
        }
        self.directory.hear()?;
        Ok(Woken::Changed)
    }

    /// Makes what the files ask for.
    fn apply(&mut self) {
        let files = match self.directory.read() {
            Ok(files) => files,
            Err(error) => return self.events.error(&error),
        };
        let known = self.engine.blocking_with(|node| {
            let owners = node.look_at_records(Store::manifests)??;
            let recorded = node.list()?.into_iter().map(|l| l.instance.name().clone()).collect();
            Ok::<_, crate::sdn::SdnError>((owners, recorded))
        });
        let (owners, recorded) = match known {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => return self.events.error(&error),
            Err(Gone) => return,
        };
        self.applied.retain(|file, _| files.contains_key(file));
        let decision = decide(&files, &owners, &recorded, &self.applied);
        // Before anything is brought up, and until all is down: what is up and nobody's is somebody else's.
        let mut claimed = decision.owners.clone();
        let leaving = owners.iter().filter(|(name, _)| decision.down.contains(*name));
        claimed.extend(leaving.map(|(name, file)| (name.clone(), file.clone())));
        if claimed != owners && !self.claim(claimed) {
            return;
        }
        let mut complaints = decision.complaints;
        if !decision.down.is_empty() {
            let names: Vec<_> = decision.down.iter().map(ToString::to_string).collect();
            let what = format!("no file defines {} any more", names.join(", "));
            match self.engine.blocking_change(Request::Down(Which::Named(decision.down))) {
                Ok(Ok(_)) => {
                    self.events.say(EventKind::Manifest, None, what);
                    self.claim(decision.owners);
                }
                Ok(Err(error)) => drop(complaints.insert(what, chain(&error))),
                Err(Gone) => return,
            }
        }
        for (file, workloads) in decision.up {
            let request = Request::Up(workloads.clone(), UpOptions::default());
            match self.engine.blocking_change(request) {
                Ok(Ok(report)) => {
                    if !report.done.is_empty() {
                        self.events.say(EventKind::Manifest, None, format!("{file}: applied"));
                    }
                    if report.failures.is_empty() {
                        self.applied.insert(file, workloads);
                    }
                }
                Ok(Err(error)) => drop(complaints.insert(file, chain(&error))),
                Err(Gone) => return,
            }
        }
        for (file, why) in &complaints {
            if self.complaints.get(file) != Some(why) {
                let text = if why.starts_with(file.as_str()) {
                    why.clone()
                } else {
                    format!("{file}: {why}")
                };
                tracing::warn!("{text}");
                self.events.say(EventKind::Manifest, None, text);
            }
        }
        self.complaints = complaints;
    }
}

impl Follower {
    /// Records which names the files ask for, each with its file.
    fn claim(&self, owners: BTreeMap<InstanceName, String>) -> bool {
        match self.engine.blocking_with(move |node| node.set_manifests(&owners)) {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.events.error(&error);
                false
            }
            Err(Gone) => false,
        }
    }
}

/// Why a wait is over.
enum Woken {
    Ended,
    Changed,
    Quiet,
}

#[expect(clippy::disallowed_methods, reason = "the daemon is where time comes in")]
fn now() -> Instant {
    Instant::now()
}
