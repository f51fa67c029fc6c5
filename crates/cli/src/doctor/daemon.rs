//! The daemon, as `doctor` sees it.

use std::path::Path;

use riklet_sdn::{process::LockHolder, store::daemon_lock};

use super::finding::Finding;

/// Returns the finding about a daemon that is stopped, by Ctrl-Z or SIGSTOP: functions stay up, and nobody heals them.
pub(super) fn stopped(state_dir: &Path) -> Option<Finding> {
    let process = LockHolder::of(&[&daemon_lock(state_dir)]).filter(|found| found.is_stopped)?;
    Some(Finding::fail(
        "daemon",
        format!("{process}: it repairs nothing, and commands that ask it fail"),
        format!("`kill -CONT {}` lets it go on", process.pid),
    ))
}
