use std::{io, path::PathBuf, process::ExitCode};

use riklet_api::{Detail, ErrorKind, Failure, Problem};
use riklet_core::definition;
use riklet_daemon::{documents::NotUnderstood, server::ServeError};
use riklet_guest::GuestError;
use riklet_http::HttpError;
use riklet_sdn::{ConfigError, NodeError, store::StoreError};
use riklet_vmm::{runs::RunError, supervisor::SupervisorError};
use serde_json::{Value, json};

pub(crate) use riklet_api::chain;

use super::args::OutputFormat;

/// Why the program does not exit with 0.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: longer than {} bytes, the most that is read", path.display(), definition::MAX_BYTES)]
    TooLarge { path: PathBuf },
    #[error("{}:{line}:{column}: not UTF-8 text", path.display())]
    NotText { path: PathBuf, line: usize, column: usize },
    #[error(transparent)]
    Definition(#[from] definition::Errors),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{}", .0.error)]
    Failure(Failure),
    /// The failures are printed already.
    #[error("{count} of the instances are not up")]
    Failures { count: usize, kind: ErrorKind },
    #[error("the capability CAP_NET_ADMIN is needed")]
    Privilege,
    #[error("cannot open /dev/net/tun, which TAPs are made with")]
    Tun { source: io::Error },
    #[error("cannot write the output")]
    Write { source: io::Error },
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Supervisor(Box<SupervisorError>),
    #[error("cannot leave the terminal")]
    Session { source: io::Error },
    #[error("cannot read {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("--console is for one function, but {count} are defined")]
    Console { count: usize },
    #[error("cannot start a supervisor for {name}")]
    Detach { name: String, source: io::Error },
    #[error("cannot listen for signals")]
    Signals { source: io::Error },
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot connect to the daemon at {}", path.display())]
    Daemon { path: PathBuf, source: io::Error },
    #[error("a daemon is running and has the database open; it listens on {}", path.display())]
    DaemonRuns { path: PathBuf },
    #[error("no daemon listens on {}", path.display())]
    NoDaemon { path: PathBuf },
    #[error("the daemon does not answer")]
    Http { source: HttpError },
    #[error("cannot understand the daemon's answer to {call}; it may have another version")]
    Answer { call: String, source: serde_json::Error },
    #[error("the request is too large for the daemon at {}", path.display())]
    TooMuch { path: PathBuf },
    #[error("standard output is not a terminal")]
    NoTerminal,
    #[error("cannot use the terminal")]
    Terminal { source: io::Error },
    #[error("the daemon has ended")]
    DaemonEnded,
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    #[error(transparent)]
    NotUnderstood(#[from] NotUnderstood),
    #[error("cannot render the output")]
    Render { source: serde_json::Error },
}

impl From<SupervisorError> for CliError {
    fn from(error: SupervisorError) -> Self {
        Self::Supervisor(Box::new(error))
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Node(error.into())
    }
}

impl CliError {
    /// The error, what is behind it, and what to do about it, on standard error.
    pub(crate) fn print(&self, format: OutputFormat) {
        super::output::error(format, &chain(self), self.hint().as_deref(), self.details());
    }

    /// Where each thing is wrong, for programs.
    fn details(&self) -> Option<Value> {
        let details = match self {
            Self::Definition(errors) => Detail::of(errors),
            Self::Config(e) => {
                vec![Detail::new(&e.place, &e.key, e.reason.to_string(), e.reason.hint())]
            }
            Self::Problem(problem) => problem.details.clone(),
            _ => vec![],
        };
        (!details.is_empty()).then(|| json!(details))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        const FAILED: u8 = 1;
        const INVALID: u8 = 2;
        const HOST: u8 = 3;
        let kind = match self {
            Self::Read { .. }
            | Self::TooLarge { .. }
            | Self::NotText { .. }
            | Self::Console { .. }
            | Self::TooMuch { .. }
            | Self::NoTerminal
            | Self::Definition(_)
            | Self::Config(_) => ErrorKind::Invalid,
            Self::Privilege | Self::Tun { .. } | Self::Daemon { .. } => ErrorKind::Host,
            Self::Supervisor(error) => error.kind(),
            Self::Run(RunError::Node(error)) | Self::Node(error) => error.kind(),
            Self::Failure(failure) => failure.kind,
            Self::Failures { kind, .. } => *kind,
            Self::Problem(problem) => problem.kind,
            Self::Serve(error) => error.kind(),
            _ => ErrorKind::Failed,
        };
        ExitCode::from(match kind {
            ErrorKind::Failed => FAILED,
            ErrorKind::Invalid => INVALID,
            ErrorKind::Host => HOST,
        })
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Node(error) => error.hint(),
            Self::Failure(failure) => failure.hint.clone(),
            Self::Problem(problem) => problem.hint.clone(),
            Self::Serve(error) => error.hint(),
            Self::NoTerminal => Some("`--once` prints one table".to_owned()),
            Self::TooMuch { .. } => {
                Some("name fewer functions at once, or run it as root".to_owned())
            }
            Self::Daemon { .. } => {
                Some("run it as root, or as a member of the socket's group".to_owned())
            }
            Self::DaemonRuns { .. } => {
                Some("end it first (`systemctl stop riklet-sdn`)".to_owned())
            }
            Self::NoDaemon { .. } => Some("start one with `riklet-sdn serve`".to_owned()),
            Self::Privilege => Some("run it as root".to_owned()),
            Self::Tun { source } => Some(tun_advice(source).to_owned()),
            Self::Supervisor(error) => error.hint(),
            Self::Run(error) => error.hint(),
            _ => None,
        }
    }
}

/// What to do where `/dev/net/tun` cannot be opened.
pub(crate) fn tun_advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "run it as root"
    } else {
        "`modprobe tun`; in a container, pass the device through"
    }
}
