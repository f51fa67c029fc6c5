//! rtnetlink(7): the socket, and routes. Links are in `link` and `link_state`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::{io::Errno, net::netdevice};

#[cfg(any(test, fuzzing))]
use super::uplink_route::hop_by;
use super::{
    Linux,
    netlink::{Socket, decode},
};
use crate::{KernelError, Refusal, Routes};
use riklet_core::{
    model::{InterfaceName, Slot},
    routing::{AnswerPath, HostRoute, LONGEST_DEFAULT, MAIN, NextHop, RoutingRule, UplinkRoute},
};

/// Addresses of the IPv4 Internet, one in each half of the address space. Nothing is sent to them. Hosts have no
/// specific route for them, and together they cover both halves if a VPN has split the default route in two.
const INTERNET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(17, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(199, 7, 91, 13))];
/// The errors of a look-up that ends at no route, or at one of type unreachable, prohibit or blackhole (`fib_props` in
/// `net/ipv4/fib_semantics.c`).
const NO_ROUTE: [Errno; 4] = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL];

/// A socket of rtnetlink.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) socket: Socket,
    /// True if the kernel has what the guard is made of; `None` until that was tried.
    pub(super) can_guard: Option<bool>,
}

/// A packet whose route is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    from: Option<Ipv4Addr>,
    to: IpAddr,
    /// The interface that it must leave by, by index.
    out_of: Option<u32>,
}

impl Packet {
    pub(super) const fn to(to: IpAddr) -> Self {
        Self { from: None, to, out_of: None }
    }

    /// Returns packets to the Internet, by this interface.
    pub(super) fn to_internet(out_of: u32) -> [Self; 2] {
        INTERNET.map(|to| Self { out_of: Some(out_of), ..Self::to(to) })
    }
}

impl Route {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, Refusal> {
        let socket = Socket::open(NETLINK_ROUTE)?;
        socket.check_strictly()?;
        Ok(Self { socket, can_guard: None })
    }

