//! The one thread that changes the node, and the handle by which others reach it.
//!
//! The thread applies all waiting requests together. Between requests it reads the kernel's notifications, repairs
//! drift, and gives the background thread its tasks.
//!
//! | file | what |
//! | --- | --- |
//! | `core` | the thread: waits, and takes what comes |
//! | `batch` | requests that are done together |
//! | `drift`, `healer` | what somebody else changed, and when it is repaired |
//! | `others` | changes by other processes, for the events |
//! | `slots` | TAPs created in advance, and deleted later, on another thread |
//! | `flows` | flows that are forgotten on another thread, and the replies that wait for it |
//! | `worker` | these threads |
//! | `refusals` | what guests are refused, heard of on another thread |
//! | `leases` | guests that ask for their configuration, answered on another thread |
//! | `ended` | the end of these two threads |
//! | `progress` | what the thread is at, for those who do not wait for it |
//! | `node_api`, `pending` | the handle: an API for threads, and replies to come |

mod batch;
mod core;
mod drift;
mod ended;
mod flows;
mod healer;
mod leases;
mod node_api;
mod others;
mod pending;
mod progress;
mod refusals;
mod slots;
mod turn;
mod worker;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Semaphore, oneshot};

use self::{core::Core, progress::Progress};
pub use self::{
    pending::{Gone, Pending},
    progress::Delay,
};
use super::{
    documents,
    events::Events,
    local::LocalNode,
    offload::{offload, refused},
};
use riklet_api::{ApiError, Check, Health, InspectionDocument, ListEntry, NodeApi};
use riklet_core::model::InstanceName;
use riklet_kernel::{KernelError, linux::watched::Watched};
use riklet_sdn::{Config, FlowOutcome, Node, NodeError, Report, Request, TaskOutcome, WarmNode};

/// The node as the engine has it.
pub type WatchedNode = LocalNode<WarmNode<Watched>>;

/// Options of the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of TAPs to create in advance; 0 for none.
    pub ready_slots: usize,
    /// True to take over the interfaces of another state directory's records before anything else.
    pub adopt: bool,
}

/// Any other call on the engine's thread.
type Call = Box<dyn FnOnce(&mut WatchedNode) + Send>;

/// A message to the engine.
enum Message {
    Change(Request, oneshot::Sender<Result<Report, NodeError>>),
    Call(Call),
    /// A call that runs while no task of another thread is in progress.
    Alone(Call),
    Count(oneshot::Sender<SlotCounts>),
    TaskOutcome(TaskOutcome),
    FlowOutcome(FlowOutcome),
    Stop,
}

/// The number of slots in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotCounts {
    /// Slots of recorded functions.
    pub functions: u32,
    /// Reserved slots whose TAPs are being created.
    pub creating: usize,
    /// Reserved slots whose TAPs are ready.
    pub ready: usize,
    /// Reserved slots whose TAPs are to be deleted.
    pub draining: usize,
}

/// The reason why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A thread, or the descriptor that wakes it, cannot be created.
    #[error("cannot start the engine")]
    Start(#[source] io::Error),
    /// The kernel's notifications are not available.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The recorded instances cannot be brought up.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl EngineError {
    /// Creates the error of a thread that ended before it had started.
    pub(crate) fn panicked() -> Self {
        Self::Start(io::Error::other("it panicked"))
    }
}

/// A handle to the engine. Clones refer to the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    queue: Queue,
    events: Events,
    config: Arc<Config>,
    progress: Progress,
}

/// The longest wait for an answer of the engine about itself.
const PATIENCE: Duration = Duration::from_millis(200);
/// The longest wait for the engine's answer about what is recorded.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// The most threads that read the records or the kernel beside the engine.
const READERS: usize = 8;

