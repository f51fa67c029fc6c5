use std::fmt;

use super::tree::{Position, Sort};
use crate::model::{
    AccountError, BitRateError, BootArgsError, Destination, DestinationError, Egress, EgressPolicy,
    EmptySource, ExecutionConflict, Exposure, ExposureError, InstanceName, InterfaceNameError,
    Ipv6Unsupported, MemoryError, NameError, NameRule, NameRuleError, NamespacePathError,
    OutOfRange, PortRangeError, ProxyError, Sha256Error, TooManyServers,
};

/// A location in a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLocation {
    /// The source's name.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

impl SourceLocation {
    pub(super) fn new(file: &str, at: Position) -> Self {
        Self { file: file.to_owned(), line: at.line, column: at.column }
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// An error in a definition, with its location: `FILE:LINE:COLUMN: FIELD: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The location.
    pub location: SourceLocation,
    /// The path of the field, such as `spec.function.exposure[1].port`; empty if the error concerns the whole text.
    pub field: String,
    /// The reason. Its message is part of this one's.
    pub reason: Reason,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.reason)?;
        match self.reason.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// The errors of some definitions, in the order of the text; at least one, and at most [`Errors::MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    listed: Vec<Error>,
    truncated: bool,
}

impl Errors {
    /// The most errors that are listed: an answer stays short, however long the text is.
    pub const MAX: usize = 100;

    pub(super) const fn new(listed: Vec<Error>, truncated: bool) -> Self {
        Self { listed, truncated }
    }

    /// Returns an iterator over the errors that are listed.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.listed.iter()
    }

    /// Reports whether reading ended at [`Errors::MAX`] errors, so that there are more.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Errors {
    /// Writes one error a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().enumerate().try_for_each(|(index, error)| {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })
        })?;
        if self.truncated {
            write!(f, "\nonly the first {} errors are listed", Self::MAX)?;
        }
        Ok(())
    }
}

/// The reason why a field is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum Reason {
    #[error("not valid {format}: {words}")]
    Syntax { format: &'static str, words: String },
    #[error("the text has {bytes} bytes; at most {max} are read", max = super::MAX_BYTES)]
    TooLarge { bytes: usize },
    #[error("nested deeper than {max} levels", max = super::MAX_DEPTH)]
    TooDeep,
    #[error("the text contains no definition")]
    Empty,
    #[error("expected one definition, found {found}")]
    NotOne { found: usize },
    #[error("expected {expected}, found {found}")]
    Sort { expected: &'static str, found: Sort },
    #[error("missing")]
    Missing,
    #[error("unknown field")]
    UnknownField { known: &'static [&'static str], nearest: Option<&'static str> },
    #[error("duplicate field, first on line {first}")]
    DuplicateField { first: usize },
    #[error("unknown version {found:?}")]
    UnknownVersion { found: String },
    #[error("unknown kind {found:?}")]
    UnknownKind { found: String, nearest: Option<&'static str> },
    #[error("a definition is one instance, not {found}")]
    Replicas { found: i64 },
    #[error("a Function has no containers")]
    Containers,
    #[error("unknown type {found:?}; {:?} is the only one", super::EXPOSURE_TYPE)]
    UnknownType { found: String },
    #[error("unknown protocol {found:?}; TCP, UDP and SCTP are known")]
    UnknownProtocol { found: String },
    #[error("unknown {what} {found:?}")]
    UnknownChoice {
        what: &'static str,
        found: String,
        known: Vec<&'static str>,
        nearest: Option<&'static str>,
    },
    #[error("{found} is not a whole number")]
    Fraction { found: String },
    #[error("{found:?} is not an IPv4 address")]
    Address { found: String },
    #[error(transparent)]
    Ipv6(#[from] Ipv6Unsupported),
    #[error("{name} is already defined at {first}")]
    DuplicateName { name: InstanceName, first: SourceLocation },
    #[error("{exposure} clashes with {other} at {first}")]
    Clash { exposure: Exposure, other: Exposure, first: SourceLocation },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Namespace(#[from] NamespacePathError),
    #[error(transparent)]
    Interface(#[from] InterfaceNameError),
    #[error(transparent)]
    Port(#[from] PortRangeError),
    #[error(transparent)]
    Exposure(#[from] ExposureError),
    #[error(transparent)]
    Image(#[from] EmptySource),
    #[error(transparent)]
    Sha256(#[from] Sha256Error),
    #[error(transparent)]
    Count(#[from] OutOfRange),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    BootArgs(#[from] BootArgsError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Dns(#[from] TooManyServers),
    #[error(transparent)]
    Destination(#[from] DestinationError),
    #[error(transparent)]
    Names(#[from] NameRuleError),
    #[error(
        "`default: {default}` reaches more than the names in `allow`, which would change nothing: leave out the default, which is none with names, or leave out the names"
    )]
    NamesWithDefault { default: Egress },
    #[error(
        "{rule} is a name: only functions may have names as yet, since a pod's resolver is its runtime's"
    )]
    NamesOfPod { rule: NameRule },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("ports for a proxy, and no proxy: name it by via")]
    PortsWithoutProxy,
    #[error("the proxy of via is not reached: deny has it by {entry}")]
    DeniedProxy { entry: Destination },
    #[error(transparent)]
    Rate(#[from] BitRateError),
    #[error("{found} destinations; a list has at most {}", EgressPolicy::MAX)]
    Destinations { found: usize },
    #[error("{found} names; a list has at most {}", EgressPolicy::MAX_NAMES)]
    ManyNames { found: usize },
    #[error(
        "what is allowed and denied overlaps so that it falls into {found} blocks; at most {} fit",
        EgressPolicy::MAX_BLOCKS
    )]
    Blocks { found: usize },
    #[error(transparent)]
    Conflict(#[from] ExecutionConflict),
}

impl Reason {
    /// Returns the correction, if it is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let meant = |nearest: &str| format!("did you mean {nearest:?}?");
        match self {
            Self::UnknownField { nearest: Some(nearest), .. }
            | Self::UnknownKind { nearest: Some(nearest), .. }
            | Self::UnknownChoice { nearest: Some(nearest), .. } => Some(meant(nearest)),
            Self::UnknownChoice { known, nearest: None, .. } => {
                Some(format!("expected one of {}", known.join(", ")))
            }
            Self::UnknownField { known, nearest: None } => {
                Some(format!("expected one of {}", known.join(", ")))
            }
            Self::UnknownKind { nearest: None, .. } => {
                let kinds: Vec<_> = super::kinds().collect();
                Some(format!("expected {}", kinds.join(" or ")))
            }
            Self::UnknownVersion { .. } => Some(format!("expected {:?}", super::API_VERSION)),
            Self::Sort {
                expected: "a string" | "a string or an object",
                found: Sort::Number | Sort::Boolean,
            } => Some("put it in quotes".into()),
            Self::Rate(error) => error.nearest().map(|rate| meant(&rate.to_string())),
            Self::Ipv6(_) => Some("give an IPv4 address".into()),
            Self::Replicas { .. } => {
                Some("set it to 1, and write a definition with a name of its own for each".into())
            }
            _ => None,
        }
    }
}
