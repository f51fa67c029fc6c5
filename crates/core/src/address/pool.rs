use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Addresses, Ends, Slot};

/// The ranges that the slots' addresses are taken from: each slot gets a /30 of IPv4, and a /127 of IPv6 if there is a
/// range for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

/// The reason why something is not a [`Pool`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The text is not `address/length`.
    #[error("{text:?} is not an IPv4 network such as 10.231.0.0/16")]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// Host bits are set.
    #[error("{given} has bits set after its prefix; the network is {network}")]
    HostBits {
        /// The network as given.
        given: IpNet,
        /// The network with the host bits cleared.
        network: IpNet,
    },
    /// The prefix is shorter than /14 (more slots than a slot number can count) or longer than /30 (no slot at all).
    #[error("a pool's prefix length must be 14 to 30, not {length}")]
    PrefixLength {
        /// The length as given.
        length: u8,
    },
    /// The range of IPv6 has fewer slots than that of IPv4.
    #[error("{network} has no /127 for each of {capacity} slots; a prefix length of {longest} has")]
    TooSmall {
        /// The range of IPv6 as given.
        network: Ipv6Net,
        /// The number of slots of the IPv4 range.
        capacity: u32,
        /// The longest prefix that has as many.
        longest: u8,
    },
    /// A range that guests cannot use.
    #[error("{network} is a loopback, link-local, multicast or reserved range")]
    Range {
        /// The network as given.
        network: IpNet,
    },
}

impl Pool {
    /// Returns the pools that are tried in turn if none is configured; the first that overlaps no route of the host is
    /// used.
    #[must_use]
    pub fn candidates() -> Vec<Self> {
        (231..=239)
            .filter_map(|b| Ipv4Net::new(Ipv4Addr::new(10, b, 0, 0), 16).ok())
            .map(|v4| Self { v4, v6: None })
            .collect()
    }

    /// Returns the same pool with this range for IPv6.
    ///
    /// # Errors
    /// Fails if the range has fewer slots than that of IPv4, has host bits set, or is neither unique local (RFC 4193)
    /// nor global unicast (RFC 4291, section 2.4).
    pub fn with_v6(self, given: Ipv6Net) -> Result<Self, PoolError> {
        let network = given.trunc();
        let longest =
            Addresses::PREFIX_LENGTH_V6 - (Addresses::PREFIX_LENGTH - self.v4.prefix_len());
        let global = given.addr().segments()[0] & 0xe000 == 0x2000;
        if network != given {
            Err(PoolError::HostBits { given: given.into(), network: network.into() })
        } else if !global && !given.addr().is_unique_local() {
            Err(PoolError::Range { network: network.into() })
        } else if given.prefix_len() > longest {
            Err(PoolError::TooSmall { network, capacity: self.capacity(), longest })
        } else {
            Ok(Self { v6: Some(network), ..self })
        }
    }

    /// Returns the same pool without a range for IPv6.
    #[must_use]
    pub const fn without_v6(self) -> Self {
        Self { v6: None, ..self }
    }

