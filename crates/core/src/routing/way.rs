use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::model::InterfaceName;

/// The number of our table for the uplink with the number 0, which none has: `RIK` and a byte. People choose lower
/// numbers.
pub const TABLES: u32 = 0x5249_4b00;
/// The longest prefix of a route to the Internet: the default route or a large part of it, since VPNs split it into
/// halves, or into parts without the private ranges. A longer prefix leads to a particular network.
pub const LONGEST_DEFAULT: u8 = 8;

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// The destinations.
    pub destination: IpNet,
    /// The interface that it leads out of; `None` if it has several hops, or leads nowhere.
    pub interface: Option<InterfaceName>,
}

impl fmt::Display for HostRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.destination.fmt(f)?;
        self.interface.as_ref().map_or(Ok(()), |interface| write!(f, " by {interface}"))
    }
}

/// The path of answers whose source is an address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPath {
    /// The interface that they leave by.
    pub uplink: InterfaceName,
    /// The table with that route.
    pub table: u32,
}

/// The way of packets to the Internet out of an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A table that another program's rule by source looks up.
    Table(u32),
    /// A default route, whatever its metric.
    Hop(NextHop),
}

/// The next hop of a default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct NextHop {
    /// The router, of either family (RFC 8950); `None` if everybody is on the link, as with a tunnel.
    pub gateway: Option<IpAddr>,
    /// The MTU of the route in bytes; `None` is that of the interface.
    pub mtu: Option<u32>,
}

/// A default route of ours, in a table of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UplinkRoute {
    /// The table.
    pub table: u32,
    /// The interface that it leads out of.
    pub uplink: InterfaceName,
    /// The next hop.
    pub hop: NextHop,
}

impl fmt::Display for UplinkRoute {
    /// Writes the route as ip-route(8) shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("default")?;
        match self.hop.gateway {
            Some(IpAddr::V4(gateway)) => write!(f, " via {gateway}")?,
            Some(IpAddr::V6(gateway)) => write!(f, " via inet6 {gateway}")?,
            None => {}
        }
        write!(f, " dev {} table {}", self.uplink, self.table)?;
        self.hop.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}
