//! Reads interfaces by rtnetlink(7), with filters in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, Nla};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoTun,
        LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{netlink::decode, route::Route, sysctl};
use crate::{KernelError, Refusal};
use riklet_core::{
    link::{HostInterface, LinkState, Tap},
    model::{InterfaceName, MacAddress, Slot},
    small::{SmallMap, SmallSet},
};

/// `<linux/if_link.h>`.
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
/// The interface that every network namespace has (`drivers/net/loopback.c`).
const LOOPBACK: &str = "lo";
/// `<linux/if_tun.h>`.
const IFF_TAP: u8 = 2;

impl Route {
    /// Returns the interface of this name, or `None` if there is none.
    pub(super) fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        self.read_link(name).map_err(|source| KernelError::ReadLink { name: name.clone(), source })
    }

    /// Returns all interfaces named `rik<digits>`.
    pub(super) fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        Ok(self.links_by_index()?.into_values().collect())
    }

    /// Returns the same by their indices.
    pub(super) fn links_by_index(&mut self) -> Result<BTreeMap<u32, LinkState>, KernelError> {
        self.read_links().map_err(|source| KernelError::ListLinks { source })
    }

    /// Returns the interfaces of others, from their configurations and addresses: the kernel takes much longer to
    /// describe a link, and most links may be ours.
    pub(super) fn host_interfaces(
        &mut self,
    ) -> Result<BTreeMap<InterfaceName, HostInterface>, KernelError> {
        let index = |message: &[u8]| decode(message).as_ref().and_then(address).map(|(i, _)| i);
        let addressed = self.socket.query_as(&get_addresses(0), NLM_F_DUMP, index);
        let addressed = addressed.map_err(|source| KernelError::ListLinks { source })?;
        let addressed: BTreeSet<u32> = addressed.into_iter().collect();
        let mut found = BTreeMap::new();
        for name in sysctl::configured_interfaces()? {
            if name.as_str() == LOOPBACK || Slot::of_interface(name.as_str()).is_some() {
                continue;
            }
            // The interface may no longer exist.
            if let Ok(index) = self.index(&name) {
                let addressed = addressed.contains(&index);
                let bridge = addressed
                    && self.is_bridge(&name).map_err(|source| KernelError::ListLinks { source })?;
                found.insert(name, HostInterface { index, addressed, bridge });
            }
        }
        Ok(found)
    }

    fn is_bridge(&mut self, name: &InterfaceName) -> Result<bool, Refusal> {
        let by_name = vec![LinkAttribute::IfName(name.as_str().to_owned())];
        let answers = match self.socket.query(&get_link(by_name), 0) {
            Err(refusal) if refusal.errno == Some(Refusal::ENODEV) => return Ok(false),
            other => other?,
        };
        let bridge = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => false,
        };
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => message.attributes.iter().any(bridge),
            _ => false,
        }))
    }

    /// Returns the number of descriptors that have a TAP open that can have several queues.
    pub(super) fn queues(&mut self, name: &InterfaceName) -> Result<u32, Refusal> {
        let by_name = vec![LinkAttribute::IfName(name.as_str().to_owned())];
        let answers = self.socket.query(&get_link(by_name), 0)?;
        let info = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => {
                message.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::LinkInfo(info) => Some(info),
                    _ => None,
                })
            }
            _ => None,
        });
        // A queue that is disabled (`TUNSETQUEUE`) can be enabled again.
        let queues = [IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES];
        let count = |info: &[LinkInfo]| {
            let counts = queues.iter().map(|&kind| tun(info, kind)?.try_into().ok());
            counts.map(|count| count.map(u32::from_ne_bytes)).sum::<Option<u32>>()
        };
        info.and_then(|info| count(info))
            .ok_or_else(|| Refusal::words("the kernel does not say how many queues it has"))
    }

    fn read_link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, Refusal> {
        let by_name = vec![LinkAttribute::IfName(name.as_str().to_owned())];
        let answers = match self.socket.query(&get_link(by_name), 0) {
            Err(refusal) if refusal.errno == Some(Refusal::ENODEV) => return Ok(None),
            other => other?,
        };
        let Some((index, mut state)) = answers.iter().find_map(link) else {
            return Err(Refusal::words("the kernel's answer cannot be read"));
        };
        let addresses = self.socket.query(&get_addresses(index), NLM_F_DUMP)?;
        state.addresses.extend(addresses.iter().filter_map(address).map(|(_, address)| address));
        let neighbours = self.socket.query(&get_neighbours(index), NLM_F_DUMP)?;
        state.neighbours.extend(neighbours.iter().filter_map(neighbour).map(|(_, n)| n));
        if Slot::of_interface(state.name.as_str()).is_some() {
            state.guarded = self.is_guarded(index)?;
        }
        Ok(Some(state))
    }

    fn read_links(&mut self) -> Result<BTreeMap<u32, LinkState>, Refusal> {
        // Each message is read as it arrives: all messages of ten thousand interfaces would take 180 MiB.
        let link = |message: &[u8]| {
            let (index, state) = decode(message).as_ref().and_then(link)?;
            Slot::of_interface(state.name.as_str()).map(|_| (index, state))
        };
        let links = self.socket.query_as(&get_link(vec![]), NLM_F_DUMP, link)?;
        let mut ours: BTreeMap<u32, LinkState> = links.into_iter().collect();
        let address = |message: &[u8]| decode(message).as_ref().and_then(address);
        for (index, address) in self.socket.query_as(&get_addresses(0), NLM_F_DUMP, address)? {
            if let Some(state) = ours.get_mut(&index) {
                state.addresses.insert(address);
            }
        }
        let neighbour = |message: &[u8]| decode(message).as_ref().and_then(neighbour);
        for (index, (address, mac)) in
            self.socket.query_as(&get_neighbours(0), NLM_F_DUMP, neighbour)?
        {
            if let Some(state) = ours.get_mut(&index) {
                state.neighbours.insert(address, mac);
            }
        }
        if !ours.is_empty()
            && let Some(guarded) = self.guarded()?
        {
            for (index, state) in &mut ours {
                state.guarded = guarded.contains(index);
            }
        }
        Ok(ours)
    }
}

