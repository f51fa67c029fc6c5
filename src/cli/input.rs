use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use riklet_sdn::{
    definition::{self, Source},
    model::Workload,
};
use rustix::thread::{CapabilitySet, capabilities};

use super::error::CliError;

/// The workloads that these files define; `-` is standard input.
pub(crate) fn definitions(files: &[PathBuf]) -> Result<Vec<Workload>, CliError> {
    let mut sources = Vec::new();
    for path in files {
        let text = if path == Path::new("-") { standard_input(path)? } else { read(path)? };
        sources.push(Source { name: path.display().to_string(), text });
    }
    Ok(definition::parse(&sources)?)
}

#[expect(clippy::disallowed_methods, reason = "the program's edge")]
pub(crate) fn read(path: &Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(path);
    text.map_err(|source| CliError::Read { path: path.to_owned(), source })
}

fn standard_input(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

/// Refuses, before anything is touched, what could not be done to its end.
pub(crate) fn require_privilege() -> Result<(), CliError> {
    let held = capabilities(None).map(|sets| sets.effective);
    match held {
        Ok(held) if held.contains(CapabilitySet::NET_ADMIN) => Ok(()),
        _ => Err(CliError::Privilege),
    }
}
