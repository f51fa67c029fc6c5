use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;

use super::{Egress, PortRange, PortRangeError, Protocol};

/// The destinations that one function may begin connections to, beyond published ports: a reach, and those that it names itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressPolicy {
    default: Option<Egress>,
    allow: Vec<Destination>,
    deny: Vec<Destination>,
}

/// Destinations that a policy names: `<place>`, `<place>:<ports>`, either with `/tcp` or `/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    place: Place,
    protocol: Option<Protocol>,
    ports: Option<PortRange>,
}

/// The place of a [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Addresses beyond the host: `10.0.5.0/24`, or one address.
    Network(Ipv4Net),
    /// The host itself, by any of its addresses: `host`.
    Host,
}

/// The reason why a text is not a [`Destination`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The place is neither an IPv4 network nor `host`.
    #[error(
        "{text:?} is not a destination such as 10.0.5.0/24, 192.0.2.7:443, 10.0.5.0/24:5000-5010/tcp or host:9000/tcp"
    )]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// The place is a name, or another function.
    #[error("{place:?} is a name; destinations are IPv4 addresses, networks and \"host\" as yet")]
    Name {
        /// The name.
        place: String,
    },
    /// The place is an IPv6 address.
    #[error("{text:?} has an IPv6 address, which is not supported yet")]
    Ipv6 {
        /// The text as given.
        text: String,
    },
    /// The address has bits beyond the length of the prefix.
    #[error("{found} has bits beyond its prefix: write {meant}, or an address without a prefix")]
    HostBits {
        /// The network as given.
        found: Ipv4Net,
        /// The network of this prefix.
        meant: Ipv4Net,
    },
    /// The ports are wrong.
    #[error(transparent)]
    Ports(#[from] PortRangeError),
    /// The protocol is neither TCP nor UDP.
    #[error("unknown protocol {found:?}; tcp and udp are known")]
    Protocol {
        /// The text as given.
        found: String,
    },
}

impl EgressPolicy {
    /// The most destinations that one policy names, allowed and denied each.
    pub const MAX: usize = 64;

    /// The most blocks that its destinations may fall into, where they overlap: each is an element of the firewall.
    pub const MAX_BLOCKS: usize = 256;

    /// Creates a policy. `None` has the reach that the node's guests have.
    #[must_use]
    pub const fn new(
        default: Option<Egress>,
        allow: Vec<Destination>,
        deny: Vec<Destination>,
    ) -> Self {
        Self { default, allow, deny }
    }

    /// Returns the reach beyond what is allowed and denied; `None` is that of the node's guests.
    #[must_use]
    pub const fn default_reach(&self) -> Option<Egress> {
        self.default
    }

    /// Returns what is allowed.
    #[must_use]
    pub fn allow(&self) -> &[Destination] {
        &self.allow
    }

    /// Returns what is denied, also if it is allowed.
    #[must_use]
    pub fn deny(&self) -> &[Destination] {
        &self.deny
    }
}

impl Destination {
    /// The protocols that a destination with ports and without a protocol has.
    pub const WITH_PORTS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    /// Returns the place.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Returns the protocol; `None` for every one, or for those [with ports](Self::WITH_PORTS).
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Returns the ports; `None` for every one.
    #[must_use]
    pub const fn ports(&self) -> Option<PortRange> {
        self.ports
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let syntax = || DestinationError::Syntax { text: text.to_owned() };
        let first = text.split(':').next().unwrap_or_default();
        if first == "function" {
            return Err(DestinationError::Name { place: text.to_owned() });
        }
        let is_ipv4 = first.parse::<Ipv4Addr>().is_ok() || first.parse::<Ipv4Net>().is_ok();
        if text.contains('[') || (text.matches(':').count() > 1 && !is_ipv4) {
            return Err(DestinationError::Ipv6 { text: text.to_owned() });
        }
        // A protocol is the last word after a slash that is no length of a prefix.
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, word)) if word.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                let is_it = |known: &Protocol| known.as_str().eq_ignore_ascii_case(word);
                let known = Self::WITH_PORTS.into_iter().find(is_it);
                let found = || DestinationError::Protocol { found: word.to_owned() };
                (rest, Some(known.ok_or_else(found)?))
            }
            _ => (text, None),
        };
        let (place, ports) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
        let is_letter = |letter: char| letter.is_ascii_alphabetic() || letter == '*';
        if place != "host" && place.contains(is_letter) {
            return Err(DestinationError::Name { place: place.to_owned() });
        }
        let ports = ports.map(str::parse).transpose()?;
        if place == "host" {
            return Ok(Self { place: Place::Host, protocol, ports });
        }
        let single = || place.parse().map(|address: Ipv4Addr| Ipv4Net::from(address));
        let network = place.parse().or_else(|_no_prefix| single()).map_err(|_neither| syntax())?;
        if network.trunc() != network {
            return Err(DestinationError::HostBits { found: network, meant: network.trunc() });
        }
        Ok(Self { place: Place::Network(network), protocol, ports })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Network(network) if network.prefix_len() == 32 => {
                write!(f, "{}", network.addr())?;
            }
            Place::Network(network) => write!(f, "{network}")?,
            Place::Host => f.write_str("host")?,
        }
        if let Some(ports) = self.ports {
            write!(f, ":{ports}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_they_are_written() {
        for text in [
            "10.0.5.0/24",
            "10.0.5.0/24:5432/tcp",
            "192.0.2.7",
            "192.0.2.7:443",
            "192.0.2.7/udp",
            "0.0.0.0/0:8000-8010/udp",
            "host",
            "host:9000/tcp",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert_eq!("host:80/TCP".parse::<Destination>().unwrap().to_string(), "host:80/tcp");
        assert_eq!("192.0.2.7/32".parse::<Destination>().unwrap().to_string(), "192.0.2.7");
    }

    #[test]
    fn what_is_no_destination_is_named() {
        let refused = |text: &str| text.parse::<Destination>().unwrap_err().to_string();
        let form = "is not a destination such as 10.0.5.0/24, 192.0.2.7:443, 10.0.5.0/24:5000-5010/tcp or host:9000/tcp";
        for text in ["", "10.0.5", "10.0.5.0/33", ":80", "10.0.5.0/24/8", "1.2.3.4/", "1.2.3.4/-1"]
        {
            assert_eq!(refused(text), format!("{text:?} {form}"));
        }
        let name = "is a name; destinations are IPv4 addresses, networks and \"host\" as yet";
        assert_eq!(refused("*.example.org:443"), format!("\"*.example.org\" {name}"));
        assert_eq!(refused("function:db:80"), format!("\"function:db:80\" {name}"));
        let ports = "\"80:90\" is neither a port such as 8080 nor a range such as 8000-8010";
        assert_eq!(refused("1.2.3.4:80:90"), ports);
        assert_eq!(refused("::1"), "\"::1\" has an IPv6 address, which is not supported yet");
        assert_eq!(
            refused("10.0.5.1/24"),
            "10.0.5.1/24 has bits beyond its prefix: write 10.0.5.0/24, or an address without a prefix"
        );
        assert_eq!(refused("10.0.5.0/24/icmp"), "unknown protocol \"icmp\"; tcp and udp are known");
        assert_eq!(refused("host:0"), "port 0 is out of range; ports are 1 to 65535");
    }
}
