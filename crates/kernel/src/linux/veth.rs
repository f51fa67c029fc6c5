//! Veths: a pair of interfaces, of which the guest has one in a network namespace of its own (veth(4)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use rustix::{io::Errno, net::netdevice};

use super::{
    guard::Filters,
    link::{Part, address_message, delete, set_link, set_up, slot},
    link_state::{LINK_BODY, attribute, link},
    namespace::Namespace,
    netlink::{NetlinkRequest, read_u32},
    route::{Packet, Route, header, netlink_family},
    sysctl,
};
use crate::{KernelError, Refusal};
use riklet_core::{
    guard::interface_number,
    link::{DRAINING_GROUP, LinkSpec, LinkState, Peer, PeerState},
    model::{Family, InterfaceName},
    small::SmallSet,
    switch,
};

/// `IFLA_LINK` of `<linux/if_link.h>`: of a veth, the index of the other end.
const IFLA_LINK: u16 = 5;
/// Addresses of the Internet. Nothing is sent to them.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(17, 0, 0, 1));
const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 2, 0, 0, 0, 0, 0xc));
/// The numbers of interfaces that are tried if another interface has the slot's.
const OTHER_NUMBERS: u32 = 1 << 17;

impl Route {
    /// Creates both ends of a veth as specified.
    ///
    /// Both come into being in one message, the other end in its namespace, and the alias is set in the same `send`: a
    /// process that ends half-way leaves nothing that does not bear our mark. The end of the host is in the draining group
    /// and down until the guest's is complete, so that what was left half-way differs from its specification.
    pub(super) fn create_veth(&mut self, spec: &LinkSpec, peer: &Peer) -> Result<(), KernelError> {
        let refused = |step: &'static str| {
            let (name, interface) = (spec.name.clone(), peer.name.interface.clone());
            move |source| KernelError::CreateVeth { name, interface, step, source }
        };
        let namespace = open(peer).map_err(refused("namespace"))?;
        let number = self.free_number(spec).map_err(refused("number"))?;
        let alias = set_link(number, vec![LinkAttribute::IfAlias(spec.alias.clone())]);
        let requests = vec![
            NetlinkRequest {
                message: new_veth(number, spec, peer, &namespace),
                flags: NLM_F_CREATE | NLM_F_EXCL,
            },
            NetlinkRequest { message: alias, flags: 0 },
        ];
        let results = self.socket.send_each(requests).map_err(refused("veth"))?;
        let mut results = results.into_iter();
        if let Some(Err(refusal)) = results.next() {
            return Err(refused("veth")(self.explained(refusal, spec, peer, &namespace)));
        }
        let rest = match results.next() {
            Some(Err(refusal)) => Err(refused("alias")(refusal)),
            _ => self.furnish_veth(spec, peer, &namespace),
        };
        if rest.is_err() {
            // Its deletion fails if the namespace, and with it the veth, is gone.
            let by_name = delete(LinkAttribute::IfName(spec.name.as_str().to_owned()));
            let _gone = self.socket.send_each(vec![NetlinkRequest { message: by_name, flags: 0 }]);
        }
        rest
    }

    /// Configures the other end of a new veth, then the host's.
    fn furnish_veth(
        &mut self,
        spec: &LinkSpec,
        peer: &Peer,
        namespace: &Namespace,
    ) -> Result<(), KernelError> {
        let refused = |step, source| {
            let (name, interface) = (spec.name.clone(), peer.name.interface.clone());
            KernelError::CreateVeth { name, interface, step, source }
        };
        configure_peer(peer, namespace, spec.mtu)
            .map_err(|(part, source)| refused(part, source))?;
        self.configure(spec, Filters::Kept, refused)
    }

    /// Returns a number that no interface has, if possible the slot's.
    fn free_number(&self, spec: &LinkSpec) -> Result<u32, Refusal> {
        let first = interface_number(slot(spec));
        for number in [first, first + OTHER_NUMBERS, first + 2 * OTHER_NUMBERS] {
            match netdevice::index_to_name(&self.socket, number) {
                Err(Errno::NODEV) => return Ok(number),
                Err(errno) => return Err(errno.into()),
                Ok(_taken) => {}
            }
        }
        Err(Refusal::errno(Refusal::EEXIST))
    }

    /// Returns the refusal of a veth, with the interface that exists already: the kernel does not say which.
    fn explained(
        &self,
        refusal: Refusal,
        spec: &LinkSpec,
        peer: &Peer,
        namespace: &Namespace,
    ) -> Refusal {
        if refusal.errno != Some(Refusal::EEXIST) {
            return refusal;
        }
        let place = match self.index(&spec.name) {
            Ok(_taken) => {
                return Refusal { words: format!("{} on the node", spec.name), ..refusal };
            }
            Err(_none) => &peer.name.interface,
        };
        let id = peer.name.namespace;
        let inside = namespace.inside(|| Route::open()?.index(place));
        match inside {
            Ok(Ok(_taken)) => Refusal { words: format!("{place} in {id}"), ..refusal },
            _ => refusal,
        }
    }
}

impl Route {
    /// Returns the state of the other end as specified; `None` if it is not there.
    pub(super) fn peer(&mut self, spec: &LinkSpec) -> Result<Option<PeerState>, KernelError> {
        let Some(peer) = spec.peer() else { return Ok(None) };
        let Ok(index) = self.index(&spec.name) else { return Ok(None) };
        let failed = |source| {
            let (name, interface) = (spec.name.clone(), peer.name.interface.clone());
            KernelError::ReadPeer { name, interface, source }
        };
        let namespace = open(peer).map_err(failed)?;
        let look = || Self::open()?.look_inside(peer, index);
        namespace.inside(look).flatten().map_err(failed)
    }

