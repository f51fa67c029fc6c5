//! Passes requests about flows on to the kernel.

use std::collections::BTreeSet;

use super::Watched;
use crate::{Conntrack, KernelError};
use riklet_core::flows::Flows;

impl Conntrack for Watched {
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        self.kernel.forget_flows(flows)
    }
}
