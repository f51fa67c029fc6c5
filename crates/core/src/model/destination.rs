use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{PortRange, PortRangeError, Protocol};

/// Destinations that a policy names: `<place>`, `<place>:<ports>`, either with `/tcp` or `/udp`. A place of IPv6 that has ports
/// stands in brackets: `[2001:db8::/32]:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    place: Place,
    protocol: Option<Protocol>,
    ports: Option<PortRange>,
}

/// The place of a [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Addresses beyond the host: `10.0.5.0/24`, `2001:db8::/32`, or one address.
    Network(IpNet),
    /// The host itself, by any of its addresses: `host`.
    Host,
}

/// The reason why a text is not a [`Destination`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The place is neither a network nor `host`.
    #[error(
        "{text:?} is not a destination such as 10.0.5.0/24, 192.0.2.7:443, 10.0.5.0/24:5000-5010/tcp, 2001:db8::/32, [2001:db8::1]:443 or host:9000/tcp"
    )]
    Syntax {
        /// The text as given.
        text: String,
    },
    /// The place is a name.
    #[error(
        "{place:?} is a name, which only `allow` of a definition takes: here, write addresses, networks or \"host\""
    )]
    Name {
        /// The name.
        place: String,
    },
    /// The place is another function.
    #[error(
        "{place:?} is a function; destinations are names, addresses, networks and \"host\" as yet"
    )]
    Function {
        /// The text as given.
        place: String,
    },
    /// The end is a part of an IPv6 address, or a port.
    #[error(
        "{text:?} may be an address, or an address and a port: write {port} for the port, or {address} for the address"
    )]
    Ambiguous {
        /// The text as given.
        text: String,
        /// The text that has a port.
        port: String,
        /// The text that is an address.
        address: String,
    },
    /// An IPv6 address has ports, and no brackets.
    #[error("{text:?} has ports after an IPv6 address: write {meant}")]
    Brackets {
        /// The text as given.
        text: String,
        /// The text with brackets.
        meant: String,
    },
    /// The address has a zone, as one of a link may (RFC 4007).
    #[error(
        "{text:?} names an interface: nothing is forwarded to addresses of a link, so write none"
    )]
    Zone {
        /// The text as given.
        text: String,
    },
    /// The address is one of IPv4, in a form of IPv6 that no packet has.
    #[error("{found} is written as IPv6 and means IPv4: write {meant}")]
    Mapped {
        /// The network as given.
        found: Ipv6Net,
        /// The same in the form of IPv4.
        meant: Ipv4Net,
    },
    /// The address has bits beyond the length of the prefix.
    #[error("{found} has bits beyond its prefix: write {meant}, or an address without a prefix")]
    HostBits {
        /// The network as given.
        found: IpNet,
        /// The network of this prefix.
        meant: IpNet,
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
        let first = text.split(':').next().unwrap_or_default();
        if first == "function" {
            return Err(DestinationError::Function { place: text.to_owned() });
        }
        if !text.contains('[') && Self::names_a_place(text) {
            let place = text.split([':', '/']).next().unwrap_or_default().to_owned();
            return Err(DestinationError::Name { place });
        }
        let (rest, protocol) = Self::split_protocol(text)?;
        let is_v4 = first.parse::<Ipv4Addr>().is_ok() || first.parse::<Ipv4Net>().is_ok();
        let has_colons = rest.matches(':').count() > 1 && !is_v4 && first != "host";
        if rest.contains('[') || has_colons {
            let protocol_text = text.get(rest.len()..).unwrap_or_default();
            let (network, ports) = read_v6(rest, protocol_text)?;
            let ports = ports.map(str::parse).transpose()?;
            return Ok(Self { place: Place::Network(network.into()), protocol, ports });
        }
        let (place, ports) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
        let ports = ports.map(str::parse).transpose()?;
        if place == "host" {
            return Ok(Self { place: Place::Host, protocol, ports });
        }
        let single = || place.parse().map(|address: Ipv4Addr| Ipv4Net::from(address));
        let network = place.parse().or_else(|_no_prefix| single());
        let network = network.map_err(|_neither| syntax(text))?;
        let place = Place::Network(whole(network.into())?);
        Ok(Self { place, protocol, ports })
    }
}

fn syntax(text: &str) -> DestinationError {
    DestinationError::Syntax { text: text.to_owned() }
}

/// Returns a network if no bit beyond its prefix is set.
fn whole(network: IpNet) -> Result<IpNet, DestinationError> {
    if network.trunc() == network {
        return Ok(network);
    }
    Err(DestinationError::HostBits { found: network, meant: network.trunc() })
}

