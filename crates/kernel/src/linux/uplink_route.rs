//! Default routes by uplink: those of the host are asked for, and copies of them are in tables of ours.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use rustix::io::Errno;

use super::{
    Linux,
    netlink::NetlinkRequest,
    route::{Packet, Route, get, header, is_default, routes_of, table},
};
use crate::{KernelError, Refusal};
use riklet_core::{
    model::InterfaceName,
    routing::{NextHop, PROTOCOL, UplinkRoute},
};

/// A public address that no network has (RFC 4291, section 2.6.1: that of all routers of its subnet).
const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 0);

impl Linux {
    /// Reports whether the host has a default route of IPv6, or a piece of one.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn has_default_route_v6(&mut self) -> Result<bool, KernelError> {
        let failed = |source| KernelError::Routes { source };
        let packet = Packet::to(INTERNET_V6.into());
        let found = self.route(failed)?.look_up(packet, RouteFlags::FibMatch);
        Ok(found.map_err(failed)?.as_ref().is_some_and(is_default))
    }
}

impl Route {
    /// Returns the next hop of packets to the Internet by this interface, if there is a default route by it.
    ///
    /// Without such a route, the kernel assumes that everybody is on the link. It names a matching route only if there
    /// is one.
    pub(super) fn next_hop(&mut self, uplink: &InterfaceName) -> Result<Option<NextHop>, Refusal> {
        // An interface that does not exist is no uplink.
        let Ok(index) = self.index(uplink) else { return Ok(None) };
        for packet in Packet::to_internet(index) {
            let found = self.look_up(packet, RouteFlags::FibMatch)?;
            let Some(route) = found.filter(is_default) else { continue };
            if let Some(hop) = hop_by(&route, index) {
                return Ok(Some(hop));
            }
            // The hops of a nexthop object are not shown if `net.ipv4.nexthop_compat_mode` is 0.
            let taken = self.look_up(packet, RouteFlags::empty())?;
            return Ok(taken.and_then(|taken| hop_by(&taken, index)));
        }
        Ok(None)
    }

    /// Returns our default routes in these tables.
    pub(super) fn uplink_routes(
        &mut self,
        tables: &BTreeSet<u32>,
    ) -> Result<BTreeSet<UplinkRoute>, Refusal> {
        let mut found = BTreeSet::new();
        for &table in tables {
            // The kernel lists this table only.
            let request = get(header(AddressFamily::Inet), vec![RouteAttribute::Table(table)]);
            let answers = match self.socket.query(&request, NLM_F_DUMP) {
                // There is no such table.
                Err(refusal) if refusal.errno == Some(Errno::NOENT.raw_os_error()) => continue,
                answers => answers?,
            };
            for route in routes_of(answers) {
                found.extend(self.of_ours(&route)?);
            }
        }
        Ok(found)
    }

    fn of_ours(&self, route: &RouteMessage) -> Result<Option<UplinkRoute>, Refusal> {
        let is_ours = route.header.protocol == RouteProtocol::from(PROTOCOL)
            && route.header.kind == RouteType::Unicast
            && route.header.destination_prefix_length == 0;
        let out_of = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let Some(index) = out_of.filter(|_| is_ours) else { return Ok(None) };
        let uplink = self.names(&[index])?.into_iter().next();
        let hop = hop_by(route, index);
        Ok(uplink.zip(hop).map(|(uplink, hop)| UplinkRoute { table: table(route), uplink, hop }))
    }

