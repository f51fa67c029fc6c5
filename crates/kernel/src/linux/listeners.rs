//! Local sockets that accept connections or datagrams, and the processes that have them.

mod diag;
mod proc;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use rustix::io::Errno;

use super::{netlink, opener};
use crate::{KernelError, Listener, ListeningPort, Refusal, procfs};
use riklet_core::model::{Family, PortRange, Protocol};

/// `TCP_LISTEN` and `TCP_CLOSE` (here: not connected) of `<net/tcp_states.h>`.
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;

/// A socket that accepts connections or datagrams to its addresses.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    addresses: Vec<IpAddr>,
    /// True if the socket accepts IPv6 only.
    v6_only: bool,
    port: u16,
    inode: u64,
}

/// Returns the sockets that clash with one of these as in bind(2): the same protocol and port, and the same
/// address or one of the two bound to all. A socket that is bound to all of IPv6 accepts IPv4 as well, unless it
/// is set not to (`IPV6_V6ONLY`, which `/proc/net` does not show). No address stands for all of IPv4.
///
/// `asking` is the socket that the kernel is asked by. It stays open.
pub(super) fn listeners(
    asking: &mut Option<netlink::Socket>,
    wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
) -> Result<Vec<Listener>, KernelError> {
    let mut found = BTreeSet::new();
    for protocol in Protocol::ALL {
        let wanted: Vec<_> = wanted.iter().filter(|(p, ..)| *p == protocol).collect();
        if wanted.is_empty() {
            continue;
        }
        let ports: BTreeSet<PortRange> = wanted.iter().map(|(.., ports)| *ports).collect();
        let mut sockets = sockets(asking, protocol, &ports)
            .map_err(|source| KernelError::Listeners { source })?;
        sockets.sort_by_key(|socket| socket.port);
        for &&(_, wanted, ports) in &wanted {
            let family = wanted.map_or(Family::V4, Family::of);
            let begin = sockets.partition_point(|socket| socket.port < ports.first());
            let within = sockets.iter().skip(begin).take_while(|s| s.port <= ports.last());
            for socket in within {
                let taken = socket.taken(family);
                let clash = taken.filter(|a| wanted.is_none() || a.is_none() || wanted == *a);
                found.extend(clash.map(|address| (protocol, address, socket.port, socket.inode)));
            }
        }
    }
    let processes = processes(found.iter().map(|(.., inode)| *inode).collect());
    let listeners = found.into_iter().map(|(protocol, address, port, inode)| Listener {
        protocol,
        address,
        port,
        process: processes.get(&inode).cloned(),
    });
    // A process that is bound to all of IPv4 and to all of IPv6 is listed once.
    Ok(listeners.collect::<BTreeSet<_>>().into_iter().collect())
}

/// Returns the ports on which sockets accept IPv4.
pub(super) fn ports(
    asking: &mut Option<netlink::Socket>,
) -> Result<BTreeSet<ListeningPort>, KernelError> {
    let mut found = BTreeSet::new();
    for protocol in Protocol::ALL {
        let sockets = sockets(asking, protocol, &BTreeSet::new());
        for socket in sockets.map_err(|source| KernelError::Listeners { source })? {
            let taken = socket.taken(Family::V4);
            found.extend(taken.map(|address| (protocol, address, socket.port)));
        }
    }
    Ok(found)
}

/// Returns the sockets of a protocol, at least those at one of these ports.
///
/// `sock_diag(7)` returns listening sockets only. `/proc/net/tcp` would walk the whole table of connections:
/// 1.6 ms a read if the table has half a million buckets, however few are used.
fn sockets(
    asking: &mut Option<netlink::Socket>,
    protocol: Protocol,
    ports: &BTreeSet<PortRange>,
) -> Result<Vec<Socket>, Refusal> {
    /// The errors of a kernel that has no `sock_diag(7)` for the protocol, or for any.
    const UNKNOWN: [Errno; 2] = [Errno::NOENT, Errno::OPNOTSUPP];
    let is_unknown = |refusal: &Refusal| {
        refusal.errno.is_some_and(|errno| UNKNOWN.iter().any(|e| e.raw_os_error() == errno))
    };
    match diag::sockets(asking, protocol, ports) {
        Err(refusal) if is_unknown(&refusal) => proc::sockets(protocol),
        other => other,
    }
}

