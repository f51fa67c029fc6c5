//! Passes requests about the files of managers on: nothing notifies of them.

use std::collections::BTreeMap;

use super::Watched;
use crate::{KernelError, NetworkManagers};
use riklet_core::manager::ManagerFile;

impl NetworkManagers for Watched {
    fn manager_files(&mut self) -> Result<BTreeMap<ManagerFile, Option<String>>, KernelError> {
        self.kernel.manager_files()
    }

    fn write_manager_file(&mut self, file: ManagerFile, text: &str) -> Result<(), KernelError> {
        self.kernel.write_manager_file(file, text)
    }

    fn remove_manager_file(&mut self, file: ManagerFile) -> Result<(), KernelError> {
        self.kernel.remove_manager_file(file)
    }
}
