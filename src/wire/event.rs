use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::daemon::events;

/// Something that the daemon did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// `up`, `down`, `failed`, `noticed` (somebody else changed something), `repaired`, `backing-off`, `manifest` or `error`.
    pub kind: String,
    /// The function, where it is one's.
    pub name: Option<String>,
    /// What, in words: one or more lines.
    pub text: String,
}

impl From<&events::Event> for Event {
    fn from(event: &events::Event) -> Self {
        Self {
            at_ms: millis(event.at),
            kind: event.kind.as_str().to_owned(),
            name: event.name.as_ref().map(ToString::to_string),
            text: event.text.clone(),
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    let passed = at.duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}
