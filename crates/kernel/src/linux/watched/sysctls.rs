//! `net.ipv4.ip_forward` from memory; other values are passed on.

use std::collections::BTreeMap;

use super::Watched;
use crate::{KernelError, Sysctls};
use riklet_core::plan::IP_FORWARD;

impl Sysctls for Watched {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        if name != IP_FORWARD {
            return self.kernel.sysctl(name);
        }
        self.listen()?;
        if self.forwarding.is_none() {
            self.forwarding = self.kernel.sysctl(name)?;
        }
        Ok(self.forwarding.clone())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        self.kernel.set_sysctl(name, value)
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        self.kernel.forwarding_sysctls()
    }
}
