//! The handlers of runs: starts and stops them, and gives their logs, to whoever may use the socket. Each run has a
//! supervisor of its own, which is no child of the daemon.

use std::{io, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Api, allowance, handlers,
    problem::{Rejection, invalid},
    request,
};
use crate::{documents, problems};
#[cfg(test)]
use riklet_api::Problem;
use riklet_api::{
    ApiError, ErrorKind, HttpStatus, ReadyRuns, RunDocument, StartedRuns, StoppedRun, chain,
};
use riklet_core::model::{InstanceName, Workload};
use riklet_sdn::{Config, store::Store};
use riklet_vmm::{
    console::{self, Follower, Selection},
    detach::{Detach, Detached},
    handle::Patience,
    runs::{self, RunError, RunState},
};

/// The time that a guest has to be ready, in seconds, if a request does not say.
const READY_TIMEOUT: u16 = 10;
/// The directory of images, unless the configuration names others. Root copies what a VMM cannot read, and other services
/// keep secrets in `/var/lib`.
const IMAGE_ROOT: &str = "/srv";
/// The requests that start or stop runs and may wait at a time: each has a thread, and other requests need some as well.
static LONG: Semaphore = Semaphore::const_new(128);
/// The pause between two looks at a run or its log.
const AGAIN: Duration = Duration::from_millis(100);
/// The longest wait of one request for the end of a run, in seconds.
const LONGEST_WAIT: u16 = 60;

