//! The name servers of the host: resolv.conf(5).

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
};

use crate::{KernelError, Refusal};

/// The file that the C library reads. With systemd-resolved, it names only the stub at 127.0.0.53.
const LIBRARY: &str = "/etc/resolv.conf";
/// The servers that systemd-resolved itself asks (systemd-resolved.service(8)).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Returns the host's name servers that its guests can reach as well.
pub(super) fn resolvers() -> Result<Vec<IpAddr>, KernelError> {
    let servers = servers(&read(LIBRARY)?);
    if servers.is_empty() { read(RESOLVED).map(|text| self::servers(&text)) } else { Ok(servers) }
}

/// Returns the name servers that the host itself asks, in the order of its resolv.conf(5), also if it is one of them. If the
/// file is missing or names none, the C library asks the host itself.
///
/// # Errors
/// Fails if the file cannot be read.
pub fn own_resolvers() -> Result<Vec<IpAddr>, KernelError> {
    Ok(own(&read(LIBRARY)?))
}

fn own(text: &str) -> Vec<IpAddr> {
    let servers = named(text);
    if servers.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { servers }
}

/// Reads a file; a missing file counts as empty.
#[expect(clippy::disallowed_methods, reason = "the kernel's view of the host")]
fn read(path: &'static str) -> Result<String, KernelError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| KernelError::Resolvers { path, source: Refusal::from(error) }),
    }
}

/// Returns the IPv4 servers of a resolv.conf(5), in its order, each once. A loopback address is the host itself, and so
/// is 0.0.0.0: in a guest, either would be the guest.
fn servers(text: &str) -> Vec<IpAddr> {
    let mut servers = named(text);
    servers.retain(|server| server.is_ipv4() && !server.is_loopback() && !server.is_unspecified());
    servers
}

/// Returns the servers of a resolv.conf(5), in its order, each once. Those with a scope are left out.
fn named(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        // The keyword starts the line and is followed by white space; text after the address is ignored.
        let Some(rest) = line.strip_prefix("nameserver") else { continue };
        let word = rest.split_ascii_whitespace().next().filter(|_| rest.starts_with([' ', '\t']));
        if let Some(Ok(server)) = word.map(str::parse::<IpAddr>)
            && !found.contains(&server)
        {
            found.push(server);
        }
    }
    found
}

/// Reads a resolv.conf(5).
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    assert!(servers(text).iter().all(|server| !server.is_loopback()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        servers(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_servers_that_a_guest_can_reach_are_returned() {
        let text = "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch example.net\n\
            nameserver 192.0.2.53\nnameserver\t198.51.100.53 # second\nnameserver 192.0.2.53\n\
            nameserver 127.0.0.53\nnameserver 0.0.0.0\nnameserver 2001:db8::53\n\
            nameserver fe80::1%eth0\nnameservers 192.0.2.3\nnameserver192.0.2.4\n \
            nameserver 192.0.2.5\nnameserver\nnameserver resolver.example.net\noptions ndots:2\n\
            nameserver 203.0.113.53";
        assert_eq!(found(text), ["192.0.2.53", "198.51.100.53", "203.0.113.53"]);
        assert_eq!(found("nameserver 192.0.2.53\r\n"), ["192.0.2.53"]);
    }

    #[test]
    fn a_stub_resolver_is_not_returned() {
        assert_eq!(found("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n"), [""; 0]);
        assert_eq!(found(""), [""; 0]);
    }

    #[test]
    fn the_host_itself_is_asked_if_no_server_is_named() {
        let own = |text: &str| own(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(own("search .\n"), ["127.0.0.1"]);
        assert_eq!(
            own("nameserver 127.0.0.53\nnameserver 192.0.2.1\n"),
            ["127.0.0.53", "192.0.2.1"]
        );
    }
}