/// Reads a network of IPv6, or an address, and returns the text of its ports. `protocol` is the text that followed, for
/// errors.
///
/// The length of a prefix, and the brackets, tell where an address ends: `[2001:db8::1]:443`, `[2001:db8::/32]:443`,
/// `[2001:db8::]/32:443` and `2001:db8::/32:443`. Without both, a port cannot be told from the end of an address.
fn read_v6<'a>(
    text: &'a str,
    protocol: &str,
) -> Result<(Ipv6Net, Option<&'a str>), DestinationError> {
    let given = || format!("{text}{protocol}");
    if text.contains('%') {
        return Err(DestinationError::Zone { text: given() });
    }
    let no_form = || syntax(&given());
    let (address, length, after) = if let Some(inside) = text.strip_prefix('[') {
        let (inside, after) = inside.split_once(']').ok_or_else(no_form)?;
        match (inside.split_once('/'), after.strip_prefix('/')) {
            (Some((address, length)), None) => (address, Some(length), after),
            (None, Some(after)) => {
                let (length, rest) = before_ports(after);
                (inside, Some(length), rest)
            }
            (None, None) => (inside, None, after),
            (Some(_), Some(_)) => return Err(no_form()),
        }
    } else if let Some((address, after)) = text.split_once('/') {
        let (length, rest) = before_ports(after);
        (address, Some(length), rest)
    } else {
        refuse_port(text, protocol)?;
        (text, None, "")
    };
    let ports = after.strip_prefix(':');
    if ports.is_none() && !after.is_empty() {
        return Err(no_form());
    }
    let address: Ipv6Addr = address.parse().map_err(|_error| no_form())?;
    let digits = |text: &str| text.parse::<u8>().ok().filter(|_| !text.starts_with('+'));
    let length = length.map_or(Some(128), digits).ok_or_else(no_form)?;
    let network = Ipv6Net::new(address, length).map_err(|_error| no_form())?;
    whole(network.into())?;
    if let (Some(mapped), 96..) = (address.to_ipv4_mapped(), length)
        && let Ok(meant) = Ipv4Net::new(mapped, length - 96)
    {
        return Err(DestinationError::Mapped { found: network, meant });
    }
    Ok((network, ports))
}

/// Splits a text at the colon before its ports; the rest is empty if there are none.
fn before_ports(text: &str) -> (&str, &str) {
    text.split_at(text.find(':').unwrap_or(text.len()))
}

/// Fails if a text without brackets ends with a port, or may.
fn refuse_port(text: &str, protocol: &str) -> Result<(), DestinationError> {
    let Some((address, port)) = with_port(text) else { return Ok(()) };
    let given = format!("{text}{protocol}");
    let meant = format!("[{address}]:{port}{protocol}");
    Err(if text.parse::<Ipv6Addr>().is_ok() {
        let address = format!("[{text}]{protocol}");
        DestinationError::Ambiguous { text: given, port: meant, address }
    } else {
        DestinationError::Brackets { text: given, meant }
    })
}

