use std::collections::BTreeSet;

use ipnet::IpNet;

use super::FakeKernel;
use crate::{KernelError, Routes};
use riklet_core::model::InterfaceName;

impl Routes for FakeKernel {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        Ok(self.observe().uplinks.clone())
    }

    fn routes(&mut self) -> Result<Vec<IpNet>, KernelError> {
        Ok(self.observe().routes.clone())
    }
}
