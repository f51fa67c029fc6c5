use serde::{Deserialize, Serialize};

/// The state of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`; or `busy`, if the engine does not answer at once: then the numbers are those last known.
    pub status: String,
    /// The time that the engine has been busy for, in milliseconds, if it is busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_ms: Option<u64>,
    /// The process that the engine waits for, if another process holds the lock or the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The program's version.
    pub version: String,
    /// The number of recorded functions.
    pub functions: u32,
    /// The number of reserved slots whose TAP is being created.
    pub creating_slots: usize,
    /// The number of reserved slots whose TAP waits for a function.
    pub ready_slots: usize,
    /// The number of reserved slots whose TAP is to be deleted.
    pub draining_slots: usize,
}

/// The versions of the program and of its API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Version {
    /// The version of the program.
    pub version: String,
    /// The version of the API: that of the paths.
    pub api: String,
}
