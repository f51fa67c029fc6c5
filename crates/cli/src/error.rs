use std::{io, path::PathBuf, process::ExitCode};

use riklet_api::{ApiError, Detail, ErrorKind, FailureDocument};
use riklet_core::{
    definition,
    model::{InstanceName, Kind},
};
use riklet_daemon::{documents::NotUnderstood, server::ServeError};
use riklet_guest::GuestError;
use riklet_sdn::{ConfigError, NodeError, process::LockHolder, store::StoreError};
use riklet_vmm::{runs::RunError, supervisor::SupervisorError};

use super::config::Conflict;
pub(crate) use riklet_api::chain;

/// The reason why the program exits with a status other than 0.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has no file that ends in .{}", directory.display(), definition::EXTENSIONS.join(", ."))]
    NoFiles { directory: PathBuf },
    /// The function that options describe. Each reason names the field that a definition would have.
    #[error("{}", reasons.join("; "))]
    Described { reasons: Vec<String> },
    #[error("{reason}")]
    Question { reason: String },
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
    Failure(FailureDocument),
    /// Some operations failed, and their failures are already printed.
    #[error("{count} of the instances are not up")]
    Failures { count: usize, kind: ErrorKind },
    #[error("the capability CAP_NET_ADMIN is needed")]
    Privilege,
    #[error("cannot open /dev/net/tun, which TAPs are made with")]
    Tun { source: io::Error },
    #[error("{name} is a {kind}, which has no TAP for a VMM")]
    NoTap { name: InstanceName, kind: Kind },
    #[error("cannot write man pages into {}", directory.display())]
    Man { directory: PathBuf, source: io::Error },
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
    #[error("the daemon at {} does not answer: {process}", path.display())]
    StoppedDaemon { path: PathBuf, process: LockHolder },
    #[error("--{} is {}, but the daemon works with {}", .0.flag, .0.wanted, .0.used)]
    Conflict(Conflict),
    #[error("this is about the daemon, which --no-daemon leaves out")]
    WithoutDaemon,
    #[error("standard output is not a terminal")]
    NoTerminal,
    #[error("cannot use the terminal")]
    Terminal { source: io::Error },
    #[error("the daemon has ended")]
    DaemonEnded,
    #[error(transparent)]
    Api(#[from] ApiError),
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
    /// Returns the places of errors in files, for programs.
    pub(crate) fn details(&self) -> Vec<Detail> {
        match self {
            Self::Definition(errors) => Detail::of(errors),
            Self::Config(e) => {
                vec![Detail::new(&e.location, &e.key, e.reason.to_string(), e.reason.hint())]
            }
            Self::Api(error) => error.details.clone(),
            _ => vec![],
        }
    }

    /// Returns the ends of the guests' consoles that explain the error, as lines.
    pub(crate) fn console(&self) -> Vec<String> {
        match self {
            Self::Supervisor(error) => error.consoles(),
            _ => vec![],
        }
    }

    /// Returns the exit status.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_status())
    }

    /// Returns the exit status as a number.
    pub(crate) fn exit_status(&self) -> u8 {
        const FAILED: u8 = 1;
        const INVALID: u8 = 2;
        const HOST: u8 = 3;
        match self.kind() {
            ErrorKind::Failed => FAILED,
            ErrorKind::Invalid => INVALID,
            ErrorKind::Host => HOST,
        }
    }

    /// Returns the kind, which determines the exit status.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. }
            | Self::NoFiles { .. }
            | Self::Described { .. }
            | Self::Question { .. }
            | Self::TooLarge { .. }
            | Self::NotText { .. }
            | Self::Console { .. }
            | Self::NoTerminal
            | Self::WithoutDaemon
            | Self::NoTap { .. }
            | Self::Conflict(_)
            | Self::Definition(_)
            | Self::Config(_) => ErrorKind::Invalid,
            Self::Privilege | Self::Tun { .. } | Self::Daemon { .. } => ErrorKind::Host,
            Self::Supervisor(error) => error.kind(),
            Self::Run(RunError::Node(error)) | Self::Node(error) => error.kind(),
            Self::Failure(failure) => failure.kind,
            Self::Failures { kind, .. } => *kind,
            Self::Api(error) => error.kind,
            Self::Serve(error) => error.kind(),
            _ => ErrorKind::Failed,
        }
    }

    /// Returns a remedy, where one is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Node(error) => error.hint(),
            Self::Failure(failure) => failure.hint.clone(),
            Self::Api(error) => error.hint.clone(),
            Self::Serve(error) => error.hint(),
            Self::NoTerminal => Some("`--once` prints one table".to_owned()),
            Self::Daemon { .. } => {
                Some("run it as root, or as a member of the socket's group".to_owned())
            }
            Self::StoppedDaemon { process, .. } => Some(format!(
                "`kill -CONT {}` lets it go on; `--no-daemon` works without it",
                process.pid
            )),
            Self::Conflict(conflict) => Some(format!(
                "leave it out, or start the daemon anew with `--{} {}`",
                conflict.flag, conflict.wanted
            )),
            Self::Privilege => Some("run it as root".to_owned()),
            Self::Tun { source } => Some(tun_advice(source).to_owned()),
            Self::Supervisor(error) => error.hint(),
            Self::Run(error) => error.hint(),
            _ => None,
        }
    }
}

/// Returns a remedy for a `/dev/net/tun` that cannot be opened.
pub(crate) fn tun_advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "run it as root"
    } else {
        "`modprobe tun`; in a container, pass the device through"
    }
}
