//! Answers about the switches of forwarding from memory, and passes requests for other values on.

use super::Watched;
use crate::{KernelError, Sysctls};
use riklet_core::switch;

impl Sysctls for Watched {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        if name != switch::IP_FORWARD && switch::interface(name).is_none() {
            return self.kernel.sysctl(name);
        }
        self.catch_up()?;
        if let Some(known) = self.switches.get(name) {
            return Ok(known.clone());
        }
        let found = self.kernel.sysctl(name)?;
        self.switches.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        self.version += 1;
        self.changing().set_sysctl(name, value)
    }

    fn sysctl_is_writable(&mut self, name: &str) -> Result<bool, KernelError> {
        self.kernel.sysctl_is_writable(name)
    }
}
