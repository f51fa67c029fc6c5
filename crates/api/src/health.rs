use serde::{Deserialize, Serialize};

/// The state of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`.
    pub status: String,
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