/// Lists the runs: the last one of each name.
#[cfg_attr(test, utoipa::path(get, path = "/v1/runs",
    responses((status = 200, body = Vec<RunDocument>), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<RunDocument>>, Rejection> {
    let listed = with(&api, |config| {
        let store = Store::open_existing(&config.state_dir)?;
        let all = store.map(|store| store.runs()).transpose()?.unwrap_or_default();
        all.iter().map(|run| Ok(documents::run(run, runs::state(run)?))).collect()
    });
    Ok(Json(listed.await?))
}

/// Brings functions up and runs their microVMs. The answer comes when each is ready or has failed.
#[cfg_attr(test, utoipa::path(post, path = "/v1/runs", request_body(content = Vec<Object>, description = "Definitions"),
    params(("readyTimeout" = Option<u16>, Query, description = "Time for a guest to be ready, in seconds"),
        ("noWait" = Option<bool>, Query, description = "Do not wait for that")),
    responses((status = 200, body = StartedRuns), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn start(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<StartedRuns>, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["readyTimeout", "noWait"])?;
    let ready_timeout = seconds(&parameters, "readyTimeout", READY_TIMEOUT)?;
    let no_wait = request::flag(&parameters, "noWait")?;
    let _waits = may_wait()?;
    let workloads = request::definitions(&api, request).await?;
    workloads.iter().try_for_each(refuse_account)?;
    let started = with(&api, move |config| {
        if let Some(store) = Store::open_existing(&config.state_dir)? {
            for workload in &workloads {
                runs::refuse_running(&store, workload.name())?;
            }
        }
        let names = workloads.iter().map(|workload| workload.name().clone()).collect();
        let _admitted = match allowance::admit(config, names) {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut config = config.clone();
        config.vmm.image_roots.get_or_insert_with(|| vec![IMAGE_ROOT.into()]);
        let detach =
            Detach { config, ready_timeout, no_wait, json: true, beside: vec![], for_member: true };
        let mut started = StartedRuns::default();
        for (workload, detached) in workloads.iter().zip(detach.start_all(&workloads)) {
            match detached
                .map_err(|error| failed(workload, &error))
                .and_then(|d| ready(workload, d))
            {
                Ok(ready) => started.ready.push(ready),
                Err(error) => started.failed.push(error.into_problem()),
            }
        }
        Ok(Ok(started))
    });
    Ok(Json(started.await??))
}

/// Refuses a function whose definition names the user or the group that its VMM runs as, with a VMM or without. Its guest
/// would read and write files as that user, who may be root, at the word of somebody who may only use the socket.
fn refuse_account(workload: &Workload) -> Result<(), ApiError> {
    let execution = workload.execution();
    if execution.user.is_none() && execution.group.is_none() {
        return Ok(());
    }
    let detail = format!("{}: the daemon runs nothing as a given user or group", workload.name());
    let error = ApiError::new(HttpStatus::UnprocessableEntity, ErrorKind::Invalid, detail);
    let hint = "remove `user` and `group`, or run it as root with `riklet-sdn run --detach`";
    Err(error.with_hint(hint.to_owned()).with_name(workload.name().to_string()))
}

/// Returns the announcement of a supervisor that is ready.
fn ready(workload: &Workload, detached: Detached) -> Result<ReadyRuns, ApiError> {
    let (code, words) = match detached {
        Detached::Ready { text, .. } => {
            return serde_json::from_str(&text).map_err(|error| failed(workload, &error));
        }
        Detached::Failed { code, words } => (code, words),
    };
    let (status, kind) = match code {
        2 => (HttpStatus::UnprocessableEntity, ErrorKind::Invalid),
        3 => (HttpStatus::ServiceUnavailable, ErrorKind::Host),
        _ => (HttpStatus::InternalServerError, ErrorKind::Failed),
    };
    let Complaint { error, hint, .. } = complaint(&words);
    Err(ApiError::new(status, kind, error).with_hint(hint).with_name(workload.name().to_string()))
}

/// The error of a supervisor, as it is printed for programs.
#[derive(Debug, Deserialize)]
struct Complaint {
    error: String,
    hint: Option<String>,
    /// The last lines of the guest's console.
    #[serde(default)]
    console: Vec<String>,
}

/// Returns the error among the messages of a supervisor that failed: the last document, or else the text. What was logged
/// before a document is left out, and the lines of a console follow the sentence.
fn complaint(words: &str) -> Complaint {
    let begins = words.match_indices('{').map(|(at, _)| words.split_at(at));
    let begins = begins.filter(|(before, _)| before.is_empty() || before.ends_with('\n'));
    let read = |text| serde_json::Deserializer::from_str(text).into_iter::<Complaint>().next();
    let mut documents = begins.filter_map(|(_, text)| read(text)?.ok());
    if let Some(Complaint { error, hint, console }) = documents.next_back() {
        let lines = [vec![error], console].concat();
        return Complaint { error: lines.join("\n"), hint, console: vec![] };
    }
    let (error, hint) = match words.trim_end().split_once("\nhint: ") {
        Some((error, hint)) => (error, Some(hint.to_owned())),
        None => (words.trim_end(), None),
    };
    let error = error.trim_start_matches("error: ").to_owned();
    Complaint { error, hint, console: vec![] }
}

fn failed(workload: &Workload, error: &dyn std::error::Error) -> ApiError {
    let detail = format!("cannot start the supervisor of {}: {}", workload.name(), chain(error));
    let error = ApiError::new(HttpStatus::InternalServerError, ErrorKind::Failed, detail);
    error.with_name(workload.name().to_string())
}

/// Returns one run; with `wait`, once it has ended, or after that many seconds.
#[cfg_attr(test, utoipa::path(get, path = "/v1/runs/{name}",
    params(("name" = String, Path), ("wait" = Option<u16>, Query, description = "Seconds, up to 60")),
    responses((status = 200, body = RunDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn show(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<RunDocument>, Rejection> {
    let name = request::name(name)?;
    let parameters = request::parameters(query.as_deref(), &["wait"])?;
    let wait = seconds(&parameters, "wait", 0)?.min(LONGEST_WAIT);
    let deadline = Instant::now() + Duration::from_secs(wait.into());
    loop {
        let wanted = name.clone();
        let found = with(&api, move |config| {
            let run = runs::find(&runs::store_of(&config.state_dir, &wanted)?, &wanted)?;
            Ok(documents::run(&run, runs::state(&run)?))
        });
        let found = found.await?;
        if found.ended_ms.is_some() || Instant::now() >= deadline {
            return Ok(Json(found));
        }
        sleep_until(deadline.min(Instant::now() + AGAIN)).await;
    }
}

/// Stops a run: power off, then SIGTERM, then SIGKILL. The answer comes when its network is down.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/runs/{name}",
    params(("name" = String, Path), ("timeout" = Option<u16>, Query, description = "Time for the guest to power off, in seconds")),
    responses((status = 200, body = StoppedRun), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn stop(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<StoppedRun>, Rejection> {
    let name = request::name(name)?;
    let parameters = request::parameters(query.as_deref(), &["timeout"])?;
    let guest = Duration::from_secs(seconds(&parameters, "timeout", 10)?.into());
    let _waits = may_wait()?;
    let patience = Patience { guest, ..Patience::default() };
    let stopped = with(&api, move |config| {
        let mut store = runs::store_of(&config.state_dir, &name)?;
        let run = runs::find(&store, &name)?;
        let how = runs::stop(&mut store, &config.state_dir, &run, patience)?;
        match runs::wait(&store, &run) {
            // The daemon clears a lost run away by itself.
            Ok(_) | Err(RunError::Lost { .. } | RunError::RunAgain { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(StoppedRun { name: name.to_string(), how: how.as_str().to_owned() })
    });
    Ok(Json(stopped.await?))
}

/// Returns the console of a run, as its guest wrote it; with `follow`, new output as well, until the run has ended.
#[cfg_attr(test, utoipa::path(get, path = "/v1/runs/{name}/logs",
    params(("name" = String, Path), ("follow" = Option<bool>, Query), ("tail" = Option<usize>, Query, description = "Lines")),
    responses((status = 200, body = String, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn logs(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let name = request::name(name)?;
    let parameters = request::parameters(query.as_deref(), &["follow", "tail"])?;
    let follow = request::flag(&parameters, "follow")?;
    let tail = number(&parameters, "tail")?;
    let log = Log { name: name.clone(), selection: Selection { since: None, tail }, file: None };
    // Refuses an unknown run before the answer begins.
    let (first, ended, log) = with(&api, move |config| log.next(config)).await?;
    let rest = stream::unfold((api, log, ended || !follow), async |(api, log, over)| {
        if over {
            return None;
        }
        sleep(AGAIN).await;
        let (new, ended, log) = with(&api, move |config| log.next(config)).await.ok()?;
        let over = ended || *api.ending.borrow();
        Some((Ok::<_, io::Error>(new), (api, log, over)))
    });
    let first = stream::iter([Ok(first)]);
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// The log of a run, and how far it was read.
struct Log {
    name: InstanceName,
    selection: Selection,
    file: Option<Follower>,
}

impl Log {
    /// Returns what was written since the last call, and whether the run has ended before that.
    fn next(mut self, config: &Config) -> Result<(Bytes, bool, Self), RunError> {
        let run = runs::find(&runs::store_of(&config.state_dir, &self.name)?, &self.name)?;
        let ended = matches!(runs::state(&run)?, RunState::Ended | RunState::Lost);
        let path = runs::log(&config.state_dir, &self.name);
        let new = match &mut self.file {
            Some(file) => file.read_new(),
            None => console::read(&path, self.selection).map(|(recorded, file)| {
                self.file = file;
                recorded
            }),
        };
        let failed = |source| RunError::Directory { path: path.clone(), source };
        Ok((new.map_err(failed)?.into(), ended, self))
    }
}

/// Admits a request that starts or stops runs, unless too many wait.
fn may_wait() -> Result<SemaphorePermit<'static>, Rejection> {
    LONG.try_acquire().map_err(|_too_many| {
        let detail = "too many requests that start or stop runs wait for their end";
        let error = ApiError::new(HttpStatus::TooManyRequests, ErrorKind::Failed, detail);
        error.with_hint("try again later".to_owned()).into()
    })
}

/// Makes a call with the configuration, on a thread that may block.
async fn with<T: Send + 'static>(
    api: &Api,
    call: impl FnOnce(&Config) -> Result<T, RunError> + Send + 'static,
) -> Result<T, Rejection> {
    let config = api.engine.config().clone();
    let done = handlers::slowly(api, move |_| call(&config).map_err(|error| problems::run(&error)));
    done.await
}

fn seconds(parameters: &[(&str, &str)], wanted: &str, usual: u16) -> Result<u16, Rejection> {
    let given = number(parameters, wanted)?;
    Ok(given.map_or(usual, |given| u16::try_from(given).unwrap_or(u16::MAX)))
}

fn number(parameters: &[(&str, &str)], wanted: &str) -> Result<Option<usize>, Rejection> {
    let given = parameters.iter().rev().find(|(name, _)| *name == wanted);
    let parsed = given.map(|(_, text)| text.parse()).transpose();
    parsed.map_err(|_not_a_number: std::num::ParseIntError| {
        invalid(HttpStatus::BadRequest, format!("{wanted} is a number"))
    })
}

#[cfg(test)]
mod tests {
    use riklet_core::definition;
    use serde_json::json;

    use super::*;

    #[test]
    fn error_of_a_supervisor_is_a_sentence_and_its_hint() {
        let read = |words: &str| {
            let Complaint { error, hint, .. } = complaint(words);
            (error, hint)
        };
        let said = |error: &str, hint: Option<&str>| (error.to_owned(), hint.map(str::to_owned));
        let document = "{\n  \"error\": \"m {a} failed\",\n  \"hint\": \"try b\"\n}\n";
        assert_eq!(read(document), said("m {a} failed", Some("try b")));
        assert_eq!(
            read(&format!(" WARN {{\n{{x\n{document}")),
            said("m {a} failed", Some("try b"))
        );
        let silent = "{\"console\": [\"console:\", \"  panic\"], \"error\": \"m\", \"hint\": null}";
        assert_eq!(read(silent), said("m\nconsole:\n  panic", None));
        assert_eq!(read("error: no such option\nhint: see --help\n").1.unwrap(), "see --help");
        assert_eq!(read("error: {\n"), said("{", None));
        assert_eq!(read(""), said("", None));
    }

    #[test]
    fn no_user_or_group_is_given_through_the_socket() {
        let refused = |execution: serde_json::Value| {
            let definition = json!({"apiVersion": "v1", "kind": "Function", "name": "web",
                "spec": {"function": {"execution": execution}}});
            refuse_account(&definition::from_json(&definition.to_string()).unwrap()).is_err()
        };
        assert!(refused(json!({"kernel": "/srv/vmlinux", "user": 0})));
        assert!(refused(json!({"kernel": "/srv/vmlinux", "group": "disk"})));
        assert!(!refused(json!({"kernel": "/srv/vmlinux"})));
        // Without a kernel the user would only own the TAP: the same rule for all is easier to know.
        assert!(refused(json!({"user": "nobody"})) && refused(json!({"group": 0})));
        assert!(!refused(json!({})));
    }
}
