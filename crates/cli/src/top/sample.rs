//! Samples: the daemon's answers, if one runs, and the kernel's counters.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use riklet_api::{Event, ListEntry, NodeApi, Notification, Topic};
use riklet_core::model::InterfaceName;
use riklet_kernel::linux::{Linux, stats::Traffic};
use riklet_sdn::NodeError;

use super::view::Slots;
use crate::{args::NodeArgs, error::CliError, node::ChosenNode, render};

/// The largest number of events shown.
const EVENTS: usize = 20;

/// The counters of the TAPs at a moment.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) at: Instant,
    pub(super) traffic: BTreeMap<InterfaceName, Traffic>,
}

/// Everything that the view shows of one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) counted: Counted,
    pub(super) functions: Vec<ListEntry>,
    /// The drift that the last check found.
    pub(super) drift: Vec<String>,
    /// The daemon's slots, if one runs.
    pub(super) slots: Option<Slots>,
    /// Its latest events, oldest first.
    pub(super) events: Vec<Event>,
}

/// Takes samples.
pub(super) struct Sampler {
    node: NodeArgs,
    kernel: Linux,
    drift: Vec<String>,
    checked: Option<Instant>,
    /// The duration of the last check for drift.
    check_took: Duration,
}

impl Sampler {
    pub(super) fn new(node: NodeArgs) -> Self {
        Self {
            node,
            kernel: Linux::new(),
            drift: vec![],
            checked: None,
            check_took: Duration::ZERO,
        }
    }

    /// Takes a sample. Looks for a daemon each time.
    pub(super) fn take(&mut self, check: bool) -> Result<Sample, CliError> {
        let mut node = ChosenNode::of(&self.node)?;
        let functions = node.list()?;
        let health = node.health()?;
        let mut events = if health.is_some() { recent(&mut node)? } else { vec![] };
        events.drain(..events.len().saturating_sub(EVENTS));
        if check {
            let begun = now();
            self.drift = render::check(&node.check()?).lines().map(str::to_owned).collect();
            self.checked = Some(now());
            self.check_took = now().duration_since(begun);
        }
        let traffic = self.kernel.traffic().map_err(NodeError::from)?;
        Ok(Sample {
            counted: Counted { at: now(), traffic },
            functions,
            drift: self.drift.clone(),
            slots: health.as_ref().map(Slots::from),
            events,
        })
    }

    /// Takes a sample, and checks for drift if that is due. A check reads everything, so checks may use no more than a
    /// twentieth of the time.
    pub(super) fn take_in_turn(&mut self) -> Result<Sample, CliError> {
        const SELDOM: Duration = Duration::from_secs(5);
        let pause = SELDOM.max(self.check_took * 20);
        let due = self.checked.is_none_or(|checked| now().duration_since(checked) >= pause);
        self.take(due)
    }
}

/// Returns the events that the daemon remembers, oldest first.
fn recent(node: &mut dyn NodeApi) -> Result<Vec<Event>, CliError> {
    let mut events = Vec::new();
    for notification in node.events(Topic::Changes, false, None)? {
        if let Notification::Event(event) = notification? {
            events.push(event);
        }
    }
    Ok(events)
}

#[expect(clippy::disallowed_methods, reason = "the program's edge: a rate is over a time")]
fn now() -> Instant {
    Instant::now()
}
