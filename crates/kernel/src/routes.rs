use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use crate::{KernelError, sealed::Sealed};
use riklet_core::{
    model::InterfaceName,
    routing::{AnswerPath, HostRoute, NextHop, RoutingRule, UplinkRoute},
};

/// The host's routes, which are only read except for those in tables of ours, and its routing rules (rtnetlink(7)).
pub trait Routes: Sealed {
    /// Returns the interfaces that a packet to the Internet leaves by at present; none without such a route.
    /// The cost does not depend on the number of routes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError>;

    /// Returns the interfaces that have a default route in the table `main`, whatever its metric; of very many, some. The cost
    /// does not depend on the number of routes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn default_interfaces(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError>;

    /// Returns the route that a packet of the host to this address takes; `None` if it goes nowhere. The cost does not
    /// depend on the number of routes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn route_to(&mut self, to: IpAddr) -> Result<Option<HostRoute>, KernelError>;

    /// Reports whether this is an address of the host, by its local routes. The cost does not depend on their number.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn is_local(&mut self, address: IpAddr) -> Result<bool, KernelError>;

    /// Returns the IPv4 routes of all tables, default routes included. Lists all of them, which may be very many.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn routes(&mut self) -> Result<Vec<HostRoute>, KernelError>;

    /// Returns the next hops of the IPv4 routes of all tables: routers on the links of the host. Lists all routes, which may
    /// be very many.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn gateways(&mut self) -> Result<BTreeSet<Ipv4Addr>, KernelError>;

    /// Returns the way of packets to the Internet that the host sends from one of its addresses in this range; `None` if it
    /// has none there, or no such way.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn answer_path(&mut self, from: Ipv4Net) -> Result<Option<AnswerPath>, KernelError>;

    /// Returns the next hop of packets to the Internet that leave by this interface, if there is a default route by it,
    /// whatever its metric. The cost does not depend on the number of routes.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn next_hop(&mut self, uplink: &InterfaceName) -> Result<Option<NextHop>, KernelError>;

    /// Returns our default routes in these tables of ours.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn uplink_routes(
        &mut self,
        tables: &BTreeSet<u32>,
    ) -> Result<BTreeSet<UplinkRoute>, KernelError>;

    /// Adds a route, or replaces the one of its table. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then it has not changed.
    fn add_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError>;

    /// Removes a route. Succeeds if it does not exist, and so on repetition.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then it has not changed.
    fn remove_route(&mut self, route: &UplinkRoute) -> Result<(), KernelError>;

    /// Returns the routing rules of IPv4, in the order in which they are tried. Lists all of them, which are few: the
    /// kernel tries one after another for each route that it looks up.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn rules(&mut self) -> Result<Vec<RoutingRule>, KernelError>;

    /// Adds a routing rule. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then it has not changed.
    fn add_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError>;

    /// Removes a routing rule. Succeeds if it does not exist, and so on repetition.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then it has not changed.
    fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), KernelError>;
}
