//! What each path does.

use axum::{
    Json, Router,
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};

use super::{
    Api,
    openapi::DESCRIPTION,
    problem::{Rejection, invalid},
    request, stream,
};
use crate as daemon;
use crate::{
    documents,
    engine::{Gone, WatchedNode},
    events::EventKind,
    metrics::{MEDIA_TYPE, Snapshot},
};
#[cfg(test)]
use riklet_api::Problem;
use riklet_api::{Check, Health, Inspection, Listed, Plan, Report, Version, epoch_millis};

use riklet_sdn::{Selector, UpOptions, store::Store};
use riklet_vmm::runs::{self, RunError};

/// The version of the API.
const API: &str = "v1";

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/v1/functions", get(list).post(up).delete(down_many))
        .route("/v1/functions/{name}", put(up_one).get(inspect).delete(down_one))
        .route("/v1/plan", post(plan))
        .route("/v1/check", get(check))
        .route("/v1/repair", post(repair))
        .route("/v1/events", get(stream::events))
        .route("/v1/health", get(health))
        .route("/v1/version", get(version))
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(([(CONTENT_TYPE, "application/json")], DESCRIPTION)))
}

/// Brings up a function's network, or makes it what a changed definition says.
#[cfg_attr(test, utoipa::path(put, path = "/v1/functions/{name}", request_body(content = Object, description = "A definition"),
    params(("name" = String, Path), ("strict" = Option<bool>, Query, description = "Refuse to shadow a local process")),
    responses((status = 200, body = Report), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn up_one(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<Report>, Rejection> {
    let name = request::name(name)?;
    let parameters = request::parameters(query.as_deref(), &["strict"])?;
    let strict = request::flag(&parameters, "strict")?;
    let workloads = request::definitions(&api, request).await?;
    match &*workloads {
        [only] if *only.name() == name => {}
        [only] => {
            let detail = format!("the definition is of {}, the path of {name}", only.name());
            return Err(invalid(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        many => {
            let detail = format!("{} definitions; POST /v1/functions takes many", many.len());
            return Err(invalid(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    }
    change(&api, riklet_sdn::Request::Up(workloads, UpOptions { strict })).await
}

/// Brings up the networks of several functions: all are recorded, or none.
#[cfg_attr(test, utoipa::path(post, path = "/v1/functions", request_body(content = Vec<Object>, description = "Definitions"),
    params(("strict" = Option<bool>, Query, description = "Refuse to shadow a local process")),
    responses((status = 200, body = Report), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn up(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<Report>, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["strict"])?;
    let strict = request::flag(&parameters, "strict")?;
    let workloads = request::definitions(&api, request).await?;
    change(&api, riklet_sdn::Request::Up(workloads, UpOptions { strict })).await
}

/// Takes a function's network down. The answer comes when its ports lead nowhere and its TAP is down.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/functions/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Report), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn down_one(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Report>, Rejection> {
    let selector = Selector::Named([request::name(name)?].into());
    change(&api, riklet_sdn::Request::Down(selector)).await
}

/// Takes several functions' networks down, or all. With `purge`, what all share goes as well, and the host is as it was.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/functions",
    params(("name" = Vec<String>, Query, explode), ("all" = Option<bool>, Query), ("purge" = Option<bool>, Query)),
    responses((status = 200, body = Report), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn down_many(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<Report>, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["name", "all", "purge"])?;
    let selector = request::selector(&parameters)?;
    if !request::flag(&parameters, "purge")? {
        return change(&api, riklet_sdn::Request::Down(selector)).await;
    }
    let purged = api.engine.alone(move |node| {
        let owned = node.look_at_records(Store::manifests)??;
        Ok::<_, RunError>((owned, runs::purge(node, &selector)?))
    });
    let (owned, report) = purged.await??;
    if !owned.is_empty() {
        let text = "the functions of definition files come back once a file that defines them changes, or the \
                    daemon starts anew";
        api.events.say(EventKind::Manifest, None, text.to_owned());
    }
    Ok(Json(documents::report(&report)))
}

async fn change(api: &Api, request: riklet_sdn::Request) -> Result<Json<Report>, Rejection> {
    let operation = match request {
        riklet_sdn::Request::Up(..) => "up",
        riklet_sdn::Request::Down(_) => "down",
    };
    let began = daemon::now();
    let done = api.engine.change(request).await?;
    api.events.metrics().operation(operation, done.is_err(), began.elapsed());
    Ok(Json(documents::report(&done?)))
}

/// What the daemon counts, as Prometheus reads it.
#[cfg_attr(test, utoipa::path(get, path = "/metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"),
        (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Rejection> {
    let status = api.engine.status().await?;
    let functions = api.engine.with(riklet_sdn::WarmNode::list).await??;
    // What takes long is not done where others wait for their answers.
    let snapshot = tokio::task::spawn_blocking(move || Snapshot::take(status, functions));
    let snapshot =
        snapshot.await.map_err(|_panicked| Gone)?.map_err(riklet_sdn::NodeError::from)?;
    let text = api.events.metrics().render(snapshot);
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// Lists what is recorded, and what the kernel has of it. With `watch`, a stream of server-sent events: first the
/// list, then each change.
#[cfg_attr(test, utoipa::path(get, path = "/v1/functions", params(("watch" = Option<bool>, Query)),
    responses((status = 200, body = Vec<Listed>), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn list(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["watch"])?;
    if request::flag(&parameters, "watch")? {
        return stream::functions(api).await;
    }
    Ok(Json(listed(&api).await?).into_response())
}

pub(super) async fn listed(api: &Api) -> Result<Vec<Listed>, Rejection> {
    let listed = api.engine.with(riklet_sdn::WarmNode::list).await??;
    Ok(listed.iter().map(documents::listed).collect())
}

/// One function, and all that is known of it.
#[cfg_attr(test, utoipa::path(get, path = "/v1/functions/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Inspection), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn inspect(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Inspection>, Rejection> {
    let name = request::name(name)?;
    let found = api.engine.with(move |node| node.inspect(&name)).await??;
    Ok(Json(documents::inspection(&found)))
}

/// What bringing these functions up would do. Changes nothing.
#[cfg_attr(test, utoipa::path(post, path = "/v1/plan", request_body(content = Vec<Object>, description = "Definitions"),
    responses((status = 200, body = Plan), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn plan(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<Plan>, Rejection> {
    let workloads = request::definitions(&api, request).await?;
    let (plan, warnings) = api.engine.with(move |node| node.plan(&workloads)).await??;
    Ok(Json(documents::plan(&plan, &warnings)))
}

/// How the kernel differs from the records.
#[cfg_attr(test, utoipa::path(get, path = "/v1/check",
    responses((status = 200, body = Check), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn check(State(api): State<Api>) -> Result<Json<Check>, Rejection> {
    let check = |node: &mut WatchedNode| {
        // Who asks does not want to hear what is remembered.
        node.kernel().forget();
        runs::check(node)
    };
    let (drift, lost) = api.engine.with(check).await??;
    Ok(Json(documents::check(&drift, lost.into_iter().map(|run| run.name.to_string()))))
}

/// Makes the kernel what the records say.
#[cfg_attr(test, utoipa::path(post, path = "/v1/repair",
    responses((status = 200, body = Report), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn repair(State(api): State<Api>) -> Result<Json<Report>, Rejection> {
    let now = epoch_millis(daemon::wall_clock());
    let repaired = api.engine.alone(move |node| runs::repair(node, now)).await??;
    Ok(Json(documents::repaired(&repaired)))
}

/// Whether the daemon works, and how it stands.
#[cfg_attr(test, utoipa::path(get, path = "/v1/health",
    responses((status = 200, body = Health), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn health(State(api): State<Api>) -> Result<Json<Health>, Rejection> {
    let status = api.engine.status().await?;
    Ok(Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        functions: status.functions,
        warm_slots: status.warm,
        preparing_slots: status.preparing,
        condemned_slots: status.draining,
    }))
}

/// Which program answers, and which version of the API.
#[cfg_attr(test, utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version))))]
pub(super) async fn version() -> Json<Version> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Version { version, api: API.to_owned() })
}
