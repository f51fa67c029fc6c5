//! Events: what the daemon did, recorded for watchers.

use std::{
    borrow::Cow,
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use super::{documents, metrics::Metrics, server::Encoded, wall_clock};
use riklet_api::{ListEntry, Token, Topic, chain};
use riklet_core::{
    firewall::RefusedPacket,
    model::{InstanceName, Slot},
    plan::CutOff,
};
use riklet_sdn::{
    Failure, Inspection, Instance, LinkStatus, Rebuilt, Report, Request, Selector, Warning,
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
    /// A packet of a function was refused, or a name. These events are a stream of their own.
    Refused,
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
            Self::Refused => "refused",
            Self::Missed(_) => "missed",
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    /// The position among the daemon's events.
    pub token: Token,
    /// The time.
    pub at: SystemTime,
    /// The kind.
    pub kind: EventKind,
    /// The function that the event concerns, if it concerns one.
    pub name: Option<InstanceName>,
    /// The text: one or more lines.
    pub text: String,
    /// The function, as lists have it, after an event of kind `up` or `failed`; `None` if it was not recorded any more.
    pub instance: Option<ListEntry>,
    /// The packet, in an event of kind `refused`; `None` if a name was refused.
    pub refused: Option<RefusedPacket>,
    /// The event as streams send it.
    pub(super) encoded: Encoded,
}

impl From<&Event> for riklet_api::Event {
    fn from(event: &Event) -> Self {
        Self {
            token: event.token.to_string(),
            at_ms: riklet_api::epoch_millis(event.at),
            kind: event.kind.as_str().to_owned(),
            name: event.name.as_ref().map(ToString::to_string),
            text: event.text.clone(),
            refused: event.refused.as_ref().map(documents::refused),
        }
    }
}

/// The daemon's events: published and watched through this. Clones share them.
#[derive(Debug, Clone)]
pub struct Events {
    all: Stream,
    /// Refusals: so many events that the others would be forgotten beside them.
    refused: Stream,
    metrics: Metrics,
}

/// Events of one sort.
#[derive(Debug, Clone)]
struct Stream {
    published: Arc<Mutex<Published>>,
    sender: broadcast::Sender<Arc<Event>>,
}

/// The latest events, and the position of the last one.
#[derive(Debug)]
struct Published {
    remembered: VecDeque<Arc<Event>>,
    last: Token,
}

impl Default for Events {
    fn default() -> Self {
        let started = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started = u64::try_from(started.as_micros()).unwrap_or_default();
        // A token of one stream is none of the other.
        let (all, refused) = (Stream::new(started), Stream::new(started + 1));
        Self { all, refused, metrics: Metrics::default() }
    }
}

impl Stream {
    fn new(started: u64) -> Self {
        let (sender, _) = broadcast::channel(REMEMBERED);
        let published = Published { remembered: VecDeque::new(), last: Token::start(started) };
        Self { published: Arc::new(Mutex::new(published)), sender }
    }

    fn listen(&self, since: Option<Token>) -> Subscription {
        let published = self.published();
        let (remembered, last) = (&published.remembered, published.last);
        let later = match since {
            Some(since) => last.since(since),
            None => u64::try_from(remembered.len()).ok(),
        };
        let wanted = later.and_then(|later| usize::try_from(later).ok()).unwrap_or(usize::MAX);
        let kept = remembered.len().min(wanted);
        let missed = later.map(|later| later.saturating_sub(u64::try_from(kept).unwrap_or(0)));
        let remembered = remembered.iter().skip(remembered.len() - kept).cloned().collect();
        Subscription { missed, remembered, last, coming: self.sender.subscribe() }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the event that has the next position.
    fn publish(&self, event: impl FnOnce(Token) -> Event) {
        let mut published = self.published();
        let token = published.last.next();
        let event = Arc::new(event(token));
        published.last = token;
        if published.remembered.len() == REMEMBERED {
            published.remembered.pop_front();
        }
        published.remembered.push_back(Arc::clone(&event));
        let _nobody_listens = self.sender.send(event);
    }
}

/// The events from a position on.
#[derive(Debug)]
pub struct Subscription {
    /// The number of events after that position that are not kept any more; `None` if nobody knows, since the position is
    /// another daemon's.
    pub missed: Option<u64>,
    /// The kept events, oldest first.
    pub remembered: Vec<Arc<Event>>,
    /// The position of the last event.
    pub last: Token,
    /// All later events.
    pub coming: broadcast::Receiver<Arc<Event>>,
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
    /// Returns the events after this position, or all that are kept.
    #[must_use]
    pub fn listen(&self, since: Option<Token>) -> Subscription {
        self.listen_to(Topic::Changes, since)
    }

    /// Returns the events of this topic after this position, or all that are kept.
    #[must_use]
    pub fn listen_to(&self, topic: Topic, since: Option<Token>) -> Subscription {
        match topic {
            Topic::Changes => self.all.listen(since),
            Topic::Refusals => self.refused.listen(since),
        }
    }

    /// Returns the counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Publishes an event.
    pub fn say(&self, kind: EventKind, name: Option<&InstanceName>, text: String) {
        self.publish(kind, name, text, None);
    }

    fn publish(
        &self,
        kind: EventKind,
        name: Option<&InstanceName>,
        text: String,
        instance: Option<ListEntry>,
    ) {
        match kind {
            EventKind::Repaired => self.metrics.repaired(),
            EventKind::Failed | EventKind::Error => self.metrics.failed(),
            _ => {}
        }
        let line = for_log(name, &text);
        match kind {
            EventKind::Failed | EventKind::Error => tracing::warn!("{line}"),
            EventKind::Noticed
            | EventKind::Repaired
            | EventKind::BackingOff
            | EventKind::Lost
            | EventKind::Missed(_) => {
                tracing::warn!("{}: {line}", kind.as_str());
            }
            EventKind::Up
            | EventKind::Down
            | EventKind::Manifest
            | EventKind::Started
            | EventKind::Ready
            | EventKind::Stopping
            | EventKind::Ended
            | EventKind::Refused => {
                tracing::debug!("{}: {line}", kind.as_str());
            }
        }
        let (at, name, encoded) = (wall_clock(), name.cloned(), Encoded::default());
        self.all.publish(|token| {
            let refused = None;
            Event { token, at, kind, name, text, instance, refused, encoded }
        });
    }

    /// Publishes that a packet of a function was refused; `None` if its guest is gone.
    pub(super) fn refused(&self, name: Option<InstanceName>, packet: RefusedPacket) {
        let text = packet.to_string();
        self.publish_refusal(EventKind::Refused, name, text, Some(packet));
    }

    /// Publishes that a function was refused a name, or all addresses of one.
    pub(super) fn name_refused(&self, name: InstanceName, text: String) {
        self.publish_refusal(EventKind::Refused, Some(name), text, None);
    }

    /// Publishes that some refused packets were not heard of.
    pub(super) fn refusals_missed(&self) {
        let text = "some refused packets were not heard of".to_owned();
        self.publish_refusal(EventKind::Missed(None), None, text, None);
    }

    fn publish_refusal(
        &self,
        kind: EventKind,
        name: Option<InstanceName>,
        text: String,
        refused: Option<RefusedPacket>,
    ) {
        let (at, encoded, instance) = (wall_clock(), Encoded::default(), None);
        self.refused.publish(|token| Event {
            token,
            at,
            kind,
            name,
            text,
            instance,
            refused,
            encoded,
        });
    }

    /// Publishes the change that a request made, without its failures. `status` tells the state of a TAP.
    pub(super) fn changed(
        &self,
        request: &Request,
        report: &Report,
        mut status: impl FnMut(&Instance) -> LinkStatus,
    ) {
        if report.done.is_empty() {
            return;
        }
        match request.taken_down() {
            None => {
                for instance in &report.instances {
                    let entry = documents::entry(instance, status(instance));
                    let text = description(instance);
                    self.publish(EventKind::Up, Some(instance.name()), text, Some(entry));
                }
                for warning in &report.warnings {
                    self.warned(warning);
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
    }

    /// Publishes a change by another process. `found` is what is recorded of the instance, if it is up or has failed.
    pub(super) fn heard(&self, entry: JournalEntry, found: Option<&Inspection>) {
        let JournalEntry { kind, name, text, .. } = entry;
        let (kind, text) = match kind {
            JournalKind::Up => {
                let described = found.map(|found| description(&found.instance));
                (EventKind::Up, described.unwrap_or_default())
            }
            JournalKind::Down if text.is_empty() => (EventKind::Down, TAKEN_DOWN.to_owned()),
            JournalKind::Down => (EventKind::Down, text),
            JournalKind::Repaired => (EventKind::Repaired, text),
            JournalKind::Failed => (EventKind::Failed, text),
            JournalKind::Started => (EventKind::Started, text),
            JournalKind::Ready => (EventKind::Ready, text),
            JournalKind::Stopping => (EventKind::Stopping, text),
            JournalKind::Ended => (EventKind::Ended, text),
            JournalKind::Lost => (EventKind::Lost, text),
            _ => return,
        };
        let instance = found.map(|found| documents::entry(&found.instance, found.status));
        self.publish(kind, name.as_ref(), text, instance);
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
                "; it lost exposures that its alias had no room for, or its policy: bring it up again from its file"
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
        rebuilt.report.failures.iter().for_each(|failure| self.failed(failure, None));
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

    /// Publishes that an instance is not as it should be. `found` is what is recorded of it.
    pub(super) fn failed(&self, failure: &Failure, found: Option<&Inspection>) {
        let instance = found.map(|found| documents::entry(&found.instance, found.status));
        self.publish(EventKind::Failed, Some(&failure.name), chain(failure), instance);
    }

    /// Publishes that a foreign chain cuts functions off.
    pub(super) fn cut_off(&self, cut_off: &CutOff) {
        self.say(EventKind::Error, None, cut_off.to_string());
    }

    /// Publishes what may surprise the user of an instance. A foreign chain that cuts functions off has events of its own.
    pub(super) fn warned(&self, warning: &Warning) {
        let name = match warning {
            Warning::Shadows(shadow) => &shadow.name,
            Warning::AbsentAddress(absent) => &absent.name,
            Warning::Idle(idle) => &idle.name,
            _ => return,
        };
        let text = warning.to_string();
        // An event has the name beside its text.
        let bare = text.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(": "));
        self.say(EventKind::Noticed, Some(name), bare.unwrap_or(&text).to_owned());
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

/// Returns the text of an event for the log, which has no field for the name of the function.
fn for_log<'a>(name: Option<&InstanceName>, text: &'a str) -> Cow<'a, str> {
    let Some(name) = name else { return text.into() };
    let named = text.strip_prefix(name.as_str());
    if named.is_some_and(|rest| rest.starts_with(": ") || rest.starts_with(" is ")) {
        return text.into();
    }
    format!("{name}: {text}").into()
}

#[cfg(test)]
mod tests {
    use riklet_core::firewall::RefusingRule;

    use super::*;

    #[test]
    fn log_has_the_name_of_the_function_once() {
        let name = "its".parse().unwrap();
        let line = |text| for_log(Some(&name), text);
        assert_eq!(line("its supervisor died"), "its: its supervisor died");
        assert_eq!(line("its is not up: no TAP"), "its is not up: no TAP");
        assert_eq!(line("its: tcp 80 is taken"), "its: tcp 80 is taken");
        assert_eq!(for_log(None, "all taken down"), "all taken down");
    }

    fn texts(subscription: &Subscription) -> Vec<&str> {
        subscription.remembered.iter().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn reader_resumes_where_it_was_or_is_told_what_it_missed() {
        let events = Events::default();
        let say = |text: &str| events.say(EventKind::Noticed, None, text.to_owned());
        let before = events.listen(None).last;
        say("one");
        say("two");
        let all = events.listen(None);
        assert_eq!((texts(&all), all.missed), (vec!["one", "two"], Some(0)));
        let one = all.remembered.first().unwrap().token;
        let later = events.listen(Some(one));
        assert_eq!((texts(&later), later.missed), (vec!["two"], Some(0)));
        let none = events.listen(Some(all.last));
        assert_eq!((texts(&none), none.missed), (vec![], Some(0)));
        let from_start = events.listen(Some(before));
        assert_eq!((texts(&from_start), from_start.missed), (vec!["one", "two"], Some(0)));
        // Another daemon's position, and one that was not reached yet.
        for token in [Token::start(7), all.last.next()] {
            let unknown = events.listen(Some(token));
            assert_eq!((texts(&unknown), unknown.missed), (vec!["one", "two"], None));
        }
        for number in 0..REMEMBERED {
            say(&number.to_string());
        }
        let late = events.listen(Some(one));
        assert_eq!((late.remembered.len(), late.missed), (REMEMBERED, Some(1)));
    }

    #[test]
    fn refusals_do_not_displace_other_events() {
        let events = Events::default();
        events.say(EventKind::Noticed, None, "one".to_owned());
        let to = [192, 0, 2, 1].into();
        let (rule, interface, from, protocol, port) = (RefusingRule::Mail, 7, to, 6, Some(25));
        let packet = RefusedPacket { rule, interface, from, to, protocol, port };
        for _ in 0..=REMEMBERED {
            events.refused("f".parse().ok(), packet.clone());
        }
        let all = events.listen(None);
        assert_eq!((texts(&all), all.missed), (vec!["one"], Some(0)));
        let refused = events.listen_to(Topic::Refusals, None);
        assert_eq!(refused.remembered.len(), REMEMBERED);
        let first = refused.remembered.first().unwrap();
        assert_eq!(first.text, "tcp 192.0.2.1:25: guests do not send mail");
        let none = events.listen_to(Topic::Refusals, Some(all.last));
        assert_eq!(none.missed, None, "the token is of the other stream");
        let late = events.listen_to(Topic::Refusals, Some(first.token));
        assert_eq!((late.remembered.len(), late.missed), (REMEMBERED - 1, Some(0)));
    }

    #[test]
    fn event_is_encoded_once_for_all_watchers() {
        let events = Events::default();
        let watchers = [events.listen(None), events.listen(None)];
        events.say(EventKind::Noticed, None, "one".to_owned());
        let told = watchers.map(|mut watcher| {
            let event = watcher.coming.try_recv().unwrap();
            crate::server::encoded(&event)
        });
        assert_eq!(told[0].as_ptr(), told[1].as_ptr());
    }
}
