//! Who does what a command asks for: the daemon, where one runs, or this process.

use std::{cell::OnceCell, fs, io, path::Path, time::Duration};

use riklet_api::{Check, Health, Inspection, Listed, Plan, Problem, Report};
use riklet_core::{
    definition,
    model::{InstanceName, Workload},
};
use riklet_daemon::documents;
use riklet_http::{ApiCall, Client, HttpError};
use riklet_sdn::{Config, Node, RebuildOptions, Rebuilt, Selector, UpOptions, store::Store};
use riklet_vmm::runs;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{args::NodeArgs, config, error::CliError, input};

/// How long an answer may take: ten thousand functions take some seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// A list of ten thousand functions has some 6 MB.
const LONGEST: usize = 64 * 1024 * 1024;
/// The longest path with its query that is asked for: servers refuse those of 64 KiB and more.
const LONGEST_PATH: usize = 32 * 1024;

/// Who does it. The answers are the same.
pub(crate) struct AnyNode {
    /// Looked for when something is asked: input that is wrong is said first.
    daemon: OnceCell<Option<Client>>,
    node: Node,
}

impl AnyNode {
    /// As the arguments and the configuration say.
    pub(crate) fn of(args: &NodeArgs) -> Result<Self, CliError> {
        Ok(Self { daemon: OnceCell::new(), node: Node::new(config::load(args)?) })
    }

    pub(crate) fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<Report, CliError> {
        let path = if strict { "/v1/functions?strict=true" } else { "/v1/functions" };
        let call = || ApiCall::post(path, Some(definitions(workloads)));
        if let Some(report) = self.ask(call)? {
            return Ok(report);
        }
        input::require_taps()?;
        Ok(documents::report(&self.node.up(workloads, UpOptions { strict })?))
    }

    pub(crate) fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, CliError> {
        if let Some(report) = self.ask(|| ApiCall::delete(&down_path(selector, purge)))? {
            return Ok(report);
        }
        input::require_privilege()?;
        if purge {
            return Ok(documents::report(&runs::purge(&mut self.node, selector)?));
        }
        if let Some(store) = Store::open_existing(&self.node.config().state_dir)? {
            runs::refuse_running(&store, selector)?;
        }
        Ok(documents::report(&self.node.down(selector, false)?))
    }

    pub(crate) fn list(&mut self) -> Result<Vec<Listed>, CliError> {
        match self.ask(|| ApiCall::get("/v1/functions"))? {
            Some(listed) => Ok(listed),
            None => Ok(self.node.list()?.iter().map(documents::listed).collect()),
        }
    }

    pub(crate) fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, CliError> {
        match self.ask(|| ApiCall::get(&format!("/v1/functions/{name}")))? {
            Some(found) => Ok(found),
            None => Ok(documents::inspection(&self.node.inspect(name)?)),
        }
    }

    pub(crate) fn plan(&mut self, workloads: &[Workload]) -> Result<Plan, CliError> {
        if let Some(plan) = self.ask(|| ApiCall::post("/v1/plan", Some(definitions(workloads))))? {
            return Ok(plan);
        }
        input::require_privilege()?;
        let (plan, warnings) = self.node.plan(workloads)?;
        Ok(documents::plan(&plan, &warnings))
    }

    pub(crate) fn check(&mut self) -> Result<Check, CliError> {
        if let Some(check) = self.ask(|| ApiCall::get("/v1/check"))? {
            return Ok(check);
        }
        input::require_privilege()?;
        let (drift, lost) = runs::check(&mut self.node)?;
        Ok(documents::check(&drift, lost.into_iter().map(|run| run.name.to_string())))
    }

    pub(crate) fn repair(&mut self) -> Result<Report, CliError> {
        if let Some(report) = self.ask(|| ApiCall::post("/v1/repair", None))? {
            return Ok(report);
        }
        input::require_privilege()?;
        let repaired = runs::repair(&mut self.node, super::run::epoch_millis())?;
        Ok(documents::repaired(&repaired))
    }

