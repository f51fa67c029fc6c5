//! Answers guests that ask for their configuration, on a thread of its own: no request to the engine delays a guest, and no
//! guest delays the engine.

use std::{
    collections::BTreeSet,
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{events::Events, now};
use riklet_core::{
    lease::{self, Allowance, Verdict},
    model::Slot,
};
use riklet_kernel::{HostFacts, KernelError, linux::questions::Questions};
use riklet_sdn::{Config, Node, NodeError};
use riklet_vmm::attachment::Attachment;

/// The time after which the kernel is asked again for a socket.
const RETRY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The time in which each guest has its allowance of questions.
const ALLOWED: Duration = Duration::from_secs(1);
/// The most questions for which the records are read together.
const TOGETHER: usize = 64;

/// The thread. It ends after this is dropped.
#[derive(Debug)]
pub(super) struct LeaseThread {
    _end: UnixStream,
}

impl LeaseThread {
    /// Starts the thread, in the network namespace of the calling one.
    pub(super) fn start(config: Config, events: Events) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("leases".to_owned());
        thread.spawn(move || run(&mut Node::new(config), &events, &ended))?;
        Ok(Self { _end: end })
    }
}

/// Answers until the end. A socket that fails is opened again.
fn run(node: &mut Node, events: &Events, ended: &UnixStream) {
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
        match poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&RETRY)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[derive(Debug, Default)]
struct Answering {
    allowance: Allowance,
    /// The time at which every guest has its full allowance again; `None` while no guest has used any.
    renewed: Option<Instant>,
}

impl Answering {
    fn run(
        &mut self,
        questions: &mut Questions,
        node: &mut Node,
        ended: &UnixStream,
    ) -> Result<(), KernelError> {
        loop {
            let left = self.renewed.map(|time| time.saturating_duration_since(now()));
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            let files = [questions.as_fd(), ended.as_fd()];
            let mut files = files.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut files, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Ok(()),
            }
            let [_, end] = &files;
            if !end.revents().is_empty() {
                return Ok(());
            }
            self.renew(questions)?;
            let asked = self.receive(questions)?;
            if asked.is_empty() {
                continue;
            }
            if let Err(error) = answer(&asked, questions, node) {
                // Guests ask again.
                tracing::warn!(%error, "cannot answer guests that ask for their configuration");
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

/// Answers these questions. The records are read each time, so that an answer is what they say now, and so that they can be
/// removed in between.
fn answer(
    asked: &[(Slot, Vec<u8>)],
    questions: &Questions,
    node: &mut Node,
) -> Result<(), NodeError> {
    let slots: BTreeSet<_> = asked.iter().map(|(slot, _)| *slot).collect();
    let holders = node.holders(&slots)?;
    if holders.is_empty() {
        return Ok(());
    }
    let resolvers = node.kernel().resolvers()?;
    for (slot, frame) in asked {
        let lease = holders.get(slot).map(|held| Attachment::of(held, &resolvers).lease());
        let Some(answer) = lease.and_then(|lease| lease::answer(frame, &lease)) else { continue };
        // The TAP may have gone meanwhile.
        if let Err(error) = questions.send(*slot, &answer) {
            tracing::debug!(%error, "cannot send an answer to the guest of slot {slot}");
        }
    }
    Ok(())
}