    /// Looks at the other end of the interface of this index, by the calling thread in its namespace. The kernel is asked by
    /// name and by destination: a guest may have any number of interfaces, addresses and routes.
    fn look_inside(&mut self, peer: &Peer, of: u32) -> Result<Option<PeerState>, Refusal> {
        let read = |message: &[u8]| {
            let end = read_u32(attribute(message, LINK_BODY, IFLA_LINK)?, 0)?;
            link(message).filter(|_| end == of)
        };
        let Some((index, state)) = self.query_link(&peer.name.interface, read)? else {
            return Ok(None);
        };
        let mut addresses = SmallSet::default();
        for address in &peer.addresses {
            let found = self.look_up(Packet::to(address.addr()), RouteFlags::FibMatch)?;
            if found.is_some_and(|route| is_own(&route, index)) {
                addresses.insert(*address);
            }
        }
        let mut routed = SmallSet::default();
        for gateway in &peer.gateways {
            let (family, outside) = match gateway {
                IpAddr::V4(_) => (Family::V4, OUTSIDE),
                IpAddr::V6(_) => (Family::V6, OUTSIDE_V6),
            };
            if self.look_up(Packet::to(outside), RouteFlags::empty())?.is_some() {
                routed.insert(family);
            }
        }
        let LinkState { mac, mtu, up, .. } = state;
        Ok(Some(PeerState { mac, mtu, up, addresses, routed }))
    }
}

/// Reports whether a route is that to an address of this interface.
fn is_own(route: &RouteMessage, index: u32) -> bool {
    let by =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(by) if *by == index);
    route.header.kind == RouteType::Local && route.attributes.iter().any(by)
}

/// Opens the namespace of the other end.
fn open(peer: &Peer) -> Result<Namespace, Refusal> {
    let id = peer.name.namespace;
    let lost = || Refusal::words(format!("the file that leads to {id} was lost with the records"));
    let path = peer.name.path.as_ref().ok_or_else(lost)?;
    Namespace::of(path, id)
        .map_err(|refusal| Refusal { words: said(path.as_str(), &refusal.words), ..refusal })
}

fn said(path: &str, words: &str) -> String {
    if words.is_empty() { path.to_owned() } else { format!("{path}: {words}") }
}

/// Returns the request for both ends, of which the host's has this number.
fn new_veth(
    number: u32,
    spec: &LinkSpec,
    peer: &Peer,
    namespace: &Namespace,
) -> RouteNetlinkMessage {
    let mut other = LinkMessage::default();
    other.attributes = vec![
        LinkAttribute::IfName(peer.name.interface.as_str().to_owned()),
        LinkAttribute::Address(peer.mac.octets().to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::NetNsFd(namespace.descriptor()),
    ];
    let mut message = LinkMessage::default();
    message.header.index = number;
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.as_str().to_owned()),
        LinkAttribute::Address(spec.mac.octets().to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::Group(DRAINING_GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]),
    ];
    RouteNetlinkMessage::NewLink(message)
}

/// Configures the other end of a new veth. Fails with the part that was refused.
fn configure_peer(
    peer: &Peer,
    namespace: &Namespace,
    mtu: u32,
) -> Result<(), (&'static str, Refusal)> {
    let inside = namespace.inside(|| configure_inside(peer, mtu));
    inside.map_err(|refusal| ("namespace", refusal))?
}

/// Configures the other end, by the calling thread in its namespace.
fn configure_inside(peer: &Peer, mtu: u32) -> Result<(), (&'static str, Refusal)> {
    let name = &peer.name.interface;
    let of = |part| move |refusal| (part, refusal);
    let mut route = Route::open().map_err(of("namespace"))?;
    let index = route.index(name).map_err(of("interface"))?;
    if peer.addresses.iter().any(|network| network.addr().is_ipv6()) {
        enable_ipv6(name).map_err(|error| ("IPv6", error.refusal().clone()))?;
    }
    route.send_parts(peer_parts(index, peer, mtu), |part, refusal| (part, refusal))
}

/// Turns IPv6 on, which whoever made the namespace may have turned off. The node answers no router solicitation.
fn enable_ipv6(name: &InterfaceName) -> Result<(), KernelError> {
    sysctl::set(&switch::disable_ipv6(name.as_str()), "0")
}

/// Returns the requests that configure the other end, which has this index in its namespace. A default route that the
/// namespace has stays: by another interface, or by this one.
fn peer_parts(index: u32, peer: &Peer, mtu: u32) -> Vec<Part> {
    let part = |name, message, flags, excused| Part {
        name,
        request: NetlinkRequest { message, flags },
        excused,
    };
    let create = NLM_F_CREATE | NLM_F_REPLACE;
    let mut parts = vec![
        part("MTU", set_link(index, vec![LinkAttribute::Mtu(mtu)]), 0, &[]),
        part("up", set_up(index), 0, &[]),
    ];
    parts.extend(peer.addresses.iter().map(|&address| {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        part("address", message, create, &[])
    }));
    parts.extend(peer.gateways.iter().map(|&gateway| {
        let message = RouteNetlinkMessage::NewRoute(default_route(index, gateway));
        part("default route", message, NLM_F_CREATE | NLM_F_EXCL, &[Errno::EXIST][..])
    }));
    parts
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    /// `RT_TABLE_MAIN` of `<linux/rtnetlink.h>`.
    const MAIN: u8 = 254;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        table: MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..header(netlink_family(gateway))
    };
    let gateway = match gateway {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    message
}
