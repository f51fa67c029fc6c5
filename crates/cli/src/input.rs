use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use riklet_core::{
    definition::{self, Source},
    model::Workload,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::{CapabilitySet, capabilities},
};

use super::error::CliError;

/// Returns the workloads that these files define; `-` is standard input.
pub(crate) fn definitions(files: &[PathBuf]) -> Result<Vec<Workload>, CliError> {
    let mut sources = Vec::new();
    for path in files {
        let text =
            if path == Path::new("-") { text(path, io::stdin().lock())? } else { read(path)? };
        sources.push(Source { name: path.display().to_string(), text });
    }
    Ok(definition::parse(&sources)?)
}

/// Returns the text of a file. A file that is too long, or endless, is not read to its end.
pub(crate) fn read(path: &Path) -> Result<String, CliError> {
    let file = File::open(path);
    text(path, file.map_err(|source| CliError::Read { path: path.to_owned(), source })?)
}

fn text(path: &Path, reader: impl Read) -> Result<String, CliError> {
    let limit = u64::try_from(definition::MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let read = reader.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    if bytes.len() > definition::MAX_BYTES {
        return Err(CliError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let valid = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
        let last = valid.rsplit('\n').next().unwrap_or_default();
        let (line, column) = (valid.matches('\n').count() + 1, last.chars().count() + 1);
        CliError::NotText { path: path.to_owned(), line, column }
    })
}

/// Refuses an operation that would fail halfway for lack of privilege.
pub(crate) fn require_privilege() -> Result<(), CliError> {
    let held = capabilities(None).map(|sets| sets.effective);
    match held {
        Ok(held) if held.contains(CapabilitySet::NET_ADMIN) => Ok(()),
        _ => Err(CliError::Privilege),
    }
}

/// Refuses, as [`require_privilege`] does, an operation that could not create TAPs either.
pub(crate) fn require_taps() -> Result<(), CliError> {
    require_privilege()?;
    open_tun().map_err(|errno| CliError::Tun { source: errno.into() })
}

/// Tests whether the device that creates TAPs can be opened.
pub(crate) fn open_tun() -> Result<(), Errno> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop)
}