impl Socket {
    /// Returns the addresses of a family that it accepts packets for; `None` stands for every address.
    fn taken(&self, family: Family) -> impl Iterator<Item = Option<IpAddr>> {
        self.addresses.iter().filter_map(move |address| match address.to_canonical() {
            IpAddr::V6(any) if any.is_unspecified() => {
                (family == Family::V6 || !self.v6_only).then_some(None)
            }
            address if Family::of(address) != family => None,
            any if any.is_unspecified() => Some(None),
            address => Some(Some(address)),
        })
    }
}

/// Returns the processes that have these sockets open, as `name (pid 123)` by inode: of a process and its ancestors that
/// have a socket open, the eldest. Looks through `/proc` only until all are found.
fn processes(mut inodes: BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for id in procfs::processes() {
        for inode in open_sockets(id).filter(|inode| inodes.remove(inode)) {
            let has = |id| open_sockets(id).any(|open| open == inode);
            found.insert(inode, opener::shown(opener::eldest(id, has)));
        }
        if inodes.is_empty() {
            break;
        }
    }
    found
}

/// Returns the inodes of the sockets that a process has open, as far as its descriptors can be listed.
fn open_sockets(id: u32) -> impl Iterator<Item = u64> {
    procfs::descriptors(id).filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// Reads a message of `sock_diag(7)`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_diag(message: &[u8]) {
    diag::fuzz(message);
}

