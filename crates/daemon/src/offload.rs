//! Calls that may block, on threads of their own, so that the server answers others meanwhile. Tokio's own threads for that
//! panic if the host has none left.

use std::io;

use tokio::sync::oneshot;

use riklet_api::{ApiError, ErrorKind, HttpStatus};
use riklet_kernel::threads;

/// Makes a call on a thread of its own, and returns its result.
///
/// # Errors
/// Fails if the host has no thread left: then the call is not made.
pub(crate) async fn offload<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    threads::start("call", move || drop(sender.send(call())))?;
    result.await.map_err(|_panicked| io::Error::other("the thread panicked"))
}

/// Returns the answer to a request for which there is no thread.
pub(crate) fn refused(error: &io::Error) -> ApiError {
    let (status, detail) = (HttpStatus::ServiceUnavailable, error.to_string());
    ApiError::new(status, ErrorKind::Failed, detail).with_hint("try again later".to_owned())
}
