//! Uplinks from memory; routes are passed on.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Watched;
use crate::{KernelError, Routes};
use riklet_core::model::InterfaceName;

impl Routes for Watched {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.listen()?;
        if let Some(uplinks) = &self.uplinks {
            return Ok(uplinks.clone());
        }
        let uplinks = self.kernel.uplinks()?;
        self.uplinks = Some(uplinks.clone());
        Ok(uplinks)
    }

    fn routes(&mut self) -> Result<Vec<IpNet>, KernelError> {
        self.kernel.routes()
    }
}
