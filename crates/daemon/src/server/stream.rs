//! Streams of server-sent events (the living standard of HTML, section 9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    time::timeout,
};

use super::{Api, frame, problem::Rejection, request};
use crate::events::{Event, Subscription};
#[cfg(test)]
use riklet_api::{self as wire, Problem};
use riklet_api::{Collection, Token, Topic};

/// The interval at which an idle stream sends a sign of life.
const ALIVE: Duration = Duration::from_secs(15);

/// Streams the daemon's events as server-sent events: those that are remembered, then new ones. With `refused`, refused
/// packets of functions instead. With `recent`, only what is remembered. With `since`, those after the event of that token; an event `missed` comes first if some of these are gone.
#[cfg_attr(test, utoipa::path(get, path = "/v1/events",
    params(("recent" = Option<bool>, Query), ("refused" = Option<bool>, Query), ("since" = Option<String>, Query, description = "The `token` of an event")),
    responses((status = 200, body = wire::Event, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"))))]
pub(super) async fn events(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let parameters = request::parameters(query.as_deref(), &["recent", "refused", "since"])?;
    let recent = request::flag(&parameters, "recent")?;
    let refused = request::flag(&parameters, "refused")?;
    let since = request::since(&parameters, &headers)?;
    let topic = if refused { Topic::Refusals } else { Topic::Changes };
    let Subscription { missed, remembered, coming, .. } = api.events.listen_to(topic, since);
    let missed = (missed != Some(0)).then(|| frame::missed(missed));
    let remembered = remembered.into_iter().map(|event| frame::event(&event));
    let first = stream::iter(missed.into_iter().chain(remembered));
    if recent {
        return Ok(answer(first, api.ending));
    }
    let coming = stream::unfold(coming, async |mut coming| {
        let frame = match coming.recv().await {
            Ok(event) => frame::event(&event),
            Err(RecvError::Lagged(count)) => frame::missed(Some(count)),
            Err(RecvError::Closed) => return None,
        };
        Some((frame, coming))
    });
    Ok(answer(first.chain(coming), api.ending))
}

/// Streams the instances of a collection, then each change; with `since`, the changes from that position on, and the list
/// only if some of them were missed.
pub(super) async fn instances(
    api: Api,
    collection: Collection,
    since: Option<Token>,
) -> Result<Response, Rejection> {
    let Subscription { missed, remembered, last, coming } = api.events.listen(since);
    let mut first = Vec::new();
    if since.is_some() && missed == Some(0) {
        for event in remembered {
            first.extend(frame::change(&api, collection, &event).await);
        }
    } else {
        first.extend(since.map(|_| frame::missed(missed)));
        first.push(frame::list(&api, collection, last).await?);
    }
    let ending = api.ending.clone();
    let changes = stream::unfold((api, coming), move |(api, mut coming)| async move {
        let frame = next(&api, collection, &mut coming).await?;
        Some((frame, (api, coming)))
    });
    Ok(answer(stream::iter(first).chain(changes.filter_map(async |frame| frame)), ending))
}

/// Waits for the next event. Returns `None` after the last one, and an empty frame for one that does not concern the
/// collection.
async fn next(
    api: &Api,
    collection: Collection,
    coming: &mut Receiver<std::sync::Arc<Event>>,
) -> Option<Option<Bytes>> {
    match coming.recv().await {
        Ok(event) => Some(frame::change(api, collection, &event).await),
        Err(RecvError::Lagged(count)) => {
            let missed = frame::missed(Some(count));
            // What follows is told after the list, again or not.
            let position = api.events.listen(None).last;
            let list = frame::list(api, collection, position).await.ok();
            Some(Some([missed, list.unwrap_or_default()].concat().into()))
        }
        Err(RecvError::Closed) => None,
    }
}

/// Returns the stream as a response that ends with the daemon.
fn answer(
    frames: impl Stream<Item = Bytes> + Send + 'static,
    mut ending: watch::Receiver<bool>,
) -> Response {
    let frames = stream::unfold(Box::pin(frames), async |mut frames| {
        let frame = match timeout(ALIVE, frames.next()).await {
            Ok(frame) => frame?,
            Err(_idle) => frame::SIGN_OF_LIFE,
        };
        Some((Ok::<_, Infallible>(frame), frames))
    });
    let end = async move { super::ended(&mut ending).await };
    let body = Body::from_stream(frames.take_until(Box::pin(end)));
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, body).into_response()
}
