use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use riklet_core::{
    definition::{self, Source},
    model::{Protocol, Workload},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::{CapabilitySet, capabilities},
};

use super::error::CliError;

/// Returns the workloads that these files define; `-` is standard input. Of a directory, its files with definitions are read,
/// in the order of their names.
pub(crate) fn definitions<'a>(
    paths: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<Vec<Workload>, CliError> {
    let mut sources = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            sources.push(source(path, text(path, io::stdin().lock())?));
        } else if path.is_dir() {
            for file in files_of(path)? {
                sources.push(source(&file, read(&file)?));
            }
        } else {
            sources.push(source(path, read(path)?));
        }
    }
    Ok(definition::parse(&sources)?)
}

fn source(path: &Path, text: String) -> Source {
    Source { name: path.display().to_string(), text }
}

/// Returns the files with definitions in a directory, without hidden ones and those in directories of it, as the daemon
/// follows them.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = |source| CliError::Read { path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.retain(|path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(definition::is_file_name) && path.is_file()
    });
    paths.sort();
    if paths.is_empty() {
        return Err(CliError::NoFiles { directory: directory.to_owned() });
    }
    Ok(paths)
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

/// Splits `8080/udp` into the text before the slash and the protocol. A text without a slash has TCP.
pub(crate) fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    let Some((rest, name)) = text.rsplit_once('/') else { return Ok((text, Protocol::Tcp)) };
    let unknown = || format!("unknown protocol {name:?}; tcp, udp and sctp are known");
    Ok((rest, Protocol::from_name(name).ok_or_else(unknown)?))
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
