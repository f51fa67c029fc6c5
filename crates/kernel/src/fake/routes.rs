use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::FakeKernel;
use crate::{KernelError, Routes};
use riklet_core::model::InterfaceName;

impl Routes for FakeKernel {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        Ok(self.observe().uplinks.clone())
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        Ok(self.observe().routes.clone())
    }
}
