use super::FakeKernel;
use crate::{KernelError, Refusal, Sysctls};

impl Sysctls for FakeKernel {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        Ok(self.observe().sysctls.get(name).cloned())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::SetSysctl { name: name.into(), value: value.into(), source };
        let there = self.effect().map_err(refused)?.write_sysctl(name, value);
        there.then_some(()).ok_or_else(|| refused(Refusal::errno(Refusal::ENOENT)))
    }
}
