//! The messages of rtnetlink(7) that create, change and delete interfaces. Nothing is sent here.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags,
        LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use rustix::io::Errno;

use super::super::{
    guard::{self, Blocks, Filters},
    netlink::NetlinkRequest,
    route::netlink_family,
};
use riklet_core::{
    guard::Guard,
    link::{DRAINING_GROUP, LIVE_GROUP, LinkSpec},
    model::{InterfaceName, MacAddress, Slot},
};

/// The errors of a kernel without `sch_ingress` or `cls_bpf`, and of a part of the guard that stands. Without the guard,
/// the firewall's rules and the files of network managers still protect the host.
const NO_GUARD: &[Errno] = &[Errno::NOENT, Errno::OPNOTSUPP, Errno::INVAL, Errno::EXIST];

/// The name of the part that sets an interface up. IPv6 is on or off before it.
pub(super) const UP: &str = "up";

/// A request of a configuration, with the name of the property that it sets.
pub(in crate::linux) struct Part {
    pub(in crate::linux) name: &'static str,
    pub(in crate::linux) request: NetlinkRequest<RouteNetlinkMessage>,
    /// The errors that mean that the kernel has nothing to configure.
    pub(in crate::linux) excused: &'static [Errno],
}

/// Returns the slot of an interface. Only those of slots are specified.
pub(in crate::linux) fn slot(spec: &LinkSpec) -> Slot {
    Slot::of_interface(spec.name.as_str()).unwrap_or(Slot::new(0))
}

/// Returns the requests of a configuration. Their order matters: a new MAC address flushes the neighbours, and so
/// does going down; going up creates the IPv6 link-local address, unless that is turned off before.
pub(super) fn parts(index: u32, spec: &LinkSpec, filters: Filters) -> Vec<Part> {
    let part = |name, message, flags| Part {
        name,
        request: NetlinkRequest { message, flags },
        excused: &[],
    };
    let link = |name, attribute| part(name, set_link(index, vec![attribute]), 0);
    let guard = |request| Part { name: "guard", request, excused: NO_GUARD };
    let switches = AfSpecUnspec::Inet(vec![ipv4_settings()]);
    let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let create = NLM_F_CREATE | NLM_F_REPLACE;
    let of_slot = Guard::of_interface(slot(spec), &spec.addresses);
    let blocks = Blocks::of(slot(spec), of_slot);
    let [from, to] = guard::filters(blocks, of_slot, filters);
    let mut parts = vec![
        // No frame reaches the host before the guard stands.
        guard(guard::hooks(index, blocks)),
        guard(from),
        guard(to),
        link("alias", LinkAttribute::IfAlias(spec.alias.clone())),
        link("MAC address", LinkAttribute::Address(spec.mac.octets().to_vec())),
        link("MTU", LinkAttribute::Mtu(spec.mtu)),
        link("group", LinkAttribute::Group(LIVE_GROUP)),
        link("settings for IPv4", LinkAttribute::AfSpecUnspec(vec![switches])),
        Part {
            // Without IPv6 in the kernel, or with an MTU below 1280, no address is created either.
            excused: &[Errno::AFNOSUPPORT],
            ..link("IPv6 link-local address", LinkAttribute::AfSpecUnspec(vec![no_link_local]))
        },
        part(UP, set_up(index), 0),
    ];
    let address = |&address| {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        part("address", message, create)
    };
    let neighbour = |(&address, &mac): (&IpAddr, &MacAddress)| {
        part("neighbour", neighbour_message(index, address, mac), create)
    };
    let link_local = spec.link_local.map(|address| IpNet::new_assert(address.into(), 64));
    parts.extend(link_local.iter().chain(spec.addresses.iter()).map(address));
    parts.extend(spec.neighbours.iter().map(neighbour));
    parts
}

/// `IPV4_DEVCONF_FORWARDING` of `<linux/ip.h>`.
const FORWARDING: u16 = 1;

/// Returns the settings for IPv4 of one of our interfaces.
fn ipv4_settings() -> AfSpecInet {
    /// `IPV4_DEVCONF_*` of `<linux/ip.h>`.
    const VALUES: [(u16, u32); 7] = [
        (FORWARDING, 1),
        (ACCEPT_REDIRECTS, 0),
        (SEND_REDIRECTS, 0),
        (RP_FILTER, 1),
        (ARP_IGNORE, 1),
        (SRC_VALID_MARK, 1),
        (ROUTE_LOCALNET, 1),
    ];
    const ACCEPT_REDIRECTS: u16 = 4;
    const SEND_REDIRECTS: u16 = 6;
    const RP_FILTER: u16 = 8;
    const ARP_IGNORE: u16 = 19;
    const SRC_VALID_MARK: u16 = 24;
    const ROUTE_LOCALNET: u16 = 26;
    of_ipv4(VALUES)
}

/// Returns settings for IPv4: all of them are one attribute of one request.
fn of_ipv4<const N: usize>(values: [(u16, u32); N]) -> AfSpecInet {
    /// `IFLA_INET_CONF` of `<linux/if_link.h>`. The type of the library leaves out values that are 0.
    const SETTINGS: u16 = 1;
    let values = values.map(|(kind, value)| DefaultNla::new(kind, value.to_ne_bytes().into()));
    let mut nested = vec![0; values.as_slice().buffer_len()];
    values.as_slice().emit(&mut nested);
    AfSpecInet::Other(DefaultNla::new(SETTINGS | NLA_F_NESTED, nested))
}

pub(in crate::linux) fn set_link(
    index: u32,
    attributes: Vec<LinkAttribute>,
) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    RouteNetlinkMessage::SetLink(message)
}

pub(in crate::linux) fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Returns the request for an alias. It names the interface, so that no look-up comes before it.
pub(super) fn set_alias(name: &InterfaceName, alias: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.as_str().to_owned()),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    RouteNetlinkMessage::SetLink(message)
}

/// Returns the request that sets an interface down and moves it to the draining group, by its name as well.
pub(super) fn drain(name: &InterfaceName) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.change_mask = LinkFlags::Up;
    message.attributes =
        vec![LinkAttribute::IfName(name.as_str().to_owned()), LinkAttribute::Group(DRAINING_GROUP)];
    RouteNetlinkMessage::SetLink(message)
}

/// Returns the request that turns off forwarding and moves an interface to the draining group, by its name as well.
pub(super) fn retire(name: &InterfaceName) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    let no_forwarding = AfSpecUnspec::Inet(vec![of_ipv4([(FORWARDING, 0)])]);
    message.attributes = vec![
        LinkAttribute::IfName(name.as_str().to_owned()),
        LinkAttribute::Group(DRAINING_GROUP),
        LinkAttribute::AfSpecUnspec(vec![no_forwarding]),
    ];
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn move_to(name: &InterfaceName, group: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.as_str().to_owned()), LinkAttribute::Group(group)];
    RouteNetlinkMessage::SetLink(message)
}

pub(in crate::linux) fn delete(selector: LinkAttribute) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(selector);
    RouteNetlinkMessage::DelLink(message)
}

pub(in crate::linux) fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = address.addr();
    message.header.family = netlink_family(ip);
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    if ip.is_ipv6() {
        // The guest has the other address of the link: nobody has this one, and nobody answers while no process has the
        // TAP open.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn neighbour_message(index: u32, address: IpAddr, mac: MacAddress) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = netlink_family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}
