use std::collections::BTreeMap;

use super::FakeKernel;
use crate::{KernelError, NetworkManagers};
use riklet_core::manager::ManagerFile;

impl NetworkManagers for FakeKernel {
    fn manager_files(&mut self) -> Result<BTreeMap<ManagerFile, Option<String>>, KernelError> {
        Ok(self.observe().manager_files.clone())
    }

    fn write_manager_file(&mut self, file: ManagerFile, text: &str) -> Result<(), KernelError> {
        let refused = |source| KernelError::ManagerFile { file, source };
        self.effect().map_err(refused)?.manager_files.insert(file, Some(text.to_owned()));
        Ok(())
    }

    fn remove_manager_file(&mut self, file: ManagerFile) -> Result<(), KernelError> {
        let refused = |source| KernelError::ManagerFile { file, source };
        self.effect().map_err(refused)?.manager_files.insert(file, None);
        Ok(())
    }
}
