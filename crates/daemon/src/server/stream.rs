//! Streams of server-sent events (the living standard of HTML, section 9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{Api, handlers, problem::Rejection, request};
use crate::events::{self, EventKind};
use riklet_api as wire;
#[cfg(test)]
use riklet_api::Problem;
use riklet_api::{Collection, ListEntry, NodeApi};

/// The interval at which an idle stream sends a sign of life.
const ALIVE: Duration = Duration::from_secs(15);

/// Streams the daemon's events as server-sent events: those that are remembered, then new ones. With `recent`, only the
/// former.
#[cfg_attr(test, utoipa::path(get, path = "/v1/events", params(("recent" = Option<bool>, Query)),
    responses((status = 200, body = wire::Event, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn events(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["recent"])?;
    let recent = request::flag(&parameters, "recent")?;
    let (remembered, coming) = api.events.listen();
    let remembered = stream::iter(remembered).map(|event| Some(document(&event)));
    if recent {
        return Ok(answer(remembered, api.ending));
    }
    let coming = BroadcastStream::new(coming).map(|event| {
        Some(match event {
            Ok(event) => document(&event),
            Err(BroadcastStreamRecvError::Lagged(count)) => missed(Some(count)),
        })
    });
    Ok(answer(remembered.chain(coming), api.ending))
}

/// Streams the instances of a collection, then each change. A removal is reported by name for instances of any kind.
pub(super) async fn instances(api: Api, collection: Collection) -> Result<Response, Rejection> {
    let (_, coming) = api.events.listen();
    let first = handlers::listed(&api, collection).await?;
    let first = stream::iter([Some(data("list", &first))]);
    let ending = api.ending.clone();
    let changes = stream::unfold((api, coming), move |(api, mut coming)| async move {
        let event = match coming.recv().await {
            Ok(event) => change(&api, collection, &event).await,
            Err(broadcast::error::RecvError::Lagged(count)) => Some(missed(Some(count))),
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((event, (api, coming)))
    });
    Ok(answer(first.chain(changes), ending))
}

/// Returns the event that reports a change to a watcher of a collection; `None` if it does not concern the collection.
async fn change(api: &Api, collection: Collection, event: &events::Event) -> Option<Event> {
    match (event.kind, &event.name) {
        (EventKind::Up | EventKind::Failed, Some(name)) => {
            let name = name.clone();
            let found = api.engine.with(move |node| node.inspect(&name)).await.ok()?.ok()?;
            let listed = ListEntry { instance: found.instance, link: found.link };
            let ours = collection.has(&listed.instance.kind);
            ours.then(|| data(event.kind.as_str(), &listed))
        }
        (EventKind::Down, Some(name)) => {
            Some(data("down", &serde_json::json!({ "name": name.as_str() })))
        }
        // These may concern all instances.
        (EventKind::Down | EventKind::Repaired, None) => {
            Some(data("list", &handlers::listed(api, collection).await.ok()?))
        }
        (
            EventKind::Started
            | EventKind::Ready
            | EventKind::Stopping
            | EventKind::Ended
            | EventKind::Lost
            | EventKind::Missed(_),
            _,
        ) => Some(document(event)),
        _ => None,
    }
}

fn document(event: &events::Event) -> Event {
    if let EventKind::Missed(count) = event.kind {
        return missed(count);
    }
    data(event.kind.as_str(), &wire::Event::from(event))
}

/// Returns the event that tells how many events are not told; `None` if nobody knows.
fn missed(count: Option<u64>) -> Event {
    data("missed", &serde_json::json!({ "count": count }))
}

fn data(name: &str, document: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    event.json_data(document).unwrap_or_else(|_unwritable| Event::default().event("missed"))
}

/// Returns the stream as a response that ends with the daemon.
fn answer(
    events: impl Stream<Item = Option<Event>> + Send + 'static,
    mut ending: watch::Receiver<bool>,
) -> Response {
    let events = events.filter_map(async |event| event.map(Ok::<_, Infallible>));
    let end = async move { super::ended(&mut ending).await };
    let events = events.take_until(Box::pin(end));
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}
