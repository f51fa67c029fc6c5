use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;

use super::{PortRange, PortRangeError, Protocol};

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
    /// The place is a name.
    #[error(
        "{place:?} is a name, which only `allow` of a definition takes: here, write IPv4 addresses, networks or \"host\""
    )]
    Name {
        /// The name.
        place: String,
    },
    /// The place is another function.
    #[error(
        "{place:?} is a function; destinations are names, IPv4 addresses, networks and \"host\" as yet"
    )]
    Function {
        /// The text as given.
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

    /// Splits a protocol off the end of a text: the last word after a slash that is no length of a prefix.
    pub(super) fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>), DestinationError> {
        let Some((rest, word)) = text.rsplit_once('/') else { return Ok((text, None)) };
        if !word.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Ok((text, None));
        }
        let is_it = |known: &Protocol| known.as_str().eq_ignore_ascii_case(word);
        let known = Self::WITH_PORTS.into_iter().find(is_it);
        let found = || DestinationError::Protocol { found: word.to_owned() };
        Ok((rest, Some(known.ok_or_else(found)?)))
    }

    /// Reports whether a text is meant as a name, which is then in place of an address.
    fn names_a_place(text: &str) -> bool {
        let place = text.split([':', '/']).next().unwrap_or_default();
        let is_letter = |letter: char| letter.is_ascii_alphabetic() || letter == '*';
        let has_letters = place.contains(is_letter) || !place.is_ascii();
        let is_whole = place.contains(['.', '*']) || !place.is_ascii();
        place != "host" && has_letters && (is_whole || text.matches(':').count() < 2)
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let syntax = || DestinationError::Syntax { text: text.to_owned() };
        let first = text.split(':').next().unwrap_or_default();
        if first == "function" {
            return Err(DestinationError::Function { place: text.to_owned() });
        }
        if !text.contains('[') && Self::names_a_place(text) {
            let place = text.split([':', '/']).next().unwrap_or_default().to_owned();
            return Err(DestinationError::Name { place });
        }
        let is_ipv4 = first.parse::<Ipv4Addr>().is_ok() || first.parse::<Ipv4Net>().is_ok();
        if text.contains('[') || (text.matches(':').count() > 1 && !is_ipv4) {
            return Err(DestinationError::Ipv6 { text: text.to_owned() });
        }
        let (rest, protocol) = Self::split_protocol(text)?;
        let (place, ports) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
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
        let name = "is a name, which only `allow` of a definition takes: here, write IPv4 addresses, networks or \"host\"";
        for (text, place) in [
            ("*.example.org:443", "*.example.org"),
            ("db", "db"),
            ("a.example/tcp", "a.example"),
            ("a.example:80:90", "a.example"),
            ("例え:80", "例え"),
        ] {
            assert_eq!(refused(text), format!("{place:?} {name}"));
        }
        let function =
            "is a function; destinations are names, IPv4 addresses, networks and \"host\" as yet";
        assert_eq!(refused("function:db:80"), format!("\"function:db:80\" {function}"));
        assert_eq!(
            refused("fe80::1"),
            "\"fe80::1\" has an IPv6 address, which is not supported yet"
        );
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
