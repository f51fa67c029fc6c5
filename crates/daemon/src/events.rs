//! Events: what the daemon did, recorded for watchers.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use super::{metrics::Metrics, wall_clock};
use riklet_api::chain;
use riklet_core::{
    model::{InstanceName, Slot},
    plan::CutOff,
};
use riklet_sdn::{
    Failure, Instance, Rebuilt, Report, Request, Selector,
    store::{JournalEntry, JournalKind},
};

/// The number of events that are kept. A watcher that falls further behind misses some.
const REMEMBERED: usize = 1000;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A function's network was brought up, or changed.
    Up,
    /// A function's network was taken down.
    Down,
    /// A function is not as it should be.
    Failed,
    /// Somebody else changed something that matters.
    Noticed,
    /// Drift was repaired.
    Repaired,
    /// Repeated repairs back off for a while.
    BackingOff,
    /// A definition file was applied.
    Manifest,
    /// Something could not be done.
    Error,
    /// A run began.
    Started,
    /// The published ports of a run answer.
    Ready,
    /// A run was asked to stop.
    Stopping,
    /// A run has ended.
    Ended,
    /// A run was lost: its supervisor died, and what it left was cleared away.
    Lost,
    /// Changes by other processes were not heard of: this many, or `None` if nobody knows.
    Missed(Option<u64>),
}

impl EventKind {
    /// Returns the kind as a word for output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Failed => "failed",
            Self::Noticed => "noticed",
            Self::Repaired => "repaired",
            Self::BackingOff => "backing-off",
            Self::Manifest => "manifest",
            Self::Error => "error",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Lost => "lost",
            Self::Missed(_) => "missed",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The time.
    pub at: SystemTime,
    /// The kind.
    pub kind: EventKind,
    /// The function that the event concerns, if it concerns one.
    pub name: Option<InstanceName>,
    /// The text: one or more lines.
    pub text: String,
}

impl From<&Event> for riklet_api::Event {
    fn from(event: &Event) -> Self {
        Self {
            at_ms: riklet_api::epoch_millis(event.at),
            kind: event.kind.as_str().to_owned(),
            name: event.name.as_ref().map(ToString::to_string),
            text: event.text.clone(),
        }
    }
}

/// The daemon's events: published and watched through this. Clones share them.
#[derive(Debug, Clone)]
pub struct Events {
    remembered: Arc<Mutex<VecDeque<Event>>>,
    sender: broadcast::Sender<Event>,
    metrics: Metrics,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(REMEMBERED);
        Self { remembered: Arc::default(), sender, metrics: Metrics::default() }
    }
}

const TAKEN_DOWN: &str = "taken down";

/// Describes an instance that was brought up.
fn description(instance: &Instance) -> String {
    let exposures: Vec<_> = instance.exposures().iter().map(ToString::to_string).collect();
    let guests = instance.addresses.guests().map(|guest| guest.to_string());
    let guests = guests.collect::<Vec<_>>().join(", ");
    let text = format!("{}: {guests} {}", instance.interface(), exposures.join(", "));
    text.trim_end().to_owned()
}

