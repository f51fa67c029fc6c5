//! Data to standard output, everything else to standard error.

use std::io::{self, Write};

use riklet_api::{Detail, ErrorKind, FailureDocument, ReportDocument};
use serde::Serialize;

use super::{
    args::OutputFormat,
    error::{CliError, chain},
};

/// An error, for programs.
#[derive(Debug, Serialize)]
struct ErrorDocument<'a> {
    error: &'a str,
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Detail]>::is_empty")]
    details: &'a [Detail],
}

/// The destination and format of printed data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: OutputFormat,
}

impl Output {
    pub(crate) const fn new(format: OutputFormat) -> Self {
        Self { format }
    }

    /// Prints data, in the form that was asked for.
    pub(crate) fn print<T: Serialize>(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> T,
    ) -> Result<(), CliError> {
        let text = match self.format {
            OutputFormat::Text => text(),
            // By way of a value: fields come in the order of their names.
            OutputFormat::Json => {
                let value = serde_json::to_value(document());
                format!("{:#}\n", value.map_err(|source| CliError::Render { source })?)
            }
        };
        self.raw(text.as_bytes())
    }

    /// Prints bytes. A reader that has read enough is no error.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        self.stream(bytes).map(drop)
    }

    /// The same for output that does not end by itself: whether somebody still reads.
    #[expect(clippy::unused_self, reason = "standard output is printed to through this only")]
    pub(crate) fn stream(self, bytes: &[u8]) -> Result<bool, CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(source) => Err(CliError::Write { source }),
        }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// A line for the human, who does not read JSON: there, standard error has at most one error.
    pub(crate) fn remark(self, text: &str) {
        if !self.is_json() {
            note(text);
        }
    }

    pub(crate) fn warnings(self, warnings: &[String]) {
        for warning in warnings {
            self.remark(&format!("warning: {warning}"));
        }
    }

    /// Says what surprises and what failed in an operation; the error that it amounts to. As JSON, both are
    /// in the report.
    pub(crate) fn complaints(self, report: &mut ReportDocument) -> Result<(), CliError> {
        self.warnings(&report.warnings);
        for failure in &report.others {
            self.remark(&format!("warning: {}; it was not asked for", failure.error));
        }
        let mut failures = std::mem::take(&mut report.failures);
        if failures.len() <= 1 {
            return failures.pop().map_or(Ok(()), |failure| Err(CliError::Failure(failure)));
        }
        for failure in &failures {
            self.remark(&format!("error: {}", failure.error));
            failure.hint.iter().for_each(|hint| self.remark(&format!("hint: {hint}")));
        }
        let kind =
            failures.first().map_or(ErrorKind::Failed, |failure: &FailureDocument| failure.kind);
        Err(CliError::Failures { count: failures.len(), kind })
    }
}

/// A line for the human, on standard error. There is nowhere to say that it cannot be written.
pub(crate) fn note(text: &str) {
    let _unwritable = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error with its causes and its hint, on standard error.
pub(crate) fn error(format: OutputFormat, error: &CliError) {
    complaint(format, &chain(error), error.hint().as_deref(), &error.details());
}

/// Prints what is wrong, and a remedy. As JSON with the `details` that there may be.
pub(crate) fn complaint(
    format: OutputFormat,
    message: &str,
    hint: Option<&str>,
    details: &[Detail],
) {
    if format == OutputFormat::Json {
        let document = ErrorDocument { error: message, hint, details };
        // By way of a value: fields come in the order of their names.
        if let Ok(value) = serde_json::to_value(document) {
            note(&format!("{value:#}"));
        }
        return;
    }
    let first = if message.contains('\n') { "error:\n" } else { "error: " };
    note(&format!("{first}{message}"));
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}