    /// Returns a unique local range (RFC 4193, section 3.2) whose global identifier is 40 bits of this number, and its
    /// first subnet. Every pool of IPv4 fits in.
    #[must_use]
    pub fn unique_local(random: u64) -> Ipv6Net {
        let [_, _, _, id @ ..] = random.to_be_bytes();
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&id);
        Ipv6Net::new_assert(Ipv6Addr::from(octets), 64)
    }

    /// Returns the range of IPv4.
    #[must_use]
    pub const fn v4(self) -> Ipv4Net {
        self.v4
    }

    /// Returns the range of IPv6; `None` if guests have IPv4 only.
    #[must_use]
    pub const fn v6(self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The prefix length of the longest route that is a default route, or a piece of one.
    const LONGEST_DEFAULT: u8 = 7;

    /// Returns the number of slots of the pool, 1 to 65,536.
    #[must_use]
    pub fn capacity(self) -> u32 {
        1 << (Addresses::PREFIX_LENGTH - self.v4.prefix_len())
    }

    /// Returns the addresses of a slot; `None` if the pool has no such slot.
    #[must_use]
    pub fn addresses(self, slot: Slot) -> Option<Addresses> {
        let number = u32::from(slot.number());
        if number >= self.capacity() {
            return None;
        }
        let base = u32::from(self.v4.network()) + number * 4;
        let v4 = Ends { host: Ipv4Addr::from(base + 1), guest: Ipv4Addr::from(base + 2) };
        let v6 = self.v6.map(|range| {
            let base = u128::from(range.network()) + u128::from(number) * 2;
            Ends { host: Ipv6Addr::from(base), guest: Ipv6Addr::from(base + 1) }
        });
        Some(Addresses { v4, v6 })
    }

    /// Returns the slot whose guest has this address; `None` if it is no guest's.
    #[must_use]
    pub fn slot_of_guest(self, address: IpAddr) -> Option<Slot> {
        let number = match address {
            IpAddr::V4(address) => {
                let offset = address.to_bits().checked_sub(self.v4.network().to_bits())?;
                u16::try_from(offset / 4)
            }
            IpAddr::V6(address) => {
                let offset = address.to_bits().checked_sub(self.v6?.network().to_bits())?;
                u16::try_from(offset / 2)
            }
        };
        let slot = Slot::new(number.ok()?);
        let addresses = self.addresses(slot)?;
        addresses.guests().any(|guest| guest == address).then_some(slot)
    }

    /// Reports whether an address is one of the pool.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(&address),
            IpAddr::V6(address) => self.v6.is_some_and(|range| range.contains(&address)),
        }
    }

    /// Reports whether the pool and the route share an address.
    ///
    /// A route of /7 or wider overlaps nothing: it is the default route, or a part of one that a VPN has split, and
    /// leads to no network in particular. The widest range of a private network is 10.0.0.0/8 (RFC 1918).
    #[must_use]
    pub fn overlaps(self, route: IpNet) -> bool {
        let ranges = [IpNet::V4(self.v4)].into_iter().chain(self.v6.map(IpNet::V6));
        let mut shared = ranges.filter(|range| range.contains(&route) || route.contains(range));
        route.prefix_len() > Self::LONGEST_DEFAULT && shared.next().is_some()
    }
}

impl TryFrom<Ipv4Net> for Pool {
    type Error = PoolError;

