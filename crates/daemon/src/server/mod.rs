//! The API: HTTP/1.1 and JSON on a unix socket.

mod allowance;
mod body;
mod collection;
mod connections;
mod ends;
mod frame;
mod handlers;
mod openapi;
mod problem;
mod request;
mod routes;
mod running;
mod runs;
mod socket;
mod stream;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{Router, routing::get};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    time,
};

use body::Bodies;
use connections::{Client, Limits};
pub(crate) use frame::Encoded;
#[cfg(test)]
pub(crate) use frame::event as encoded;
use socket::Listener;
pub use socket::SocketError;

use super::{
    documents,
    engine::{Engine, EngineError, Gone, Options},
    events::Events,
    manifests::Manifests,
};
use riklet_api::{Health, SettingsDocument};
use riklet_core::model::Account;
use riklet_sdn::{Config, ErrorKind, Node};

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of the socket.
    pub socket: PathBuf,
    /// The group that may use the socket, besides root.
    pub group: Option<Account>,
    /// The TCP address that also serves the metrics, to anybody who can reach it.
    pub metrics: Option<SocketAddr>,
    /// The directory of the definition files.
    pub manifests: Option<PathBuf>,
    /// The time limit for a client to send a request.
    pub patience: Duration,
}

impl Settings {
    /// The default time limit for a client to send a request.
    pub const PATIENCE: Duration = Duration::from_secs(10);
}

/// The time that pending requests have after the daemon was told to end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The reason why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine cannot start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The socket cannot be created.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The directory of definition files cannot be watched.
    #[error("cannot watch {}", path.display())]
    Manifests {
        /// The directory.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// An operation that the server needs failed.
    #[error("cannot {operation}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// The kernel's own words.
        source: io::Error,
    },
}

impl ServeError {
    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(EngineError::Node(error)) => error.kind(),
            Self::Socket(SocketError::UnknownGroup { .. } | SocketError::GroupOfVmms { .. }) => {
                ErrorKind::Invalid
            }
            _ => ErrorKind::Failed,
        }
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(EngineError::Node(error)) => error.hint(),
            Self::Socket(SocketError::Foreign { .. }) => {
                Some("choose another socket (`--api`)".to_owned())
            }
            Self::Socket(SocketError::UnknownGroup { name }) => {
                Some(format!("`groupadd --system {name}`, or write a number"))
            }
            Self::Socket(SocketError::GroupOfVmms { .. }) => {
                Some("`groupadd --system riklet`, and `--api-group riklet`".to_owned())
            }
            _ => None,
        }
    }
}

/// State shared by all handlers.
#[derive(Debug, Clone)]
pub(super) struct Api {
    engine: Engine,
    events: Events,
    /// Limits the memory for the bodies of all requests.
    bodies: Bodies,
    /// True once the daemon ends, which ends streams.
    ending: watch::Receiver<bool>,
}

/// A daemon that has started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Started {
    /// The numbers of functions and of reserved slots.
    pub health: Health,
    /// The settings of the records, which have been decided by now.
    pub settings: SettingsDocument,
}

