use serde::{Deserialize, Serialize};

use riklet_core::{
    ErrorKind,
    definition::{self, Place},
};

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:riklet-sdn:problem:` and the kind.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// What the status means, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong: the text that the command line prints.
    pub detail: String,
    /// What kind of answer it needs.
    pub kind: ErrorKind,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Where a definition is at fault, each place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
}

/// A place in a definition or a configuration, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Detail {
    /// The file, or `request body`.
    pub file: String,
    /// From 1 on.
    pub line: usize,
    /// In characters, from 1 on.
    pub column: usize,
    /// Such as `spec.function.exposure.port`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    #[must_use]
    pub fn new(status: u16, title: &str, kind: ErrorKind, detail: String) -> Self {
        Self {
            type_uri: format!("urn:riklet-sdn:problem:{}", kind.as_str()),
            title: title.to_owned(),
            status,
            detail,
            kind,
            hint: None,
            details: vec![],
        }
    }
}

impl Detail {
    /// Of what is wrong here.
    #[must_use]
    pub fn new(place: &Place, field: &str, reason: String, hint: Option<String>) -> Self {
        let Place { file, line, column } = place;
        Self {
            file: file.clone(),
            line: *line,
            column: *column,
            field: field.to_owned(),
            reason,
            hint,
        }
    }

    /// Of all that is wrong in definitions.
    #[must_use]
    pub fn of(errors: &definition::Errors) -> Vec<Self> {
        let detail = |e: &definition::Error| {
            Self::new(&e.place, &e.field, e.reason.to_string(), e.reason.hint())
        };
        errors.iter().map(detail).collect()
    }
}