fn get_link(mut attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    RouteNetlinkMessage::GetLink(message)
}

/// Returns a request for one interface, or for all if the index is 0.
fn get_addresses(index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    RouteNetlinkMessage::GetAddress(message)
}

/// Returns a request for one interface, or for all if the index is 0.
fn get_neighbours(index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    if index != 0 {
        message.attributes.push(NeighbourAttribute::IfIndex(index));
    }
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Reads an interface, without addresses, neighbours and guard, and returns its index and its state.
pub(super) fn link(answer: &RouteNetlinkMessage) -> Option<(u32, LinkState)> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let flags = message.header.flags;
    let mut name = None;
    let mut state = Fields::default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = InterfaceName::try_from(text.as_str()).ok(),
            LinkAttribute::IfAlias(text) => state.alias = Some(text.clone()),
            LinkAttribute::Address(octets) => state.mac = mac(octets),
            LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
            LinkAttribute::Group(group) => state.group = *group,
            // `netif_carrier_ok`, which a TAP has from `tun_attach` to `tun_detach` of drivers/net/tun.c.
            LinkAttribute::Carrier(carrier) => state.open = *carrier != 0,
            LinkAttribute::LinkInfo(info) => state.tap = tap(info),
            LinkAttribute::AfSpecUnspec(families) => {
                state.ipv4 = ipv4(families);
                state.ipv6 = ipv6(families);
            }
            _ => {}
        }
    }
    let ipv4 = state.ipv4;
    let state = LinkState {
        name: name?,
        alias: state.alias,
        mac: state.mac,
        mtu: state.mtu,
        up: flags.contains(LinkFlags::Up),
        // `LowerUp` follows the other end. Until the kernel has noticed that it is up, which is when `Running` is set
        // as well, it drops packets to it.
        carrier: flags.contains(LinkFlags::LowerUp | LinkFlags::Running),
        open: state.open,
        group: state.group,
        addresses: SmallSet::default(),
        neighbours: SmallMap::default(),
        forwarding: ipv4.forwarding != 0,
        route_localnet: ipv4.route_localnet != 0,
        accept_redirects: ipv4.accept_redirects != 0,
        send_redirects: ipv4.send_redirects != 0,
        rp_filter: ipv4.rp_filter != 0,
        arp_ignore: ipv4.arp_ignore != 0,
        ipv6: state.ipv6,
        guarded: true,
        tap: state.tap,
    };
    Some((message.header.index, state))
}

