use std::collections::BTreeMap;

use super::FakeKernel;
use crate::{KernelError, Refusal, Sysctls};

impl Sysctls for FakeKernel {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        Ok(self.observe().sysctls.get(name).cloned())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::SetSysctl { name: name.into(), value: value.into(), source };
        let mut system = self.effect().map_err(refused)?;
        let present = system.sysctls.get_mut(name);
        value.clone_into(present.ok_or_else(|| refused(Refusal::errno(Refusal::ENOENT)))?);
        Ok(())
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        Ok(self.observe().sysctls.clone())
    }
}
