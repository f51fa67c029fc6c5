//! Parts that kinds are built from: a TAP, the VMM that opens it, entries of the firewall.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{Fragment, FragmentError, Implementation, Kind, NodeFacts, alias};
use crate::{
    address::{Addresses, Family, GATEWAY_LINK_LOCAL, GATEWAY_MAC, Pool, Slot},
    definition::{egress_value, exposure_value, limits_value},
    firewall::{Backend, Entry},
    link::{Device, LinkSpec, Peer, PeerName, Tap},
    model::{Account, Egress, EgressPolicy, Execution, Exposure, InstanceName, Proxy, Queues},
    names, reach,
    shaping::Shaping,
};

/// Returns the needs of an instance with this device: the interface with its alias, an entry for each exposure, one that lets
/// it reach itself through them, and those of its policy.
pub(super) fn fragment(
    workload: &impl Implementation,
    kind: Kind,
    device: Device,
    slot: Slot,
    node: &NodeFacts,
) -> Result<Fragment, FragmentError> {
    let (name, exposures) = (workload.name(), workload.exposures());
    if workload.egress().is_some() && !node.policies {
        return Err(FragmentError::Policy { name: name.clone() });
    }
    let proxy = workload.egress().and_then(EgressPolicy::via).map(Proxy::address);
    if let Some(proxy) = proxy.filter(|proxy| node.pool.contains(proxy.address().into())) {
        return Err(FragmentError::Proxy { name: name.clone(), proxy, pool: node.pool });
    }
    let (policy, limits) = (workload.egress().is_some(), workload.limits());
    let peer = if let Device::Veth(peer) = &device { Some(&peer.name) } else { None };
    let alias = alias::render(&node.owner, (kind, name), (policy, limits), peer, exposures);
    let (link, addresses) = link(slot, node, alias, device)?;
    let link = LinkSpec { shaping: Shaping::of(limits), ..link };
    let entries = entries(name, exposures, node.pool, addresses)?;
    let fragment = Fragment { link, addresses, entries };
    Ok(with_policy(fragment, name, workload.egress(), node.backend))
}

/// Returns the interface of a slot, with the host's ends of its link, and its guest as a permanent neighbour.
pub(super) fn link(
    slot: Slot,
    node: &NodeFacts,
    alias: String,
    device: Device,
) -> Result<(LinkSpec, Addresses), FragmentError> {
    let missing = FragmentError::NoSuchSlot { pool: node.pool, slot };
    let addresses = node.pool.addresses(slot).ok_or(missing)?;
    let link = LinkSpec {
        name: slot.interface(),
        alias,
        mac: GATEWAY_MAC,
        mtu: node.mtu,
        addresses: addresses.hosts().map(Addresses::network).collect(),
        neighbours: addresses.guests().map(|guest| (guest, slot.guest_mac())).collect(),
        link_local: addresses.v6.map(|_| GATEWAY_LINK_LOCAL),
        device,
        shaping: Shaping::default(),
    };
    Ok((link, addresses))
}

/// Returns the other end of a veth from this slot: the guest's.
pub(super) fn peer(slot: Slot, name: PeerName, node: &NodeFacts) -> Result<Peer, FragmentError> {
    let missing = FragmentError::NoSuchSlot { pool: node.pool, slot };
    let addresses = node.pool.addresses(slot).ok_or(missing)?;
    let link_local = addresses.v6.map(|_| IpAddr::from(GATEWAY_LINK_LOCAL));
    Ok(Peer {
        name,
        mac: slot.guest_mac(),
        addresses: addresses.guests().map(Addresses::network).collect(),
        gateways: [addresses.v4.host.into()].into_iter().chain(link_local).collect(),
    })
}

/// Returns the TAP that the VMM of this execution opens.
pub(super) fn tap(
    name: &InstanceName,
    execution: &Execution,
    slot: Slot,
) -> Result<Tap, FragmentError> {
    let id = |account: &Option<Account>| match account {
        None => Ok(None),
        Some(Account::Id(id)) => Ok(Some(*id)),
        Some(Account::OfSlot(accounts)) => Ok(Some(accounts.of(slot))),
        Some(Account::Name(account)) => {
            Err(FragmentError::Unresolved { name: name.clone(), account: account.clone() })
        }
    };
    let (owner, group) = (id(&execution.user)?, id(&execution.group)?);
    // A TAP without an owner may be opened by everybody who may open /dev/net/tun (`tun_not_capable` of
    // drivers/net/tun.c).
    let owner = if group.is_none() { owner.or(Some(Tap::ROOT)) } else { owner };
    Ok(Tap { owner, group, multi_queue: execution.queues.is_some_and(|queues| queues.get() > 1) })
}

