//! Names in policies: what the daemon's resolver answers to a guest, and what the firewall then lets the guest reach.
//!
//! ```text
//! question ─► AllowedNames::places ─► upstream ─► is_public, lifetime ─► Pin ─► answer
//!                                                                        └─► Pins
//! ```

mod pins;

pub use pins::{Answered, MOST_PINS, Pins};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    num::ParseIntError,
    str::FromStr,
    time::Duration,
};

use crate::{
    digest,
    firewall::{Entry, Special},
    model::{EgressPolicy, InstanceName, Pool, Protocol},
    reach::{self, Block},
};

/// The address and port of the daemon's resolver: of the loopback, so that only this host and its guests reach it, and not
/// one that other resolvers listen on. A port below 1024 is root's.
pub const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 82, 73, 75), 353);

/// A number that stands for one function and the names of its policy. With another function, or other names, an address that
/// was pinned before is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamesToken(u64);

impl NamesToken {
    /// Returns the token of a function's names; `None` if its policy has none.
    #[must_use]
    pub fn of(name: &InstanceName, policy: &EgressPolicy) -> Option<Self> {
        if !policy.has_names() {
            return None;
        }
        let rules: BTreeSet<_> = policy.names().iter().map(ToString::to_string).collect();
        let words = [name.as_str()].into_iter().chain(rules.iter().map(|rule| &**rule));
        Some(Self(digest::of_words(words)))
    }
}

impl fmt::Display for NamesToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for NamesToken {
    type Err = ParseIntError;

    /// Reads what is displayed.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// Returns the entries that have the daemon answer a guest for the names of its policy, and let it reach what it was told, at
/// this address of the guest; none if it has no names. Guests ask by IPv4, also for addresses of IPv6.
pub fn entries(
    name: &InstanceName,
    policy: &EgressPolicy,
    guest: IpAddr,
) -> impl Iterator<Item = Entry> + use<> {
    let asks = guest.is_ipv4().then_some(Entry::Names { guest });
    let of_token = move |token| asks.into_iter().chain([Entry::Pinned { guest, token }]);
    NamesToken::of(name, policy).map(of_token).into_iter().flatten()
}

/// An address that a guest is told for a name, at one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The time for which new connections are let through.
    pub lifetime: Duration,
}

/// The names of one policy, for look-ups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedNames {
    exact: BTreeMap<String, BTreeSet<(Protocol, u16)>>,
    below: BTreeMap<String, BTreeSet<(Protocol, u16)>>,
    /// The destinations that the policy closes, whatever name they have.
    closed: Vec<Block>,
}

impl AllowedNames {
    /// Returns the names of a policy.
    #[must_use]
    pub fn of(policy: &EgressPolicy) -> Self {
        let mut all = Self { closed: reach::closed(policy), ..Self::default() };
        for rule in policy.names() {
            let pattern = rule.pattern();
            let names = if pattern.is_below() { &mut all.below } else { &mut all.exact };
            let places = names.entry(pattern.name().to_owned()).or_default();
            let ports = rule.ports();
            places.extend(rule.protocols().flat_map(|by| ports.iter().map(move |port| (by, port))));
        }
        all
    }

    /// Returns the ports of a name: empty if it is not allowed. Its case, and a dot at its end, do not matter.
    ///
    /// The cost depends on the labels of the name, and not on the number of rules.
    #[must_use]
    pub fn places(&self, name: &str) -> BTreeSet<(Protocol, u16)> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let mut places = self.exact.get(&name).cloned().unwrap_or_default();
        let mut rest = &*name;
        while let Some((label, above)) = rest.split_once('.') {
            if let Some(below) = self.below.get(above).filter(|_| !label.is_empty()) {
                places.extend(below);
            }
            rest = above;
        }
        places
    }

    /// Reports whether a name is allowed.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        !self.places(name).is_empty()
    }

    /// Returns the ports of a name at one of its addresses: those that the policy does not close there.
    pub fn places_of(
        &self,
        name: &str,
        address: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, Protocol, u16)> + use<'_> {
        let is_closed = move |protocol: Protocol, port| {
            let to = Block::of_packet(address, protocol.number(), Some(port));
            self.closed.iter().any(|block| block.contains(&to))
        };
        let places = self.places(name).into_iter();
        let allowed = places.filter(move |&(protocol, port)| !is_closed(protocol, port));
        allowed.map(move |(protocol, port)| (address, protocol, port))
    }
}