    fn try_from(given: Ipv4Net) -> Result<Self, PoolError> {
        let network = given.trunc();
        let first = network.network();
        if network != given {
            Err(PoolError::HostBits { given: given.into(), network: network.into() })
        } else if !(14..=30).contains(&given.prefix_len()) {
            Err(PoolError::PrefixLength { length: given.prefix_len() })
        } else if first.is_loopback()
            || first.is_link_local()
            || first.octets()[0] == 0
            || first.octets()[0] >= 224
        {
            Err(PoolError::Range { network: network.into() })
        } else {
            Ok(Self { v4: network, v6: None })
        }
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    /// Reads a range of IPv4.
    fn from_str(text: &str) -> Result<Self, PoolError> {
        let network = text.parse::<Ipv4Net>().ok();
        network.ok_or_else(|| PoolError::Syntax { text: text.to_owned() })?.try_into()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.v4.fmt(f)?;
        self.v6.map_or(Ok(()), |v6| write!(f, " and {v6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_by_its_guest() {
        let pool: Pool = "10.231.0.0/29".parse().unwrap();
        let slot = |address: &str| pool.slot_of_guest(address.parse().unwrap()).map(Slot::number);
        assert_eq!((slot("10.231.0.2"), slot("10.231.0.6")), (Some(0), Some(1)));
        for other in
            ["10.231.0.1", "10.231.0.3", "10.231.0.10", "10.230.255.254", "0.0.0.2", "255.0.0.2"]
        {
            assert_eq!(slot(other), None, "{other}");
        }
    }

    #[test]
    fn a_slot_determines_names_and_addresses() {
        let pool: Pool = "10.231.0.0/16".parse().unwrap();
        assert_eq!(pool.capacity(), 16_384);
        let first = pool.addresses(Slot::new(0)).unwrap();
        assert_eq!(first.v4.host.to_string(), "10.231.0.1");
        assert_eq!(first.v4.guest.to_string(), "10.231.0.2");
        let last = pool.addresses(Slot::new(16_383)).unwrap();
        assert_eq!(last.v4.guest.to_string(), "10.231.255.254");
        assert_eq!(pool.addresses(Slot::new(16_384)), None);
        assert_eq!(Slot::new(300).interface().as_str(), "rik300");
        assert_eq!(Slot::new(300).guest_mac().to_string(), "06:52:49:4b:01:2c");
    }

    #[test]
    fn a_range_of_ipv6_gives_each_slot_a_127() {
        let pool: Pool = "10.231.0.0/16".parse().unwrap();
        assert_eq!(pool.addresses(Slot::new(0)).unwrap().v6, None);
        let both = pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
        let addresses = both.addresses(Slot::new(16_383)).unwrap();
        assert_eq!(Some(addresses.v4), pool.addresses(Slot::new(16_383)).map(|a| a.v4));
        let hosts: Vec<_> = addresses.hosts().map(|host| host.to_string()).collect();
        let guests = addresses.guests().map(|guest| Addresses::network(guest).to_string());
        assert_eq!(hosts, ["10.231.255.253", "fd52:494b::7ffe"]);
        assert_eq!(guests.collect::<Vec<_>>(), ["10.231.255.254/30", "fd52:494b::7fff/127"]);
        assert_eq!(both.addresses(Slot::new(16_384)), None);
        assert_eq!(both.to_string(), "10.231.0.0/16 and fd52:494b::/64");
        assert!(both.overlaps("fd52::/16".parse().unwrap()));
        assert!(!both.overlaps("fd53::/16".parse().unwrap()));
        assert!(!both.overlaps("::/0".parse().unwrap()));
    }

    #[test]
    fn every_pool_takes_a_unique_local_range() {
        let range = Pool::unique_local(0x1234_5678_9abc_def0);
        assert_eq!(range.to_string(), "fd78:9abc:def0::/64");
        let largest: Pool = "10.228.0.0/14".parse().unwrap();
        let both = largest.with_v6(range).unwrap();
        assert_eq!(both.v6(), Some(range));
        assert_eq!(both.without_v6(), largest);
        let last = both.addresses(Slot::new(65_535)).unwrap().v6.unwrap();
        assert_eq!(last.guest.to_string(), "fd78:9abc:def0::1:ffff");
    }

    #[test]
    fn ranges_of_ipv6_are_refused_with_their_reason() {
        let pool: Pool = "10.231.0.0/16".parse().unwrap();
        let refused = |text: &str| pool.with_v6(text.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused("fd52::/114"),
            "fd52::/114 has no /127 for each of 16384 slots; a prefix length of 113 has"
        );
        assert!(pool.with_v6("fd52::/113".parse().unwrap()).is_ok());
        assert!(pool.with_v6("2001:db8::/64".parse().unwrap()).is_ok());
        assert_eq!(
            refused("fd52::1/64"),
            "fd52::1/64 has bits set after its prefix; the network is fd52::/64"
        );
        for reserved in ["fe80::/64", "ff02::/64", "::/64", "::ffff:0:0/96"] {
            assert!(refused(reserved).ends_with("or reserved range"), "{reserved}");
        }
    }

    #[test]
    fn pools_are_refused_with_their_reason() {
        let refused = |text: &str| text.parse::<Pool>().unwrap_err().to_string();
        assert_eq!(
            refused("10.0.0.0"),
            "\"10.0.0.0\" is not an IPv4 network such as 10.231.0.0/16"
        );
        assert_eq!(
            refused("10.231.4.1/16"),
            "10.231.4.1/16 has bits set after its prefix; the network is 10.231.0.0/16"
        );
        assert_eq!(refused("10.0.0.0/8"), "a pool's prefix length must be 14 to 30, not 8");
        assert_eq!(
            refused("127.0.0.0/16"),
            "127.0.0.0/16 is a loopback, link-local, multicast or reserved range"
        );
    }

    #[test]
    fn a_default_route_overlaps_no_pool() {
        let pool: Pool = "10.231.0.0/16".parse().unwrap();
        assert!(pool.overlaps("10.0.0.0/8".parse().unwrap()));
        assert!(pool.overlaps("10.231.7.0/24".parse().unwrap()));
        assert!(!pool.overlaps("10.232.0.0/16".parse().unwrap()));
        for half in ["0.0.0.0/0", "0.0.0.0/1", "8.0.0.0/7"] {
            assert!(!pool.overlaps(half.parse().unwrap()), "{half}");
        }
    }
}
