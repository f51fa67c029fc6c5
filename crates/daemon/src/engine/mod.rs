//! The one thread that changes things, and the handle that others speak to it by.
//!
//! Requests that are waiting when it comes to them are done together. Between them it looks at what the kernel said
//! unasked, repairs what drifted, and gives the worker its chores.

mod core;
mod healer;
mod worker;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use self::core::Core;
use super::events::Events;
use riklet_kernel::{KernelError, linux::watched::Watched};
use riklet_sdn::{Config, NodeError, Report, Request, TaskOutcome, WarmNode};
use riklet_vmm::runs::RunError;

/// The façade as the engine has it.
pub type WatchedNode = WarmNode<Watched>;

/// How the engine works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many TAPs are made in advance; 0 is none.
    pub warm: usize,
    /// Whether to take over what belongs to the records in another state directory, before anything else.
    pub adopt: bool,
}

/// Whatever else the engine's thread shall do.
type Call = Box<dyn FnOnce(&mut WatchedNode) + Send>;

/// What the engine is asked.
enum Message {
    Change(Request, oneshot::Sender<Result<Report, RunError>>),
    Call(Call),
    /// The same, while the worker has nothing to do.
    Alone(Call),
    Status(oneshot::Sender<Status>),
    TaskOutcome(TaskOutcome),
    Stop,
}

/// How the engine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// How many functions are recorded.
    pub functions: u32,
    /// How many slots are warm, being prepared, condemned.
    pub warm: usize,
    /// Their TAPs are being made.
    pub preparing: usize,
    /// Their TAPs are to be deleted.
    pub draining: usize,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A thread, or what wakes it, cannot be made.
    #[error("cannot start the engine")]
    Start(#[source] io::Error),
    /// The kernel's notifications cannot be had.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// What is recorded cannot be brought up.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The engine has ended: it was asked to, or it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is ending")]
pub struct Gone;

/// A handle on the engine; clones are of the same.
#[derive(Debug, Clone)]
pub struct Engine {
    queue: Queue,
}

/// The way to the engine's thread.
#[derive(Debug, Clone)]
struct Queue {
    messages: Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Queue {
    fn send(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).map_err(|_gone| Gone)?;
        // It can fail only where 2^64 - 2 of them were not read yet.
        let _full = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

impl Engine {
    /// Starts the engine in the network namespace of the calling thread, and waits until the kernel is what the
    /// records say.
    ///
    /// # Errors
    /// Where the kernel's notifications cannot be had, or the records cannot be read. What cannot be repaired is
    /// an event, and tried again.
    pub fn start(
        config: Config,
        options: Options,
        events: Events,
    ) -> Result<(Self, JoinHandle<()>), EngineError> {
        let start = |errno: rustix::io::Errno| EngineError::Start(errno.into());
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(start)?;
        let (messages, inbox) = mpsc::channel();
        let queue = Queue { messages, wake: Arc::new(wake) };
        let (started, outcome) = mpsc::channel();
        let of_the_thread = queue.clone();
        let thread = thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(move || {
            match Core::start(config, options, events, inbox, of_the_thread) {
                Ok(core) => {
                    let _nobody_waits = started.send(Ok(()));
                    core.run();
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let thread = thread.map_err(EngineError::Start)?;
        match outcome.recv() {
            Ok(Ok(())) => Ok((Self { queue }, thread)),
            Ok(Err(error)) => Err(error),
            Err(_panicked) => Err(EngineError::Start(io::Error::other("it panicked"))),
        }
    }

    /// Does this, together with what else is waiting. What a VMM runs on is not taken down.
    ///
    /// # Errors
    /// Where the engine has ended. The inner result is [`Node::up`](riklet_sdn::Node::up)'s and [`Node::down`](riklet_sdn::Node::down)'s.
    pub async fn change(&self, request: Request) -> Result<Result<Report, RunError>, Gone> {
        self.ask(|answer| Message::Change(request, answer))?.await.map_err(|_gone| Gone)
    }

    /// [`Self::change`] for a thread.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_change(&self, request: Request) -> Result<Result<Report, RunError>, Gone> {
        let outcome = self.ask(|answer| Message::Change(request, answer))?;
        outcome.blocking_recv().map_err(|_gone| Gone)
    }

    /// Does anything else, once what was asked before is done.
    ///
    /// # Errors
    /// Where the engine has ended.
    pub async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        self.ask(|answer| Message::Call(answering(call, answer)))?.await.map_err(|_gone| Gone)
    }

    /// [`Self::with`] for a thread.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let outcome = self.ask(|answer| Message::Call(answering(call, answer)))?;
        outcome.blocking_recv().map_err(|_gone| Gone)
    }

    /// The same, while no chore is being done: for what concerns spare slots as well, as taking all down with `purge`.
    ///
    /// # Errors
    /// Where the engine has ended.
    pub async fn alone<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        self.ask(|answer| Message::Alone(answering(call, answer)))?.await.map_err(|_gone| Gone)
    }

    /// How it stands. An answer also shows that it is alive.
    ///
    /// # Errors
    /// Where the engine has ended.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Message::Status)?.await.map_err(|_gone| Gone)
    }

    /// Sends a message, and says where its answer comes.
    fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<oneshot::Receiver<T>, Gone> {
        let (answer, outcome) = oneshot::channel();
        self.queue.send(message(answer))?;
        Ok(outcome)
    }

    /// Ends the engine once what was asked before is done. What is up stays up.
    pub fn stop(&self) {
        let _gone = self.queue.send(Message::Stop);
    }
}

/// What does this, and answers what comes of it.
fn answering<T: Send + 'static>(
    call: impl FnOnce(&mut WatchedNode) -> T + Send + 'static,
    answer: oneshot::Sender<T>,
) -> Call {
    Box::new(move |node| drop(answer.send(call(node))))
}
