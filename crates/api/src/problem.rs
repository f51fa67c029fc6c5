use std::ops::Deref;

use serde::{Deserialize, Serialize};

use riklet_core::{
    ErrorKind,
    definition::{self, SourceLocation},
};

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:riklet-sdn:problem:` and the kind.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The meaning of the status, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The text that the command line prints: the error and its causes.
    pub detail: String,
    /// The kind of error, which determines the exit status.
    pub kind: ErrorKind,
    /// A remedy, if one is known.
    #[serde(default)]
    pub hint: Option<String>,
    /// The function that the request was refused for, if it named several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The invalid places of a definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
}

/// A place in a definition or a configuration, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Detail {
    /// The file, or `request body`.
    pub file: String,
    /// The line, from 1 on.
    pub line: usize,
    /// The column in characters, from 1 on.
    pub column: usize,
    /// The path of the field, such as `spec.function.exposure.port`.
    pub field: String,
    /// The reason why it is refused.
    pub reason: String,
    /// A remedy, if one is known.
    pub hint: Option<String>,
}

/// The HTTP statuses that a [`Problem`] has (RFC 9110, section 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpStatus {
    /// The request is malformed.
    BadRequest,
    /// There is no such path or instance.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The state of the node forbids it.
    Conflict,
    /// The request is longer than the server reads.
    PayloadTooLarge,
    /// The body has a media type that is not read.
    UnsupportedMediaType,
    /// A definition or the configuration is invalid.
    UnprocessableEntity,
    /// The client has as much as it may have.
    TooManyRequests,
    /// The operation failed.
    InternalServerError,
    /// The daemon lacks a privilege, which the client may have: it can do the same beside the daemon.
    NotImplemented,
    /// The daemon's answer is not understood.
    BadGateway,
    /// There is no daemon, it does not answer, or the host lacks something.
    ServiceUnavailable,
    /// The pool has no free slot.
    InsufficientStorage,
}

impl HttpStatus {
    /// Returns the number.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::UnprocessableEntity => 422,
            Self::TooManyRequests => 429,
            Self::InternalServerError => 500,
            Self::NotImplemented => 501,
            Self::BadGateway => 502,
            Self::ServiceUnavailable => 503,
            Self::InsufficientStorage => 507,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::Conflict => "Conflict",
            Self::PayloadTooLarge => "Payload Too Large",
            Self::UnsupportedMediaType => "Unsupported Media Type",
            Self::UnprocessableEntity => "Unprocessable Entity",
            Self::TooManyRequests => "Too Many Requests",
            Self::InternalServerError => "Internal Server Error",
            Self::NotImplemented => "Not Implemented",
            Self::BadGateway => "Bad Gateway",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::InsufficientStorage => "Insufficient Storage",
        }
    }
}

/// The error of every operation of a [`NodeApi`](super::NodeApi): a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.detail)]
pub struct ApiError(Box<Problem>);

impl ApiError {
    /// Creates an error without a hint.
    #[must_use]
    pub fn new(status: HttpStatus, kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            type_uri: format!("urn:riklet-sdn:problem:{}", kind.as_str()),
            title: status.title().to_owned(),
            status: status.code(),
            detail: detail.into(),
            kind,
            hint: None,
            name: None,
            details: vec![],
        }))
    }

    /// Creates the error about an invalid request.
    #[must_use]
    pub fn invalid(status: HttpStatus, detail: impl Into<String>) -> Self {
        Self::new(status, ErrorKind::Invalid, detail)
    }

    /// Sets the remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// Sets the function that the request was refused for.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.0.name = name.into();
        self
    }

    /// Returns the document.
    #[must_use]
    pub fn into_problem(self) -> Problem {
        *self.0
    }
}

impl Deref for ApiError {
    type Target = Problem;

    fn deref(&self) -> &Problem {
        &self.0
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<&definition::Errors> for ApiError {
    fn from(errors: &definition::Errors) -> Self {
        let malformed =
            errors.iter().any(|e| matches!(e.reason, definition::Reason::Syntax { .. }));
        let status =
            if malformed { HttpStatus::BadRequest } else { HttpStatus::UnprocessableEntity };
        let mut error = Self::invalid(status, errors.to_string());
        error.0.details = Detail::of(errors);
        error
    }
}

impl Detail {
    /// Creates the description of one fault.
    #[must_use]
    pub fn new(
        location: &SourceLocation,
        field: &str,
        reason: String,
        hint: Option<String>,
    ) -> Self {
        let SourceLocation { file, line, column } = location;
        Self {
            file: file.clone(),
            line: *line,
            column: *column,
            field: field.to_owned(),
            reason,
            hint,
        }
    }

    /// Returns the descriptions of all faults of definitions.
    #[must_use]
    pub fn of(errors: &definition::Errors) -> Vec<Self> {
        let detail = |e: &definition::Error| {
            Self::new(&e.location, &e.field, e.reason.to_string(), e.reason.hint())
        };
        errors.iter().map(detail).collect()
    }
}
