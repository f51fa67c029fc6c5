//! The handlers, one for each operation: a request in, a document out.

use axum::{
    Extension, Json,
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{
    Api, collection,
    openapi::DESCRIPTION,
    problem::{Rejection, invalid},
    request, stream,
};
use crate::{
    documents,
    engine::Engine,
    local::document,
    metrics::{MEDIA_TYPE, Snapshot},
    now,
    offload::{offload, refused},
    problems,
};
#[cfg(test)]
use riklet_api::Problem;
use riklet_api::{
    ApiError, Check, Collection, Health, HttpStatus, InspectionDocument, ListEntry, NodeApi,
    PlanDocument, ReportDocument, SettingsDocument, Version,
};
use riklet_core::model::Selector;
use riklet_sdn::UpOptions;

/// The version of the API.
const API: &str = "v1";

/// Brings up a function's network, or updates it to a changed definition.
#[cfg_attr(test, utoipa::path(put, path = "/v1/functions/{name}", request_body(content = Object, description = "A definition"),
    params(("name" = String, Path), ("strict" = Option<bool>, Query, description = "Refuse exposures that take packets of others, also if they say `shadow: true`")),
    responses((status = 200, body = ReportDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn up_one(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<ReportDocument>, Rejection> {
    let name = request::name(name)?;
    let parameters = request::parameters(query.as_deref(), &["strict"])?;
    let strict = request::flag(&parameters, "strict")?;
    let workloads = request::definitions(&api, request).await?;
    match &*workloads {
        [only] if *only.name() == name => {}
        [only] => {
            let detail = format!("the definition is of {}, the path of {name}", only.name());
            return Err(invalid(HttpStatus::UnprocessableEntity, detail));
        }
        many => {
            let path = collection.path();
            let detail = format!("{} definitions; POST {path} takes many", many.len());
            return Err(invalid(HttpStatus::UnprocessableEntity, detail));
        }
    }
    collection::expect_kinds(collection, &workloads)?;
    change(&api, riklet_sdn::Request::Up(workloads, UpOptions::default().strict(strict))).await
}

/// Brings up the networks of several functions: all are recorded, or none.
#[cfg_attr(test, utoipa::path(post, path = "/v1/functions", request_body(content = Vec<Object>, description = "Definitions"),
    params(("strict" = Option<bool>, Query, description = "Refuse exposures that take packets of others, also if they say `shadow: true`")),
    responses((status = 200, body = ReportDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn up(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Json<ReportDocument>, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["strict"])?;
    let strict = request::flag(&parameters, "strict")?;
    let workloads = request::definitions(&api, request).await?;
    collection::expect_kinds(collection, &workloads)?;
    change(&api, riklet_sdn::Request::Up(workloads, UpOptions::default().strict(strict))).await
}

/// Takes a function's network down. The answer comes when its ports lead nowhere and its TAP forwards nothing.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/functions/{name}", params(("name" = String, Path)),
    responses((status = 200, body = ReportDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn down_one(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ReportDocument>, Rejection> {
    let selector = Selector::Named([request::name(name)?].into());
    let selector = collection::select(&api, collection, selector).await?;
    change(&api, riklet_sdn::Request::Down(selector)).await
}

/// Takes down the networks of several functions, or of all. With `purge`, also restores the host to its former state.
#[cfg_attr(test, utoipa::path(delete, path = "/v1/functions",
    params(("name" = Vec<String>, Query, explode), ("all" = Option<bool>, Query), ("purge" = Option<bool>, Query)),
    responses((status = 200, body = ReportDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn down_many(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    RawQuery(query): RawQuery,
) -> Result<Json<ReportDocument>, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["name", "all", "purge"])?;
    let selector = request::selector(&parameters)?;
    let selector = collection::select(&api, collection, selector).await?;
    if !request::flag(&parameters, "purge")? {
        return change(&api, riklet_sdn::Request::Down(selector)).await;
    }
    let report = slowly(&api, move |engine| engine.down(&selector, true)).await?;
    Ok(Json(report))
}

async fn change(
    api: &Api,
    request: riklet_sdn::Request,
) -> Result<Json<ReportDocument>, Rejection> {
    let operation = if request.taken_down().is_some() { "down" } else { "up" };
    let began = now();
    let done = api.engine.change(request).await?;
    api.events.metrics().operation(operation, done.is_err(), began.elapsed());
    Ok(Json(document(done)?))
}

/// Runs a slow operation on a thread of its own, so that other requests are answered meanwhile.
pub(super) async fn slowly<T: Send + 'static>(
    api: &Api,
    call: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Rejection> {
    let mut engine = api.engine.clone();
    let done = offload(move || call(&mut engine));
    Ok(done.await.map_err(|error| refused(&error))??)
}

/// Returns the daemon's metrics in the format of Prometheus.
#[cfg_attr(test, utoipa::path(get, path = "/metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"),
        (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Rejection> {
    let (counts, delay) = api.engine.counts_or_delay().await?;
    let functions = api.engine.list().await?;
    let busy = delay.map(|delay| delay.busy).unwrap_or_default();
    let snapshot = api.engine.beside(move || Snapshot::take(counts, functions, busy)).await?;
    let snapshot = snapshot.map_err(|error| problems::node(&error.into()))?;
    let text = api.events.metrics().render(snapshot);
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// Lists the recorded functions and the state of their TAPs. With `watch`, a stream of server-sent events: first the
/// list, then each change. With `since` as well, the changes after the event of that token, without a list unless some
/// were missed.
#[cfg_attr(test, utoipa::path(get, path = "/v1/functions",
    params(("watch" = Option<bool>, Query), ("since" = Option<String>, Query, description = "The `id` of an event")),
    responses((status = 200, body = Vec<ListEntry>), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["watch", "since"])?;
    if request::flag(&parameters, "watch")? {
        let since = request::since(&parameters, &headers)?;
        return stream::instances(api, collection, since).await;
    }
    Ok(Json(listed(&api, collection).await?).into_response())
}

pub(super) async fn listed(api: &Api, collection: Collection) -> Result<Vec<ListEntry>, Rejection> {
    let mut listed = api.engine.list().await?;
    listed.retain(|listed| collection.has(&listed.instance.kind));
    Ok(listed)
}

/// Returns one function, and everything known about it.
#[cfg_attr(test, utoipa::path(get, path = "/v1/functions/{name}", params(("name" = String, Path)),
    responses((status = 200, body = InspectionDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn inspect(
    State(api): State<Api>,
    Extension(collection): Extension<Collection>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<InspectionDocument>, Rejection> {
    let name = request::name(name)?;
    let found = api.engine.inspect(name.clone()).await?;
    collection::expect(collection, &name, &found.instance.kind, HttpStatus::NotFound)?;
    Ok(Json(found))
}

/// Returns the changes that bringing up these functions would make. Changes nothing.
#[cfg_attr(test, utoipa::path(post, path = "/v1/plan", request_body(content = Vec<Object>, description = "Definitions"),
    responses((status = 200, body = PlanDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn plan(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<PlanDocument>, Rejection> {
    let workloads = request::definitions(&api, request).await?;
    Ok(Json(api.engine.with(move |node| node.plan(&workloads)).await??))
}

/// Returns the drift of the kernel from the records.
#[cfg_attr(test, utoipa::path(get, path = "/v1/check",
    responses((status = 200, body = Check), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn check(State(api): State<Api>) -> Result<Json<Check>, Rejection> {
    Ok(Json(api.engine.check_anew().await??))
}

/// Makes the kernel match the records.
#[cfg_attr(test, utoipa::path(post, path = "/v1/repair",
    responses((status = 200, body = ReportDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn repair(State(api): State<Api>) -> Result<Json<ReportDocument>, Rejection> {
    Ok(Json(slowly(&api, NodeApi::repair).await?))
}

/// Returns the state of the daemon, also while its engine is busy.
#[cfg_attr(test, utoipa::path(get, path = "/v1/health",
    responses((status = 200, body = Health), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn health(State(api): State<Api>) -> Result<Json<Health>, Rejection> {
    Ok(Json(api.engine.health().await?))
}

/// Returns the settings that the daemon works with.
#[cfg_attr(test, utoipa::path(get, path = "/v1/settings",
    responses((status = 200, body = SettingsDocument), (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn settings(State(api): State<Api>) -> Result<Json<SettingsDocument>, Rejection> {
    let config = api.engine.config().clone();
    // Beside the engine, which may be busy: a client asks for this before anything else.
    let settings = slowly(&api, move |_engine| {
        documents::settings(&config).map_err(|error| problems::store(&error))
    });
    Ok(Json(settings.await?))
}

/// Returns the version of the program and of the API.
#[cfg_attr(test, utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version))))]
pub(super) async fn version() -> Json<Version> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Version { version, api: API.to_owned() })
}

/// The description of the API.
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}
