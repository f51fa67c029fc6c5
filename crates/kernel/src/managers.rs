use std::collections::BTreeMap;

use crate::{KernelError, sealed::Sealed};
use riklet_core::manager::Manager;

/// The files by which the host's network managers leave our interfaces alone.
pub trait NetworkManagers: Sealed {
    /// Returns the contents of the file of each manager that the host has; `None` if there is no such file.
    ///
    /// A manager is left out if its directory is missing or cannot be written. So are all of them if this is not the
    /// network namespace of process 1: they do not see our interfaces then.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    fn manager_files(&mut self) -> Result<BTreeMap<Manager, Option<String>>, KernelError>;

    /// Writes the file, and has the manager read it. Repetition changes nothing more. A manager that cannot be told is
    /// warned of in the log: it reads the file when it starts.
    ///
    /// # Errors
    /// Fails if the file cannot be written; then it has not changed.
    fn write_manager_file(&mut self, manager: Manager, text: &str) -> Result<(), KernelError>;

    /// Removes the file, and has the manager read that. Succeeds if there is none.
    ///
    /// # Errors
    /// Fails if the file cannot be removed.
    fn remove_manager_file(&mut self, manager: Manager) -> Result<(), KernelError>;
}
