//! Others on the host whose packets an exposure takes: local processes, and translations of other programs.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::{NodeError, known::KnownRules};
use crate::store::{Record, Store};
use riklet_core::{
    firewall::{Translation, Wanted},
    model::{Exposure, InstanceName, PortRange},
};
use riklet_kernel::{ForeignChains, HostFacts, Kernel, KernelError, Listener, Routes};

/// An exposure that takes the packets of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Shadow {
    /// The instance.
    pub name: InstanceName,
    /// The exposure concerned.
    pub exposure: Exposure,
    /// The one that gets these packets otherwise.
    pub occupant: Occupant,
}

/// Somebody on the host who gets the packets for a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Occupant {
    /// A local process listens on the port.
    Process(Listener),
    /// A rule of another program translates packets for the port.
    Translation(Translation),
}

impl Shadow {
    /// Reports whether the exposure takes packets of the occupant. One on all addresses takes none of 127.0.0.53, say, and
    /// clashes with who has it nevertheless, as a socket would (bind(2)).
    pub(crate) fn is_effective(&self) -> bool {
        match &self.occupant {
            Occupant::Process(Listener { protocol, address, port, .. }) => PortRange::single(*port)
                .is_some_and(|port| self.exposure.takes(*protocol, *address, port)),
            Occupant::Translation(_) => true,
        }
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, exposure, occupant } = self;
        write!(f, "{name}: {exposure} shadows {occupant}")
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(Listener { protocol, address, port, process }) => {
                let process = process.as_deref().unwrap_or("a process of another namespace");
                write!(f, "{process}, which listens on {protocol} port {port}")?;
                address.map_or(Ok(()), |address| write!(f, " of {address}"))
            }
            Self::Translation(translation) => translation.fmt(f),
        }
    }
}

/// An exposure on an address that the host does not have: nothing arrives for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct AbsentAddress {
    /// The instance.
    pub name: InstanceName,
    /// The exposure concerned.
    pub exposure: Exposure,
    /// Its address.
    pub address: IpAddr,
}

impl fmt::Display for AbsentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, exposure, address } = self;
        write!(
            f,
            "{name}: {exposure} is not reached: this host does not have the address {address}"
        )
    }
}

/// Returns those on the host that clash with these exposures, as sockets with the same ports would. What is known of the
/// `rules` is not read again.
pub(crate) fn occupied(
    kernel: &mut impl Kernel,
    rules: Option<&mut KnownRules>,
    opened: &[(&InstanceName, Exposure)],
) -> Result<Vec<Shadow>, NodeError> {
    let wanted = wanted(opened);
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let process = |listener: Listener| {
        let Listener { protocol, address, port, .. } = listener;
        let port = PortRange::single(port)?;
        let (name, exposure) =
            opened.iter().find(|(_, exposure)| exposure.binds(protocol, address, port))?;
        let occupant = Occupant::Process(listener);
        Some(Shadow { name: (*name).clone(), exposure: *exposure, occupant })
    };
    let listeners = kernel.listeners(&wanted)?;
    let mut found: Vec<_> = listeners.into_iter().filter_map(process).collect();
    found.extend(translated(kernel, rules, opened, &wanted)?);
    Ok(found)
}

/// Returns the translations of others whose packets these exposures take.
fn translated(
    kernel: &mut (impl ForeignChains + Routes),
    rules: Option<&mut KnownRules>,
    opened: &[(&InstanceName, Exposure)],
    wanted: &Wanted,
) -> Result<Vec<Shadow>, KernelError> {
    let mut found = Vec::new();
    let translations = match rules {
        Some(rules) => rules.translations(kernel, wanted)?,
        None => kernel.translations(wanted)?,
    };
    for translation in translations {
        let Translation { protocol, address, ports, .. } = translation;
        let address = address.map(IpAddr::from);
        // Packets for an address that is not the host's reach no exposure.
        let is_local = match address {
            Some(address) => kernel.is_local(address)?,
            None => true,
        };
        let taken = opened.iter().find(|(_, exposure)| exposure.takes(protocol, address, ports));
        if let Some((name, exposure)) = taken.filter(|_| is_local) {
            let occupant = Occupant::Translation(translation);
            found.push(Shadow { name: (*name).clone(), exposure: *exposure, occupant });
        }
    }
    Ok(found)
}

/// Returns those of these exposures that are on an address that the host does not have.
pub(crate) fn absent(
    kernel: &mut impl Routes,
    opened: &[(&InstanceName, Exposure)],
) -> Result<Vec<AbsentAddress>, KernelError> {
    let mut found = Vec::new();
    for (name, exposure) in opened {
        // The host has 127.0.0.1, also while its loopback is down.
        let address = exposure.host_address().filter(|address| !address.is_loopback());
        if let Some(address) = address
            && !kernel.is_local(address)?
        {
            found.push(AbsentAddress { name: (*name).clone(), exposure: *exposure, address });
        }
    }
    Ok(found)
}

/// Returns the local processes whose packets recorded exposures take. Costs as much as there are local sockets, and not as
/// there are records.
pub(crate) fn shadowed_processes(
    kernel: &mut impl HostFacts,
    store: &Store,
) -> Result<Vec<Shadow>, NodeError> {
    let mut holders: Vec<(InstanceName, Exposure)> = Vec::new();
    for (protocol, address, port) in kernel.listening_ports()? {
        let Some(ports) = PortRange::single(port) else { continue };
        for Record { workload, .. } in store.holders(protocol, address, port)? {
            let taken = workload.exposures().iter();
            let taken = taken.filter(|exposure| exposure.takes(protocol, address, ports));
            holders.extend(taken.map(|exposure| (workload.name().clone(), *exposure)));
        }
    }
    if holders.is_empty() {
        return Ok(vec![]);
    }
    let holders: Vec<_> = holders.iter().map(|(name, exposure)| (name, *exposure)).collect();
    let mut found = BTreeSet::new();
    for listener in kernel.listeners(&wanted(&holders))? {
        let Listener { protocol, address, port, .. } = listener;
        let Some(port) = PortRange::single(port) else { continue };
        let taken = holders.iter().filter(|(_, e)| e.takes(protocol, address, port));
        found.extend(taken.map(|(name, exposure)| Shadow {
            name: (*name).clone(),
            exposure: *exposure,
            occupant: Occupant::Process(listener.clone()),
        }));
    }
    Ok(found.into_iter().collect())
}

/// Returns the translations of others whose packets exposures of these records take, and the exposures that are on no
/// address of the host.
pub(crate) fn shadowed_translations(
    kernel: &mut impl Kernel,
    records: &[Record],
) -> Result<(Vec<Shadow>, Vec<AbsentAddress>), NodeError> {
    let all = records.iter().flat_map(|record| {
        let exposures = record.workload.exposures().iter();
        exposures.map(|exposure| (record.workload.name(), *exposure))
    });
    let all: Vec<_> = all.collect();
    if all.is_empty() {
        return Ok((vec![], vec![]));
    }
    Ok((translated(kernel, None, &all, &wanted(&all))?, absent(kernel, &all)?))
}

fn wanted(opened: &[(&InstanceName, Exposure)]) -> Wanted {
    let wanted = opened
        .iter()
        .map(|(_, exposure)| (exposure.protocol(), exposure.host_address(), exposure.host_ports()));
    wanted.collect()
}
