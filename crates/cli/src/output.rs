//! Data to standard output, everything else to standard error.

use std::io::{self, Write};

use riklet_api::{ErrorKind, Failure, Instance, Report};
use serde::Serialize;
use serde_json::{Value, json};

use super::{args::OutputFormat, error::CliError};

/// Where and how data is printed.
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
    pub(crate) fn complaints(self, report: &mut Report) -> Result<(), CliError> {
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
        let kind = failures.first().map_or(ErrorKind::Failed, |failure: &Failure| failure.kind);
        Err(CliError::Failures { count: failures.len(), kind })
    }
}

/// A line for the human, on standard error. There is nowhere to say that it cannot be written.
pub(crate) fn note(text: &str) {
    let _unwritable = writeln!(io::stderr().lock(), "{text}");
}

/// An error and its hint. As JSON with the `details` that there may be.
pub(crate) fn error(
    format: OutputFormat,
    message: &str,
    hint: Option<&str>,
    details: Option<Value>,
) {
    if format == OutputFormat::Json {
        let mut value = json!({ "error": message, "hint": hint });
        if let Some(details) = details {
            value["details"] = details;
        }
        note(&format!("{value:#}"));
        return;
    }
    let first = if message.contains('\n') { "error:\n" } else { "error: " };
    note(&format!("{first}{message}"));
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}

/// Rows with columns aligned, two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The table of instances: name, then `extra` columns, then addresses and one line for each exposure.
pub(crate) fn instances<'a>(
    extra: &[&str],
    rows: impl IntoIterator<Item = (&'a Instance, Vec<String>)>,
) -> String {
    let mut header = vec!["NAME", "TAP", "GUEST", "HOST ADDRESS"];
    header.extend(extra);
    header.push("EXPOSURES");
    let mut lines = Vec::new();
    for (instance, cells) in rows {
        let mut first = vec![
            instance.name.clone(),
            instance.tap.clone(),
            instance.guest.address.to_string(),
            instance.host.address.to_string(),
        ];
        first.extend(cells);
        let blank = vec![String::new(); first.len()];
        let exposures = &instance.exposures;
        first.push(exposures.first().map_or_else(|| "-".to_owned(), ToString::to_string));
        lines.push(first);
        for exposure in exposures.iter().skip(1) {
            let mut line = blank.clone();
            line.push(exposure.to_string());
            lines.push(line);
        }
    }
    table(&header, &lines)
}
