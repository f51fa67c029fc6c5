use std::{
    collections::{BTreeSet, VecDeque},
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::sync::oneshot;

use super::{
    EngineError, Message, Options, Queue, SlotCounts, WatchedNode,
    healer::{Healer, Look, Subject},
    worker::Worker,
};
use crate::{events::Events, local::LocalNode, now};
use riklet_core::{model::Slot, plan::Step};
use riklet_kernel::linux::{Linux, watched::Watched};
use riklet_sdn::{Config, Failure, NodeError, Report, Request, WarmNode, store::ReservedSlot};
use riklet_vmm::runs::{self, RunError};

/// The most requests of one batch.
const BATCH: usize = 512;
/// TAPs are made in advance once nobody has asked for anything for so long, or half of them are gone.
const QUIET: Duration = Duration::from_millis(3);
/// So many are made by one chore.
const PREPARED: usize = 16;
/// Condemned TAPs are deleted together: once there are so many, or the first of them has waited for so long.
const DRAIN_BATCH: usize = 256;
const REAP_AFTER: Duration = Duration::from_millis(50);
/// How often what has no notification is looked at.
const TICK: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<Report, RunError>>;

/// What the engine's thread has.
pub(super) struct Core {
    local: WatchedNode,
    options: Options,
    events: Events,
    inbox: Receiver<Message>,
    queue: Queue,
    worker: Worker,
    healer: Healer,
    /// Slots that we changed since the kernel was last listened to.
    own: BTreeSet<Slot>,
    /// Requests that wait for a slot or a port that a chore will give free.
    waiting: Vec<(Request, Reply)>,
    /// When somebody last asked for something.
    asked: Instant,
    /// Since when something is condemned.
    draining: Option<Instant>,
    /// When what has no notification is looked at next.
    tick: Instant,
    /// Whether slots may be fewer than they should.
    refill: bool,
    /// What was asked while something else had to be done first.
    later: VecDeque<Message>,
    stopping: bool,
}

impl Core {
    /// Listens first, then makes the kernel what the records say: nothing that changes meanwhile is missed.
    pub(super) fn start(
        config: Config,
        options: Options,
        events: Events,
        inbox: Receiver<Message>,
        queue: Queue,
    ) -> Result<Self, EngineError> {
        let kernel = Watched::open(Linux::new())?;
        let mut node = WarmNode::new(config, kernel);
        if options.adopt {
            events.adopted(&node.adopt()?);
        }
        if options.warm > 0 {
            node.initialize()?;
        }
        let report = node.repair()?;
        let answers = queue.clone();
        let done = move |done| {
            let _engine_is_gone = answers.send(Message::TaskOutcome(done));
        };
        let worker = Worker::start(Linux::new(), done).map_err(EngineError::Start)?;
        let now = now();
        let mut core = Self {
            local: LocalNode::new(node),
            options,
            events,
            inbox,
            queue,
            worker,
            healer: Healer::default(),
            own: BTreeSet::new(),
            waiting: Vec::new(),
            asked: now,
            draining: Some(now),
            tick: now + TICK,
            refill: true,
            later: VecDeque::new(),
            stopping: false,
        };
        core.report_repair(&report, now);
        core.local.node.kernel().changes()?;
        Ok(core)
    }

    /// Works until it is asked to stop.
    pub(super) fn run(mut self) {
        while !self.stopping {
            if let Err(errno) = self.wait() {
                self.events.error(&std::io::Error::from(errno));
                return;
            }
            self.take_messages();
            self.listen();
            self.heal();
            self.give_chores();
        }
        if let Err(error) = self.local.node.close() {
            self.events.error(&error);
        }
    }

    /// Waits for a message, a notification, or the time that something is due.
    fn wait(&mut self) -> Result<(), Errno> {
        let due = [Some(self.tick), self.healer.next(), self.next_chore()];
        let due = due.into_iter().flatten().min().unwrap_or(self.tick);
        let limit = Timespec::try_from(due.saturating_duration_since(now())).ok();
        let kernel = &*self.local.node.kernel();
        let mut files = vec![PollFd::new(&*self.queue.wake, PollFlags::IN)];
        files.extend(
            kernel.as_fds().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        match poll(&mut files, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut count = [0; 8];
        match rustix::io::read(&*self.queue.wake, &mut count) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Does what was asked, in order; changes that stand beside each other together.
    fn take_messages(&mut self) {
        let mut batch = Vec::new();
        loop {
            let next = self.later.pop_front().map_or_else(|| self.inbox.try_recv(), Ok);
            match next {
                Ok(Message::Change(request, answer)) => {
                    batch.push((request, answer));
                    if batch.len() < BATCH {
                        continue;
                    }
                    self.change(std::mem::take(&mut batch));
                }
                Ok(other) => {
                    self.change(std::mem::take(&mut batch));
                    self.do_other(other);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    break;
                }
            }
        }
        self.change(batch);
    }

    fn do_other(&mut self, message: Message) {
        match message {
            Message::Change(request, answer) => self.change(vec![(request, answer)]),
            Message::Call(call) => call(&mut self.local),
            Message::Alone(call) => {
                self.let_worker_rest();
                call(&mut self.local);
                self.refill = true;
                self.draining = self.draining.or(Some(now()));
            }
            Message::Count(reply) => {
                let _nobody_waits = reply.send(self.counts().unwrap_or_default());
            }
            Message::TaskOutcome(done) => self.finish(&done),
            Message::Stop => self.stopping = true,
        }
    }

    /// Does these together, and answers each.
    fn change(&mut self, batch: Vec<(Request, Reply)>) {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for (request, answer) in batch {
            match self.refuse_running(&request) {
                Ok(()) => {
                    requests.push(request);
                    answers.push(answer);
                }
                Err(error) => {
                    let _nobody_waits = answer.send(Err(error));
                }
            }
        }
        if requests.is_empty() {
            return;
        }
        let results = self.local.node.apply(&requests);
        let now = now();
        let may_wait = self.worker_may_free();
        for ((request, answer), result) in requests.into_iter().zip(answers).zip(results) {
            match &result {
                Err(error) if error.is_exhausted() && may_wait => {
                    self.waiting.push((request, answer));
                    self.draining = Some(now.checked_sub(REAP_AFTER).unwrap_or(now));
                    continue;
                }
                Err(_) => {}
                Ok(report) => self.note(&request, report, now),
            }
            let _nobody_waits = answer.send(result.map_err(RunError::from));
        }
        self.asked = now;
    }

    fn refuse_running(&mut self, request: &Request) -> Result<(), RunError> {
        match request {
            Request::Down(selector) => {
                self.local.node.look_at_runs(|store| runs::refuse_running(store, selector))?
            }
            Request::Up(..) => Ok(()),
        }
    }

    /// What was done, for those who watch, and for what is suspected.
    fn note(&mut self, request: &Request, report: &Report, now: Instant) {
        for step in &report.done {
            match step {
                Step::DrainLinks(names) => {
                    self.own.extend(names.keys().filter_map(|n| Slot::of_interface(n.as_str())));
                    self.draining = self.draining.or(Some(now));
                }
                step => self.own.extend(step.slot()),
            }
        }
        self.refill |= matches!(request, Request::Up(..));
        self.events.changed(request, report);
        for failure in report.failures.iter().chain(&report.others) {
            self.suspect_failure(failure, now);
        }
    }

    fn suspect_failure(&mut self, failure: &Failure, now: Instant) {
        self.healer.failed(Subject::Slot(failure.slot), now);
    }

    /// Whether a slot that is taken now may be free soon.
    fn worker_may_free(&self) -> bool {
        !self.worker.is_idle() || self.draining.is_some()
    }

    /// What the kernel said unasked.
    fn listen(&mut self) {
        let now = now();
        let own = std::mem::take(&mut self.own);
        let changes = match self.local.node.kernel().changes() {
            Ok(changes) => changes,
            Err(error) => {
                self.events.error(&error);
                self.healer.failed(Subject::All, now);
                return;
            }
        };
        if changes.firewall || changes.uplinks || changes.lost {
            self.healer.suspect(Subject::All, now);
        }
        if changes.foreign_chains || changes.forwarding {
            self.healer.suspect(Subject::Shared, now);
        }
        for cause in &changes.causes {
            self.events.noticed(cause);
        }
        for slot in changes.links {
            if own.contains(&slot) {
                self.healer.own(slot, now);
            } else {
                self.healer.suspect(Subject::Slot(slot), now);
                // Another process may have taken a warm one, or condemned its own.
                self.refill = true;
                self.draining = self.draining.or(Some(now));
            }
        }
        if now >= self.tick {
            self.tick = now + TICK;
            let whole = self.local.node.kernel().refresh();
            self.healer.suspect(if whole { Subject::All } else { Subject::Shared }, now);
        }
    }

    /// Repairs what drifted.
    fn heal(&mut self) {
        let now = now();
        let Some(look) = self.healer.take(now) else { return };
        let (healed, subjects) = match &look {
            Look::All => (self.local.node.repair(), vec![Subject::All]),
            Look::Slots(slots) => {
                let subjects = slots.iter().copied().map(Subject::Slot);
                (self.local.node.heal(slots), subjects.chain([Subject::Shared]).collect())
            }
        };
        match healed {
            Ok(report) => self.report_repair(&report, now),
            Err(error) => {
                self.events.error(&error);
                for subject in subjects {
                    self.healer.failed(subject, now);
                }
            }
        }
    }

    fn report_repair(&mut self, report: &Report, now: Instant) {
        let mut repaired = BTreeSet::new();
        for step in &report.done {
            let shared = match step {
                Step::Firewall(..) => Subject::All,
                _ => Subject::Shared,
            };
            repaired.insert(step.slot().map_or(shared, Subject::Slot));
            self.own.extend(step.slot());
        }
        if !report.done.is_empty() {
            self.events.repaired(report);
        }
        for subject in repaired {
            if let Some(pause) = self.healer.repaired(subject, now) {
                self.events.backs_off(subject.slot(), pause);
            }
        }
        for failure in &report.failures {
            self.events.failed(failure);
            self.suspect_failure(failure, now);
        }
    }
}

/// Chores: what the worker does.
impl Core {
    /// When a chore is due that nothing else wakes us for.
    fn next_chore(&self) -> Option<Instant> {
        let flush = self.local.node.has_deferred().then_some(self.asked + QUIET);
        if !self.worker.is_idle() {
            return flush;
        }
        let reap = self.draining.map(|since| since + REAP_AFTER);
        let refill = (self.refill && self.options.warm > 0).then_some(self.asked + QUIET);
        reap.into_iter().chain(refill).chain(flush).min()
    }

    fn give_chores(&mut self) {
        if self.stopping {
            return;
        }
        if self.local.node.has_deferred()
            && now() >= self.asked + QUIET
            && let Err(error) = self.local.node.flush()
        {
            self.events.error(&error);
        }
        if !self.worker.is_idle() {
            return;
        }
        if let Err(error) = self.next_chores() {
            self.events.error(&error);
            // The tick tries again.
            self.refill = false;
            self.draining = None;
        }
    }

    fn next_chores(&mut self) -> Result<(), NodeError> {
        let now = now();
        if !self.refill && self.draining.is_none() {
            return Ok(());
        }
        let spares = self.local.node.reserved()?;
        let count = |spare| spares.get(&spare).copied().unwrap_or_default();
        let (warm, draining) = (count(ReservedSlot::Ready), count(ReservedSlot::Draining));
        let reap_due = self.draining.is_some_and(|since| now >= since + REAP_AFTER);
        if draining == 0 {
            self.draining = None;
        } else if (reap_due || draining >= DRAIN_BATCH)
            && let Some(task) = self.local.node.drain()?
        {
            self.draining = None;
            self.worker.give(task);
            return Ok(());
        }
        let wanted = self.options.warm.saturating_sub(warm + count(ReservedSlot::Creating));
        if wanted == 0 {
            self.refill = false;
        } else if self.refill && (now >= self.asked + QUIET || warm * 2 <= self.options.warm) {
            match self.local.node.prepare(wanted.min(PREPARED))? {
                Some(task) => self.worker.give(task),
                None => self.refill = false,
            }
        }
        Ok(())
    }

    /// A chore is done: its slots are warm or free, and those who waited for one try again.
    fn finish(&mut self, done: &riklet_sdn::TaskOutcome) {
        self.worker.rests();
        self.own.extend(done.ready.iter().chain(&done.freed));
        let now = now();
        if let Err(error) = self.local.node.finish(done) {
            self.events.error(&error);
            self.healer.suspect(Subject::All, now);
        }
        for error in done.failed.values().chain(done.kept.as_ref().map(|(_, error)| error)) {
            self.events.error(error);
        }
        if done.kept.is_some() {
            self.draining = Some(now + TICK);
        }
        self.refill = true;
        let waiting = std::mem::take(&mut self.waiting);
        self.change(waiting);
    }

    /// Waits for the chore that is being done. What is asked meanwhile comes later.
    fn let_worker_rest(&mut self) {
        while !self.worker.is_idle() {
            match self.inbox.recv() {
                Ok(Message::TaskOutcome(done)) => self.finish(&done),
                Ok(other) => self.later.push_back(other),
                Err(_gone) => return,
            }
        }
    }

    fn counts(&mut self) -> Result<SlotCounts, NodeError> {
        let (functions, spares) = self.local.node.counts()?;
        let count = |spare| spares.get(&spare).copied().unwrap_or_default();
        Ok(SlotCounts {
            functions,
            warm: count(ReservedSlot::Ready),
            preparing: count(ReservedSlot::Creating),
            draining: count(ReservedSlot::Draining),
        })
    }
}