/// Returns the address of IPv6 and the ports that a text without brackets may be.
fn with_port(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, port) = text.rsplit_once(':')?;
    port.parse::<PortRange>().ok()?;
    Some((address.parse().ok()?, port))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().to_string()
            }
            Place::Network(network) => network.to_string(),
            Place::Host => "host".to_owned(),
        };
        let is_v6 = matches!(self.place, Place::Network(IpNet::V6(_)));
        if is_v6 && (self.ports.is_some() || with_port(&place).is_some()) {
            write!(f, "[{place}]")?;
        } else {
            f.write_str(&place)?;
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
    use proptest::prelude::*;

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
            "2001:db8::1",
            "2001:db8::/32",
            "::/0",
            "fd00::443",
            "2001:db8::1/udp",
            "2001:db8::/32/tcp",
            "[2001:db8::1]:443",
            "[2001:db8::1]:443/tcp",
            "[2001:db8::/32]:443-445/tcp",
            "[::/0]:53",
            "[2001:db8::1:443]",
            "[2001:db8::1:443]/udp",
            "2001:db8:1:2:3:4:5:443",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for (text, meant) in [
            ("[2001:db8::]/32:443/tcp", "[2001:db8::/32]:443/tcp"),
            ("2001:db8::/32:443", "[2001:db8::/32]:443"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("[2001:db8::1/128]/TCP", "2001:db8::1/tcp"),
            ("2001:db8::1:443/128", "[2001:db8::1:443]"),
            ("2001:db8::1:0", "2001:db8::1:0"),
            ("[::]/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), meant, "{text}");
        }
        assert_eq!("host:80/TCP".parse::<Destination>().unwrap().to_string(), "host:80/tcp");
        assert_eq!("192.0.2.7/32".parse::<Destination>().unwrap().to_string(), "192.0.2.7");
    }

    #[test]
    fn what_is_no_destination_is_named() {
        let refused = |text: &str| text.parse::<Destination>().unwrap_err().to_string();
        let form = "is not a destination such as 10.0.5.0/24, 192.0.2.7:443, 10.0.5.0/24:5000-5010/tcp, 2001:db8::/32, [2001:db8::1]:443 or host:9000/tcp";
        for text in [
            "",
            "10.0.5",
            "10.0.5.0/33",
            ":80",
            "10.0.5.0/24/8",
            "1.2.3.4/",
            "1.2.3.4/-1",
            "2001:db8::/129",
            "2001:db8::/+32",
            "2001:db8::/",
            "[2001:db8::",
            "[2001:db8::1]443",
            "[2001:db8::1]/",
            "[2001:db8::/32]/32",
            "[10.0.5.1]:80",
            "x[2001:db8::1]:80",
            "[]:80",
            "2001:db8:::",
            "2001:db8::g:1",
            "1:2:3:4:5:6:7:8:9:80",
        ] {
            assert_eq!(refused(text), format!("{text:?} {form}"));
        }
        let name = "is a name, which only `allow` of a definition takes: here, write addresses, networks or \"host\"";
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
            "is a function; destinations are names, addresses, networks and \"host\" as yet";
        assert_eq!(refused("function:db:80"), format!("\"function:db:80\" {function}"));
        let ports = "\"80:90\" is neither a port such as 8080 nor a range such as 8000-8010";
        assert_eq!(refused("1.2.3.4:80:90"), ports);
        assert_eq!(
            refused("10.0.5.1/24"),
            "10.0.5.1/24 has bits beyond its prefix: write 10.0.5.0/24, or an address without a prefix"
        );
        assert_eq!(refused("10.0.5.0/24/icmp"), "unknown protocol \"icmp\"; tcp and udp are known");
        assert_eq!(refused("host:0"), "port 0 is out of range; ports are 1 to 65535");
    }

    #[test]
    fn ports_after_an_address_of_ipv6_need_brackets() {
        let refused = |text: &str| text.parse::<Destination>().unwrap_err().to_string();
        for (text, port, address) in [
            ("2001:db8::1:443", "[2001:db8::1]:443", "[2001:db8::1:443]"),
            ("::1:80/tcp", "[::1]:80/tcp", "[::1:80]/tcp"),
        ] {
            let words = "may be an address, or an address and a port";
            let meant = format!("write {port} for the port, or {address} for the address");
            assert_eq!(refused(text), format!("{text:?} {words}: {meant}"));
        }
        for (text, meant) in [
            ("2001:db8::1:8000-8010/udp", "[2001:db8::1]:8000-8010/udp"),
            ("2001:db8::1:65000", "[2001:db8::1]:65000"),
            ("1:2:3:4:5:6:7:8:443", "[1:2:3:4:5:6:7:8]:443"),
        ] {
            let words = "has ports after an IPv6 address: write";
            assert_eq!(refused(text), format!("{text:?} {words} {meant}"));
        }
        assert_eq!(
            refused("fe80::1%eth0"),
            "\"fe80::1%eth0\" names an interface: nothing is forwarded to addresses of a link, so write none"
        );
        assert_eq!(
            refused("[::ffff:10.0.5.0/120]:80"),
            "::ffff:10.0.5.0/120 is written as IPv6 and means IPv4: write 10.0.5.0/24"
        );
        assert_eq!(
            refused("2001:db8::1/32"),
            "2001:db8::1/32 has bits beyond its prefix: write 2001:db8::/32, or an address without a prefix"
        );
        assert_eq!(refused("[2001:db8::1]:0"), "port 0 is out of range; ports are 1 to 65535");
    }

    proptest! {
        #[test]
        fn every_destination_of_ipv6_reads_back(
            address: u128, sparse: u128, length in 0_u8..=128, port in 0_u16..3, protocol in 0_usize..3,
        ) {
            let network = Ipv6Net::new((address & sparse & sparse.rotate_left(7)).into(), length);
            let network = network.unwrap().trunc();
            prop_assume!(network.addr().to_ipv4_mapped().is_none());
            let ports = PortRange::single(port);
            let protocol = Destination::WITH_PORTS.get(protocol).copied();
            let meant = Destination { place: Place::Network(network.into()), protocol, ports };
            prop_assert_eq!(meant.to_string().parse(), Ok(meant));
        }
    }
}
