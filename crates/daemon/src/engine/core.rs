//! The engine's thread: waits, takes requests and kernel notifications, and does what is due.

use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, TryRecvError},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    Call, EngineError, Message, Options, Queue, SlotCounts, WatchedNode,
    batch::{BATCH_SIZE, Reply},
    drift::{KnownWarnings, REFRESH_INTERVAL},
    ended::Thread,
    flows::Unconfirmed,
    healer::Healer,
    leases,
    others::JOURNAL_INTERVAL,
    progress::Progress,
    refusals,
    turn::Turn,
    worker::Worker,
};
use crate::{events::Events, local::LocalNode, names::Resolver, now};
use riklet_core::{model::Slot, plan::CutOff};
use riklet_kernel::linux::{Linux, pins::SharedPins, watched::Watched};
use riklet_sdn::{
    BackgroundTask, Config, FlowTask, NodeError, Request, WarmNode,
    store::{JournalFollower, ReservedSlot, Setting, Store},
};

/// The state of the engine's thread.
pub(super) struct Core {
    pub(super) local: WatchedNode,
    pub(super) options: Options,
    pub(super) events: Events,
    inbox: Receiver<Message>,
    queue: Queue,
    progress: Progress,
    pub(super) journal: JournalFollower,
    /// The number of the last change by another process that was published.
    pub(super) heard: u64,
    /// True if other processes of ours were at work, as of this turn and of the turns since [`Self::causes`] is not empty.
    pub(super) others_worked: bool,
    /// The processes that changed our part of the firewall, and that may be others of ours.
    pub(super) causes: Vec<String>,
    /// The thread for reserved slots.
    pub(super) background: Worker<BackgroundTask>,
    /// The thread that forgets flows.
    pub(super) flows: Worker<FlowTask>,
    /// The turn of this process at the lock, which tasks of these threads keep.
    pub(super) turn: Turn,
    /// The thread that hears of what guests are refused.
    _refusals: Thread,
    /// The thread that answers guests which ask for their configuration.
    _leases: Thread,
    /// The thread that answers guests that ask for names.
    pub(super) names: Resolver,
    /// The addresses that guests were told for names.
    pub(super) pins: SharedPins,
    pub(super) healer: Healer,
    /// The error of the last repair, if it failed: the same one is said once.
    pub(super) failed_repair: Option<String>,
    /// The foreign chains that cut functions off, as of the last repair.
    pub(super) cut_offs: BTreeSet<CutOff>,
    /// The surprises for users at the last look.
    pub(super) warnings: KnownWarnings,
    /// Slots that the engine changed since it last read the kernel's notifications.
    pub(super) changed_by_us: BTreeSet<Slot>,
    /// Requests that wait for a background task to free a slot or a port.
    pub(super) waiting: Vec<(Request, Reply)>,
    /// Requests that wait for a task which forgets flows.
    pub(super) held: Vec<(Request, Reply)>,
    /// Replies that wait for such a task.
    pub(super) unconfirmed: Vec<Unconfirmed>,
    /// Calls that wait until no task of another thread is in progress.
    pub(super) alone: Vec<Call>,
    /// The time of the last request.
    pub(super) last_request: Instant,
    /// The earliest time to commit outcomes: later than otherwise after that has failed.
    pub(super) flush_after: Instant,
    /// The time since which TAPs await deletion; `None` if there are none.
    pub(super) draining_since: Option<Instant>,
    /// The time of the next look at state that the kernel does not report.
    pub(super) next_refresh: Instant,
    /// True if there may be fewer ready slots than configured.
    pub(super) refill: bool,
    /// The ready slots that there are at least; `None` if they have to be counted.
    pub(super) least_ready: Option<usize>,
    pub(super) stopping: bool,
}

/// Starts the threads for what takes long: reserved slots, and the forgetting of flows.
fn workers(
    queue: &Queue,
    pins: &SharedPins,
) -> std::io::Result<(Worker<BackgroundTask>, Worker<FlowTask>)> {
    let (outcomes, mut kernel) = (queue.clone(), Linux::new());
    let background = Worker::start("background", move |task: BackgroundTask| {
        let _engine_is_gone = outcomes.send(Message::TaskOutcome(task.run(&mut kernel)));
    })?;
    let (outcomes, mut kernel) = (queue.clone(), Linux::new().with_pins(pins));
    let flows = Worker::start("flows", move |task: FlowTask| {
        let _engine_is_gone = outcomes.send(Message::FlowOutcome(task.run(&mut kernel)));
    })?;
    Ok((background, flows))
}

/// Reports whether nothing is decided about the node yet. If its records cannot be read, the start fails later.
fn is_first_use(config: &Config) -> bool {
    let store = Store::open_existing(&config.state_dir);
    let pool = store.and_then(|store| store.map_or(Ok(None), |store| store.setting(Setting::Pool)));
    matches!(pool, Ok(None))
}

