//! The client of a daemon: each operation is one HTTP exchange over the daemon's unix socket.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use riklet_core::{
    ErrorKind, definition,
    model::{InstanceName, Selector, Workload},
};
use riklet_http::{ApiCall, HttpError, ServerEvent};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    ApiError, Check, Collection, Health, HttpStatus, InspectionDocument, ListEntry, NodeApi,
    Notification, Notifications, PlanDocument, Problem, RebuiltDocument, ReportDocument,
    RunDocument, SettingsDocument, StartedRuns, StoppedRun, Token, Topic, chain,
};

/// The time limit for an answer: ten thousand functions take some seconds.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The time limit for starting runs: their images may have to be downloaded.
const STARTING: Duration = Duration::from_hours(1);
/// The longest body of an answer, in bytes. A list of ten thousand functions has about 6 MB.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;
/// The longest path with its query, in bytes. Servers refuse paths of 64 KiB and more.
const LONGEST_PATH: usize = 32 * 1024;

/// A client of the daemon that listens on a socket.
#[derive(Debug, Clone)]
pub struct Client {
    http: riklet_http::Client,
}

impl Client {
    /// Creates a client, after a successful connection.
    ///
    /// # Errors
    /// Fails if nobody listens on the socket, or this process may not use it.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        UnixStream::connect(socket)?;
        Ok(Self { http: riklet_http::Client::new(socket, TIMEOUT).with_longest(LONGEST_ANSWER) })
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.http.socket()
    }

    /// Returns the settings that the daemon works with.
    ///
    /// # Errors
    /// Fails if the daemon does not answer.
    pub fn settings(&self) -> Result<SettingsDocument, ApiError> {
        self.ask(&ApiCall::get("/v1/settings"))
    }

    /// Lists the runs.
    ///
    /// # Errors
    /// Fails if the daemon does not answer.
    pub fn runs(&self) -> Result<Vec<RunDocument>, ApiError> {
        self.ask(&ApiCall::get("/v1/runs"))
    }

    /// Returns a run, once it has ended or a minute has passed.
    ///
    /// # Errors
    /// Fails if no run has this name, or the daemon does not answer.
    pub fn awaited_run(&self, name: &InstanceName) -> Result<RunDocument, ApiError> {
        self.ask(&ApiCall::get(&format!("/v1/runs/{name}?wait=60")))
    }

    /// Runs these functions, and waits until each is ready or has failed. A guest has so many seconds for that.
    ///
    /// # Errors
    /// Fails if one of them is running, or the daemon does not answer.
    pub fn start_runs(
        &self,
        workloads: &[Workload],
        ready_timeout: u16,
        no_wait: bool,
    ) -> Result<StartedRuns, ApiError> {
        let path = format!("/v1/runs?readyTimeout={ready_timeout}&noWait={no_wait}");
        let longer = Self { http: self.http.clone().with_timeout(STARTING) };
        longer.ask(&ApiCall::post(&path, Some(definitions(workloads))))
    }

    /// Stops a run. Its guest has so many seconds to power off.
    ///
    /// # Errors
    /// Fails if no run has this name, or its process cannot be ended.
    pub fn stop_run(&self, name: &InstanceName, timeout: u16) -> Result<StoppedRun, ApiError> {
        let limit = TIMEOUT + Duration::from_secs(timeout.into());
        let longer = Self { http: self.http.clone().with_timeout(limit) };
        longer.ask(&ApiCall::delete(&format!("/v1/runs/{name}?timeout={timeout}")))
    }

    /// Returns the console of a run, as it is read.
    ///
    /// # Errors
    /// Fails if no run has this name, or the daemon does not answer.
    pub fn logs(
        &self,
        name: &InstanceName,
        follow: bool,
        tail: Option<usize>,
    ) -> Result<impl io::Read + use<>, ApiError> {
        let _known: RunDocument = self.ask(&ApiCall::get(&format!("/v1/runs/{name}")))?;
        let tail = tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
        let path = format!("/v1/runs/{name}/logs?follow={follow}{tail}");
        self.http.stream(&path).map_err(|error| unanswered(&error))
    }

    /// Makes one exchange. Refuses a request that is longer than the daemon reads, without sending it.
    fn ask<T: DeserializeOwned>(&self, call: &ApiCall) -> Result<T, ApiError> {
        let body = call.body.as_ref().map_or(0, |body| body.to_string().len());
        if body > definition::MAX_BYTES || call.path.len() > LONGEST_PATH {
            let detail =
                format!("the request is too large for the daemon at {}", self.socket().display());
            let hint = "name fewer functions at once, or run it as root";
            let error = ApiError::invalid(HttpStatus::PayloadTooLarge, detail);
            return Err(error.with_hint(hint.to_owned()));
        }
        let answer = self.http.exchange(call).map_err(|error| unanswered(&error))?;
        let read = |error| not_understood(&call.to_string(), &error);
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map_err(read);
        }
        let problem: Problem = serde_json::from_slice(&answer.body).map_err(read)?;
        Err(problem.into())
    }
}

