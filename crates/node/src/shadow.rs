//! Local processes whose packets an exposure takes.

use std::collections::BTreeSet;

use super::NodeError;
use riklet_core::model::{Exposure, InstanceName, PortRange};
use riklet_kernel::{HostFacts, Listener};

/// An exposure that takes the packets of a local process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shadow {
    /// The instance.
    pub name: InstanceName,
    /// The exposure concerned.
    pub exposure: Exposure,
    /// The local process whose packets the exposure now takes.
    pub listener: Listener,
}

impl std::fmt::Display for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, exposure, listener } = self;
        let process = listener.process.as_deref().unwrap_or("a process of another namespace");
        let (protocol, port) = (listener.protocol, listener.port);
        write!(f, "{name}: {exposure} shadows {process}, which listens on {protocol} port {port}")
    }
}

/// Returns the local listeners that these exposures shadow.
pub(crate) fn shadowed(
    kernel: &mut impl HostFacts,
    opened: &[(&InstanceName, Exposure)],
) -> Result<Vec<Shadow>, NodeError> {
    let wanted: BTreeSet<_> = opened
        .iter()
        .map(|(_, exposure)| (exposure.protocol(), exposure.host_address(), exposure.host_ports()))
        .collect();
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let shadow = |listener: Listener| {
        let port = PortRange::single(listener.port)?;
        let (name, exposure) = opened
            .iter()
            .find(|(_, exposure)| exposure.takes(listener.protocol, listener.address, port))?;
        Some(Shadow { name: (*name).clone(), exposure: *exposure, listener })
    };
    Ok(kernel.listeners(&wanted)?.into_iter().filter_map(shadow).collect())
}
