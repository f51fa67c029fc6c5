use serde::{Deserialize, Serialize};

/// The response that an error calls for; the exit status of the command line follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Kind))]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// The operation failed, or drift was found: exit status 1.
    Failed,
    /// The input or the configuration is wrong: exit status 2.
    Invalid,
    /// The host lacks something, or root is needed: exit status 3.
    Host,
}

impl ErrorKind {
    /// Returns the word for it in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Host => "host",
        }
    }
}
