//! Who does what a command asks for: the daemon, where one runs, or this process.

use std::{io, path::Path, time::Duration};

use riklet_sdn::{
    definition,
    http::{ApiCall, Client, ExchangeError, HttpError, Method},
    model::{InstanceName, Workload},
    sdn::{Sdn, UpOptions, Which},
    store::Store,
    vmm::runs,
    wire::{Check, Inspection, Listed, Plan, Problem, Report},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{args::NodeArgs, config, error::CliError, input};

/// How long an answer may take: ten thousand functions take some seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// A list of ten thousand functions has some 6 MB.
const LONGEST: usize = 64 * 1024 * 1024;

/// Who does it. The answers are the same.
pub(crate) enum Node {
    Daemon(Client),
    Alone(Box<Sdn>),
}

impl Node {
    /// The daemon where one listens.
    pub(crate) fn of(args: &NodeArgs) -> Result<Self, CliError> {
        let config = config::load(args)?;
        Ok(match daemon(&config::socket(args, &config))? {
            Some(client) => Self::Daemon(client),
            None => Self::Alone(Box::new(Sdn::new(config))),
        })
    }

    pub(crate) fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<Report, CliError> {
        match self {
            Self::Daemon(client) => {
                let path = if strict { "/v1/functions?strict=true" } else { "/v1/functions" };
                ask(client, Method::Post, path, Some(definitions(workloads)))
            }
            Self::Alone(sdn) => {
                input::require_taps()?;
                Ok(Report::from(&sdn.up(workloads, UpOptions { strict })?))
            }
        }
    }

    pub(crate) fn down(&mut self, which: &Which, purge: bool) -> Result<Report, CliError> {
        match self {
            Self::Daemon(client) => {
                let mut query = match which {
                    Which::All => "all=true".to_owned(),
                    Which::Named(names) => {
                        let names = names.iter().map(|name| format!("name={name}"));
                        names.collect::<Vec<_>>().join("&")
                    }
                };
                if purge {
                    query.push_str("&purge=true");
                }
                ask(client, Method::Delete, &format!("/v1/functions?{query}"), None)
            }
            Self::Alone(sdn) => {
                input::require_privilege()?;
                if purge {
                    return Ok(Report::from(&runs::purge(sdn, which)?));
                }
                if let Some(store) = Store::open_existing(&sdn.config().state_dir)? {
                    runs::refuse_running(&store, which)?;
                }
                Ok(Report::from(&sdn.down(which, false)?))
            }
        }
    }

    pub(crate) fn list(&mut self) -> Result<Vec<Listed>, CliError> {
        match self {
            Self::Daemon(client) => ask(client, Method::Get, "/v1/functions", None),
            Self::Alone(sdn) => Ok(sdn.list()?.iter().map(Listed::from).collect()),
        }
    }

    pub(crate) fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, CliError> {
        match self {
            Self::Daemon(client) => {
                ask(client, Method::Get, &format!("/v1/functions/{name}"), None)
            }
            Self::Alone(sdn) => Ok(Inspection::from(&sdn.inspect(name)?)),
        }
    }

    pub(crate) fn plan(&mut self, workloads: &[Workload]) -> Result<Plan, CliError> {
        match self {
            Self::Daemon(client) => {
                ask(client, Method::Post, "/v1/plan", Some(definitions(workloads)))
            }
            Self::Alone(sdn) => {
                input::require_privilege()?;
                Ok(Plan::from(&sdn.plan(workloads)?))
            }
        }
    }

    pub(crate) fn check(&mut self) -> Result<Check, CliError> {
        match self {
            Self::Daemon(client) => ask(client, Method::Get, "/v1/check", None),
            Self::Alone(sdn) => {
                input::require_privilege()?;
                let (drift, lost) = runs::check(sdn)?;
                Ok(Check::new(&drift, lost.into_iter().map(|run| run.name.to_string())))
            }
        }
    }

    pub(crate) fn repair(&mut self) -> Result<Report, CliError> {
        match self {
            Self::Daemon(client) => ask(client, Method::Post, "/v1/repair", None),
            Self::Alone(sdn) => {
                input::require_privilege()?;
                Ok(runs::repair(sdn, super::run::epoch_millis())?)
            }
        }
    }
}

/// A client of the daemon; `None` where none listens.
pub(crate) fn daemon(socket: &Path) -> Result<Option<Client>, CliError> {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Ok(Some(Client::new(socket, PATIENCE).with_longest(LONGEST))),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            // Whoever may not see the state directory may not work alone either, and hears that from there.
            io::ErrorKind::PermissionDenied if input::require_privilege().is_ok() => Ok(None),
            _ => Err(CliError::Daemon { path: socket.to_owned(), source: error }),
        },
    }
}

/// The definitions as they go over the wire.
fn definitions(workloads: &[Workload]) -> Value {
    workloads.iter().map(definition::to_value).collect()
}

fn ask<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<T, CliError> {
    let answer = client.exchange(&ApiCall { method, path: path.to_owned(), body })?;
    let read = |source| CliError::Answer { path: path.to_owned(), source };
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(read);
    }
    let problem: Problem = serde_json::from_slice(&answer.body).map_err(read)?;
    Err(CliError::Problem(Box::new(problem)))
}

impl From<HttpError> for CliError {
    fn from(source: HttpError) -> Self {
        Self::Http { source }
    }
}

impl From<ExchangeError> for CliError {
    fn from(source: ExchangeError) -> Self {
        Self::Stream { source }
    }
}
