//! Blocks of destinations.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use crate::model::{Family, PortRange, Protocol};

/// The place of each range in a [`Block`].
const ADDRESSES: usize = 0;
const PROTOCOLS: usize = 1;
const PORTS: usize = 2;

/// A block of destinations: a range of addresses of one family, one of protocols, and one of ports. A protocol without ports
/// has every port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    addresses: Addresses,
    protocols: (u8, u8),
    ports: (u16, u16),
}

/// The first and the last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Block {
    /// Nothing: no destination is in it.
    pub const NOTHING: Self = Self {
        addresses: Addresses::V4(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED),
        protocols: (1, 0),
        ports: (1, 0),
    };

    /// Returns the block of every destination of a family.
    #[must_use]
    pub const fn everything(family: Family) -> Self {
        let addresses = match family {
            Family::V4 => Addresses::V4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
            Family::V6 => Addresses::V6(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX)),
        };
        Self { addresses, protocols: (0, u8::MAX), ports: (0, u16::MAX) }
    }

    /// Returns the block of these addresses, with every protocol and port.
    #[must_use]
    pub fn of_network(network: IpNet) -> Self {
        let addresses = match network {
            IpNet::V4(network) => Addresses::V4(network.network(), network.broadcast()),
            IpNet::V6(network) => Addresses::V6(network.network(), network.broadcast()),
        };
        Self { addresses, ..Self::everything(Family::of_network(network)) }
    }

    /// Returns the block that is one destination. `port` is the destination's port; `None` if the protocol has none.
    #[must_use]
    pub fn of_packet(to: IpAddr, protocol: u8, port: Option<u16>) -> Self {
        let (protocols, port) = ((protocol, protocol), port.unwrap_or_default());
        Self { protocols, ports: (port, port), ..Self::of_network(to.into()) }
    }

    /// Returns the same addresses, for these ports of this protocol.
    #[must_use]
    pub const fn to_ports(self, protocol: Protocol, ports: PortRange) -> Self {
        Self { ports: (ports.first(), ports.last()), ..self.by(protocol) }
    }

    /// Returns the same addresses and ports, of this protocol.
    #[must_use]
    pub const fn by(self, protocol: Protocol) -> Self {
        self.by_number(protocol.number())
    }

    /// Returns the same addresses and ports, of the protocol with this number (IANA).
    pub(super) const fn by_number(self, number: u8) -> Self {
        Self { protocols: (number, number), ..self }
    }

    /// Returns the block with these first and last values; `None` if one of the ranges is reversed, or the addresses are of two
    /// families.
    #[must_use]
    pub fn between(
        addresses: (IpAddr, IpAddr),
        protocols: (u8, u8),
        ports: (u16, u16),
    ) -> Option<Self> {
        let addresses = match addresses {
            (IpAddr::V4(first), IpAddr::V4(last)) => Addresses::V4(first, last),
            (IpAddr::V6(first), IpAddr::V6(last)) => Addresses::V6(first, last),
            _ => return None,
        };
        let block = Self { addresses, protocols, ports };
        block.ranges().iter().all(|(first, last)| first <= last).then_some(block)
    }

    /// Returns the family of its addresses.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.addresses {
            Addresses::V4(..) => Family::V4,
            Addresses::V6(..) => Family::V6,
        }
    }

    /// Returns the addresses.
    #[must_use]
    pub fn addresses(&self) -> RangeInclusive<IpAddr> {
        match self.addresses {
            Addresses::V4(first, last) => first.into()..=last.into(),
            Addresses::V6(first, last) => first.into()..=last.into(),
        }
    }

    /// Returns the protocols (IANA).
    #[must_use]
    pub const fn protocols(&self) -> RangeInclusive<u8> {
        self.protocols.0..=self.protocols.1
    }

    /// Returns the ports.
    #[must_use]
    pub const fn ports(&self) -> RangeInclusive<u16> {
        self.ports.0..=self.ports.1
    }

    /// Reports whether every destination of the other block is in this one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.is_to(other, |a, b| a.0 <= b.0 && b.1 <= a.1)
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.is_to(other, |a, b| a.0 <= b.1 && b.0 <= a.1)
    }

    fn is_to(&self, other: &Self, is: impl Fn((u128, u128), (u128, u128)) -> bool) -> bool {
        self.family() == other.family()
            && self.ranges().into_iter().zip(other.ranges()).all(|(a, b)| is(a, b))
    }

    /// Returns the blocks that together are this one without the other.
    pub(super) fn without(mut self, other: &Self) -> Vec<Self> {
        if !self.overlaps(other) {
            return vec![self];
        }
        let mut rest = Vec::new();
        for place in [ADDRESSES, PROTOCOLS, PORTS] {
            let ((first, last), (from, to)) = (self.ranges()[place], other.ranges()[place]);
            if first < from {
                rest.push(self.with(place, (first, from - 1)));
            }
            if to < last {
                rest.push(self.with(place, (to + 1, last)));
            }
            self = self.with(place, (first.max(from), last.min(to)));
        }
        rest
    }

    /// Returns the ranges as numbers.
    fn ranges(&self) -> [(u128, u128); 3] {
        let addresses = match self.addresses {
            Addresses::V4(first, last) => (first.to_bits().into(), last.to_bits().into()),
            Addresses::V6(first, last) => (first.to_bits(), last.to_bits()),
        };
        let (protocols, ports) = (self.protocols, self.ports);
        [addresses, (protocols.0.into(), protocols.1.into()), (ports.0.into(), ports.1.into())]
    }

    /// Returns the same with another range. Numbers that are too large are those that are largest.
    pub(super) fn with(self, place: usize, (first, last): (u128, u128)) -> Self {
        let octet = |number| u8::try_from(number).unwrap_or(u8::MAX);
        let port = |number| u16::try_from(number).unwrap_or(u16::MAX);
        let v4 = |number| Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX));
        match (place, self.addresses) {
            (PROTOCOLS, _) => Self { protocols: (octet(first), octet(last)), ..self },
            (PORTS, _) => Self { ports: (port(first), port(last)), ..self },
            (_, Addresses::V4(..)) => {
                Self { addresses: Addresses::V4(v4(first), v4(last)), ..self }
            }
            (_, Addresses::V6(..)) => {
                Self { addresses: Addresses::V6(first.into(), last.into()), ..self }
            }
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn range<T: fmt::Display + PartialEq>(range: &RangeInclusive<T>) -> String {
            if range.start() == range.end() {
                range.start().to_string()
            } else {
                format!("{}-{}", range.start(), range.end())
            }
        }
        let (addresses, everything) = (range(&self.addresses()), Self::everything(self.family()));
        let has_ports = self.ports != everything.ports;
        match self.family() {
            Family::V6 if has_ports => write!(f, "[{addresses}]")?,
            Family::V4 | Family::V6 => f.write_str(&addresses)?,
        }
        if has_ports {
            write!(f, ":{}", range(&self.ports()))?;
        }
        if self.protocols != everything.protocols {
            let (first, last) = self.protocols;
            let is_known = |known: &Protocol| first == last && first == known.number();
            match Protocol::ALL.into_iter().find(is_known) {
                Some(protocol) => write!(f, "/{protocol}")?,
                None => write!(f, "/{}", range(&self.protocols()))?,
            }
        }
        Ok(())
    }
}
