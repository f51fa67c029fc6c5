//! Waits for conditions, never for a fixed time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(2);

/// Calls `probe` until it finds something, at least once, and returns that.
///
/// # Panics
/// Panics if nothing is found within `deadline`. The message names `what`.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the one place of the harness that polls")]
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} for {what}");
        thread::sleep(PAUSE);
    }
}

/// Returns the time that `work` takes.
#[expect(clippy::disallowed_methods, reason = "the harness reads the clock in this file only")]
pub(crate) fn duration_of<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