    /// Sets the database aside, which a daemon would have open: it does not go on where one runs.
    pub(crate) fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, CliError> {
        if let Some(client) = self.daemon()? {
            return Err(CliError::DaemonRuns { path: client.socket().to_owned() });
        }
        input::require_privilege()?;
        Ok(self.node.rebuild(options)?)
    }

    /// Takes over what belongs to the records in another state directory. A daemon does so with `serve --adopt`.
    pub(crate) fn adopt(&mut self) -> Result<Rebuilt, CliError> {
        if let Some(client) = self.daemon()? {
            return Err(CliError::DaemonRuns { path: client.socket().to_owned() });
        }
        input::require_privilege()?;
        Ok(self.node.adopt()?)
    }

    /// How the daemon stands; `None` where none runs.
    pub(crate) fn health(&self) -> Result<Option<Health>, CliError> {
        self.ask(|| ApiCall::get("/v1/health"))
    }

    /// The daemon's client; `None` where none runs.
    pub(crate) fn daemon(&self) -> Result<Option<&Client>, CliError> {
        if let Some(found) = self.daemon.get() {
            return Ok(found.as_ref());
        }
        let found = daemon(self.node.config())?;
        Ok(self.daemon.get_or_init(|| found).as_ref())
    }

    /// What the daemon answers; `None` where this process is to do it. That is so where none runs, and where more is
    /// asked than a request may have: who may work alone does, on the same records and under the same lock.
    fn ask<T: DeserializeOwned>(
        &self,
        call: impl FnOnce() -> ApiCall,
    ) -> Result<Option<T>, CliError> {
        let Some(client) = self.daemon()? else { return Ok(None) };
        let call = call();
        let body = call.body.as_ref().map_or(0, |body| body.to_string().len());
        if body > definition::MAX_BYTES || call.path.len() > LONGEST_PATH {
            return input::require_privilege()
                .map(|()| None)
                .map_err(|_unprivileged| CliError::TooMuch { path: client.socket().to_owned() });
        }
        let answer = client.exchange(&call)?;
        let read = |source| CliError::Answer { call: call.to_string(), source };
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map(Some).map_err(read);
        }
        let problem: Problem = serde_json::from_slice(&answer.body).map_err(read)?;
        Err(CliError::Problem(Box::new(problem)))
    }
}

/// A client of the daemon; `None` where none listens that is to be seen. Whoever must not look into the state
/// directory may not work alone either, and is told so by that.
fn daemon(config: &Config) -> Result<Option<Client>, CliError> {
    let socket = config.socket();
    match client(&socket) {
        Ok(client) => Ok(Some(client)),
        Err(source)
            if source.kind() == io::ErrorKind::PermissionDenied
                && input::require_privilege().is_err()
                && fs::symlink_metadata(&socket).is_ok() =>
        {
            Err(CliError::Daemon { path: socket, source })
        }
        Err(_nobody_listens) => Ok(None),
    }
}

/// A client of the daemon that listens on this socket.
pub(crate) fn client(socket: &Path) -> io::Result<Client> {
    std::os::unix::net::UnixStream::connect(socket)?;
    Ok(Client::new(socket, PATIENCE).with_longest(LONGEST))
}

fn down_path(selector: &Selector, purge: bool) -> String {
    let mut query = match selector {
        Selector::All => "all=true".to_owned(),
        Selector::Named(names) => {
            let names = names.iter().map(|name| format!("name={name}"));
            names.collect::<Vec<_>>().join("&")
        }
    };
    if purge {
        query.push_str("&purge=true");
    }
    format!("/v1/functions?{query}")
}

/// The definitions as they go over the wire.
fn definitions(workloads: &[Workload]) -> Value {
    workloads.iter().map(definition::to_value).collect()
}

impl From<HttpError> for CliError {
    fn from(source: HttpError) -> Self {
        Self::Http { source }
    }
}
