use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
};

use crate::address::{Bracketed, is_of_a_host};

/// A transport protocol that a port can be exposed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the protocol number (IANA; `IPPROTO_*` of `<netinet/in.h>`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Returns the name in lower case, as in firewall rules and in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Returns the protocol of this name, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Consecutive ports, none of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// The reason why a text or a pair of numbers is not a [`PortRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// The text is neither a number nor two numbers with `-` between.
    #[error("{text:?} is neither a port such as 8080 nor a range such as 8000-8010")]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// The number is not 1 to 65535.
    #[error("port {port} is out of range; ports are 1 to 65535")]
    Port {
        /// The number as given.
        port: i64,
    },
    /// The last port is lower than the first.
    #[error("the range {first}-{last} is reversed: write {last}-{first}")]
    Reversed {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

impl PortRange {
    /// Returns the ports `first` to `last`, both included.
    ///
    /// # Errors
    /// Fails if a port is not 1 to 65535, or if the range is reversed.
    pub fn new(first: i64, last: i64) -> Result<Self, PortRangeError> {
        let port = |port: i64| {
            let number = u16::try_from(port).ok().and_then(NonZeroU16::new);
            number.ok_or(PortRangeError::Port { port })
        };
        let range = Self { first: port(first)?, last: port(last)? };
        let (first, last) = (range.first(), range.last());
        if last < first {
            return Err(PortRangeError::Reversed { first, last });
        }
        Ok(range)
    }

    /// Returns the range that is one port; `None` for port 0.
    #[must_use]
    pub fn single(port: u16) -> Option<Self> {
        NonZeroU16::new(port).map(|port| Self { first: port, last: port })
    }

    /// Returns the ports from `first` to `last` as a range; `None` if there is none, or if one is 0.
    #[must_use]
    pub fn between(first: u16, last: u16) -> Option<Self> {
        Self::new(first.into(), last.into()).ok()
    }

    /// Returns the lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first.get()
    }

    /// Returns the highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last.get()
    }

    /// Returns the number of ports, 1 to 65535.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.last.get() - self.first.get() + 1
    }

    /// Returns the ports in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u16> + use<> {
        self.first()..=self.last()
    }

    /// Reports whether it is one port.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.first.get() == self.last.get()
    }

    /// Reports whether all ports of the other are among its own.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.first.get() <= other.first.get() && other.last.get() <= self.last.get()
    }

    /// Reports whether the two share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first.get() <= other.last.get() && other.first.get() <= self.last.get()
    }
}

impl std::str::FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let parsed = plain.then(|| digits.parse::<i64>().ok()).flatten();
            parsed.ok_or_else(|| PortRangeError::Syntax { text: crate::excerpt::excerpt(text) })
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(number(first.trim())?, number(last.trim())?),
            None => number(text.trim()).and_then(|port| Self::new(port, port)),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The sign by which a run takes an exposure for ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ready {
    /// Each of its ports accepts a TCP connection.
    Tcp,
    /// The VMM has opened the TAP.
    Carrier,
    /// Nothing is waited for.
    None,
}

impl Ready {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Carrier, Self::None];

    /// Returns the name in definitions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Carrier => "carrier",
            Self::None => "none",
        }
    }
}

/// Ports of the host that lead to ports of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exposure {
    protocol: Protocol,
    host_address: Option<IpAddr>,
    host_ports: PortRange,
    guest_ports: PortRange,
    /// As the definition names it.
    ready: Option<Ready>,
    shadow: bool,
}

/// The reason why an [`Exposure`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExposureError {
    /// The ranges differ in length.
    #[error("port {host} has {} ports, targetPort {guest} has {}: the lengths must be the same", host.count(), guest.count())]
    Lengths {
        /// The ports of the host.
        host: PortRange,
        /// The ports of the guest.
        guest: PortRange,
    },
    /// An address that the host cannot have.
    #[error("hostAddress {address} is a multicast, broadcast or reserved address")]
    HostAddress {
        /// The address as given.
        address: IpAddr,
    },
    /// Another protocol than TCP cannot accept TCP connections.
    #[error("ready tcp is for TCP, not for {}; carrier and none are for all", protocol.as_str().to_uppercase())]
    Ready {
        /// The protocol of the exposure.
        protocol: Protocol,
    },
    /// An address of 127.0.0.0/8 that local services have for themselves, such as 127.0.0.53.
    #[error("hostAddress {address} is not published: of 127.0.0.0/8, only 127.0.0.1 is")]
    Loopback {
        /// The address as given.
        address: IpAddr,
    },
}

