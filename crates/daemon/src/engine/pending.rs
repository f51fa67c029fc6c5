use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use riklet_api::{ApiError, ErrorKind, HttpStatus};
use tokio::sync::oneshot;

/// The engine has ended: it was stopped, or it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is ending")]
pub struct Gone;

/// A pending reply of the engine. A task awaits it; a thread calls [`Self::wait`].
///
/// The request is carried out even if nobody waits for the reply.
#[derive(Debug)]
#[must_use = "what is asked is done, and nobody hears of its outcome"]
pub struct Pending<T>(Option<oneshot::Receiver<T>>);

impl<T> Pending<T> {
    pub(super) const fn new(receiver: oneshot::Receiver<T>) -> Self {
        Self(Some(receiver))
    }

    pub(super) const fn gone() -> Self {
        Self(None)
    }

    /// Blocks until the reply. Asynchronous code must not call this, since it would block its thread.
    ///
    /// # Errors
    /// Fails if the engine has ended.
    pub fn wait(self) -> Result<T, Gone> {
        self.0.ok_or(Gone)?.blocking_recv().map_err(|_gone| Gone)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Gone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(receiver) => {
                Pin::new(receiver).poll(context).map(|reply| reply.map_err(|_gone| Gone))
            }
            None => Poll::Ready(Err(Gone)),
        }
    }
}

impl From<Gone> for ApiError {
    fn from(gone: Gone) -> Self {
        Self::new(HttpStatus::ServiceUnavailable, ErrorKind::Failed, gone.to_string())
    }
}
