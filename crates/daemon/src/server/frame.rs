//! Server-sent events as bytes. An event is encoded once, and every watcher gets the same bytes.

use std::{fmt::Display, sync::OnceLock};

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::OnceCell;

use super::{Api, handlers};
use crate::events::{Event, EventKind};
use riklet_api::{self as wire, Collection, Token};

/// The line that tells a client of an idle stream that the daemon is alive.
pub(super) const SIGN_OF_LIFE: Bytes = Bytes::from_static(b":\n\n");

/// The encoded forms of an event, each made when the first watcher needs it.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    event: OnceLock<Bytes>,
    change: OnceLock<Bytes>,
    lists: OnceCell<Vec<(Collection, Bytes)>>,
}

/// Returns the event for a watcher of events.
pub(crate) fn event(event: &Event) -> Bytes {
    let encode = || match event.kind {
        EventKind::Missed(count) => missed(count),
        kind => frame(Some(event.token), kind.as_str(), &wire::Event::from(event)),
    };
    event.encoded.event.get_or_init(encode).clone()
}

/// Returns the event for a watcher of a collection; `None` if it does not concern the collection.
pub(super) async fn change(api: &Api, collection: Collection, event: &Event) -> Option<Bytes> {
    let (kind, token) = (event.kind, Some(event.token));
    match (kind, &event.name) {
        (EventKind::Up | EventKind::Failed, _) => {
            let instance = event.instance.as_ref()?;
            let encode = || frame(token, kind.as_str(), instance);
            let ours = collection.has(&instance.instance.kind);
            ours.then(|| event.encoded.change.get_or_init(encode).clone())
        }
        // By name, for instances of any kind.
        (EventKind::Down, Some(name)) => {
            let encode = || frame(token, "down", &serde_json::json!({ "name": name.as_str() }));
            Some(event.encoded.change.get_or_init(encode).clone())
        }
        // These may concern all instances.
        (EventKind::Down | EventKind::Repaired, None) => list_after(api, collection, event).await,
        (EventKind::Missed(count), _) => {
            let list = list_after(api, collection, event).await?;
            Some([missed(count), list].concat().into())
        }
        (
            EventKind::Started
            | EventKind::Ready
            | EventKind::Stopping
            | EventKind::Ended
            | EventKind::Lost,
            _,
        ) => Some(self::event(event)),
        _ => None,
    }
}

/// Returns the list of the collection's instances after an event; `None` if it cannot be read.
async fn list_after(api: &Api, collection: Collection, event: &Event) -> Option<Bytes> {
    let encode = async || {
        let listed = api.engine.list().await?;
        let of = |collection: Collection| {
            let ours = listed.iter().filter(|entry| collection.has(&entry.instance.kind));
            (collection, frame(Some(event.token), "list", &ours.collect::<Vec<_>>()))
        };
        Ok::<_, wire::ApiError>(Collection::each().map(of).collect())
    };
    let lists = event.encoded.lists.get_or_try_init(encode).await.ok()?;
    lists.iter().find(|(of, _)| *of == collection).map(|(_, list)| list.clone())
}

/// Returns the list of the collection's instances for one watcher, which goes on after this position.
pub(super) async fn list(
    api: &Api,
    collection: Collection,
    position: Token,
) -> Result<Bytes, super::problem::Rejection> {
    Ok(frame(Some(position), "list", &handlers::listed(api, collection).await?))
}

/// Returns the event that tells how many events are not told; `None` if nobody knows.
pub(super) fn missed(count: Option<u64>) -> Bytes {
    frame(None::<Token>, "missed", &serde_json::json!({ "count": count }))
}

/// Encodes an event. JSON on one line has no line breaks.
fn frame(id: Option<impl Display>, name: &str, document: &impl Serialize) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let data = serde_json::to_string(document);
    let data = data.unwrap_or_else(|_unwritable| "null".to_owned());
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}
