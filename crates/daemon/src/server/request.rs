//! Reads and checks what clients send.

use axum::{
    extract::{Path, Request, rejection::PathRejection},
    http::{HeaderMap, header::CONTENT_TYPE},
};

use super::{
    Api,
    body::SOURCE,
    connections::Client,
    problem::{Rejection, invalid},
};

use crate::problems;
use riklet_api::{ApiError, ErrorKind, HttpStatus, Token, TokenError};
use riklet_core::{
    model::{Egress, InstanceName, Workload},
    reach,
};
use riklet_kernel::linux::namespace;
use riklet_sdn::{
    Config, Selector,
    store::{Store, StoreError},
};

/// Returns the definitions in the body of a request.
pub(super) async fn definitions(api: &Api, request: Request) -> Result<Vec<Workload>, Rejection> {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    let essence = essence.map(str::to_ascii_lowercase);
    let json = match essence.as_deref() {
        None | Some("application/json") => true,
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => false,
        Some(other) => {
            let detail =
                format!("a definition is application/json or application/yaml, not {other}");
            return Err(invalid(HttpStatus::UnsupportedMediaType, detail));
        }
    };
    let is_operator = request.extensions().get() == Some(&Client::Operator);
    let (text, _held) = api.bodies.read(request.into_body()).await?;
    if json && !text.trim_start().starts_with(['{', '[']) {
        let detail = format!("{SOURCE}:1:1: not valid JSON: a definition begins with {{ or [");
        return Err(invalid(HttpStatus::BadRequest, detail));
    }
    let workloads = api.bodies.parse(text).await?;
    if !is_operator && workloads.iter().any(|workload| workload.egress().is_some()) {
        let of_node =
            reach_of_node(api.engine.config()).map_err(|error| problems::store(&error))?;
        workloads.iter().try_for_each(|workload| refuse_widening(workload, of_node))?;
    }
    if !is_operator {
        workloads.iter().try_for_each(refuse_namespace)?;
    }
    if workloads.iter().any(|workload| workload.namespace().is_some()) && !namespace::may_enter() {
        return Err(cannot_enter().into());
    }
    Ok(workloads)
}

/// Returns the reach of the node's guests.
fn reach_of_node(config: &Config) -> Result<Egress, StoreError> {
    let store = Store::open_existing(&config.state_dir)?;
    let recorded = store.map(|store| store.egress()).transpose()?.flatten();
    Ok(recorded.or(config.egress).unwrap_or_default())
}

/// Refuses a policy that reaches more than the node's guests do: a member of the socket's group is not trusted with the host
/// and its networks.
fn refuse_widening(workload: &Workload, of_node: Egress) -> Result<(), Rejection> {
    let policy = workload.egress();
    let Some(wider) = policy.and_then(|policy| reach::widening(policy, of_node)) else {
        return Ok(());
    };
    let name = workload.name();
    let detail =
        format!("{name}: egress {wider} reaches more than the node's guests do ({of_node})");
    let error = ApiError::new(HttpStatus::UnprocessableEntity, ErrorKind::Invalid, detail);
    let hint =
        "root may bring it up, or change what all guests reach (`riklet-sdn repair --egress`)";
    Err(error.with_hint(hint.to_owned()).into())
}

/// Refuses a workload that lives in a network namespace: the daemon would put an interface, with a default route, into any
/// namespace of the host at the word of somebody who may only use the socket.
fn refuse_namespace(workload: &Workload) -> Result<(), Rejection> {
    if workload.namespace().is_none() {
        return Ok(());
    }
    let (name, kind) = (workload.name(), workload.kind());
    let detail = format!("{name}: only root may bring up a {kind}, which is in a namespace");
    let error = ApiError::new(HttpStatus::UnprocessableEntity, ErrorKind::Invalid, detail);
    Err(error.with_hint("run it as root".to_owned()).into())
}

/// Returns the refusal of a daemon that may not enter namespaces, as with the capabilities of its unit. A client that may do
/// so need not have it done by the daemon.
fn cannot_enter() -> ApiError {
    let detail = "the daemon may not enter network namespaces, where pods are (CAP_SYS_ADMIN)";
    let error = ApiError::new(HttpStatus::NotImplemented, ErrorKind::Host, detail);
    error.with_hint("`riklet-sdn up` as root does it beside the daemon".to_owned())
}

/// Returns the name in a path.
pub(super) fn name(path: Result<Path<String>, PathRejection>) -> Result<InstanceName, Rejection> {
    let Path(text) = path.map_err(|error| invalid(HttpStatus::BadRequest, error.body_text()))?;
    parse_name(&text)
}

fn parse_name(text: &str) -> Result<InstanceName, Rejection> {
    InstanceName::try_from(text)
        .map_err(|error| invalid(HttpStatus::UnprocessableEntity, format!("{text:?}: {error}")))
}

/// Returns the parameters of a query. Refuses those that are not in `known`.
pub(super) fn parameters<'a>(
    query: Option<&'a str>,
    known: &[&str],
) -> Result<Vec<(&'a str, &'a str)>, Rejection> {
    let mut found = Vec::new();
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, "true"));
        if !known.contains(&name) {
            let known = known.join(", ");
            let detail = format!("unknown parameter {name}; expected one of {known}");
            return Err(invalid(HttpStatus::BadRequest, detail));
        }
        found.push((name, value));
    }
    Ok(found)
}

/// Tells whether a parameter is `true`.
pub(super) fn flag(parameters: &[(&str, &str)], wanted: &str) -> Result<bool, Rejection> {
    let given = parameters.iter().rev().find(|(name, _)| *name == wanted);
    match given.map(|(_, value)| *value) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let detail = format!("{wanted} is true or false, not {other:?}");
            Err(invalid(HttpStatus::BadRequest, detail))
        }
    }
}

/// Returns the position after which a stream shall begin: the parameter `since`, or the header `Last-Event-ID` of a client
/// that resumes a stream by itself (the living standard of HTML, section 9.2).
pub(super) fn since(
    parameters: &[(&str, &str)],
    headers: &HeaderMap,
) -> Result<Option<Token>, Rejection> {
    let given = parameters.iter().rev().find(|(name, _)| *name == "since");
    let resumed = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let token = given.map(|(_, token)| *token).or(resumed).map(str::parse).transpose();
    token.map_err(|error: TokenError| invalid(HttpStatus::BadRequest, error.to_string()))
}

/// Returns the instances that the query of a DELETE selects.
pub(super) fn selector(parameters: &[(&str, &str)]) -> Result<Selector, Rejection> {
    let given = parameters.iter().filter(|(name, _)| *name == "name");
    let names = given
        .map(|(_, text)| parse_name(text))
        .collect::<Result<std::collections::BTreeSet<_>, _>>()?;
    match (flag(parameters, "all")?, names.is_empty()) {
        (true, true) => Ok(Selector::All),
        (false, false) => Ok(Selector::Named(names)),
        _ => {
            let detail = "either name=NAME, as often as there are names, or all=true";
            Err(invalid(HttpStatus::BadRequest, detail))
        }
    }
}
