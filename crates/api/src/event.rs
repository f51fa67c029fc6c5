use serde::{Deserialize, Serialize};

/// Something that the daemon did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
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
