use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;

use super::{InterfaceName, MacAddress};

/// A small integer that determines everything an instance needs from the node.
///
/// Its interface is `rik<slot>`, its addresses come from [`Pool::addresses`], its MAC addresses from
/// [`Slot::host_mac`] and [`Slot::guest_mac`]. Allocating a network is allocating the lowest free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// What the name of every interface of ours begins with.
    pub const PREFIX: &'static str = "rik";

    /// The slot with this number. Whether a pool has it is [`Pool::addresses`]' to say.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The slot's interface on the host, `rik<slot>`.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "`rik` and at most five digits are a valid interface name"
    )]
    pub fn interface(self) -> InterfaceName {
        InterfaceName::try_from(&*format!("{}{}", Self::PREFIX, self.0)).expect("a valid name")
    }

    /// The slot whose interface has this name; `None` where no slot's has (`rik01`, `rikx`, `eth0`).
    #[must_use]
    pub fn of_interface(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(Self::PREFIX)?;
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical).map(Self)
    }

    /// The MAC address of the TAP on the host: locally administered (IEEE 802, bit 1 of the first octet).
    #[must_use]
    pub const fn host_mac(self) -> MacAddress {
        let [high, low] = self.0.to_be_bytes();
        MacAddress::new([0x02, b'R', b'I', b'K', high, low])
    }

    /// The MAC address that the guest's NIC must have: the host keeps a permanent neighbour entry for it.
    #[must_use]
    pub const fn guest_mac(self) -> MacAddress {
        let [high, low] = self.0.to_be_bytes();
        MacAddress::new([0x06, b'R', b'I', b'K', high, low])
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The range that the slots' addresses are cut from: each slot gets a /30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool(Ipv4Net);

/// The two ends of a slot's /30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The host's address on the TAP: the first of the /30, the guest's gateway.
    pub host: Ipv4Addr,
    /// The guest's address: the second of the /30.
    pub guest: Ipv4Addr,
}

impl Addresses {
    /// The prefix length of both addresses.
    pub const PREFIX_LENGTH: u8 = 30;
    /// The netmask of both addresses.
    pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
}

/// Why a text is not a [`Pool`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not `address/length`.
    #[error("{text:?} is not an IPv4 network such as 10.231.0.0/16")]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// Host bits are set.
    #[error("{given} has bits set after its prefix; the network is {network}")]
    HostBits {
        /// The network as given.
        given: Ipv4Net,
        /// The same with the host bits cleared.
        network: Ipv4Net,
    },
    /// Shorter than /14 (more slots than a slot number can count) or longer than /30 (not one slot).
    #[error("a pool's prefix length must be 14 to 30, not {length}")]
    PrefixLength {
        /// The length as given.
        length: u8,
    },
    /// A range that guests cannot use.
    #[error("{network} is a loopback, link-local, multicast or reserved range")]
    Range {
        /// The network as given.
        network: Ipv4Net,
    },
}

impl Pool {
    /// The pools tried in turn where none is configured: the first that overlaps no route of the host.
    #[must_use]
    pub fn candidates() -> Vec<Self> {
        (231..=239)
            .filter_map(|b| Ipv4Net::new(Ipv4Addr::new(10, b, 0, 0), 16).ok())
            .map(Self)
            .collect()
    }

    /// The range as a network.
    #[must_use]
    pub const fn network(self) -> Ipv4Net {
        self.0
    }

    /// How many slots the pool has, 1 to 65,536.
    #[must_use]
    pub fn capacity(self) -> u32 {
        1 << (Addresses::PREFIX_LENGTH - self.0.prefix_len())
    }

    /// The addresses of a slot; `None` where the pool has no such slot.
    #[must_use]
    pub fn addresses(self, slot: Slot) -> Option<Addresses> {
        let number = u32::from(slot.number());
        let base = u32::from(self.0.network()) + number * 4;
        (number < self.capacity())
            .then(|| Addresses { host: Ipv4Addr::from(base + 1), guest: Ipv4Addr::from(base + 2) })
    }

    /// Whether the two ranges share an address. A default route (length 0) overlaps nothing here: it is
    /// where everything else goes.
    #[must_use]
    pub fn overlaps(self, route: Ipv4Net) -> bool {
        route.prefix_len() > 0 && (self.0.contains(&route) || route.contains(&self.0))
    }
}

impl TryFrom<Ipv4Net> for Pool {
    type Error = PoolError;

    fn try_from(given: Ipv4Net) -> Result<Self, PoolError> {
        let network = given.trunc();
        let first = network.network();
        if network != given {
            Err(PoolError::HostBits { given, network })
        } else if !(14..=30).contains(&given.prefix_len()) {
            Err(PoolError::PrefixLength { length: given.prefix_len() })
        } else if first.is_loopback()
            || first.is_link_local()
            || first.octets()[0] == 0
            || first.octets()[0] >= 224
        {
            Err(PoolError::Range { network })
        } else {
            Ok(Self(network))
        }
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let network = text.parse::<Ipv4Net>().ok();
        network.ok_or_else(|| PoolError::Syntax { text: text.to_owned() })?.try_into()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_determines_names_and_addresses() {
        let pool: Pool = "10.231.0.0/16".parse().unwrap();
        assert_eq!(pool.capacity(), 16_384);
        let first = pool.addresses(Slot::new(0)).unwrap();
        assert_eq!(first.host.to_string(), "10.231.0.1");
        assert_eq!(first.guest.to_string(), "10.231.0.2");
        let last = pool.addresses(Slot::new(16_383)).unwrap();
        assert_eq!(last.guest.to_string(), "10.231.255.254");
        assert_eq!(pool.addresses(Slot::new(16_384)), None);
        assert_eq!(Slot::new(300).interface().as_str(), "rik300");
        assert_eq!(Slot::new(300).guest_mac().to_string(), "06:52:49:4b:01:2c");
    }

    #[test]
    fn only_a_slots_own_spelling_is_its_interface() {
        assert_eq!(Slot::of_interface("rik0"), Some(Slot::new(0)));
        assert_eq!(Slot::of_interface("rik65535"), Some(Slot::new(65_535)));
        for other in ["rik", "rik01", "rik+1", "rikx", "rik65536", "eth0", "rik-1"] {
            assert_eq!(Slot::of_interface(other), None, "{other}");
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
        assert!(!pool.overlaps("0.0.0.0/0".parse().unwrap()));
    }
}