impl Exposure {
    /// Returns the exposure that leads `host_ports` to `guest_ports`, the first to the first and so on. A
    /// `host_address` of `None` or 0.0.0.0 stands for every address of the host, except those of 127.0.0.0/8 other than
    /// 127.0.0.1. It takes no packets from others: see [`Self::with_shadow`].
    ///
    /// # Errors
    /// Fails if the ranges differ in length, or no host can have the address, or it is a loopback address other than
    /// 127.0.0.1.
    pub fn new(
        protocol: Protocol,
        host_address: Option<IpAddr>,
        host_ports: PortRange,
        guest_ports: PortRange,
    ) -> Result<Self, ExposureError> {
        let exposure = Self::recorded(protocol, host_address, host_ports, guest_ports)?;
        match exposure.host_address.filter(|address| is_private_loopback(*address)) {
            Some(address) => Err(ExposureError::Loopback { address }),
            None => Ok(exposure),
        }
    }

    /// Returns the exposure of a record, as [`Self::new`] does. Earlier versions accepted every address of 127.0.0.0/8;
    /// nothing is published there any more, and an instance that has such an address can be taken down.
    ///
    /// # Errors
    /// Fails if the ranges differ in length, or no host can have the address.
    pub fn recorded(
        protocol: Protocol,
        host_address: Option<IpAddr>,
        host_ports: PortRange,
        guest_ports: PortRange,
    ) -> Result<Self, ExposureError> {
        let host_address = host_address.filter(|&address| address != Ipv4Addr::UNSPECIFIED);
        if host_ports.count() != guest_ports.count() {
            return Err(ExposureError::Lengths { host: host_ports, guest: guest_ports });
        }
        if let Some(address) = host_address.filter(|address| !is_of_a_host(*address)) {
            return Err(ExposureError::HostAddress { address });
        }
        Ok(Self { protocol, host_address, host_ports, guest_ports, ready: None, shadow: false })
    }

    /// Returns the exposure with this sign of being ready; `None` leaves it open.
    ///
    /// # Errors
    /// Fails if another protocol than TCP shall accept TCP connections.
    pub fn with_ready(self, ready: Option<Ready>) -> Result<Self, ExposureError> {
        match (ready, self.protocol) {
            (Some(Ready::Tcp), Protocol::Udp | Protocol::Sctp) => {
                Err(ExposureError::Ready { protocol: self.protocol })
            }
            _ => Ok(Self { ready, ..self }),
        }
    }

    /// Returns the sign by which a run takes it for ready. By default it is [`Ready::Tcp`] for TCP and [`Ready::Carrier`]
    /// for the others.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let is_tcp = self.protocol == Protocol::Tcp;
        self.ready.unwrap_or(if is_tcp { Ready::Tcp } else { Ready::Carrier })
    }

    /// Returns the sign that the definition names; `None` if it names none.
    #[must_use]
    pub const fn named_ready(&self) -> Option<Ready> {
        self.ready
    }

    /// Returns the exposure that takes packets from local processes and from translations of others, or refuses to.
    #[must_use]
    pub const fn with_shadow(self, shadow: bool) -> Self {
        Self { shadow, ..self }
    }

    /// Reports whether it takes packets from local processes and from translations of others.
    #[must_use]
    pub const fn shadow(&self) -> bool {
        self.shadow
    }

    /// Returns the transport protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the address of the host that it is bound to; `None` stands for every address.
    #[must_use]
    pub const fn host_address(&self) -> Option<IpAddr> {
        self.host_address
    }

    /// Returns the ports of the host.
    #[must_use]
    pub const fn host_ports(&self) -> PortRange {
        self.host_ports
    }

    /// Returns the ports of the guest.
    #[must_use]
    pub const fn guest_ports(&self) -> PortRange {
        self.guest_ports
    }

    /// Returns the pairs of host port and guest port, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        self.host_ports.iter().zip(self.guest_ports.iter())
    }

    /// Reports whether one packet could match both: the same protocol, a shared host port, and the same host address or
    /// one of them bound to all (as in `bind(2)`).
    #[must_use]
    pub fn clashes_with(&self, other: &Self) -> bool {
        self.meets(other.protocol, other.host_address) && self.host_ports.overlaps(other.host_ports)
    }

    /// Reports whether it takes packets to one of these ports of this address, or of any address if it is `None`.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, address: Option<IpAddr>, ports: PortRange) -> bool {
        let published = address.is_none_or(|address| !is_private_loopback(address));
        published && self.binds(protocol, address, ports)
    }

    /// Reports whether a socket with its address and one of its ports could not be bound beside one with these (bind(2)).
    #[must_use]
    pub fn binds(&self, protocol: Protocol, address: Option<IpAddr>, ports: PortRange) -> bool {
        self.meets(protocol, address) && self.host_ports.overlaps(ports)
    }

    fn meets(&self, protocol: Protocol, address: Option<IpAddr>) -> bool {
        let same = match (self.host_address, address) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        same && self.protocol == protocol
    }
}