/// The queue to the engine's thread.
#[derive(Debug, Clone)]
struct Queue {
    messages: Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Queue {
    fn send(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).map_err(|_gone| Gone)?;
        // The write fails only if 2^64 - 2 wake-ups are unread.
        let _full = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

impl Engine {
    /// Starts the engine in the network namespace of the calling thread, and waits until the kernel matches the
    /// records.
    ///
    /// # Errors
    /// Fails if the kernel's notifications are not available, or the records cannot be read. A failed repair is an
    /// event, and is retried.
    pub fn start(
        config: Config,
        options: Options,
        events: Events,
    ) -> Result<(Self, JoinHandle<()>), EngineError> {
        let start = |errno: rustix::io::Errno| EngineError::Start(errno.into());
        let mut config = config;
        config.answers_names = true;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(start)?;
        let (messages, inbox) = mpsc::channel();
        let queue = Queue { messages, wake: Arc::new(wake) };
        let engine = Self {
            queue: queue.clone(),
            events: events.clone(),
            config: Arc::new(config.clone()),
            progress: Progress::default(),
        };
        let progress = engine.progress.clone();
        let (started, outcome) = mpsc::channel();
        let thread = thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(move || {
            match Core::start(config, options, events, inbox, (queue, progress)) {
                Ok(core) => {
                    let _nobody_waits = started.send(Ok(()));
                    core.run();
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let thread = thread.map_err(EngineError::Start)?;
        match outcome.recv() {
            Ok(Ok(())) => Ok((engine, thread)),
            Ok(Err(error)) => Err(error),
            Err(_panicked) => Err(EngineError::panicked()),
        }
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Applies this request, together with others that wait. Refuses to take down a running function.
    ///
    /// # Errors
    /// The inner result is [`WarmNode::apply`]'s.
    pub fn change(&self, request: Request) -> Pending<Result<Report, NodeError>> {
        self.ask(|reply| Message::Change(request, reply))
    }

    /// Makes this call on the engine's thread, after earlier requests. It must be short, since everybody else waits.
    pub fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    ) -> Pending<T> {
        self.ask(|reply| Message::Call(replying(call, reply)))
    }

    /// Makes this call as [`Self::with`] does, while no background task is in progress. Calls that concern reserved
    /// slots need this, such as taking everything down with `purge`.
    pub fn alone<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    ) -> Pending<T> {
        self.ask(|reply| Message::Alone(replying(call, reply)))
    }

    /// Compares the records with the kernel itself, not with what is cached of it.
    pub(crate) fn check_anew(&self) -> Pending<Result<Check, ApiError>> {
        self.with(|node| {
            node.node.kernel().forget();
            node.check()
        })
    }

    /// Returns the number of slots in each state. The reply also shows that the engine is alive.
    pub fn counts(&self) -> Pending<SlotCounts> {
        self.ask(Message::Count)
    }

    /// Returns the state of the daemon. If the engine is busy, returns what was last known, and why it is busy, instead of
    /// waiting.
    ///
    /// # Errors
    /// Fails if the engine has ended.
    pub async fn health(&self) -> Result<Health, Gone> {
        let (counts, delay) = self.counts_or_delay().await?;
        Ok(documents::health(counts, delay.as_ref()))
    }

    /// Lists the recorded functions and the state of their TAPs. If the engine is busy, reads the records and the kernel
    /// beside it: the list may then have what the engine was asked to take down.
    ///
    /// # Errors
    /// Fails if the engine has ended, or the records or the kernel cannot be read.
    pub async fn list(&self) -> Result<Vec<ListEntry>, ApiError> {
        self.look(|node| node.list()).await
    }

    /// Returns what is known about one function. If the engine is busy, reads the records and the kernel beside it, as
    /// [`Self::list`] does.
    ///
    /// # Errors
    /// Fails if the engine has ended, there is no such function, or the records or the kernel cannot be read.
    pub async fn inspect(&self, name: InstanceName) -> Result<InspectionDocument, ApiError> {
        self.look(move |node| node.inspect(&name)).await
    }

    /// Has the engine look, or looks beside it if it is busy.
    async fn look<T: Send + 'static>(
        &self,
        look: impl Fn(&mut dyn NodeApi) -> Result<T, ApiError> + Clone + Send + 'static,
    ) -> Result<T, ApiError> {
        let asked = look.clone();
        let found = self.with(move |node| asked(node));
        if let Ok(found) = tokio::time::timeout(LOOK_PATIENCE, found).await {
            return found?;
        }
        let config = Config::clone(&self.config);
        self.beside(move || look(&mut LocalNode::new(Node::new(config)))).await?
    }

    /// Reads the records or the kernel on a thread of its own. There are few of these at a time, however many ask.
    ///
    /// # Errors
    /// Fails if the host has no thread left.
    pub async fn beside<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        static TURNS: Semaphore = Semaphore::const_new(READERS);
        // It is never closed.
        let _turn = TURNS.acquire().await;
        offload(look).await.map_err(|error| refused(&error))
    }

    /// Returns the number of slots in each state, as last known if the engine is busy, and why it is busy.
    ///
    /// # Errors
    /// Fails if the engine has ended.
    pub async fn counts_or_delay(&self) -> Result<(SlotCounts, Option<Delay>), Gone> {
        match tokio::time::timeout(PATIENCE, self.counts()).await {
            Ok(counts) => Ok((counts?, None)),
            Err(_busy) => Ok((self.progress.counts(), self.progress.delay(&self.config.state_dir))),
        }
    }

    /// Returns whether the engine answers, or waits for another process: then a new start would wait as well.
    ///
    /// # Errors
    /// Fails if the engine has ended.
    pub async fn is_well(&self) -> Result<bool, Gone> {
        let (_, delay) = self.counts_or_delay().await?;
        Ok(delay.is_none_or(|delay| delay.waits_for.is_some()))
    }

    /// Sends a message, and returns its pending reply.
    fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Pending<T> {
        let (sender, receiver) = oneshot::channel();
        match self.queue.send(message(sender)) {
            Ok(()) => Pending::new(receiver),
            Err(Gone) => Pending::gone(),
        }
    }

    /// Ends the engine after earlier requests. Functions stay up.
    pub fn stop(&self) {
        let _gone = self.queue.send(Message::Stop);
    }
}

/// Returns a call that sends the result of `call` as its reply.
fn replying<T: Send + 'static>(
    call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    reply: oneshot::Sender<T>,
) -> Call {
    Box::new(move |node| drop(reply.send(call(node))))
}
