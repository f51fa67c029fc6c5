use serde::{Deserialize, Serialize};

use super::epoch_millis;
use crate::daemon::events;

/// Something that the daemon did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
            at_ms: epoch_millis(event.at),
            kind: event.kind.as_str().to_owned(),
            name: event.name.as_ref().map(ToString::to_string),
            text: event.text.clone(),
        }
    }
}
