//! Answers guests that ask for their configuration, on a thread of its own: no request to the engine delays a guest, and no
//! guest delays the engine.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use rustix::event::Timespec;

use super::ended::{Ended, Thread};
use crate::{events::Events, now};
use riklet_core::{
    lease::{self, Allowance, Verdict},
    model::Slot,
};
use riklet_kernel::{HostFacts, KernelError, linux::questions::Questions};
use riklet_sdn::{
    Config, Instance, LinkStatus, ListedInstance, Node, NodeError,
    store::{Setting, Store},
};
use riklet_vmm::attachment::Attachment;

/// The time after which the kernel is asked again for a socket.
const RETRY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The time in which each guest has its allowance of questions.
const ALLOWED: Duration = Duration::from_secs(1);
/// The time after which the host's default route of IPv6 is looked at again: announcements come no more often (RFC 4861,
/// section 6.2.6).
const LOOK: Duration = Duration::from_secs(3);
/// The time after which guests are told of their router again: they would forget it after 18 hours.
const REPEAT: Duration = Duration::from_hours(1);
/// The most questions for which the records are read together.
const TOGETHER: usize = 64;

/// Starts the thread, in the network namespace of the calling one.
pub(super) fn start(config: Config, events: Events) -> io::Result<Thread> {
    Thread::start("leases", move |ended| run(&mut Node::new(config), &events, ended))
}

/// Answers until the end. A socket that fails is opened again.
fn run(node: &mut Node, events: &Events, ended: &Ended) {
    let mut said = None;
    loop {
        let answered = Questions::listen().and_then(|mut questions| {
            said = None;
            Answering::default().run(&mut questions, node, ended)
        });
        let Err(error) = answered else { return };
        // The same error is said once.
        if said.as_ref() != Some(&error) {
            events.error(&error);
            said = Some(error);
        }
        if ended.within(RETRY) {
            return;
        }
    }
}

#[derive(Debug, Default)]
struct Answering {
    allowance: Allowance,
    /// The time at which every guest has its full allowance again; `None` while no guest has used any.
    renewed: Option<Instant>,
    /// The router that guests were last told of; `None` if none has IPv6.
    told: Option<Told>,
}

/// The state of the router that guests were last told of.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// True if the host had a default route.
    routed: bool,
    /// The time at which the route is looked at again.
    look: Instant,
    /// The time at which all are told again.
    repeat: Instant,
}

impl Answering {
    fn run(
        &mut self,
        questions: &mut Questions,
        node: &mut Node,
        ended: &Ended,
    ) -> Result<(), KernelError> {
        // Some may have lost their router since the last daemon.
        self.announce(questions, node);
        loop {
            let due = [self.renewed, self.told.map(|told| told.look)].into_iter().flatten().min();
            let left = due.map(|time| time.saturating_duration_since(now()));
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            if ended.before(&*questions, limit) {
                return Ok(());
            }
            self.renew(questions)?;
            self.look(questions, node);
            let asked = self.receive(questions)?;
            if asked.is_empty() {
                continue;
            }
            match answer(&asked, questions, node) {
                Ok(Some(routed)) => self.told = self.told.or_else(|| Told::now(routed)),
                Ok(None) => {}
                Err(error) => {
                    // Guests ask again.
                    tracing::warn!(%error, "cannot answer guests that ask for their configuration");
                }
            }
        }
    }

    /// Gives all guests their full allowance again, if it is time.
    fn renew(&mut self, questions: &Questions) -> Result<(), KernelError> {
        if self.renewed.is_some_and(|time| time <= now()) {
            self.renewed = None;
            if self.allowance.renew() {
                questions.mute(self.allowance.muted())?;
            }
        }
        Ok(())
    }

    /// Tells all guests of their router if the host has lost its default route of IPv6, or has one again, and from time to time.
    fn look(&mut self, questions: &Questions, node: &mut Node) {
        let now = now();
        let Some(told) = self.told.as_mut().filter(|told| told.look <= now) else { return };
        // If this fails, or the announcement does, it is looked at again after the same time.
        told.look += LOOK;
        let routed = node.kernel().has_default_route_v6().unwrap_or(told.routed);
        if routed != told.routed || told.repeat <= now {
            self.announce(questions, node);
        }
    }