impl NodeApi for Client {
    fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<ReportDocument, ApiError> {
        let query = if strict { "?strict=true" } else { "" };
        let path = Collection::EVERYTHING.path() + query;
        self.ask(&ApiCall::post(&path, Some(definitions(workloads))))
    }

    fn down(&mut self, selector: &Selector, purge: bool) -> Result<ReportDocument, ApiError> {
        self.ask(&ApiCall::delete(&down_path(selector, purge)))
    }

    fn list(&mut self) -> Result<Vec<ListEntry>, ApiError> {
        self.ask(&ApiCall::get(&Collection::EVERYTHING.path()))
    }

    fn inspect(&mut self, name: &InstanceName) -> Result<InspectionDocument, ApiError> {
        self.ask(&ApiCall::get(&format!("{}/{name}", Collection::EVERYTHING.path())))
    }

    fn plan(&mut self, workloads: &[Workload]) -> Result<PlanDocument, ApiError> {
        self.ask(&ApiCall::post("/v1/plan", Some(definitions(workloads))))
    }

    fn check(&mut self) -> Result<Check, ApiError> {
        self.ask(&ApiCall::get("/v1/check"))
    }

    fn repair(&mut self) -> Result<ReportDocument, ApiError> {
        self.ask(&ApiCall::post("/v1/repair", None))
    }

    fn rebuild(&mut self, _force: bool) -> Result<RebuiltDocument, ApiError> {
        Err(database_is_open(self.socket()))
    }

    fn adopt(&mut self) -> Result<RebuiltDocument, ApiError> {
        Err(database_is_open(self.socket()))
    }

    fn health(&mut self) -> Result<Option<Health>, ApiError> {
        self.ask(&ApiCall::get("/v1/health")).map(Some)
    }

    fn events(
        &mut self,
        topic: Topic,
        follow: bool,
        since: Option<Token>,
    ) -> Result<Notifications, ApiError> {
        let since = since.map(|since| format!("since={since}"));
        let recent = (!follow).then(|| "recent=true".to_owned());
        let refused = (topic == Topic::Refusals).then(|| "refused=true".to_owned());
        let query: Vec<_> = recent.into_iter().chain(refused).chain(since).collect();
        let path = format!("/v1/events?{}", query.join("&"));
        let events = self.http.events(&path).map_err(|error| unanswered(&error))?;
        Ok(Box::new(events.map(|event| notification(&event.map_err(|error| unanswered(&error))?))))
    }
}

/// Returns the refusal of an operation that a daemon does not offer while it has the database open.
#[must_use]
pub fn database_is_open(socket: &Path) -> ApiError {
    let detail = format!(
        "a daemon is running and has the database open; it listens on {}",
        socket.display()
    );
    ApiError::new(HttpStatus::Conflict, ErrorKind::Failed, detail)
        .with_hint("end it first (`systemctl stop riklet-sdn`)".to_owned())
}

fn unanswered(error: &HttpError) -> ApiError {
    let detail = format!("the daemon does not answer: {}", chain(error));
    ApiError::new(HttpStatus::ServiceUnavailable, ErrorKind::Failed, detail)
}

fn not_understood(call: &str, error: &serde_json::Error) -> ApiError {
    let detail = format!(
        "cannot understand the daemon's answer to {call}; it may have another version: {error}"
    );
    ApiError::new(HttpStatus::BadGateway, ErrorKind::Failed, detail)
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
    format!("{}?{query}", Collection::EVERYTHING.path())
}

/// Returns the definitions as the API transmits them.
fn definitions(workloads: &[Workload]) -> Value {
    workloads.iter().map(definition::to_value).collect()
}

fn notification(event: &ServerEvent) -> Result<Notification, ApiError> {
    let read = |error| not_understood("GET /v1/events", &error);
    if event.name == "missed" {
        let missed: Value = serde_json::from_str(&event.data).map_err(read)?;
        return Ok(Notification::Missed(missed["count"].as_u64()));
    }
    serde_json::from_str(&event.data).map(Notification::Event).map_err(read)
}
