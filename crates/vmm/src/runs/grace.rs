//! The time that a guest has to power off, as whoever asks its supervisor to stop it says: a file beside its log.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use riklet_core::model::InstanceName;

fn path(state_dir: &Path, name: &InstanceName) -> PathBuf {
    super::directory(state_dir, name).join("grace")
}

/// Says how long the guest has to power off.
pub(crate) fn set(state_dir: &Path, name: &InstanceName, time: Duration) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    write!(file.open(path(state_dir, name))?, "{}", time.as_secs())
}

/// Returns what was said, if anything was.
pub(crate) fn get(state_dir: &Path, name: &InstanceName) -> Option<Duration> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .open(path(state_dir, name))
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    text.parse().ok().map(Duration::from_secs)
}

/// Forgets what was said of an earlier run.
#[expect(clippy::disallowed_methods, reason = "the file is this module's own")]
pub(crate) fn forget(state_dir: &Path, name: &InstanceName) -> io::Result<()> {
    match fs::remove_file(path(state_dir, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