    /// Tells all guests that have IPv6 of their router.
    fn announce(&mut self, questions: &Questions, node: &mut Node) {
        match announce(questions, node) {
            Ok(routed) => self.told = routed.and_then(Told::now),
            Err(error) => tracing::warn!(%error, "cannot tell guests of their router"),
        }
    }

    /// Returns the questions that have arrived and are answered, as many as are answered together.
    fn receive(&mut self, questions: &mut Questions) -> Result<Vec<(Slot, Vec<u8>)>, KernelError> {
        let mut asked = Vec::new();
        for _ in 0..TOGETHER {
            let Some((slot, frame)) = questions.receive()? else { break };
            self.renewed = self.renewed.or_else(|| now().checked_add(ALLOWED));
            match self.allowance.ask(slot) {
                Verdict::Answer => asked.push((slot, frame.to_vec())),
                Verdict::Mute => questions.mute(self.allowance.muted())?,
                Verdict::Ignore => {}
            }
        }
        Ok(asked)
    }
}

impl Told {
    /// Returns what is told now.
    fn now(routed: bool) -> Option<Self> {
        let look = now().checked_add(LOOK)?;
        Some(Self { routed, look, repeat: now().checked_add(REPEAT)? })
    }
}

/// Answers these questions. The records are read each time, so that an answer is what they say now, and so that they can be
/// removed in between. If any of the guests has IPv6, returns whether the host has a default route.
fn answer(
    asked: &[(Slot, Vec<u8>)],
    questions: &Questions,
    node: &mut Node,
) -> Result<Option<bool>, NodeError> {
    let slots: BTreeSet<_> = asked.iter().map(|(slot, _)| *slot).collect();
    let holders = node.holders(&slots)?;
    let routed = routed(node, holders.values())?;
    if holders.is_empty() {
        return Ok(None);
    }
    let resolvers = node.kernel().resolvers()?;
    for (slot, frame) in asked {
        let Some(held) = holders.get(slot) else { continue };
        let lease = Attachment::of(held, &resolvers).lease(routed.unwrap_or_default());
        if let Some(answer) = lease::answer(frame, &lease) {
            send(questions, *slot, &answer);
        }
    }
    Ok(routed)
}

/// Tells all guests that have IPv6 of their router. Returns whether the host has a default route; `None` if no guest has IPv6.
fn announce(questions: &Questions, node: &mut Node) -> Result<Option<bool>, NodeError> {
    // Where no guest ever had IPv6, they need not be listed.
    let range = Store::open_existing(&node.config().state_dir)?
        .and_then(|store| store.setting(Setting::PoolV6).transpose());
    if range.transpose()?.is_none() {
        return Ok(None);
    }
    let listed = node.list()?;
    let Some(routed) = routed(node, listed.iter().map(|listed| &listed.instance))? else {
        return Ok(None);
    };
    let resolvers = node.kernel().resolvers()?;
    for ListedInstance { instance, link, .. } in &listed {
        let lease = Attachment::of(instance, &resolvers).lease(routed);
        let announced = (*link == LinkStatus::Attached).then(|| lease::announcement(&lease));
        if let Some(frame) = announced.flatten() {
            send(questions, instance.slot, &frame);
        }
    }
    Ok(Some(routed))
}

/// Returns whether the host has a default route of IPv6; `None` if none of these instances has IPv6.
fn routed<'i>(
    node: &mut Node,
    mut instances: impl Iterator<Item = &'i Instance>,
) -> Result<Option<bool>, NodeError> {
    let has_v6 = instances.any(|instance| instance.addresses.v6.is_some());
    Ok(has_v6.then(|| node.kernel().has_default_route_v6()).transpose()?)
}

fn send(questions: &Questions, slot: Slot, frame: &[u8]) {
    // The TAP may have gone meanwhile.
    if let Err(error) = questions.send(slot, frame) {
        tracing::debug!(%error, "cannot send an answer to the guest of slot {slot}");
    }
}
