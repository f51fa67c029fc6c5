//! The files of runs, and the marks by which their processes are found.

use std::path::{Path, PathBuf};

use riklet_core::model::InstanceName;
use riklet_kernel::process::ProcessId;

/// Returns the directory of an instance's run: its log, and its VMM's directory.
#[must_use]
pub fn directory(state_dir: &Path, name: &InstanceName) -> PathBuf {
    state_dir.join(MACHINES).join(name.as_str())
}

/// The directory of the directories of runs.
pub(super) const MACHINES: &str = "machines";

/// Returns the directory that belongs to the VMM's user, in which the VMM starts.
#[must_use]
pub fn home(state_dir: &Path, name: &InstanceName) -> PathBuf {
    directory(state_dir, name).join("vmm")
}

/// Returns the path of the VMM's socket, in the VMM's directory.
#[must_use]
pub fn socket(state_dir: &Path, name: &InstanceName) -> PathBuf {
    home(state_dir, name).join("api.sock")
}

/// Returns the path of the VMM's own log. Firecracker and Cloud Hypervisor have one; QEMU writes to the log of its guest.
#[must_use]
pub fn vmm_log(state_dir: &Path, name: &InstanceName) -> PathBuf {
    directory(state_dir, name).join("vmm.log")
}

/// Returns the path of the log of the guest's console, and of what the VMM writes to its standard output and error.
#[must_use]
pub fn log(state_dir: &Path, name: &InstanceName) -> PathBuf {
    directory(state_dir, name).join("console.log")
}

/// Returns the beginning of the mark of all processes of an instance's VMMs, in whichever run.
pub(super) fn marks(state_dir: &Path, name: &InstanceName) -> String {
    format!("{}{name}:", marks_of_all(state_dir))
}

/// Returns the beginning of the mark of all processes of VMMs of these records.
pub(super) fn marks_of_all(state_dir: &Path) -> String {
    let state_dir = std::fs::canonicalize(state_dir).unwrap_or_else(|_missing| state_dir.into());
    format!("{}:", state_dir.display())
}

/// Returns the beginning of the mark of the VMM of one run, and of what it starts. The name of the VMM follows.
#[must_use]
pub fn mark(state_dir: &Path, name: &InstanceName, supervisor: ProcessId) -> String {
    format!("{}{supervisor}:", marks(state_dir, name))
}
