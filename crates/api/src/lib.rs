//! The documents that go over the wire and that `--output json` prints: docs/json.md describes their fields. Text is
//! rendered from the same documents, so it is the same whether a daemon answered or not.

mod event;
mod instance;
mod problem;
mod report;

pub use event::Event;
pub use instance::{End, Exposure, Inspection, Instance, Listed, Ports};
pub use problem::{Detail, Problem};
pub use report::{Check, Failure, Health, Plan, Report, Unsettled, Version};
pub use riklet_core::ErrorKind;

use std::time::SystemTime;

/// The messages of an error and of all that is behind it, as everything here prints them.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        // SQLite's error has its code behind it, and that has the same words again.
        let repeated = words.strip_prefix("Error code ").and_then(|code| code.split_once(": "));
        let repeated = repeated.is_some_and(|(_, words)| text.contains(words));
        if !repeated {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

/// The lines that some steps print as.
pub fn lines<T: ToString>(steps: &[T]) -> Vec<String> {
    let text = |step: &T| step.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    steps.iter().flat_map(text).collect()
}

/// A time as documents and records have it: in milliseconds since 1970.
#[must_use]
pub fn epoch_millis(at: SystemTime) -> u64 {
    let passed = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
