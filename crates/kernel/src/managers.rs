use std::collections::BTreeMap;

use crate::{KernelError, sealed::Sealed};
use riklet_core::manager::ManagerFile;

/// The files that tell the host's network managers and its firewalld about our interfaces.
pub trait NetworkManagers: Sealed {
    /// Returns the contents of the files of each manager that the host has; `None` if there is no such file.
    ///
    /// A file is left out if its manager's directory is missing, or the file cannot be written. So are all of them if
    /// this is not the network namespace of process 1: managers do not see our interfaces then.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    fn manager_files(&mut self) -> Result<BTreeMap<ManagerFile, Option<String>>, KernelError>;

    /// Writes the file, and has its manager read it, unless that is firewalld: a reload takes away what firewalld has at
    /// run time only. Repetition changes nothing more. A manager that cannot be told is warned of in the log: it reads
    /// the file when it starts.
    ///
    /// # Errors
    /// Fails if the file cannot be written; then it has not changed.
    fn write_manager_file(&mut self, file: ManagerFile, text: &str) -> Result<(), KernelError>;

    /// Removes the file, and has its manager read that as above. Succeeds if there is none.
    ///
    /// # Errors
    /// Fails if the file cannot be removed.
    fn remove_manager_file(&mut self, file: ManagerFile) -> Result<(), KernelError>;
}