impl Events {
    /// Returns the kept events, oldest first, and a receiver of all later ones.
    #[must_use]
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        (remembered.iter().cloned().collect(), self.sender.subscribe())
    }

    /// Returns the counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Publishes an event.
    pub fn say(&self, kind: EventKind, name: Option<&InstanceName>, text: String) {
        match kind {
            EventKind::Repaired => self.metrics.repaired(),
            EventKind::Failed | EventKind::Error => self.metrics.failed(),
            _ => {}
        }
        match kind {
            EventKind::Failed | EventKind::Error => tracing::warn!("{text}"),
            EventKind::Noticed
            | EventKind::Repaired
            | EventKind::BackingOff
            | EventKind::Lost
            | EventKind::Missed(_) => {
                tracing::warn!("{}: {text}", kind.as_str());
            }
            EventKind::Up
            | EventKind::Down
            | EventKind::Manifest
            | EventKind::Started
            | EventKind::Ready
            | EventKind::Stopping
            | EventKind::Ended => {
                tracing::debug!("{}: {text}", kind.as_str());
            }
        }
        let event = Event { at: wall_clock(), kind, name: name.cloned(), text };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(event.clone());
        let _nobody_listens = self.sender.send(event);
    }

    /// Publishes the change that a request made.
    pub(super) fn changed(&self, request: &Request, report: &Report) {
        if report.done.is_empty() {
            return;
        }
        match request.taken_down() {
            None => {
                for instance in &report.instances {
                    self.say(EventKind::Up, Some(instance.name()), description(instance));
                }
            }
            Some(Selector::Named(names)) => {
                for name in &names {
                    self.say(EventKind::Down, Some(name), TAKEN_DOWN.to_owned());
                }
            }
            Some(Selector::All) => {
                self.say(EventKind::Down, None, "all taken down".to_owned());
            }
        }
        report.failures.iter().for_each(|failure| self.failed(failure));
    }

    /// Publishes a change by another process. `instance` is what is recorded of an instance that was brought up.
    pub(super) fn heard(&self, entry: JournalEntry, instance: Option<&Instance>) {
        let JournalEntry { kind, name, text, .. } = entry;
        let (kind, text) = match kind {
            JournalKind::Up => (EventKind::Up, instance.map(description).unwrap_or_default()),
            JournalKind::Down => (EventKind::Down, TAKEN_DOWN.to_owned()),
            JournalKind::Failed => (EventKind::Failed, text),
            JournalKind::Started => (EventKind::Started, text),
            JournalKind::Ready => (EventKind::Ready, text),
            JournalKind::Stopping => (EventKind::Stopping, text),
            JournalKind::Ended => (EventKind::Ended, text),
            JournalKind::Lost => (EventKind::Lost, text),
            _ => return,
        };
        self.say(kind, Some(&name), text);
    }

    /// Publishes that this many changes by other processes were not heard of; `None` if nobody knows.
    pub(super) fn missed(&self, count: Option<u64>) {
        let count_text = count.map_or_else(|| "some".to_owned(), |count| count.to_string());
        let text = format!("{count_text} changes by other processes were not heard of");
        self.say(EventKind::Missed(count), None, text);
    }

    /// Publishes that the records were missing, and were written again.
    pub(super) fn restored(&self, state_dir: &Path) {
        let text = format!(
            "the database in {} was removed while functions are up: it is written again from memory",
            state_dir.display()
        );
        self.say(EventKind::Error, None, text);
    }

    /// Publishes what was taken over from other records.
    pub(super) fn adopted(&self, rebuilt: &Rebuilt) {
        for name in &rebuilt.recovered {
            let lost = if rebuilt.incomplete.contains(name) {
                "; it lost exposures that its alias had no room for: bring it up again from its file"
            } else {
                ""
            };
            self.say(EventKind::Up, Some(name), format!("taken over{lost}"));
        }
        for name in &rebuilt.lost {
            let text = "lost: its record could not be read, and it has no interface";
            self.say(EventKind::Failed, Some(name), text.to_owned());
        }
        if !rebuilt.report.done.is_empty() {
            self.repaired(&rebuilt.report);
        }
        rebuilt.report.failures.iter().for_each(|failure| self.failed(failure));
    }

    /// Publishes a repair.
    pub(super) fn repaired(&self, report: &Report) {
        let lines: Vec<_> = report.done.iter().map(ToString::to_string).collect();
        self.say(EventKind::Repaired, None, lines.join("\n"));
    }

    /// Publishes that repairs back off, and for how long.
    pub(super) fn backs_off(&self, slot: Option<Slot>, pause: Duration) {
        let what =
            slot.map_or_else(|| "the firewall".to_owned(), |slot| slot.interface().to_string());
        let text = format!("something changes {what} again and again: left alone for {pause:?}");
        self.say(EventKind::BackingOff, None, text);
    }

    /// Publishes that an instance is not as it should be.
    pub(super) fn failed(&self, failure: &Failure) {
        self.say(EventKind::Failed, Some(&failure.name), chain(failure));
    }

    /// Publishes that a foreign chain cuts functions off.
    pub(super) fn cut_off(&self, cut_off: &CutOff) {
        self.say(EventKind::Error, None, cut_off.to_string());
    }

    /// Publishes a change by another process.
    pub(super) fn noticed(&self, cause: &str) {
        self.say(EventKind::Noticed, None, cause.to_owned());
    }

    /// Publishes an error.
    pub(super) fn error(&self, error: &dyn std::error::Error) {
        self.say(EventKind::Error, None, chain(error));
    }
}
