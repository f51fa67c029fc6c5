//! The errors of the plugin, with the codes of the specification. Pure.

use std::fmt::Display;

use riklet_api::{ApiError, FailureDocument, HttpStatus};
use riklet_core::ErrorKind;
use serde_json::{Value, json};

/// The codes: those below 100 are the specification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The version of the configuration is not supported.
    Version,
    /// A field of the configuration asks for what is not supported.
    Field,
    /// A variable of the environment is missing or wrong.
    Environment,
    /// Standard input cannot be read.
    Io,
    /// The configuration is not JSON.
    Decoding,
    /// The configuration is wrong.
    Config,
    /// It may succeed later.
    TryAgain,
    /// Nothing can be attached.
    Unavailable,
    /// Nothing can be attached, and what is attached may lack connectivity.
    LimitedConnectivity,
    /// The operation failed.
    Failed,
    /// The host lacks something, or root is needed.
    Host,
    /// A port of the host is taken, or something belongs to other records.
    Conflict,
}

impl Code {
    const fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Field => 2,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::Config => 7,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Failed => 100,
            Self::Host => 101,
            Self::Conflict => 102,
        }
    }
}

/// An error, as a runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>, details: impl Display) -> Self {
        Self { code, message: message.into(), details: details.to_string() }
    }

    /// Returns the error that the node's is.
    pub(crate) fn of_node(error: &ApiError) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => Code::Config,
            ErrorKind::Host => Code::Host,
            ErrorKind::Failed if is_temporary(error.status) => Code::TryAgain,
            ErrorKind::Failed if error.status == HttpStatus::Conflict.code() => Code::Conflict,
            ErrorKind::Failed => Code::Failed,
        };
        Self::new(code, &error.detail, error.hint.as_deref().unwrap_or_default())
    }

    /// Returns the error of an instance that is not as asked.
    pub(crate) fn of_failure(failure: &FailureDocument) -> Self {
        let code = match failure.kind {
            ErrorKind::Invalid => Code::Config,
            ErrorKind::Host => Code::Host,
            ErrorKind::Failed => Code::Failed,
        };
        Self::new(code, &failure.error, failure.hint.as_deref().unwrap_or_default())
    }

    /// Returns the document, in this version.
    pub(crate) fn document(&self, version: &str) -> Value {
        let Self { code, message, details } = self;
        let mut document = json!({ "cniVersion": version, "code": code.number(), "msg": message });
        if !details.is_empty() {
            document["details"] = json!(details);
        }
        document
    }
}

/// Reports whether a status says that the daemon, or the lock of the records, may answer later.
const fn is_temporary(status: u16) -> bool {
    status == HttpStatus::ServiceUnavailable.code()
        || status == HttpStatus::TooManyRequests.code()
        || status == HttpStatus::RequestTimeout.code()
}
