use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    num::NonZeroU16,
    str::FromStr,
};

use super::{PortRange, PortRangeError};
use crate::address::is_of_a_host;

/// A proxy that gets the TCP connections which a guest begins to some ports, whomever they are for. It learns from what the
/// guest says whom it meant, or on the host itself from the kernel (`SO_ORIGINAL_DST` of `<linux/netfilter_ipv4.h>`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    address: ProxyAddress,
    ports: BTreeSet<u16>,
}

/// The address and the port at which a [`Proxy`] listens: `<address>:<port>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyAddress {
    address: Ipv4Addr,
    port: NonZeroU16,
}

/// The reason why a text is not a [`ProxyAddress`], or numbers are not the ports of a [`Proxy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The text is no address with a port.
    #[error(
        "{text:?} is not a proxy such as 10.0.5.2:3128, or 127.0.0.1:3128 for one on this host"
    )]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// The address is one of IPv6.
    #[error("{text:?} has an IPv6 address: connections are led to a proxy by IPv4")]
    Ipv6 {
        /// The text as given.
        text: String,
    },
    /// The place is a name.
    #[error("{place:?} is a name: write the address of the proxy")]
    Name {
        /// The name.
        place: String,
    },
    /// No host has the address.
    #[error("{address} is not the address of a single host")]
    Address {
        /// The address as given.
        address: Ipv4Addr,
    },
    /// The port is wrong.
    #[error(transparent)]
    Port(#[from] PortRangeError),
    /// There are none, or too many.
    #[error("{found} ports are led to the proxy; 1 to {} can be", Proxy::MAX_PORTS)]
    Count {
        /// The number of ports.
        found: usize,
    },
}

impl Proxy {
    /// The ports of HTTP and HTTPS (RFC 9110, sections 4.2.1 and 4.2.2), which are led to a proxy that names none.
    pub const DEFAULT_PORTS: [u16; 2] = [80, 443];

    /// The most ports that are led to one proxy: each is an element of the firewall.
    pub const MAX_PORTS: usize = 16;

    /// Returns the proxy at this address, for connections to these ports.
    ///
    /// # Errors
    /// Fails if there is no port, a port is 0, or there are more than [`Self::MAX_PORTS`].
    pub fn new(
        address: ProxyAddress,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<Self, ProxyError> {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        if ports.contains(&0) {
            return Err(PortRangeError::Port { port: 0 }.into());
        }
        if ports.is_empty() || ports.len() > Self::MAX_PORTS {
            return Err(ProxyError::Count { found: ports.len() });
        }
        Ok(Self { address, ports })
    }

    /// Returns the place at which it listens.
    #[must_use]
    pub const fn address(&self) -> ProxyAddress {
        self.address
    }

    /// Returns the ports that are led to it, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<'_> {
        self.ports.iter().copied()
    }

    /// Reports whether connections to this port are led to it.
    #[must_use]
    pub fn takes(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Reports whether the ports are the [default ones](Self::DEFAULT_PORTS).
    #[must_use]
    pub fn has_default_ports(&self) -> bool {
        self.ports().eq(Self::DEFAULT_PORTS)
    }
}

impl From<ProxyAddress> for Proxy {
    /// Returns the proxy at this address, for connections to the [default ports](Self::DEFAULT_PORTS).
    fn from(address: ProxyAddress) -> Self {
        Self { address, ports: Self::DEFAULT_PORTS.into() }
    }
}

impl ProxyAddress {
    /// Returns the address and port, if the port is not 0.
    #[must_use]
    pub fn new(address: Ipv4Addr, port: u16) -> Option<Self> {
        NonZeroU16::new(port).map(|port| Self { address, port })
    }

    /// Returns the address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.port.get()
    }
}

impl FromStr for ProxyAddress {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let syntax = || ProxyError::Syntax { text: text.to_owned() };
        if text.contains('[') || text.parse::<Ipv6Addr>().is_ok() {
            return Err(ProxyError::Ipv6 { text: text.to_owned() });
        }
        let (place, port) = text.rsplit_once(':').ok_or_else(syntax)?;
        let Ok(address) = place.parse::<Ipv4Addr>() else {
            let is_name = place.contains(|letter: char| letter.is_ascii_alphabetic());
            let is_name = is_name && !place.contains([':', '/']);
            return Err(if is_name {
                ProxyError::Name { place: place.to_owned() }
            } else {
                syntax()
            });
        };
        if !is_of_a_host(address.into()) {
            return Err(ProxyError::Address { address });
        }
        let port: PortRange = port.parse()?;
        Self::new(address, port.first()).filter(|_| port.is_single()).ok_or_else(syntax)
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddrV4::new(self.address, self.port.get()).fmt(f)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.has_default_ports() {
            return Ok(());
        }
        for (index, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if index == 0 { " for ports " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["10.0.5.2:3128", "127.0.0.1:1", "192.0.2.7:65535"] {
            assert_eq!(text.parse::<ProxyAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        let refused = |text: &str| text.parse::<ProxyAddress>().unwrap_err().to_string();
        let syntax = |text: &str| {
            format!(
                "{text:?} is not a proxy such as 10.0.5.2:3128, or 127.0.0.1:3128 for one on this host"
            )
        };
        for text in ["", "10.0.5.2", "10.0.5.2/32:80", "http://10.0.5.2:80", ":3128", "1.2.3.4:1-2"]
        {
            assert_eq!(refused(text), syntax(text));
        }
        assert_eq!(
            refused("[::1]:3128"),
            "\"[::1]:3128\" has an IPv6 address: connections are led to a proxy by IPv4"
        );
        let name = "\"proxy.lan\" is a name: write the address of the proxy";
        assert_eq!(refused("proxy.lan:3128"), name);
        assert_eq!(refused("0.0.0.0:80"), "0.0.0.0 is not the address of a single host");
        assert_eq!(refused("10.0.5.2:0"), "port 0 is out of range; ports are 1 to 65535");
    }

    #[test]
    fn ports_are_counted() {
        let address = "10.0.5.2:3128".parse().unwrap();
        let said = |ports: &[u16]| match Proxy::new(address, ports.iter().copied()) {
            Ok(proxy) => proxy.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(&Proxy::DEFAULT_PORTS), "10.0.5.2:3128");
        assert_eq!(said(&[443, 8443, 443]), "10.0.5.2:3128 for ports 443, 8443");
        assert_eq!(said(&[]), "0 ports are led to the proxy; 1 to 16 can be");
        assert_eq!(
            said(&(1..=17).collect::<Vec<_>>()),
            "17 ports are led to the proxy; 1 to 16 can be"
        );
        assert_eq!(said(&[0]), "port 0 is out of range; ports are 1 to 65535");
    }
}
