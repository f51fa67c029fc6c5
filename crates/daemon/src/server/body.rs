//! Reads the bodies of requests, within a common memory limit.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

use super::problem::{Rejection, invalid};
use crate::offload::{offload, refused};
use riklet_api::{ApiError, HttpStatus};
use riklet_core::{
    ErrorKind,
    definition::{self, MAX_BYTES, Source},
    model::Workload,
};

/// The name of the request body in errors.
pub(super) const SOURCE: &str = "request body";
/// The longest body that counts as short, in bytes. A short body is read whatever memory others use, and is parsed on
/// the server's own thread, which takes less than a millisecond.
const SHORT: usize = 1 << 14;
/// The memory for all longer bodies together, in bytes.
const BUDGET: usize = 16 << 20;
/// The unit in which that memory is reserved.
const UNIT: usize = SHORT;

/// Reads and parses bodies within limits that all requests share. Clones share them too.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    /// The time limit for a body to arrive.
    patience: Duration,
    budget: Arc<Semaphore>,
    /// The permit to parse a long body: its parsed form may take many times its length.
    turn: Arc<Semaphore>,
}

impl Bodies {
    pub(super) fn new(patience: Duration) -> Self {
        let budget = Arc::new(Semaphore::new(BUDGET / UNIT));
        Self { patience, budget, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Reads a body as text, and returns it with its share of the budget. A body that is too long is not read to its
    /// end, and one that does not arrive in time is given up.
    pub(super) async fn read(
        &self,
        body: Body,
    ) -> Result<(String, Option<OwnedSemaphorePermit>), Rejection> {
        let until = Instant::now() + self.patience;
        let (mut bytes, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut body = std::pin::pin!(body);
        loop {
            let Ok(frame) = time::timeout_at(until, body.frame()).await else {
                let detail = format!("the body did not arrive within {:?}", self.patience);
                return Err(invalid(HttpStatus::RequestTimeout, detail));
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                invalid(HttpStatus::BadRequest, format!("the body cannot be read: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BYTES {
                let detail =
                    format!("the body has more than {MAX_BYTES} bytes, the most that is read");
                return Err(invalid(HttpStatus::PayloadTooLarge, detail));
            }
            // The first unit is not counted: those of all connections together are small enough.
            let units = (bytes.len() + data.len()).saturating_sub(1) / UNIT;
            let missing = units - held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            if missing > 0 {
                let more = self.take(missing, until).await?;
                match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                }
            }
            bytes.extend_from_slice(&data);
        }
        let text = String::from_utf8(bytes)
            .map_err(|_error| invalid(HttpStatus::BadRequest, "the body is not UTF-8 text"))?;
        Ok((text, held))
    }

    /// Waits for this many units of the budget.
    async fn take(&self, units: usize, until: Instant) -> Result<OwnedSemaphorePermit, Rejection> {
        // A body has at most 64 of them.
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).acquire_many_owned(units);
        if let Ok(Ok(permit)) = time::timeout_at(until, permit).await {
            return Ok(permit);
        }
        let detail =
            format!("other requests have bodies of {BUDGET} bytes, the most that is held at once");
        let error = ApiError::new(HttpStatus::ServiceUnavailable, ErrorKind::Failed, detail);
        Err(error.with_hint("try again later".to_owned()).into())
    }

    /// Parses a body. A long one is parsed on another thread, one at a time, so that the server answers others
    /// meanwhile.
    pub(super) async fn parse(&self, text: String) -> Result<Vec<Workload>, Rejection> {
        let is_short = text.len() <= SHORT;
        let source = Source { name: SOURCE.to_owned(), text };
        if is_short {
            return Ok(definition::parse(&[source])?);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let parsed = offload(move || {
            let _turn = turn;
            definition::parse(&[source])
        });
        Ok(parsed.await.map_err(|error| refused(&error))??)
    }
}