    /// Returns the interfaces that a packet to the Internet leaves by, except our own.
    pub(super) fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        let mut names = BTreeSet::new();
        for destination in INTERNET {
            let found = self.default_hops(destination).and_then(|hops| self.names(&hops));
            names.extend(found.map_err(|source| KernelError::Routes { source })?);
        }
        names.retain(|name| Slot::of_interface(name.as_str()).is_none());
        Ok(names)
    }

    /// Returns the interfaces of the default routes in the table `main`, except our own.
    ///
    /// The kernel makes a listing while it is read, in the order of the destinations, so default routes come first
    /// (`fib_table_dump` of `net/ipv4/fib_trie.c`). Only the first part is read, and the socket is closed.
    pub(super) fn default_interfaces(&mut self) -> Result<BTreeSet<InterfaceName>, Refusal> {
        let main = vec![RouteAttribute::Table(MAIN)];
        let mut socket = Socket::open(NETLINK_ROUTE)?;
        socket.check_strictly()?;
        let found = match socket.query_first(get(header(AddressFamily::Inet), main), decode) {
            // There is no such table before its first route.
            Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => vec![],
            found => found?,
        };
        let of_main = |route: &RouteMessage| is_default(route) && table(route) == MAIN;
        let found: BTreeSet<u32> =
            routes_of(found).iter().filter(|route| of_main(route)).flat_map(hops).collect();
        let mut names = self.names(&found.into_iter().collect::<Vec<_>>())?;
        names.retain(|name| Slot::of_interface(name.as_str()).is_none());
        Ok(names)
    }

    /// Returns the IPv4 routes of all tables.
    pub(super) fn routes(&mut self) -> Result<Vec<HostRoute>, Refusal> {
        let all = get(header(AddressFamily::Inet), vec![]);
        // Each message is read as it arrives: a router of the Internet has a million routes.
        let read = |message: &[u8]| {
            let route = routes_of(decode(message).into_iter().collect()).pop()?;
            Some((destination(&route)?, hops(&route)))
        };
        let mut names = BTreeMap::new();
        let mut found = Vec::new();
        for (destination, hops) in self.socket.query_as(&all, NLM_F_DUMP, read)? {
            let interface = match hops[..] {
                [index] => names.entry(index).or_insert(self.names(&[index])?.pop_first()).clone(),
                _ => None,
            };
            found.push(HostRoute { destination, interface });
        }
        Ok(found)
    }

    /// Returns the next hops of the IPv4 routes of all tables.
    pub(super) fn gateways(&mut self) -> Result<BTreeSet<Ipv4Addr>, Refusal> {
        let all = get(header(AddressFamily::Inet), vec![]);
        let read = |message: &[u8]| {
            let found = gateways(routes_of(decode(message).into_iter().collect()).pop()?);
            (!found.is_empty()).then_some(found)
        };
        Ok(self.socket.query_as(&all, NLM_F_DUMP, read)?.into_iter().flatten().collect())
    }

    /// Returns the route that a packet of the host takes.
    pub(super) fn route_to(&mut self, to: IpAddr) -> Result<Option<HostRoute>, Refusal> {
        let found = self.look_up(Packet::to(to), RouteFlags::FibMatch)?;
        let Some(route) = found else { return Ok(None) };
        let interface = match hops(&route)[..] {
            [index] => self.names(&[index])?.pop_first(),
            _ => None,
        };
        Ok(destination(&route).map(|destination| HostRoute { destination, interface }))
    }

    /// Returns the interfaces, by index, of the default route that a packet to this destination takes.
    fn default_hops(&mut self, destination: IpAddr) -> Result<Vec<u32>, Refusal> {
        let matched = self.look_up(Packet::to(destination), RouteFlags::FibMatch)?;
        let Some(route) = matched.filter(is_default) else { return Ok(vec![]) };
        let hops = hops(&route);
        if hops.is_empty() {
            // A route by a nexthop object shows its hops only if `net.ipv4.nexthop_compat_mode` is 1; the look-up of
            // one packet shows the hop that it takes.
            let taken = self.look_up(Packet::to(destination), RouteFlags::empty())?;
            return Ok(taken.as_ref().map(self::hops).unwrap_or_default());
        }
        Ok(hops)
    }

    /// Returns the way of packets to the Internet from the host's address in this range.
    pub(super) fn answer_path(&mut self, from: Ipv4Net) -> Result<Option<AnswerPath>, Refusal> {
        let Some(address) = self.own_address(from)? else { return Ok(None) };
        let asked = RouteFlags::FibMatch | RouteFlags::LookupTable;
        for destination in INTERNET {
            let packet = Packet { from: Some(address), ..Packet::to(destination) };
            let found = self.look_up(packet, asked)?;
            let Some(route) = found.filter(is_default) else { continue };
            let mut hops = hops(&route);
            if hops.is_empty() {
                let taken = self.look_up(packet, RouteFlags::empty())?;
                hops = taken.as_ref().map(self::hops).unwrap_or_default();
            }
            let mut names = self.names(&hops)?.into_iter();
            let uplink = names.find(|name| Slot::of_interface(name.as_str()).is_none());
            return Ok(uplink.map(|uplink| AnswerPath { uplink, table: table(&route) }));
        }
        Ok(None)
    }

    /// Returns the host's address in this range: the one that it speaks to it from.
    fn own_address(&mut self, range: Ipv4Net) -> Result<Option<Ipv4Addr>, Refusal> {
        let Some(first) = range.hosts().next() else { return Ok(None) };
        if range.prefix_len() == 32 {
            return Ok(Some(first));
        }
        let found = self.look_up(Packet::to(first.into()), RouteFlags::empty())?;
        let preferred = found.and_then(|route| {
            route.attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => Some(address),
                _ => None,
            })
        });
        Ok(preferred.filter(|address| range.contains(address)))
    }

    /// Returns the route that a packet of the host takes; `None` if it goes nowhere.
    pub(super) fn look_up(
        &mut self,
        packet: Packet,
        flags: RouteFlags,
    ) -> Result<Option<RouteMessage>, Refusal> {
        let Packet { from, to, out_of } = packet;
        let (length, address) = match to {
            IpAddr::V4(address) => (32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (128, RouteAddress::Inet6(address)),
        };
        let header = header(netlink_family(to));
        let header = RouteHeader { destination_prefix_length: length, flags, ..header };
        let header =
            RouteHeader { source_prefix_length: if from.is_some() { 32 } else { 0 }, ..header };
        let fields = [
            from.map(|source| RouteAttribute::Source(RouteAddress::Inet(source))),
            Some(RouteAttribute::Destination(address)),
            out_of.map(RouteAttribute::Oif),
        ];
        let fields = fields.into_iter().flatten().collect();
        match self.socket.query(&get(header, fields), 0) {
            Ok(answers) => Ok(routes_of(answers).into_iter().next()),
            Err(refusal) if NO_ROUTE.iter().any(|e| refusal.errno == Some(e.raw_os_error())) => {
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) fn names(&self, hops: &[u32]) -> Result<BTreeSet<InterfaceName>, Refusal> {
        let mut names = BTreeSet::new();
        for &index in hops {
            match netdevice::index_to_name_inlined(&self.socket, index) {
                Ok(name) => names.extend(InterfaceName::try_from(name.as_str())),
                // The interface no longer exists, so it is no uplink.
                Err(Errno::NODEV | Errno::NXIO) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(names)
    }
}

/// Returns the address family, as rtnetlink names it.
pub(super) const fn netlink_family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn header(family: AddressFamily) -> RouteHeader {
    RouteHeader { address_family: family, ..RouteHeader::default() }
}

pub(super) fn get(header: RouteHeader, attributes: Vec<RouteAttribute>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = header;
    message.attributes = attributes;
    RouteNetlinkMessage::GetRoute(message)
}

pub(super) fn routes_of(answers: Vec<RouteNetlinkMessage>) -> Vec<RouteMessage> {
    let route = |answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    };
    answers.into_iter().filter_map(route).collect()
}

/// Returns the routers that a route names. Routes by a nexthop object name them unless `net.ipv4.nexthop_compat_mode` is 0.
fn gateways(route: RouteMessage) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => found.push(gateway),
            RouteAttribute::MultiPath(hops) => {
                let of_hops = hops.into_iter().flat_map(|hop| hop.attributes);
                found.extend(of_hops.filter_map(|attribute| match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(gateway))
                    | RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(gateway),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    found
}

fn hops(route: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.push(*index),
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    found
}

/// Reports whether this is a default route, or a piece of one.
pub(super) fn is_default(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast
        && route.header.destination_prefix_length <= LONGEST_DEFAULT
}

/// Returns the table of a route.
pub(super) fn table(route: &RouteMessage) -> u32 {
    let number = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    number.unwrap_or(u32::from(route.header.table))
}

/// Returns the destination of a route. A default route has a prefix length of 0 and no destination.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    });
    let everything: IpAddr = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(address.unwrap_or(everything), route.header.destination_prefix_length).ok()
}

impl Routes for Linux {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.route(|source| KernelError::Routes { source })?.uplinks()
    }

    fn default_interfaces(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.default_interfaces().map_err(failed)
    }

    fn route_to(&mut self, to: IpAddr) -> Result<Option<HostRoute>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.route_to(to).map_err(failed)
    }

    fn is_local(&mut self, address: IpAddr) -> Result<bool, KernelError> {
        let failed = |source| KernelError::Routes { source };
        let found = self.route(failed)?.look_up(Packet::to(address), RouteFlags::empty());
        Ok(found.map_err(failed)?.is_some_and(|route| route.header.kind == RouteType::Local))
    }

    fn gateways(&mut self) -> Result<BTreeSet<Ipv4Addr>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.gateways().map_err(failed)
    }

    fn routes(&mut self) -> Result<Vec<HostRoute>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.routes().map_err(failed)
    }

    fn answer_path(&mut self, from: Ipv4Net) -> Result<Option<AnswerPath>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.answer_path(from).map_err(failed)
    }

    fn next_hop(&mut self, uplink: &InterfaceName) -> Result<Option<NextHop>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.next_hop(uplink).map_err(failed)
    }

    fn uplink_routes(
        &mut self,
        tables: &BTreeSet<u32>,
    ) -> Result<BTreeSet<UplinkRoute>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.uplink_routes(tables).map_err(failed)
    }

    fn add_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        let refused = |source| KernelError::AddRoute { route: route.clone(), source };
        self.route(refused)?.add_route(route).map_err(refused)
    }

    fn remove_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError> {
        let refused = |source| KernelError::RemoveRoute { route: route.clone(), source };
        self.route(refused)?.remove_route(route).map_err(refused)
    }

    fn rules(&mut self) -> Result<Vec<RoutingRule>, KernelError> {
        let failed = |source| KernelError::Routes { source };
        self.route(failed)?.rules().map_err(failed)
    }

    fn add_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        let refused = |source| KernelError::AddRule { rule: rule.clone().into(), source };
        self.route(refused)?.add_rule(rule).map_err(refused)
    }

    fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError> {
        let refused = |source| KernelError::RemoveRule { rule: rule.clone().into(), source };
        self.route(refused)?.remove_rule(rule).map_err(refused)
    }
}

/// Reads a message as an answer about a route.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(answer: &RouteNetlinkMessage) {
    for route in routes_of(vec![answer.clone()]) {
        let _read = (hops(&route), destination(&route), table(&route), hop_by(&route, 1));
    }
    let _rule = super::rule::rule(answer);
}

#[cfg(test)]
#[cfg(privileged)]
mod tests;
