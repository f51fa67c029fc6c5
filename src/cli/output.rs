//! Data to standard output, everything else to standard error.

use std::io::{self, Write};

use riklet_sdn::{
    definition,
    model::Exposure,
    sdn::{ErrorKind, Failure, Instance, Listed, Report, Warning},
};
use serde_json::{Value, json};

use super::{
    args::OutputFormat,
    error::{CliError, chain},
};

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
    pub(crate) fn print(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), CliError> {
        let text = match self.format {
            OutputFormat::Text => text(),
            OutputFormat::Json => format!("{:#}\n", json()),
        };
        self.raw(text.as_bytes())
    }

    /// Prints bytes. A reader that has read enough is no error.
    #[expect(clippy::unused_self, reason = "standard output is printed to through this only")]
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
                Err(CliError::Write { source })
            }
            _ => Ok(()),
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

    pub(crate) fn warnings(self, warnings: &[Warning]) {
        for warning in warnings {
            self.remark(&format!("warning: {warning}"));
        }
    }

    /// Says what surprises and what failed in an operation; the error that it amounts to. As JSON, both are
    /// in the [`report`].
    pub(crate) fn complaints(self, report: &mut Report) -> Result<(), CliError> {
        self.warnings(&report.warnings);
        for failure in &report.others {
            self.remark(&format!("warning: {}; it was not asked for", chain(failure)));
        }
        let mut failures = std::mem::take(&mut report.failures);
        if failures.len() <= 1 {
            return failures.pop().map_or(Ok(()), |failure| Err(CliError::Failure(failure)));
        }
        for failure in &failures {
            self.remark(&format!("error: {}", chain(failure)));
            failure.hint().iter().for_each(|hint| self.remark(&format!("hint: {hint}")));
        }
        let kind = failures.first().map_or(ErrorKind::Failed, Failure::kind);
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
            instance.name().to_string(),
            instance.interface().to_string(),
            instance.addresses.guest.to_string(),
            instance.addresses.host.to_string(),
        ];
        first.extend(cells);
        let blank = vec![String::new(); first.len()];
        let exposures = instance.exposures();
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

/// An instance as JSON: the documented form, in `list`, `inspect` and `up` alike.
pub(crate) fn instance(instance: &Instance) -> Value {
    let exposures: Vec<_> = instance.exposures().iter().map(exposure).collect();
    json!({
        "name": instance.name().as_str(),
        "kind": instance.kind().as_str(),
        "slot": instance.slot.number(),
        "tap": instance.interface().as_str(),
        "phase": instance.phase.as_str(),
        "guest": {
            "address": instance.addresses.guest,
            "mac": instance.guest_mac().to_string(),
        },
        "host": {
            "address": instance.addresses.host,
            "mac": instance.slot.host_mac().to_string(),
        },
        "prefixLength": riklet_sdn::model::Addresses::PREFIX_LENGTH,
        "mtu": instance.mtu,
        "exposures": exposures,
    })
}

pub(crate) fn listed(listed: &Listed) -> Value {
    let mut value = instance(&listed.instance);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("link".to_owned(), listed.link.as_str().into());
    }
    value
}

/// An exposure with the fields of a definition.
fn exposure(exposure: &Exposure) -> Value {
    definition::exposure_to_value(exposure)
}

/// What an operation did, as JSON.
pub(crate) fn report(report: &Report) -> Value {
    let failure = |failure: &Failure| json!({ "name": failure.name.as_str(), "error": chain(failure), "hint": failure.hint() });
    json!({
        "instances": report.instances.iter().map(instance).collect::<Vec<_>>(),
        "steps": lines(&report.done),
        "warnings": report.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failures": report.failures.iter().map(failure).collect::<Vec<_>>(),
        "others": report.others.iter().map(failure).collect::<Vec<_>>(),
    })
}

/// The lines that some steps print as.
pub(crate) fn lines<T: ToString>(steps: &[T]) -> Vec<String> {
    let text = |step: &T| step.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    steps.iter().flat_map(text).collect()
}
