//! The documents that go over the wire and that `--output json` prints: docs/json.md describes their fields. Text is
//! rendered from the same documents, so it is the same whether a daemon answered or not.

mod event;
mod instance;
mod problem;
mod report;

pub use event::Event;
pub use instance::{Attached, End, Exposure, Inspection, Instance, Listed, NotAnInstance, Ports};
pub use problem::{Detail, Problem};
pub use report::{Check, Failure, Health, Lost, Plan, Report, Unsettled, Version};

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use riklet_sdn::ErrorKind;

/// What kind of answer an error needs: that of the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The operation failed, or drift was found: exit status 1.
    Failed,
    /// The input or the configuration is wrong: exit status 2.
    Invalid,
    /// The host lacks something, or root is needed: exit status 3.
    Host,
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Host => Self::Host,
        }
    }
}

impl From<Kind> for ErrorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Failed => Self::Failed,
            Kind::Invalid => Self::Invalid,
            Kind::Host => Self::Host,
        }
    }
}

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
