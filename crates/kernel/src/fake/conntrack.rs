use std::collections::BTreeSet;

use super::FakeKernel;
use crate::{Conntrack, KernelError};
use riklet_core::flows::Flows;

impl Conntrack for FakeKernel {
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        for flow in flows {
            let mut system = self.effect().map_err(|source| KernelError::ForgetFlows { source })?;
            system.forgotten.push(*flow);
        }
        Ok(())
    }
}
