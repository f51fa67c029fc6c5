//! Reads and checks what clients send.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, rejection::PathRejection},
    http::header::CONTENT_TYPE,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time;

use super::{
    Api,
    problem::{Rejection, invalid},
};

use riklet_api::{ApiError, HttpStatus};
use riklet_core::{
    ErrorKind,
    definition::{self, MAX_BYTES, Source},
    model::{InstanceName, Workload},
};
use riklet_sdn::Selector;

/// The name of the request body in errors.
const SOURCE: &str = "request body";
/// The longest body that is parsed on the server's own thread, in bytes: it takes less than a millisecond.
const MAX_INLINE_BYTES: usize = 1 << 14;

/// The definitions that a request has in its body.
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
    let text = text(api, request.into_body()).await?;
    if json && !text.trim_start().starts_with(['{', '[']) {
        let detail = format!("{SOURCE}:1:1: not valid JSON: a definition begins with {{ or [");
        return Err(invalid(HttpStatus::BadRequest, detail));
    }
    parse(api, text).await
}

/// Parses a body. A long one, which takes a while, is parsed on another thread: the server answers others meanwhile.
/// One at a time is, since what it becomes may take many times its length.
async fn parse(api: &Api, text: String) -> Result<Vec<Workload>, Rejection> {
    let is_short = text.len() <= MAX_INLINE_BYTES;
    let source = Source { name: SOURCE.to_owned(), text };
    if is_short {
        return Ok(definition::parse(&[source])?);
    }
    let turn = Arc::clone(&api.long_parse).acquire_owned().await;
    let parsed = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        definition::parse(&[source])
    });
    let parsed = parsed.await.map_err(|_panicked| {
        ApiError::new(HttpStatus::InternalServerError, ErrorKind::Failed, "cannot parse the body")
    })?;
    Ok(parsed?)
}

/// The body as text. One that is too long is not read to its end, and one that does not come not waited for.
async fn text(api: &Api, body: Body) -> Result<String, Rejection> {
    let limited = Limited::new(body, MAX_BYTES);
    let Ok(read) = time::timeout(api.patience, limited.collect()).await else {
        let detail = format!("the body did not come within {:?}", api.patience);
        return Err(invalid(HttpStatus::RequestTimeout, detail));
    };
    let bytes = match read {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body has more than {MAX_BYTES} bytes, the most that is read");
            return Err(invalid(HttpStatus::PayloadTooLarge, detail));
        }
        Err(error) => {
            let detail = format!("the body cannot be read: {error}");
            return Err(invalid(HttpStatus::BadRequest, detail));
        }
    };
    String::from_utf8(bytes.into())
        .map_err(|_error| invalid(HttpStatus::BadRequest, "the body is not UTF-8 text"))
}

/// The name in a path.
pub(super) fn name(path: Result<Path<String>, PathRejection>) -> Result<InstanceName, Rejection> {
    let Path(text) = path.map_err(|error| invalid(HttpStatus::BadRequest, error.body_text()))?;
    parse_name(&text)
}

fn parse_name(text: &str) -> Result<InstanceName, Rejection> {
    InstanceName::try_from(text)
        .map_err(|error| invalid(HttpStatus::UnprocessableEntity, format!("{text:?}: {error}")))
}

/// The parameters of a query, each of which must be one of `known`.
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
