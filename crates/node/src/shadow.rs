//! Local processes whose packets an exposure takes.

use std::{collections::BTreeSet, net::IpAddr};

use super::NodeError;
use riklet_core::model::{Exposure, InstanceName, Protocol};
use riklet_kernel::{HostFacts, Listener};

/// Something that succeeded, but possibly not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The instance.
    pub name: InstanceName,
    /// The exposure concerned.
    pub exposure: Exposure,
    /// The local process that listens where the exposure now takes the packets.
    pub listener: Listener,
}

impl std::fmt::Display for Warning {
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
) -> Result<Vec<Warning>, NodeError> {
    let wanted: BTreeSet<_> = opened.iter().flat_map(|(_, exposure)| sockets(exposure)).collect();
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let warning = |listener: Listener| {
        let (name, exposure) = opened.iter().find(|(_, exposure)| {
            let (wanted, bound) = (exposure.host_address(), listener.address);
            exposure.protocol() == listener.protocol
                && (wanted.is_none() || bound.is_none() || wanted == bound)
                && exposure.host_ports().iter().any(|port| port == listener.port)
        })?;
        Some(Warning { name: (*name).clone(), exposure: *exposure, listener })
    };
    Ok(kernel.listeners(&wanted)?.into_iter().filter_map(warning).collect())
}

/// Returns the sockets that an exposure would shadow.
fn sockets(exposure: &Exposure) -> impl Iterator<Item = (Protocol, Option<IpAddr>, u16)> + use<> {
    let (protocol, address) = (exposure.protocol(), exposure.host_address());
    exposure.host_ports().iter().map(move |port| (protocol, address, port))
}
