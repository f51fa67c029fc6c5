//! Passes requests about the files of network managers on: nothing notifies of them.

use std::collections::BTreeMap;

use super::Watched;
use crate::{KernelError, NetworkManagers};
use riklet_core::manager::Manager;

impl NetworkManagers for Watched {
    fn manager_files(&mut self) -> Result<BTreeMap<Manager, Option<String>>, KernelError> {
        self.kernel.manager_files()
    }

    fn write_manager_file(&mut self, manager: Manager, text: &str) -> Result<(), KernelError> {
        self.kernel.write_manager_file(manager, text)
    }

    fn remove_manager_file(&mut self, manager: Manager) -> Result<(), KernelError> {
        self.kernel.remove_manager_file(manager)
    }
}