/// Reads files of `/proc/net`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz_proc(text: &str) {
    proc::fuzz(text);
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt::set_ipv6_v6only};

    use super::*;
    use riklet_testkit::namespace::{ip, isolated, isolated_with_shared_descriptors as shared};

    fn find(protocol: Protocol, address: Option<&str>, port: u16) -> Vec<String> {
        let address = address.map(|a| a.parse().unwrap());
        let found = find_all(&BTreeSet::from([(protocol, address, one(port))]));
        let text = |listener: Listener| {
            assert_eq!((listener.protocol, listener.port), (protocol, port));
            listener.address.map_or("any".to_owned(), |a| a.to_string())
        };
        found.into_iter().map(text).collect()
    }

    fn find_all(wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>) -> Vec<Listener> {
        let mut asking = None;
        let found = listeners(&mut asking, wanted).unwrap();
        assert_eq!(listeners(&mut asking, wanted).unwrap(), found, "by the same socket");
        found
    }

    fn one(port: u16) -> PortRange {
        PortRange::single(port).unwrap()
    }

    #[test]
    fn a_range_clashes_by_each_of_its_ports() {
        isolated(|| {
            let _bound =
                [8000, 8005, 8010, 8011].map(|port| UdpSocket::bind(("0.0.0.0", port)).unwrap());
            let ports = "8000-8010".parse().unwrap();
            let found = find_all(&BTreeSet::from([(Protocol::Udp, None, ports)]));
            let found: Vec<_> = found.iter().map(|listener| listener.port).collect();
            assert_eq!(found, [8000, 8005, 8010]);
        });
    }

    #[test]
    fn listeners_clash_as_sockets_do() {
        isolated(|| {
            ip("addr add 192.0.2.1/24 dev lo");
            let bound = TcpListener::bind("127.0.0.1:8080").unwrap();
            assert_eq!(find(Protocol::Tcp, None, 8080), ["127.0.0.1"]);
            assert_eq!(find(Protocol::Tcp, Some("127.0.0.1"), 8080), ["127.0.0.1"]);
            assert_eq!(find(Protocol::Tcp, Some("192.0.2.1"), 8080), [""; 0]);
            assert_eq!(find(Protocol::Tcp, None, 8081), [""; 0]);
            assert_eq!(find(Protocol::Udp, None, 8080), [""; 0]);
            let second = TcpListener::bind("192.0.2.1:8080").unwrap();
            assert_eq!(find(Protocol::Tcp, None, 8080), ["127.0.0.1", "192.0.2.1"]);
            drop((bound, second));
            let any = TcpListener::bind("0.0.0.0:8080").unwrap();
            assert_eq!(find(Protocol::Tcp, Some("192.0.2.1"), 8080), ["any"]);
            drop(any);
            assert_eq!(find(Protocol::Tcp, None, 8080), [""; 0]);
        });
    }

    #[test]
    fn a_listener_names_its_process() {
        shared(|| {
            let first = UdpSocket::bind("0.0.0.0:5353").unwrap();
            let second = TcpListener::bind("[::]:5353").unwrap();
            let wanted = [Protocol::Udp, Protocol::Tcp].map(|protocol| (protocol, None, one(5353)));
            let found = find_all(&wanted.into());
            let id = std::process::id();
            let process = Some(opener::shown(id));
            let expected = [Protocol::Tcp, Protocol::Udp].map(|protocol| Listener {
                protocol,
                address: None,
                port: 5353,
                process: process.clone(),
            });
            assert_eq!(found, expected);
            drop((first, second));
        });
    }

    #[test]
    fn an_ipv6_socket_that_accepts_ipv4_clashes() {
        isolated(|| {
            let any = TcpListener::bind("[::]:80").unwrap();
            assert_eq!(find(Protocol::Tcp, Some("127.0.0.1"), 80), ["any"]);
            drop(any);
            let mapped = TcpListener::bind("[::ffff:127.0.0.1]:80").unwrap();
            assert_eq!(find(Protocol::Tcp, None, 80), ["127.0.0.1"]);
            drop(mapped);
            let _local = TcpListener::bind("[::1]:80").unwrap();
            assert_eq!(find(Protocol::Tcp, None, 80), [""; 0]);
            let _datagrams = UdpSocket::bind("[::]:80").unwrap();
            assert_eq!(find(Protocol::Udp, None, 80), ["any"]);
        });
    }

    #[test]
    fn an_ipv6_address_clashes_with_sockets_bound_to_it_or_to_all() {
        isolated(|| {
            let wanted = Some("::1");
            let _v4 = TcpListener::bind("0.0.0.0:80").unwrap();
            assert_eq!(find(Protocol::Tcp, wanted, 80), [""; 0]);
            let bound = TcpListener::bind("[::1]:80").unwrap();
            assert_eq!(find(Protocol::Tcp, wanted, 80), ["::1"]);
            assert_eq!(find(Protocol::Tcp, Some("2001:db8::1"), 80), [""; 0]);
            drop(bound);
            let only = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            set_ipv6_v6only(&only, true).unwrap();
            bind(&only, &"[::]:80".parse::<SocketAddr>().unwrap()).unwrap();
            listen(&only, 1).unwrap();
            assert_eq!(find(Protocol::Tcp, wanted, 80), ["any"]);
        });
    }

    #[test]
    fn connected_sockets_do_not_clash() {
        isolated(|| {
            let server = TcpListener::bind("127.0.0.1:9000").unwrap();
            let client = TcpStream::connect("127.0.0.1:9000").unwrap();
            assert_eq!(find(Protocol::Tcp, None, client.local_addr().unwrap().port()), [""; 0]);
            assert_eq!(find(Protocol::Tcp, None, 9000), ["127.0.0.1"]);
            drop(server);
            let server = UdpSocket::bind("127.0.0.1:9000").unwrap();
            let client = UdpSocket::bind("127.0.0.1:9001").unwrap();
            client.connect("127.0.0.1:9000").unwrap();
            assert_eq!(find(Protocol::Udp, None, 9000), ["127.0.0.1"]);
            assert_eq!(find(Protocol::Udp, None, 9001), [""; 0]);
            drop((server, client));
        });
    }

    #[test]
    fn an_ipv6_only_socket_does_not_clash() {
        isolated(|| {
            let only = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            set_ipv6_v6only(&only, true).unwrap();
            bind(&only, &"[::]:80".parse::<SocketAddr>().unwrap()).unwrap();
            listen(&only, 1).unwrap();
            assert_eq!(find(Protocol::Tcp, None, 80), [""; 0]);
        });
    }

    #[test]
    fn proc_agrees_with_sock_diag() {
        isolated(|| {
            let _sockets = (
                TcpListener::bind("127.0.0.1:80").unwrap(),
                TcpListener::bind("[::]:81").unwrap(),
                UdpSocket::bind("0.0.0.0:82").unwrap(),
            );
            for (protocol, ports) in [(Protocol::Tcp, [80, 81]), (Protocol::Udp, [82, 83])] {
                let ports = ports.map(one).into();
                let sort = |mut sockets: Vec<Socket>| {
                    sockets.sort_by_key(|socket| socket.port);
                    sockets
                };
                let told = sort(diag::sockets(&mut None, protocol, &ports).unwrap());
                assert!(!told.is_empty());
                assert_eq!(told, sort(proc::sockets(protocol).unwrap()));
            }
        });
    }
}
