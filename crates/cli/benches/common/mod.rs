//! Helpers shared by the sections.

pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod enclosure;
pub(crate) mod http;
pub(crate) mod namespace;
pub(crate) mod plot;
pub(crate) mod report;
pub(crate) mod samples;

use std::{
    thread,
    time::{Duration, Instant},
};

/// Calls `probe` until it finds something, and returns that.
///
/// # Panics
/// Panics if nothing is found within `deadline`.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the definition of a function with one TCP port, which leads to port 3000 of its guest.
pub(crate) fn definition(name: &str, port: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Function","name":"{name}","spec":{{"function":{{"exposure":{{"port":{port},"targetPort":3000}}}}}}}}"#
    )
}