/// The properties of an interface that are attributes.
#[derive(Default)]
struct Fields {
    alias: Option<String>,
    mac: Option<MacAddress>,
    mtu: u32,
    open: bool,
    group: u32,
    ipv4: InetDevConf,
    ipv6: bool,
    tap: Option<Tap>,
}

/// Returns an attribute that `tun_fill_info` of `drivers/net/tun.c` writes; the library does not decode these.
fn tun(info: &[LinkInfo], kind: u16) -> Option<Vec<u8>> {
    let attributes = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(attributes)) => Some(attributes),
        _ => None,
    })?;
    let found = attributes.iter().find(|attribute| attribute.kind() == kind)?;
    let InfoTun::Other(found) = found else { return None };
    let mut value = vec![0; found.value_len()];
    found.emit_value(&mut value);
    Some(value)
}

/// Reads the properties of a TAP. The kernel leaves out a user and a group that are not set.
fn tap(info: &[LinkInfo]) -> Option<Tap> {
    let number = |kind| tun(info, kind)?.try_into().ok().map(u32::from_ne_bytes);
    let byte = |kind| tun(info, kind)?.first().copied();
    (byte(IFLA_TUN_TYPE) == Some(IFF_TAP)).then(|| Tap {
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        multi_queue: byte(IFLA_TUN_MULTI_QUEUE) == Some(1),
    })
}

/// Returns the settings for IPv4; all are 0 if there are none.
fn ipv4(families: &[AfSpecUnspec]) -> InetDevConf {
    let inet = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet(attributes) => Some(attributes),
        _ => None,
    });
    let mut found = inet.flatten().filter_map(|attribute| match attribute {
        AfSpecInet::DevConf(configuration) => Some(*configuration),
        _ => None,
    });
    found.next().unwrap_or_default()
}

/// Reports whether IPv6 is on. Without IPv6 in the kernel, or with an MTU below 1280, there is no such family.
fn ipv6(families: &[AfSpecUnspec]) -> bool {
    let inet6 = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet6(attributes) => Some(attributes),
        _ => None,
    });
    inet6.flatten().any(|attribute| match attribute {
        AfSpecInet6::DevConf(configuration) => configuration.disable_ipv6 == 0,
        _ => false,
    })
}

fn mac(octets: &[u8]) -> Option<MacAddress> {
    octets.try_into().ok().map(MacAddress::new)
}

pub(super) fn address(answer: &RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let (RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)) =
        answer
    else {
        return None;
    };
    // IFA_ADDRESS is the peer's address if there is one; IPv6 has IFA_LOCAL there only.
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    let network = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    Some((message.header.index, network))
}

fn neighbour(answer: &RouteNetlinkMessage) -> Option<(u32, (IpAddr, MacAddress))> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
    let (address, permanent) = said_of_neighbour(answer)?;
    Some((message.header.ifindex, (address, permanent?)))
}

/// Reads a neighbour, and returns its address, with its MAC address if the entry is permanent.
pub(super) fn said_of_neighbour(
    answer: &RouteNetlinkMessage,
) -> Option<(IpAddr, Option<MacAddress>)> {
    let (RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) =
        answer
    else {
        return None;
    };
    let mut found = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                found.0 = Some((*address).into());
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                found.0 = Some((*address).into());
            }
            NeighbourAttribute::LinkLayerAddress(octets) => found.1 = mac(octets),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some((found.0?, found.1.filter(|_| permanent)))
}

/// Reads messages as answers about interfaces, addresses and neighbours.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(answer: &RouteNetlinkMessage) {
    let _read = (link(answer), address(answer), neighbour(answer), said_of_neighbour(answer));
}
