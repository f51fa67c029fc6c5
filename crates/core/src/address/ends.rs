use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// A version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the family of the addresses of a network.
    #[must_use]
    pub const fn of_network(network: IpNet) -> Self {
        match network {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// Reports whether a single host can have an address: it is neither unspecified nor of a group, and of IPv4 neither of this
/// network, reserved, nor the broadcast address (RFC 6890; RFC 4291, section 2).
#[must_use]
pub const fn is_of_a_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] != 0 && address.octets()[0] < 224,
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An IPv6 address where only IPv4 addresses are supported yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is an IPv6 address, which is not supported yet")]
pub struct Ipv6Unsupported {
    /// The address as given.
    pub address: Ipv6Addr,
}

impl Ipv6Unsupported {
    /// Returns the address if it is an IPv4 address.
    ///
    /// # Errors
    /// Fails if it is an IPv6 address.
    pub const fn refuse(address: IpAddr) -> Result<Ipv4Addr, Self> {
        match address {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(address) => Err(Self { address }),
        }
    }
}

/// An address in the form that it has before a port: `192.0.2.1`, `[2001:db8::1]` (RFC 3986, section 3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bracketed(pub IpAddr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// The two ends of a slot's link, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends<A> {
    /// The host's address on the TAP: the guest's gateway.
    pub host: A,
    /// The guest's address.
    pub guest: A,
}

/// The addresses of a slot's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The first and the second address of the slot's /30.
    pub v4: Ends<Ipv4Addr>,
    /// The two addresses of the slot's /127 (RFC 6164); `None` if the pool has no range of IPv6.
    pub v6: Option<Ends<Ipv6Addr>>,
}

impl Addresses {
    /// The prefix length of both IPv4 addresses.
    pub const PREFIX_LENGTH: u8 = 30;
    /// The netmask of both IPv4 addresses.
    pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
    /// The prefix length of both IPv6 addresses.
    pub const PREFIX_LENGTH_V6: u8 = 127;

    /// Returns the host's addresses, one a family, IPv4 first.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [IpAddr::V4(self.v4.host)].into_iter().chain(self.v6.map(|ends| IpAddr::V6(ends.host)))
    }

    /// Returns the guest's addresses, one a family, IPv4 first.
    pub fn guests(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [IpAddr::V4(self.v4.guest)].into_iter().chain(self.v6.map(|ends| IpAddr::V6(ends.guest)))
    }

    /// Returns an address of the link with the prefix length of its family.
    #[must_use]
    pub fn network(address: IpAddr) -> IpNet {
        let length = match Family::of(address) {
            Family::V4 => Self::PREFIX_LENGTH,
            Family::V6 => Self::PREFIX_LENGTH_V6,
        };
        IpNet::new_assert(address, length)
    }
}