/// Returns the part of the execution that a TAP shows: without it in the record, the TAP would have to be replaced.
pub(super) fn execution(tap: Tap) -> Execution {
    Execution {
        // The TAP belongs to the administrator if the definition names nobody.
        user: tap.owner.filter(|&id| id != Tap::ROOT).map(Account::Id),
        group: tap.group.map(Account::Id),
        // The number of queues is not known; two is the smallest that requires such a TAP.
        queues: Queues::new(2).ok().filter(|_| tap.multi_queue),
        ..Execution::default()
    }
}

/// Returns the policy of an instance whose records are lost: if it had one, it reaches nothing until its definition comes
/// again.
pub(super) fn lost_policy(marked: &alias::Marked) -> Option<EgressPolicy> {
    marked.policy.then(|| EgressPolicy::new(Some(Egress::None), vec![], vec![]))
}

/// Adds the ports and the network of a workload to the part of its definition that has them.
pub(super) fn add_network(part: &mut Value, workload: &impl Implementation) {
    if !workload.exposures().is_empty() {
        part["exposure"] = workload.exposures().iter().map(exposure_value).collect();
    }
    if let Some(egress) = workload.egress() {
        part["network"]["egress"] = egress_value(egress);
    }
    if !workload.limits().is_empty() {
        part["network"]["limits"] = limits_value(workload.limits());
    }
}

/// Returns the entries that lead connections of a guest to the proxy of its policy. One is led to it by IPv4 only.
fn via(policy: &EgressPolicy, guest: IpAddr) -> impl Iterator<Item = Entry> + use<'_> {
    policy.via().filter(|_| guest.is_ipv4()).into_iter().flat_map(move |led| {
        let proxy = led.address();
        led.ports().map(move |port| Entry::Via { guest, port, proxy })
    })
}

/// Adds the entries of a policy, if there is one: for each address of the guest those of its family, and for both its default.
fn with_policy(
    mut fragment: Fragment,
    name: &InstanceName,
    policy: Option<&EgressPolicy>,
    backend: Backend,
) -> Fragment {
    let Some(policy) = policy else { return fragment };
    for guest in fragment.addresses.guests() {
        if backend != Backend::Nftables {
            fragment.entries.push(Entry::Judged { guest });
        }
        fragment.entries.extend(reach::entries(policy, guest));
        fragment.entries.extend(names::entries(name, policy, guest));
        fragment.entries.extend(via(policy, guest));
    }
    fragment.entries.sort_unstable();
    fragment
}

/// Returns an entry for each exposure, and one that lets the guest reach itself through them.
///
/// An exposure that is bound to no address applies to every family that the guest has; one that is bound to an address
/// applies to the family of that address.
fn entries(
    name: &InstanceName,
    exposures: &[Exposure],
    pool: Pool,
    addresses: Addresses,
) -> Result<Vec<Entry>, FragmentError> {
    let mut entries = BTreeSet::new();
    for exposure in exposures {
        let host_address = exposure.host_address();
        let family = host_address.map(Family::of);
        let meant = |guest: &IpAddr| family.is_none_or(|family| family == Family::of(*guest));
        let mut guests = addresses.guests().filter(meant).peekable();
        if guests.peek().is_none() {
            let (name, exposure) = (name.clone(), *exposure);
            return Err(FragmentError::NoAddress { name, exposure, pool });
        }
        for guest in guests {
            let protocol = exposure.protocol();
            entries.insert(Entry::Hairpin { guest });
            entries.insert(Entry::Exposure {
                protocol,
                host_address,
                host_ports: exposure.host_ports(),
                guest,
                guest_ports: exposure.guest_ports(),
            });
        }
    }
    Ok(entries.into_iter().collect())
}