    /// Adds a route, or replaces the one of its table.
    pub(super) fn add_route(&mut self, route: &UplinkRoute) -> Result<(), Refusal> {
        let index = self.index(&route.uplink)?;
        let message = RouteNetlinkMessage::NewRoute(message(route, index));
        self.change_route(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route. Succeeds if there is none: the kernel removes those of an interface that goes down.
    pub(super) fn remove_route(&mut self, route: &UplinkRoute) -> Result<(), Refusal> {
        let Ok(index) = self.index(&route.uplink) else { return Ok(()) };
        match self.change_route(RouteNetlinkMessage::DelRoute(message(route, index)), 0) {
            Err(refusal) if refusal.errno == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    fn change_route(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.socket.send_each(vec![NetlinkRequest { message, flags }])?.into_iter().collect()
    }
}

/// Returns the next hop of a route by this interface, or `None` if the route does not lead there.
pub(super) fn hop_by(route: &RouteMessage, index: u32) -> Option<NextHop> {
    let mut attributes = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(out_of) if *out_of == index => attributes = Some(&route.attributes),
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.iter().find(|hop| hop.interface_index == index);
                attributes = attributes.or(hop.map(|hop| &hop.attributes));
            }
            _ => {}
        }
    }
    let gateway = attributes?.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let mtu = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    Some(NextHop { gateway, mtu })
}

/// Writes a default route of ours. The router need not be in a network of the uplink's, as on some hosts it is not
/// (`RTNH_F_ONLINK`).
fn message(route: &UplinkRoute, index: u32) -> RouteMessage {
    let NextHop { gateway, mtu } = route.hop;
    let (scope, flags) = match gateway {
        Some(_) => (RouteScope::Universe, RouteFlags::Onlink),
        None => (RouteScope::Link, RouteFlags::empty()),
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        protocol: RouteProtocol::from(PROTOCOL),
        kind: RouteType::Unicast,
        scope,
        flags,
        ..header(AddressFamily::Inet)
    };
    let gateway = gateway.map(|gateway| match gateway {
        IpAddr::V4(address) => RouteAttribute::Gateway(RouteAddress::Inet(address)),
        IpAddr::V6(address) => RouteAttribute::Via(RouteVia::Inet6(address)),
    });
    let mtu = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    let out_of = [RouteAttribute::Table(route.table), RouteAttribute::Oif(index)];
    message.attributes = out_of.into_iter().chain(gateway).chain(mtu).collect();
    message
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use super::*;
    use crate::linux::sysctl;
    use riklet_core::routing::TABLES;
    use riklet_testkit::namespace::{ip, isolated};

    fn veth(name: &str, address: &str) {
        ip(&format!("link add {name} type veth peer name far-{name}"));
        ip(&format!("link set far-{name} up"));
        ip(&format!("addr add {address}/24 dev {name}"));
        ip(&format!("link set {name} up"));
    }

    fn hop(name: &str) -> Option<NextHop> {
        Route::open().unwrap().next_hop(&name.parse().unwrap()).unwrap()
    }

    fn via(gateway: &str) -> NextHop {
        NextHop { gateway: Some(gateway.parse().unwrap()), mtu: None }
    }

    #[test]
    fn the_default_route_of_each_uplink_is_found() {
        isolated(|| {
            veth("up0", "192.0.2.1");
            veth("up1", "198.51.100.1");
            assert_eq!((hop("up0"), hop("up1"), hop("none")), (None, None, None));
            ip("route add default via 192.0.2.2");
            assert_eq!((hop("up0"), hop("up1")), (Some(via("192.0.2.2")), None));
            ip("route add default via 198.51.100.2 metric 200");
            assert_eq!(
                (hop("up0"), hop("up1")),
                (Some(via("192.0.2.2")), Some(via("198.51.100.2")))
            );
            // A VPN overrides the default route by its halves.
            for half in ["0.0.0.0/1", "128.0.0.0/1"] {
                ip(&format!("route add {half} dev up1"));
            }
            assert_eq!(
                (hop("up0"), hop("up1")),
                (Some(via("192.0.2.2")), Some(NextHop::default()))
            );
            ip("route add 17.0.0.0/24 via 192.0.2.3");
            assert_eq!(hop("up0"), Some(via("192.0.2.2")), "a route to a particular network");
        });
    }

    #[test]
    fn the_hops_of_one_route_are_told_apart() {
        isolated(|| {
            veth("up0", "192.0.2.1");
            veth("up1", "198.51.100.1");
            ip(
                "route add default mtu 1400 nexthop via 192.0.2.2 nexthop via inet6 fe80::2 dev up1",
            );
            let mtu = |hop: NextHop| Some(NextHop { mtu: Some(1400), ..hop });
            assert_eq!((hop("up0"), hop("up1")), (mtu(via("192.0.2.2")), mtu(via("fe80::2"))));
            ip("route del default");
            ip("nexthop add id 1 via 192.0.2.2 dev up0");
            ip("route add default nhid 1");
            assert_eq!((hop("up0"), hop("up1")), (Some(via("192.0.2.2")), None));
            sysctl::set("net.ipv4.nexthop_compat_mode", "0").unwrap();
            assert_eq!((hop("up0"), hop("up1")), (Some(via("192.0.2.2")), None));
        });
    }

    #[test]
    fn a_route_of_ours_is_added_replaced_and_removed() {
        isolated(|| {
            veth("up0", "192.0.2.1");
            let (mut route, table) = (Route::open().unwrap(), TABLES | 1);
            let tables = [table, table + 1].into();
            assert_eq!(route.uplink_routes(&tables).unwrap(), [].into());
            ip(&format!("route add 203.0.113.0/24 dev up0 table {table}"));
            let uplink = || "up0".parse().unwrap();
            for gateway in [Some("192.0.2.2"), Some("10.0.0.1"), Some("fe80::1"), None] {
                let gateway = gateway.map(|gateway| gateway.parse().unwrap());
                for mtu in [None, Some(1400)] {
                    let added =
                        UplinkRoute { table, uplink: uplink(), hop: NextHop { gateway, mtu } };
                    for _ in 0..2 {
                        route.add_route(&added).unwrap();
                        assert_eq!(route.uplink_routes(&tables).unwrap(), [added.clone()].into());
                    }
                }
            }
            let last = route.uplink_routes(&tables).unwrap().pop_first().unwrap();
            for _ in 0..2 {
                route.remove_route(&last).unwrap();
                assert_eq!(route.uplink_routes(&tables).unwrap(), [].into());
            }
            let left = ip(&format!("route show table {table}"));
            assert_eq!(left.trim(), "203.0.113.0/24 dev up0 scope link", "that of somebody else");
            ip("link del up0");
            route.remove_route(&last).unwrap();
        });
    }
}