/// Reports whether an address that an upstream names may be told to a guest, and be let through: it is public, and not of the
/// pool. Whoever owns an allowed name could otherwise lead the guest into the node's networks (rebinding). Addresses of IPv6 that
/// lead to IPv4, by a translator (RFC 6052), a tunnel or a mapping, are not public either.
#[must_use]
pub fn is_public(address: IpAddr, pool: Pool) -> bool {
    Special::of(address).is_none() && !pool.contains(address)
}

/// The longest time that an answer is valid for, in seconds: a guest is told no more.
const LONGEST: u32 = 3600;
/// The shortest time that an address is let through for.
const SHORTEST: Duration = Duration::from_secs(30);
/// The time that a guest has to begin a connection after its answer has become invalid.
const GRACE: Duration = Duration::from_secs(2);

/// Returns the time that a guest is told that an answer is valid for, of the one that the upstream told.
#[must_use]
pub fn told(seconds: u32) -> u32 {
    seconds.min(LONGEST)
}

/// Returns the time for which an address is let through, if the guest is told that the answer is valid for so many seconds.
#[must_use]
pub fn lifetime(seconds: u32) -> Duration {
    (Duration::from_secs(told(seconds).into()) + GRACE).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::NameRule;

    fn allowed(rules: Vec<NameRule>) -> AllowedNames {
        AllowedNames::of(&EgressPolicy::new(None, vec![], vec![]).with_names(rules))
    }

    fn names(rules: &[&str]) -> AllowedNames {
        allowed(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    #[test]
    fn a_name_has_the_ports_of_every_rule_for_it() {
        let names =
            names(&["api.example.com:443", "*.example.com:80-81/tcp", "api.example.com:53/udp"]);
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let api = [(tcp, 80), (tcp, 81), (tcp, 443), (udp, 53), (udp, 443)];
        assert_eq!(names.places("api.example.com"), api.into());
        assert_eq!(names.places("API.Example.com."), api.into());
        assert_eq!(names.places("a.b.example.com"), [(tcp, 80), (tcp, 81)].into());
        for other in ["example.com", "com", "", ".", "api.example.com.evil.net", ".example.com"] {
            assert!(names.places(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_token_is_of_one_function_and_its_names() {
        let token = |name: &str, rules: &[&str]| {
            let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            let policy = EgressPolicy::new(None, vec![], vec![]).with_names(rules);
            NamesToken::of(&name.parse().unwrap(), &policy)
        };
        let one = token("f", &["a.example:1", "b.example:1"]);
        assert_eq!(one, token("f", &["b.example:1", "a.example:1", "a.example:1"]));
        assert_ne!(one, token("g", &["a.example:1", "b.example:1"]));
        assert_ne!(one, token("f", &["a.example:1"]));
        assert_ne!(one, token("f", &["a.example:1", "b.example:1/tcp"]));
        assert_eq!(token("f", &[]), None);
    }

    #[test]
    fn addresses_that_are_not_public_are_not_told() {
        let pool: Pool = "198.51.100.0/24".parse().unwrap();
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.51.100.7",
        ] {
            assert!(!is_public(address.parse().unwrap(), pool), "{address}");
        }
        assert!(is_public([203, 0, 113, 7].into(), pool));
        let pool = pool.with_v6("2001:db8:52::/64".parse().unwrap()).unwrap();
        for address in [
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:203.0.113.7",
            "64:ff9b::10.0.0.1",
            "64:ff9b::203.0.113.7",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2002:a00:1::1",
            "2001:db8:52::3",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap(), pool), "{address}");
        }
        assert!(is_public("2001:db8:53::3".parse().unwrap(), pool));
    }

    #[test]
    fn an_address_lives_longer_than_its_answer() {
        assert_eq!(lifetime(0), Duration::from_secs(30));
        assert_eq!(lifetime(29), Duration::from_secs(31));
        assert_eq!(lifetime(300), Duration::from_secs(302));
        assert_eq!((told(86_400), lifetime(86_400)), (3600, Duration::from_secs(3602)));
    }

    proptest! {
        #[test]
        fn look_ups_say_what_the_patterns_say(
            rules in prop::collection::vec("(\\*\\.)?([ab]\\.){1,3}c:[1-3]", 0..6),
            name in "([ab]\\.){0,4}c",
        ) {
            let rules: Vec<NameRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            let wanted = rules.iter().filter(|rule| rule.pattern().matches(&name)).flat_map(|rule| {
                rule.protocols().map(|protocol| (protocol, rule.ports().first()))
            });
            let wanted: BTreeSet<_> = wanted.collect();
            prop_assert_eq!(allowed(rules).places(&name), wanted);
        }
    }
}
