use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{KernelError, sealed::Sealed};
use riklet_core::model::InterfaceName;

/// The host's routes (rtnetlink(7)), which are only read.
pub trait Routes: Sealed {
    /// Returns the interfaces that a packet to the Internet leaves by at present; none without such a route.
    /// The cost does not depend on the number of routes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError>;

    /// Returns the destinations of the IPv4 routes of all tables, default routes included. Lists all of them.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn routes(&mut self) -> Result<Vec<IpNet>, KernelError>;
}
