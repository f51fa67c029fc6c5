use std::collections::BTreeMap;

use super::FakeKernel;
use crate::{KernelError, NetworkManagers};
use riklet_core::manager::Manager;

impl NetworkManagers for FakeKernel {
    fn manager_files(&mut self) -> Result<BTreeMap<Manager, Option<String>>, KernelError> {
        Ok(self.observe().manager_files.clone())
    }

    fn write_manager_file(&mut self, manager: Manager, text: &str) -> Result<(), KernelError> {
        let refused = |source| KernelError::ManagerFile { manager, source };
        self.effect().map_err(refused)?.manager_files.insert(manager, Some(text.to_owned()));
        Ok(())
    }

    fn remove_manager_file(&mut self, manager: Manager) -> Result<(), KernelError> {
        let refused = |source| KernelError::ManagerFile { manager, source };
        self.effect().map_err(refused)?.manager_files.insert(manager, None);
        Ok(())
    }
}
