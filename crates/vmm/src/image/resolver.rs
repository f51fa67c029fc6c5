//! Looks hosts up for the HTTP client, and keeps a server from redirecting it into networks that only this host reaches:
//! metadata services, databases, the host's own ports.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc,
};

use ureq::{
    Error, Proxy,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{NextTimeout, time::Duration},
    },
};

use super::{Settings, Url};
use riklet_kernel::threads;

/// A resolver that returns public addresses only, except for the host that a definition names, if it may. The client connects
/// to these addresses, and looks no name up itself: what a name server says later does not matter.
#[derive(Debug)]
pub(super) struct PublicOnly {
    /// True if every address is returned.
    all: bool,
    named: Option<Uri>,
    /// True if the host that the definition names must have public addresses as well.
    also_named: bool,
}

/// A host with an address that is not public.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host} has the address {address}, which is not public")]
pub(super) struct Internal {
    pub(super) host: String,
    pub(super) address: IpAddr,
    /// True if the definition names it.
    pub(super) named: bool,
}

impl Default for Internal {
    fn default() -> Self {
        Self { host: String::new(), address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), named: false }
    }
}

impl PublicOnly {
    /// Returns a resolver for the download of this URL.
    pub(super) fn new(settings: &Settings, url: &Url) -> Self {
        let named = url.as_str().parse().ok();
        Self { all: settings.private_redirects, named, also_named: settings.public_only }
    }

    /// Tells whether the definition names the host of this URL.
    fn is_named(&self, uri: &Uri) -> bool {
        self.named.as_ref().is_some_and(|named| same(uri, named))
    }
}

/// Tells whether two URLs have the same host and port.
fn same(one: &Uri, other: &Uri) -> bool {
    (one.host(), one.port_u16()) == (other.host(), other.port_u16())
}

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = look_up(uri, config, timeout)?;
        let is_proxy = config.proxy().map(Proxy::uri).is_some_and(|proxy| same(uri, proxy));
        let named = self.is_named(uri);
        if self.all || is_proxy || named && !self.also_named {
            return Ok(found);
        }
        // A name with both kinds of addresses is refused too: the client would try one after the other.
        let internal = found.iter().map(std::net::SocketAddr::ip).find(|ip| !is_public(*ip));
        internal.map_or(Ok(found), |address| {
            let host = uri.host().unwrap_or_default().to_owned();
            Err(Error::Other(Box::new(Internal { host, address, named })))
        })
    }
}

/// Looks a host up within the time limit, on a thread of its own.
fn look_up(uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
    let (limit, reason) = (*timeout.after, timeout.reason);
    let (sender, found) = mpsc::sync_channel(1);
    let (uri, config) = (uri.clone(), config.clone());
    // The client would start a thread of its own for a time limit, and panic if there is none.
    let unlimited = NextTimeout { after: Duration::NotHappening, ..timeout };
    threads::start("resolver", move || {
        let found = DefaultResolver::default().resolve(&uri, &config, unlimited);
        let _too_late = sender.send(found);
    })?;
    found.recv_timeout(limit).unwrap_or(Err(Error::Timeout(reason)))
}

/// Tells whether an address is one of the Internet's (the IANA registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let special = match first {
        0 | 10 | 127 | 224..=255 => true,
        100 => (64..128).contains(&second),
        169 => second == 254,
        172 => (16..32).contains(&second),
        192 => second == 168 || (second, third) == (0, 0),
        198 => second == 18 || second == 19,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [.., high, low] = segments;
    let last = || {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // An address of IPv4 in one of IPv6 (RFC 4291, 2.5.5.2), or behind NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => is_public_v4(last()),
        // Global unicast (RFC 4291, 2.5.4), without 6to4, whose addresses have one of IPv4 inside.
        [first, ..] => (0x2000..0x4000).contains(&first) && first != 0x2002,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in
            ["9.9.9.9", "100.63.0.1", "172.32.0.1", "192.0.2.1", "2620:fe::fe", "::ffff:9.9.9.9"]
        {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.53",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.9.9",
            "192.168.1.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
