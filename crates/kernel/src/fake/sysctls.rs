use super::FakeKernel;
use crate::{KernelError, Refusal, Sysctls};

impl Sysctls for FakeKernel {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        Ok(self.observe().sysctls.get(name).cloned())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        let present = self.observe().sysctls.get(name).cloned();
        if present.as_deref() == Some(value) {
            return Ok(());
        }
        let written = self.effect().and_then(|mut system| {
            if system.sysctls_are_read_only {
                Err(Refusal::errno(Refusal::EROFS))
            } else if system.write_sysctl(name, value) {
                Ok(())
            } else {
                Err(Refusal::errno(Refusal::ENOENT))
            }
        });
        let (name, value) = (name.to_owned(), value.to_owned());
        written.map_err(|source| KernelError::SetSysctl { name, present, value, source })
    }

    fn sysctl_is_writable(&mut self, _name: &str) -> Result<bool, KernelError> {
        Ok(!self.observe().sysctls_are_read_only)
    }
}
