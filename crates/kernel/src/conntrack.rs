use std::collections::BTreeSet;

use crate::{KernelError, sealed::Sealed};
use riklet_core::flows::Flows;

/// The connection tracking table (ctnetlink).
pub trait Conntrack: Sealed {
    /// Deletes the entries of these flows, so that their next packet is judged anew. Succeeds if there are
    /// none, and so on repetition.
    ///
    /// # Errors
    /// Fails if the kernel refuses; entries before the refused one are deleted.
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError>;
}
