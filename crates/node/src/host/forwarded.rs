//! Forwarding by the host, as an operation finds it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Interfaces, Survey};
use crate::{
    NodeError,
    choices::Choices,
    ipv6::HostIpv6,
    store::{Setting, Settings, Store},
};
use riklet_core::{
    firewall::Backend,
    forwarding::{self, Forwarding, Recorded, Sight},
    link::HostInterface,
    model::{Family, InterfaceName},
    switch,
};
use riklet_kernel::{Kernel, KernelError, Links, Sysctls};

/// The interfaces of the host, by name.
pub(crate) type HostInterfaces = BTreeMap<InterfaceName, HostInterface>;

/// The decisions about forwarding, of both families.
pub(super) struct Forwarded {
    /// True if the host forwards IPv4 as a whole.
    pub(super) globally: bool,
    pub(super) recorded: Recorded,
    pub(super) forwarding: Forwarding,
    pub(super) ipv6: HostIpv6,
    /// The interfaces of the host, if they had to be listed.
    pub(super) listed: Option<HostInterfaces>,
}

impl Forwarded {
    /// Decides, given the uplinks, the interfaces with a default route, and whether a process hears of changes.
    pub(super) fn look(
        kernel: &mut impl Kernel,
        (choices, settings, store): (&Choices, &Settings, &Store),
        (backend, mtu): (Backend, u32),
        (uplinks, with_route, heard): (&BTreeSet<InterfaceName>, &BTreeSet<InterfaceName>, bool),
        survey: Survey,
    ) -> Result<Self, NodeError> {
        let neighbours = settings.get(Setting::Neighbours);
        let recorded = Recorded::new(Family::V4, store.recorded_sysctls()?, neighbours);
        let globally = kernel.sysctl(switch::IP_FORWARD)?.as_deref() == Some(forwarding::ON);
        let mut clients = uplinks.clone();
        if !globally {
            clients.extend(with_route.iter().cloned());
        }
        let (forwarding, listed) =
            look_at_forwarding(kernel, &recorded, globally, &clients, heard, survey)?;
        let records = (choices, settings, store);
        let (ipv6, listed_v6) =
            HostIpv6::look(kernel, records, (backend, mtu), (&clients, heard), survey)?;
        Ok(Self { globally, recorded, forwarding, ipv6, listed: listed.or(listed_v6) })
    }
}

/// Decides about forwarding with as few requests as possible: interfaces are listed only if they are not recorded, or
/// if `survey` says so.
pub(crate) fn look_at_forwarding(
    kernel: &mut (impl Links + Sysctls),
    recorded: &Recorded,
    globally: bool,
    uplinks: &BTreeSet<InterfaceName>,
    heard: bool,
    survey: Survey,
) -> Result<(Forwarding, Option<HostInterfaces>), NodeError> {
    let mut listed = None;
    if survey.interfaces == Interfaces::Listed || recorded.needs_list(globally) {
        listed = Some(kernel.host_interfaces()?);
    }
    let mut needed = recorded.needed(Sight { globally, uplinks, interfaces: listed.as_ref() });
    let family = recorded.family();
    let mut off = switched_off(kernel, family, &needed)?;
    if listed.is_none() && !off.is_empty() {
        // Another program turned forwarding on or off, or an interface was added: the recorded interfaces are out of
        // date.
        listed = Some(kernel.host_interfaces()?);
        needed = recorded.needed(Sight { globally, uplinks, interfaces: listed.as_ref() });
        off = switched_off(kernel, family, &needed)?;
    }
    let known: BTreeSet<_> = recorded.switched().collect();
    off.retain(|name| !known.contains(name));
    let sight = Sight { globally, uplinks, interfaces: listed.as_ref() };
    let forwarding = recorded.decide(sight, heard, needed, off);
    Ok((forwarding, listed))
}

/// Returns those of the interfaces that do not forward. An interface that does not exist is left out.
fn switched_off(
    kernel: &mut impl Sysctls,
    family: Family,
    names: &BTreeSet<InterfaceName>,
) -> Result<BTreeSet<InterfaceName>, KernelError> {
    let mut off = BTreeSet::new();
    for name in names {
        if kernel.sysctl(&switch::of(family, name))?.as_deref() == Some(forwarding::OFF) {
            off.insert(name.clone());
        }
    }
    Ok(off)
}
