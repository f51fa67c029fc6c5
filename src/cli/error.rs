use std::{io, path::PathBuf, process::ExitCode};

use riklet_sdn::{
    daemon::server::ServeError,
    definition::{self, Place},
    kernel::AccountKind,
    sdn::{ConfigError, ErrorKind, Failure, SdnError},
    store::StoreError,
    vmm::{
        builtin::GuestError, choose::Unusable, image::ImageError, launch::LaunchError,
        runs::RunError,
    },
};
use serde_json::{Value, json};

pub(crate) use riklet_sdn::wire::chain;

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
    Sdn(#[from] SdnError),
    #[error(transparent)]
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
    #[error("{name} is recorded already")]
    Recorded { name: String },
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{name} cannot be run")]
    Vmm { name: String, source: Unusable },
    #[error("{name} cannot be run")]
    Image { name: String, source: ImageError },
    #[error("the host has no {kind} {name}")]
    Account { kind: AccountKind, name: String },
    #[error("{name} cannot be run")]
    Launch { name: String, source: LaunchError },
    #[error("cannot wait for the end of the VMM of {name}")]
    Wait { name: String, source: io::Error },
    #[error("cannot read {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("--console is for one function, and {count} are defined")]
    Console { count: usize },
    #[error("cannot start a supervisor for {name}")]
    Detach { name: String, source: io::Error },
    #[error("cannot tell which process this is")]
    Supervisor { source: io::Error },
    #[error("{name} ended before it was ready: {reason}")]
    GuestEnded { name: String, reason: String },
    #[error("not ready after {seconds} s: {}", waited.join("; "))]
    NotReady { waited: Vec<String>, seconds: u16 },
    #[error("cannot listen for signals")]
    Signals { source: io::Error },
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Sdn(error.into())
    }
}

impl CliError {
    /// The error, what is behind it, and what to do about it, on standard error.
    pub(crate) fn print(&self, format: OutputFormat) {
        super::output::error(format, &chain(self), self.hint().as_deref(), self.details());
    }

    /// Where each thing is wrong, for programs.
    fn details(&self) -> Option<Value> {
        let detail = |place: &Place, field: &str, reason: String, hint: Option<String>| {
            let Place { file, line, column } = place;
            json!({
                "file": file, "line": line, "column": column,
                "field": field, "reason": reason, "hint": hint,
            })
        };
        match self {
            Self::Definition(errors) => Some(
                errors
                    .iter()
                    .map(|e| detail(&e.place, &e.field, e.reason.to_string(), e.reason.hint()))
                    .collect(),
            ),
            Self::Config(e) => {
                Some(json!([detail(&e.place, &e.key, e.reason.to_string(), e.reason.hint())]))
            }
            _ => None,
        }
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
            | Self::Account { .. }
            | Self::Definition(_)
            | Self::Config(_) => ErrorKind::Invalid,
            Self::Vmm { source, .. } if source.is_of_the_definition() => ErrorKind::Invalid,
            Self::Image { source, .. } if source.is_of_the_definition() => ErrorKind::Invalid,
            Self::Launch { source, .. } if source.is_of_the_host() => ErrorKind::Host,
            Self::Privilege | Self::Tun { .. } | Self::Vmm { .. } => ErrorKind::Host,
            Self::Run(RunError::Sdn(error)) | Self::Sdn(error) => error.kind(),
            Self::Failure(failure) => failure.kind(),
            Self::Failures { kind, .. } => *kind,
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
            Self::Sdn(error) => error.hint(),
            Self::Failure(failure) => failure.hint(),
            Self::Privilege => Some("run it as root".to_owned()),
            Self::Tun { source } => Some(tun_advice(source).to_owned()),
            Self::Recorded { name } => Some(format!("`riklet-sdn down {name}` first")),
            Self::Run(error) => error.hint(),
            Self::Vmm { source, .. } => Some(source.hint()),
            Self::Image { source, .. } => source.hint(),
            Self::NotReady { .. } => Some("`riklet-sdn doctor` says what may be wrong".to_owned()),
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