/// Reports whether this is an address of 127.0.0.0/8 other than 127.0.0.1. Local services have these for themselves, such
/// as 127.0.0.53 for a resolver, and nobody publishes them.
const fn is_private_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() && !matches!(address.octets(), [127, 0, 0, 1]),
        IpAddr::V6(_) => false,
    }
}

impl fmt::Display for Exposure {
    /// `tcp 8080 -> 3000`, `udp 192.0.2.1:53 -> 53`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        if let Some(address) = self.host_address {
            write!(f, "{}:", Bracketed(address))?;
        }
        write!(f, "{} -> {}", self.host_ports, self.guest_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_refused_with_their_reason() {
        let refused = |text: &str| text.parse::<PortRange>().unwrap_err().to_string();
        assert_eq!(refused("0"), "port 0 is out of range; ports are 1 to 65535");
        assert_eq!(refused("65536"), "port 65536 is out of range; ports are 1 to 65535");
        assert_eq!(refused("8010-8000"), "the range 8010-8000 is reversed: write 8000-8010");
        for text in ["", "-", "80-", "http", "+80", "80-90-100", "8e3"] {
            assert!(refused(text).contains("is neither a port"), "{text}: {}", refused(text));
        }
        assert_eq!("8000-8010".parse::<PortRange>().unwrap().count(), 11);
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65535);
    }

    #[test]
    fn exposures_clash_as_sockets_do() {
        let exposure = |protocol, address: Option<&str>, ports: &str| {
            let ports = ports.parse().unwrap();
            Exposure::new(protocol, address.map(|a| a.parse().unwrap()), ports, ports).unwrap()
        };
        let any = exposure(Protocol::Tcp, None, "8000-8010");
        assert!(any.clashes_with(&exposure(Protocol::Tcp, Some("192.0.2.1"), "8010")));
        assert!(!any.clashes_with(&exposure(Protocol::Udp, None, "8010")));
        assert!(!any.clashes_with(&exposure(Protocol::Tcp, None, "8011")));
        let bound = exposure(Protocol::Tcp, Some("192.0.2.1"), "80");
        assert!(!bound.clashes_with(&exposure(Protocol::Tcp, Some("192.0.2.2"), "80")));
    }

    #[test]
    fn only_tcp_waits_for_connections() {
        let exposure = |protocol| {
            let port = "80".parse().unwrap();
            Exposure::new(protocol, None, port, port).unwrap()
        };
        let [tcp, udp, sctp] = Protocol::ALL.map(exposure);
        assert_eq!(
            [tcp, udp, sctp].map(|e| e.ready()),
            [Ready::Tcp, Ready::Carrier, Ready::Carrier]
        );
        for ready in [Ready::Carrier, Ready::None] {
            for exposure in [tcp, udp, sctp] {
                let named = exposure.with_ready(Some(ready)).unwrap();
                assert_eq!((named.ready(), named.named_ready()), (ready, Some(ready)));
                assert!(named.clashes_with(&exposure), "the ports count, not the sign");
            }
        }
        assert_eq!(tcp.with_ready(Some(Ready::Tcp)).unwrap().ready(), Ready::Tcp);
        assert_eq!(
            udp.with_ready(Some(Ready::Tcp)).unwrap_err().to_string(),
            "ready tcp is for TCP, not for UDP; carrier and none are for all"
        );
    }

    #[test]
    fn of_the_loopback_only_one_address_is_published() {
        let ports: PortRange = "53".parse().unwrap();
        let exposure = |address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            Exposure::new(Protocol::Udp, address, ports, ports)
        };
        for address in ["127.0.0.53", "127.1.0.1", "127.255.255.255"] {
            let refused = exposure(Some(address)).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("hostAddress {address} is not published")));
            let any = exposure(None).unwrap();
            let address = Some(address.parse().unwrap());
            assert!(!any.takes(Protocol::Udp, address, ports));
            assert!(any.binds(Protocol::Udp, address, ports));
        }
        let local = exposure(Some("127.0.0.1")).unwrap();
        assert!(local.takes(Protocol::Udp, local.host_address(), ports));
    }
}