impl Core {
    /// Subscribes to notifications first, then makes the kernel match the records, so that no change in between is
    /// missed.
    pub(super) fn start(
        config: Config,
        options: Options,
        events: Events,
        inbox: Receiver<Message>,
        (queue, progress): (Queue, Progress),
    ) -> Result<Self, EngineError> {
        let is_first_use = is_first_use(&config);
        let pins = SharedPins::default();
        let kernel = Watched::open(Linux::new().with_pins(&pins))?;
        let mut node = WarmNode::new(config, kernel);
        if options.adopt {
            events.adopted(&node.adopt()?);
        }
        if options.ready_slots > 0 {
            node.initialize()?;
        }
        let report = node.repair()?;
        let (background, flows) = workers(&queue, &pins).map_err(EngineError::Start)?;
        let state_dir = node.config().state_dir.clone();
        let refusals =
            refusals::start(state_dir.clone(), events.clone()).map_err(EngineError::Start)?;
        let leases =
            leases::start(node.config().clone(), events.clone()).map_err(EngineError::Start)?;
        let names = Resolver::start(state_dir, events.clone(), pins.clone());
        let names = names.map_err(EngineError::Start)?;
        // What was changed before is in the first list of every watcher.
        let journal = JournalFollower::open(&node.config().state_dir);
        let heard = node.changes_after(0)?.last;
        let now = now();
        let mut core = Self {
            local: LocalNode::new(node),
            options,
            events,
            inbox,
            queue,
            progress,
            journal,
            heard,
            others_worked: false,
            causes: Vec::new(),
            background,
            flows,
            turn: Turn::default(),
            _refusals: refusals,
            _leases: leases,
            names,
            pins,
            healer: Healer::default(),
            failed_repair: None,
            cut_offs: BTreeSet::new(),
            warnings: KnownWarnings { found: BTreeSet::new(), stale: true },
            changed_by_us: BTreeSet::new(),
            waiting: Vec::new(),
            held: Vec::new(),
            unconfirmed: Vec::new(),
            alone: Vec::new(),
            last_request: now,
            flush_after: now,
            draining_since: Some(now),
            next_refresh: now + REFRESH_INTERVAL,
            refill: true,
            least_ready: None,
            stopping: false,
        };
        if is_first_use {
            // Nothing was broken: this made what all functions share.
            core.note_changes(&report, now);
        } else {
            core.note_repair(&report, now);
        }
        core.local.node.kernel().changes()?;
        Ok(core)
    }

    /// Works until the request to stop, and finishes earlier requests.
    pub(super) fn run(mut self) {
        while !self.stopping || !self.alone.is_empty() || !self.flows.is_idle() {
            self.progress.end();
            if let Err(errno) = self.wait() {
                self.events.error(&std::io::Error::from(errno));
                return;
            }
            self.progress.begin();
            self.hear_others();
            self.take_messages();
            self.call_alone();
            self.hear_others();
            self.listen();
            self.heal();
            self.notice();
            self.give_tasks();
            if self.local.node.take_restored() {
                self.events.restored(&self.local.node.config().state_dir);
            }
        }
        if let Err(error) = self.local.node.close() {
            self.events.error(&error);
        }
    }

    /// Waits for a message, a notification, or the time of the next task.
    fn wait(&mut self) -> Result<(), Errno> {
        let look = self.journal.as_fd().is_none().then(|| now() + JOURNAL_INTERVAL);
        let due = [Some(self.next_refresh), self.healer.next(), self.next_task(), look];
        let due = due.into_iter().flatten().min().unwrap_or(self.next_refresh);
        let limit = Timespec::try_from(due.saturating_duration_since(now())).ok();
        let kernel = &*self.local.node.kernel();
        let mut files = vec![PollFd::new(&*self.queue.wake, PollFlags::IN)];
        files.extend(self.journal.as_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
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

    /// Handles the messages in order. Adjacent changes are applied together.
    fn take_messages(&mut self) {
        let mut batch = Vec::new();
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Change(request, reply)) => {
                    batch.push((request, reply));
                    if batch.len() < BATCH_SIZE {
                        continue;
                    }
                    self.change(std::mem::take(&mut batch));
                }
                Ok(other) => {
                    self.change(std::mem::take(&mut batch));
                    self.take_other(other);
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

    fn take_other(&mut self, message: Message) {
        match message {
            Message::Change(request, reply) => self.change(vec![(request, reply)]),
            Message::Call(call) => call(&mut self.local),
            Message::Alone(call) => self.alone.push(call),
            Message::Count(reply) => {
                let counts = self.counts().unwrap_or_default();
                self.progress.note_counts(counts);
                let _nobody_waits = reply.send(counts);
            }
            Message::TaskOutcome(outcome) => {
                self.finish(&outcome);
                // Others may take the lock.
                drop(outcome);
                self.go_on();
            }
            Message::FlowOutcome(outcome) => self.finish_flows(outcome),
            Message::Stop => self.stopping = true,
        }
    }

    /// Makes the calls that need idle threads, once these are idle. They get no new task before.
    pub(super) fn call_alone(&mut self) {
        if self.alone.is_empty() || !self.background.is_idle() || !self.flows.is_idle() {
            return;
        }
        for call in std::mem::take(&mut self.alone) {
            call(&mut self.local);
        }
        self.names.changed(None);
        self.refill = true;
        self.least_ready = None;
        self.draining_since = self.draining_since.or(Some(now()));
    }

    fn counts(&mut self) -> Result<SlotCounts, NodeError> {
        let (functions, reserved) = self.local.node.counts()?;
        let count = |state| reserved.get(&state).copied().unwrap_or_default();
        Ok(SlotCounts {
            functions,
            creating: count(ReservedSlot::Creating),
            ready: count(ReservedSlot::Ready),
            draining: count(ReservedSlot::Draining),
        })
    }
}
