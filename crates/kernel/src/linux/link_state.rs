//! Reads interfaces by rtnetlink(7), with filters in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage},
};

use super::{
    guard::Disciplines,
    netlink::{HEADER, attributes, read_u16, read_u32},
    route::Route,
    sysctl,
};
use crate::{KernelError, Refusal};
use riklet_core::{
    link::{HostInterface, LinkState, Tap},
    model::{Family, InterfaceName, MacAddress, Slot},
    shaping::{ShapingState, Twin},
    small::{SmallMap, SmallSet},
};

/// `RTM_*` of `<linux/rtnetlink.h>`.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_NEIGHBOUR: u16 = 28;
const DELETED_NEIGHBOUR: u16 = 29;
/// The sizes of `struct ifinfomsg`, `struct ifaddrmsg` and `struct ndmsg`.
pub(super) const LINK_BODY: usize = 16;
const ADDRESS_BODY: usize = 8;
const NEIGHBOUR_BODY: usize = 12;

/// `IFLA_*` of `<linux/if_link.h>`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_CARRIER: u16 = 33;
/// Within `IFLA_LINKINFO`.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// Within `IFLA_INFO_DATA` of a TAP.
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
/// Within the part of `IFLA_AF_SPEC` for IPv4 and for IPv6: the settings, one word each.
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
/// `IPV4_DEVCONF_*` of `<linux/ip.h>`, which count from 1.
const FORWARDING: usize = 1;
const ACCEPT_REDIRECTS: usize = 4;
const SEND_REDIRECTS: usize = 6;
const RP_FILTER: usize = 8;
const ARP_IGNORE: usize = 19;
const SRC_VALID_MARK: usize = 24;
const ROUTE_LOCALNET: usize = 26;
/// `DEVCONF_*` of `<linux/ipv6.h>`, which count from 0. The last is there since Linux 6.17.
const ACCEPT_RA: usize = 3;
const ACCEPT_REDIRECTS_V6: usize = 4;
const DISABLE_IPV6: usize = 26;
const FORCE_FORWARDING: usize = 59;
/// `IFA_*` of `<linux/if_addr.h>`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `NDA_*` and `NUD_PERMANENT` of `<linux/neighbour.h>`.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
/// `AF_INET` and `AF_INET6` of `<linux/socket.h>`.
const INET: u16 = 2;
const INET6: u16 = 10;
/// `IFF_*` of `<linux/if.h>`.
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_LOWER_UP: u32 = 1 << 16;
/// The interface that every network namespace has (`drivers/net/loopback.c`).
const LOOPBACK: &str = "lo";
/// `<linux/if_tun.h>`.
const IFF_TAP: u8 = 2;
const TUN: &str = "tun";
const BRIDGE: &str = "bridge";
const IFB: &str = "ifb";
const VETH: &str = "veth";

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
        let index = |message: &[u8]| address(message).map(|(index, _)| index);
        let v4 = get_addresses(AddressFamily::Inet, 0);
        let addressed = self.socket.query_as(&v4, NLM_F_DUMP, index);
        let addressed = addressed.map_err(|source| KernelError::ListLinks { source })?;
        let addressed: BTreeSet<u32> = addressed.into_iter().collect();
        let addressed_v6 = self.with_global_address();
        let addressed_v6 = addressed_v6.map_err(|source| KernelError::ListLinks { source })?;
        let mut found = BTreeMap::new();
        for name in sysctl::configured_interfaces()? {
            if name.as_str() == LOOPBACK || Twin::slot_of_either(name.as_str()).is_some() {
                continue;
            }
            // The interface may no longer exist.
            if let Ok(index) = self.index(&name) {
                let addressed = addressed.contains(&index);
                let bridge = addressed
                    && self.is_bridge(&name).map_err(|source| KernelError::ListLinks { source })?;
                let addressed_v6 = addressed_v6.contains(&index);
                let bridge = bridge
                    || addressed_v6
                        && self
                            .is_bridge(&name)
                            .map_err(|source| KernelError::ListLinks { source })?;
                found.insert(name, HostInterface { index, addressed, addressed_v6, bridge });
            }
        }
        Ok(found)
    }

    /// Returns the interfaces, by index, that have an address of IPv6 that is not only for their link.
    fn with_global_address(&mut self) -> Result<BTreeSet<u32>, Refusal> {
        let index = |message: &[u8]| {
            let (index, network) = address(message)?;
            let is_global = match network.addr() {
                IpAddr::V6(address) => !address.is_unicast_link_local(),
                IpAddr::V4(_) => false,
            };
            is_global.then_some(index)
        };
        let v6 = get_addresses(AddressFamily::Inet6, 0);
        Ok(self.socket.query_as(&v6, NLM_F_DUMP, index)?.into_iter().collect())
    }

    fn is_bridge(&mut self, name: &InterfaceName) -> Result<bool, Refusal> {
        let kind = |message: &[u8]| {
            Some(kind(attribute(message, LINK_BODY, IFLA_LINKINFO)?) == Some(BRIDGE))
        };
        Ok(self.query_link(name, kind)?.unwrap_or(false))
    }

    /// Returns the number of descriptors that have a TAP open that can have several queues.
    pub(super) fn queues(&mut self, name: &InterfaceName) -> Result<u32, Refusal> {
        // A queue that is disabled (`TUNSETQUEUE`) can be enabled again.
        let queues = [IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES];
        let count = |message: &[u8]| {
            let data = data(attribute(message, LINK_BODY, IFLA_LINKINFO)?)?;
            queues.map(|wanted| read_u32(find(data, wanted)?, 0)).into_iter().sum::<Option<u32>>()
        };
        self.query_link(name, count)?
            .ok_or_else(|| Refusal::words("the kernel does not say how many queues it has"))
    }

    /// Asks for one interface, and reads the answer; `None` if there is no such interface, or `read` finds nothing.
    pub(super) fn query_link<T>(
        &mut self,
        name: &InterfaceName,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let by_name = vec![LinkAttribute::IfName(name.as_str().to_owned())];
        match self.socket.query_as(&get_link(by_name), 0, read) {
            Err(refusal) if refusal.errno == Some(Refusal::ENODEV) => Ok(None),
            answers => Ok(answers?.pop()),
        }
    }

    fn read_link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, Refusal> {
        let unreadable = || Refusal::words("the kernel's answer cannot be read");
        let Some(found) = self.query_link(name, |message| Some(link(message)))? else {
            return Ok(None);
        };
        let (index, mut state) = found.ok_or_else(unreadable)?;
        for family in families(state.ipv6) {
            let get = get_addresses(family, index);
            let addresses = self.socket.query_as(&get, NLM_F_DUMP, address)?;
            state.addresses.extend(addresses.into_iter().map(|(_, address)| address));
            let get = get_neighbours(family, index);
            let neighbours = self.socket.query_as(&get, NLM_F_DUMP, neighbour)?;
            state.neighbours.extend(neighbours.into_iter().map(|(_, neighbour)| neighbour));
        }
        if let Some(slot) = Slot::of_interface(state.name.as_str()) {
            let hooked = self.hooked(index)?;
            state.guarded = self.is_guarded(hooked, slot, &state.addresses)?;
            state.shaping = self.shaping(index, slot, hooked)?;
        }
        Ok(Some(state))
    }

    fn read_links(&mut self) -> Result<BTreeMap<u32, LinkState>, Refusal> {
        // Each message is read as it arrives: all messages of ten thousand interfaces would take 180 MiB.
        let link = |message: &[u8]| {
            let (index, state) = link(message)?;
            Slot::of_interface(state.name.as_str()).map(|_| (index, state))
        };
        let links = self.socket.query_as(&get_link(vec![]), NLM_F_DUMP, link)?;
        let mut ours: BTreeMap<u32, LinkState> = links.into_iter().collect();
        for family in families(ours.values().any(|state| state.ipv6)) {
            let get = get_addresses(family, 0);
            for (index, address) in self.socket.query_as(&get, NLM_F_DUMP, address)? {
                if let Some(state) = ours.get_mut(&index) {
                    state.addresses.insert(address);
                }
            }
            let get = get_neighbours(family, 0);
            for (index, (address, mac)) in self.socket.query_as(&get, NLM_F_DUMP, neighbour)? {
                if let Some(state) = ours.get_mut(&index) {
                    state.neighbours.insert(address, mac);
                }
            }
        }
        if ours.is_empty() {
            return Ok(ours);
        }
        let Disciplines { hooked, buckets } = self.disciplines()?;
        for (index, shaping) in self.shapings(&buckets, &hooked)? {
            if let Some(state) = ours.get_mut(&index) {
                state.shaping = shaping;
            }
        }
        if let Some(guarded) = self.guarded(&hooked)? {
            for (index, state) in &mut ours {
                let slot = Slot::of_interface(state.name.as_str());
                let guard = guarded.get(index).zip(slot);
                state.guarded =
                    guard.is_some_and(|(guard, slot)| guard.fits(slot, &state.addresses));
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

impl Route {
    /// Returns the addresses of these families that the host has.
    pub(super) fn addresses_of_host(
        &mut self,
        families: &BTreeSet<Family>,
    ) -> Result<BTreeSet<IpAddr>, Refusal> {
        let of = |answer: &RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
            // Of IPv6, only addresses of a point-to-point link have a local one (`inet6_fill_ifaddr` of net/ipv6/addrconf.c).
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            local.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            })
        };
        let mut found = BTreeSet::new();
        for family in families {
            let family = match family {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            let answers = self.socket.query(&get_addresses(family, 0), NLM_F_DUMP)?;
            found.extend(answers.iter().filter_map(of));
        }
        Ok(found)
    }
}

/// Returns the families of the addresses that interfaces may have: of those that take no part in IPv6, the kernel keeps
/// none.
fn families(ipv6: bool) -> impl Iterator<Item = AddressFamily> {
    [AddressFamily::Inet].into_iter().chain(ipv6.then_some(AddressFamily::Inet6))
}

/// Returns a request for one interface, or for all if the index is 0.
fn get_addresses(family: AddressFamily, index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family;
    message.header.index = index;
    RouteNetlinkMessage::GetAddress(message)
}

/// Returns a request for one interface, or for all if the index is 0.
fn get_neighbours(family: AddressFamily, index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    if index != 0 {
        message.attributes.push(NeighbourAttribute::IfIndex(index));
    }
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Reads an interface, without addresses, neighbours and guard, and returns its index and its state. Reads only the
/// attributes that are kept: the kernel sends some seventy, and notifies of every change of an interface.
pub(super) fn link(message: &[u8]) -> Option<(u32, LinkState)> {
    let body = body(message, &[NEW_LINK])?;
    let (index, flags) = (read_u32(body, 4)?, read_u32(body, 8)?);
    let mut name = None;
    let mut fields = Fields::default();
    for (kind, value) in attributes(body.get(LINK_BODY..)?) {
        match kind {
            IFLA_IFNAME => name = text(value).and_then(|name| InterfaceName::try_from(name).ok()),
            IFLA_IFALIAS => fields.alias = text(value).map(str::to_owned),
            IFLA_ADDRESS => fields.mac = mac(value),
            IFLA_MTU => fields.mtu = read_u32(value, 0)?,
            IFLA_GROUP => fields.group = read_u32(value, 0)?,
            // `netif_carrier_ok`, which a TAP has from `tun_attach` to `tun_detach` of drivers/net/tun.c.
            IFLA_CARRIER => fields.open = value.first().is_some_and(|carrier| *carrier != 0),
            IFLA_LINKINFO => {
                fields.tap = tap(value);
                fields.veth = self::kind(value) == Some(VETH);
            }
            IFLA_AF_SPEC => fields.settings = Settings::read(value),
            _ => {}
        }
    }
    let is_set = |flag| flags & flag != 0;
    let Fields { alias, mac, mtu, open, group, settings, tap, veth } = fields;
    let state = LinkState {
        name: name?,
        alias,
        mac,
        mtu,
        up: is_set(IFF_UP),
        // `IFF_LOWER_UP` follows the other end. Until the kernel has noticed that it is up, which is when `IFF_RUNNING`
        // is set as well, it drops packets to it.
        carrier: is_set(IFF_LOWER_UP) && is_set(IFF_RUNNING),
        // The carrier of a veth is that of its other end, and says nothing of processes.
        open: open && !veth,
        group,
        addresses: SmallSet::default(),
        neighbours: SmallMap::default(),
        forwarding: settings.forwarding,
        route_localnet: settings.route_localnet,
        accept_redirects: settings.accept_redirects,
        send_redirects: settings.send_redirects,
        rp_filter: settings.rp_filter,
        arp_ignore: settings.arp_ignore,
        src_valid_mark: settings.src_valid_mark,
        ipv6: settings.ipv6,
        learns_routes: settings.learns_routes,
        forwarding_v6: settings.forwarding_v6,
        guarded: true,
        tap,
        veth,
        shaping: ShapingState::default(),
    };
    Some((index, state))
}

/// The twin of an interface, with what only the kernel needs.
pub(super) struct TwinLink {
    pub(super) index: u32,
    pub(super) up: bool,
    pub(super) twin: Twin,
}

/// Reads a twin, and returns its slot as well.
pub(super) fn twin(message: &[u8]) -> Option<(Slot, TwinLink)> {
    let body = body(message, &[NEW_LINK])?;
    let slot = Twin::slot(text(attribute(message, LINK_BODY, IFLA_IFNAME)?)?)?;
    let is_ifb = kind(attribute(message, LINK_BODY, IFLA_LINKINFO)?) == Some(IFB);
    let alias = attribute(message, LINK_BODY, IFLA_IFALIAS).and_then(text).map(str::to_owned);
    let (index, up) = (read_u32(body, 4)?, read_u32(body, 8)? & IFF_UP != 0);
    is_ifb.then_some((slot, TwinLink { index, up, twin: Twin { alias } }))
}

/// Returns the name of an interface.
pub(super) fn name(message: &[u8]) -> Option<&str> {
    let _link = body(message, &[NEW_LINK])?;
    text(attribute(message, LINK_BODY, IFLA_IFNAME)?)
}

/// The properties of an interface that are attributes.
#[derive(Default)]
struct Fields {
    alias: Option<String>,
    mac: Option<MacAddress>,
    mtu: u32,
    open: bool,
    group: u32,
    settings: Settings,
    tap: Option<Tap>,
    veth: bool,
}

/// The settings of an interface for IPv4, and those for IPv6 if that is on. All are off if the interface has none: without IPv6 in
/// the kernel, or with an MTU below 1280, there is no such family.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Settings {
    forwarding: bool,
    route_localnet: bool,
    accept_redirects: bool,
    send_redirects: bool,
    rp_filter: bool,
    arp_ignore: bool,
    src_valid_mark: bool,
    ipv6: bool,
    learns_routes: bool,
    forwarding_v6: bool,
}

impl Settings {
    fn read(families: &[u8]) -> Self {
        let mut found = Self::default();
        for (family, settings) in attributes(families) {
            let word = |kind, place: usize| read_u32(find(settings, kind)?, place * 4);
            let v4 =
                |number: usize| word(IFLA_INET_CONF, number - 1).is_some_and(|value| value != 0);
            match family {
                INET => {
                    found.forwarding = v4(FORWARDING);
                    found.route_localnet = v4(ROUTE_LOCALNET);
                    found.accept_redirects = v4(ACCEPT_REDIRECTS);
                    found.send_redirects = v4(SEND_REDIRECTS);
                    found.rp_filter = v4(RP_FILTER);
                    found.arp_ignore = v4(ARP_IGNORE);
                    found.src_valid_mark = v4(SRC_VALID_MARK);
                }
                INET6 => {
                    let v6 = |number| word(IFLA_INET6_CONF, number);
                    let is_set = |number| v6(number).is_some_and(|value| value != 0);
                    found.ipv6 = v6(DISABLE_IPV6) == Some(0);
                    let learns = [ACCEPT_RA, ACCEPT_REDIRECTS_V6].into_iter().any(is_set);
                    found.learns_routes = found.ipv6 && learns;
                    found.forwarding_v6 = found.ipv6 && v6(FORCE_FORWARDING) != Some(0);
                }
                _ => {}
            }
        }
        found
    }
}

/// Returns the kind of an interface, from its `IFLA_LINKINFO`.
fn kind(info: &[u8]) -> Option<&str> {
    text(find(info, IFLA_INFO_KIND)?)
}

/// Returns what `tun_fill_info` of `drivers/net/tun.c` writes, from the `IFLA_LINKINFO` of an interface.
fn data(info: &[u8]) -> Option<&[u8]> {
    if kind(info) == Some(TUN) { find(info, IFLA_INFO_DATA) } else { None }
}

/// Reads the properties of a TAP. The kernel leaves out a user and a group that are not set.
fn tap(info: &[u8]) -> Option<Tap> {
    let data = data(info)?;
    let number = |kind| read_u32(find(data, kind)?, 0);
    let byte = |kind| find(data, kind)?.first().copied();
    (byte(IFLA_TUN_TYPE) == Some(IFF_TAP)).then(|| Tap {
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        multi_queue: byte(IFLA_TUN_MULTI_QUEUE) == Some(1),
    })
}

fn mac(octets: &[u8]) -> Option<MacAddress> {
    octets.try_into().ok().map(MacAddress::new)
}

/// Reads a new or a deleted address, and returns the index of its interface as well.
pub(super) fn address(message: &[u8]) -> Option<(u32, IpNet)> {
    let body = body(message, &[NEW_ADDRESS, DELETED_ADDRESS])?;
    // IFA_ADDRESS is the peer's address if there is one; IPv6 has IFA_LOCAL there only.
    let (mut local, mut other) = (None, None);
    for (kind, value) in attributes(body.get(ADDRESS_BODY..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => other = ip(value),
            _ => {}
        }
    }
    let network = IpNet::new(local.or(other)?, *body.get(1)?).ok()?;
    Some((read_u32(body, 4)?, network))
}

fn neighbour(message: &[u8]) -> Option<(u32, (IpAddr, MacAddress))> {
    let body = body(message, &[NEW_NEIGHBOUR])?;
    let (address, permanent) = said_of_neighbour(message)?;
    Some((read_u32(body, 4)?, (address, permanent?)))
}

/// Reads a neighbour, and returns its address, with its MAC address if the entry is permanent.
pub(super) fn said_of_neighbour(message: &[u8]) -> Option<(IpAddr, Option<MacAddress>)> {
    let body = body(message, &[NEW_NEIGHBOUR, DELETED_NEIGHBOUR])?;
    let (mut address, mut link_layer) = (None, None);
    for (kind, value) in attributes(body.get(NEIGHBOUR_BODY..)?) {
        match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => link_layer = mac(value),
            _ => {}
        }
    }
    let permanent = read_u16(body, 8) == Some(NUD_PERMANENT);
    Some((address?, link_layer.filter(|_| permanent)))
}

/// Returns the body of a message, if it is of one of these types.
pub(super) fn body<'a>(message: &'a [u8], kinds: &[u16]) -> Option<&'a [u8]> {
    let kind = read_u16(message, 4)?;
    if kinds.contains(&kind) { message.get(HEADER..) } else { None }
}

/// Returns an attribute of a message with a body of this length.
pub(super) fn attribute(message: &[u8], after: usize, wanted: u16) -> Option<&[u8]> {
    find(message.get(HEADER + after..)?, wanted)
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// Reads an address of IPv4 or IPv6, by its length.
fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

/// Reads messages as answers about interfaces, addresses and neighbours.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    let _read = (link(message), address(message), neighbour(message), said_of_neighbour(message));
    let _twin = (twin(message).is_some(), name(message));
}
