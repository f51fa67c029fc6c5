//! Prints data to standard output, and everything else to standard error.

use std::io::{self, IsTerminal, Write};

use riklet_api::{Detail, ErrorKind, FailureDocument, ReportDocument};
use serde::Serialize;

use super::{
    args::OutputFormat,
    error::{CliError, chain},
    log, plain,
};

/// An error as a document for programs.
#[derive(Debug, Serialize)]
struct ErrorDocument<'a> {
    error: &'a str,
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Detail]>::is_empty")]
    details: &'a [Detail],
    /// The ends of guests' consoles.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    console: &'a [String],
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

    /// Prints data as text or JSON, as configured.
    pub(crate) fn print<T: Serialize>(
        self,
        text: impl FnOnce() -> String,
        document: impl FnOnce() -> T,
    ) -> Result<(), CliError> {
        let text = match self.format {
            OutputFormat::Text => text(),
            // Converting to a value first sorts the fields by name.
            OutputFormat::Json => {
                let value = serde_json::to_value(document());
                format!("{:#}\n", value.map_err(|source| CliError::Render { source })?)
            }
        };
        self.text(&text).map(drop)
    }

    /// Prints text or JSON, of an endless output too, harmless for a terminal. Returns whether somebody still reads it.
    pub(crate) fn text(self, text: &str) -> Result<bool, CliError> {
        let escaped = io::stdout().is_terminal().then(|| match self.format {
            OutputFormat::Text => plain::escaped(text),
            OutputFormat::Json => plain::escaped_json(text),
        });
        self.stream(escaped.as_deref().unwrap_or(text).as_bytes())
    }

    /// Prints bytes as they are. Succeeds if the reader has closed its end.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        self.stream(bytes).map(drop)
    }

    #[expect(clippy::unused_self, reason = "standard output is printed to through this only")]
    fn stream(self, bytes: &[u8]) -> Result<bool, CliError> {
        log::flush();
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

    /// Prints a message for people on standard error. Prints nothing if the output is JSON, since standard error then
    /// has at most one error.
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

    /// Prints the warnings and failures of an operation, and returns the error that they amount to. As JSON, prints
    /// nothing: both are in the report.
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

/// Prints what a guest wrote, escaped where standard output is a terminal.
#[derive(Debug)]
pub(crate) struct GuestText {
    output: Output,
    escaper: Option<plain::Escaper>,
}

impl GuestText {
    /// Returns a printer. With `raw`, a terminal gets the bytes as they are.
    pub(crate) fn new(output: Output, raw: bool) -> Self {
        let escapes = !raw && io::stdout().is_terminal();
        Self { output, escaper: escapes.then(plain::Escaper::default) }
    }

    /// Prints bytes. Succeeds if the reader has closed its end.
    pub(crate) fn print(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        match &mut self.escaper {
            Some(escaper) => self.output.raw(escaper.pass(bytes).as_bytes()),
            None => self.output.raw(bytes),
        }
    }

    /// Prints what may have been held back.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        let rest = self.escaper.as_mut().map(plain::Escaper::finish);
        rest.map_or(Ok(()), |rest| self.output.raw(rest.as_bytes()))
    }
}

/// Prints a message for people on standard error, after what was logged before it. Ignores a failure, since there is
/// nowhere to report it.
pub(crate) fn note(text: &str) {
    log::flush();
    let mut errors = io::stderr().lock();
    let escaped = errors.is_terminal().then(|| plain::escaped(text));
    let _unwritable = writeln!(errors, "{}", escaped.as_deref().unwrap_or(text));
}

/// Prints an error with its causes and its hint, on standard error.
pub(crate) fn error(format: OutputFormat, error: &CliError) {
    let (message, hint) = (chain(error), error.hint());
    complain(format, &message, hint.as_deref(), &error.details(), &error.console());
}

/// Prints an error and a remedy. As JSON, includes the `details`, if there are any.
pub(crate) fn complaint(
    format: OutputFormat,
    message: &str,
    hint: Option<&str>,
    details: &[Detail],
) {
    complain(format, message, hint, details, &[]);
}

fn complain(
    format: OutputFormat,
    message: &str,
    hint: Option<&str>,
    details: &[Detail],
    console: &[String],
) {
    if format == OutputFormat::Json {
        let document = ErrorDocument { error: message, hint, details, console };
        // Converting to a value first sorts the fields by name.
        if let Ok(value) = serde_json::to_value(document) {
            note(&format!("{value:#}"));
        }
        return;
    }
    let first = if message.contains('\n') { "error:\n" } else { "error: " };
    note(&format!("{first}{message}"));
    for line in console {
        note(line);
    }
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}