/// Serves until SIGTERM or SIGINT. Functions stay up. What can be refused is, before a file is created. Calls `announce`
/// once, when requests are answered; it must not wait.
///
/// # Errors
/// Fails if it cannot start, or can no longer accept connections.
pub fn serve(
    config: Config,
    options: Options,
    settings: &Settings,
    announce: impl FnOnce(&Started),
) -> Result<(), ServeError> {
    let io = |operation| move |source| ServeError::Io { operation, source };
    connections::raise_descriptor_limit();
    if !options.adopt {
        Node::new(config.clone()).refuse_first_use().map_err(EngineError::Node)?;
    }
    socket::refuse(settings, config.vmm.vmm_users)?;
    let metrics = settings.metrics.map(std::net::TcpListener::bind).transpose();
    let metrics = metrics.map_err(io("listen for those who read the metrics"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io("start the server"))?;
    runtime.block_on(async {
        // Before the socket exists, so that no signal ends the process and leaves it behind.
        let mut signals = Signals::listen().map_err(io("listen for signals"))?;
        let state_dir = config.state_dir.clone();
        let _only_daemon = socket::lock(&state_dir)?;
        let listener = Listener::create(&state_dir, settings)?;
        let events = Events::default();
        let starting = Parts::start(config, options, settings, &events);
        let started = tokio::select! {
            started = starting => started.map(Some),
            // The engine ends with the process, as if it were killed: the next start completes its work.
            () = signals.next() => Ok(None),
        };
        let (parts, served) = match started {
            Ok(Some(parts)) => {
                if let Some(started) = parts.started().await {
                    announce(&started);
                }
                let ended = accept(&listener, metrics, &parts.engine, events, &mut signals).await;
                (Some(parts), ended.map_err(io("accept connections")))
            }
            Ok(None) => (None, Ok(())),
            Err(refused) => (None, Err(refused)),
        };
        // From here on, commands work without the daemon.
        listener.remove();
        let _not_supervised = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if let Some(parts) = parts {
            parts.stop();
        }
        served
    })
}

/// The threads that work besides the server's.
struct Parts {
    engine: Engine,
    thread: JoinHandle<()>,
    manifests: Option<Manifests>,
}

impl Parts {
    /// Starts the threads, on a thread of its own, since that takes as long as bringing up what is recorded.
    async fn start(
        config: Config,
        options: Options,
        settings: &Settings,
        events: &Events,
    ) -> Result<Self, ServeError> {
        let (sender, started) = oneshot::channel();
        let (path, events) = (settings.manifests.clone(), events.clone());
        let thread = thread::Builder::new().name("start".to_owned()).spawn(move || {
            let _asked_to_end = sender.send(start_all(config, options, path, events));
        });
        thread.map_err(|source| ServeError::Io { operation: "start a thread", source })?;
        started.await.map_err(|_panicked| EngineError::panicked())?
    }

    /// Returns the daemon's state; `None` if its engine has ended, or the records cannot be read.
    async fn started(&self) -> Option<Started> {
        let health = self.engine.health().await.ok()?;
        let settings = documents::settings(self.engine.config()).ok()?;
        Some(Started { health, settings })
    }

    /// Ends the threads, after earlier requests. Functions stay up.
    fn stop(self) {
        if let Some(manifests) = self.manifests {
            manifests.stop();
        }
        self.engine.stop();
        let _panicked = self.thread.join();
    }
}

/// Starts the engine, and follows the definition files.
fn start_all(
    config: Config,
    options: Options,
    manifests: Option<PathBuf>,
    events: Events,
) -> Result<Parts, ServeError> {
    let (engine, thread) = Engine::start(config, options, events.clone())?;
    let manifests = manifests.map(|path| {
        Manifests::follow(&path, engine.clone(), events)
            .map_err(|source| ServeError::Manifests { path, source })
    });
    match manifests.transpose() {
        Ok(manifests) => Ok(Parts { engine, thread, manifests }),
        Err(refused) => {
            Parts { engine, thread, manifests: None }.stop();
            Err(refused)
        }
    }
}

/// The signals that ask the daemon to end. They no longer end the process by themselves.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Waits until one comes.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn accept(
    listener: &Listener<'_>,
    metrics: Option<std::net::TcpListener>,
    engine: &Engine,
    events: Events,
    signals: &mut Signals,
) -> io::Result<()> {
    let settings = listener.settings();
    let metrics = metrics.map(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let metrics = metrics.transpose()?;
    let (end, ending) = watch::channel(false);
    let patience = settings.patience;
    let bodies = Bodies::new(patience);
    let runs = tokio::spawn(runs::follow(engine.clone(), events.clone()));
    let api = Api { engine: engine.clone(), events, bodies, ending: ending.clone() };
    let (router, to_read) = (router(api.clone()), metrics_router(api));
    let limits = Limits::new(patience);
    let to_serve = async || listener.accept().await;
    let to_read_from = async || accept_tcp(metrics.as_ref()).await;
    let api = connections::serve(to_serve, router, limits.api(), ending.clone());
    let metrics = connections::serve(to_read_from, to_read, limits.metrics(), ending);
    let watchdog = tokio::spawn(feed_watchdog(engine.clone()));
    let _not_supervised = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let asked_to_end = async move {
        signals.next().await;
        watchdog.abort();
        runs.abort();
        let _nobody_listens = end.send(true);
        time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        _both_ended = async { tokio::join!(api, metrics) } => {}
        () = asked_to_end => tracing::warn!("some requests were not answered in time"),
    }
    Ok(())
}

/// Accepts a connection. Waits for ever without a listener.
async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(TcpStream, Client)> {
    match listener {
        Some(listener) => Ok((listener.accept().await?.0, Client::Other)),
        None => std::future::pending().await,
    }
}

/// Waits until the daemon ends.
async fn ended(ending: &mut watch::Receiver<bool>) {
    let _sender_is_gone = ending.wait_for(|ending| *ending).await.map(drop);
}

/// Tells systemd that the daemon is alive, as long as its engine answers or waits for another process (`WatchdogSec=` of
/// systemd.service(5)).
async fn feed_watchdog(engine: Engine) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut interval = time::interval(limit / 2);
    loop {
        interval.tick().await;
        match engine.is_well().await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(Gone) => return,
        }
        let _not_supervised = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

fn metrics_router(api: Api) -> Router {
    Router::new()
        .route("/metrics", get(handlers::metrics))
        .fallback(problem::unknown_path)
        .with_state(api)
}

fn router(api: Api) -> Router {
    routes::router()
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .with_state(api)
}
