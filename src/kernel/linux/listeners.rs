//! Local sockets that take connections or datagrams: `/proc/net` of the calling thread's namespace
//! (`proc_pid_net(5)`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::{
    kernel::{KernelError, Listener},
    model::Protocol,
};

/// `TCP_LISTEN` and `TCP_CLOSE` (here: not connected) of `<net/tcp_states.h>`.
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;

/// One table of `/proc/net`.
struct Table {
    name: &'static str,
    protocol: Protocol,
    /// The state of those that listen.
    state: u8,
    /// Whether these come first, so that reading can stop at the first other (`tcp_get_idx` in
    /// `net/ipv4/tcp_ipv4.c`): a busy host has many connections and few listeners.
    first: bool,
    row: fn(&str) -> Option<Row>,
}

const TABLES: [Table; 5] = [
    Table { name: "tcp", protocol: Protocol::Tcp, state: LISTEN, first: true, row },
    Table { name: "tcp6", protocol: Protocol::Tcp, state: LISTEN, first: true, row },
    Table { name: "udp", protocol: Protocol::Udp, state: CLOSE, first: false, row },
    Table { name: "udp6", protocol: Protocol::Udp, state: CLOSE, first: false, row },
    Table {
        name: "sctp/eps",
        protocol: Protocol::Sctp,
        state: LISTEN,
        first: false,
        row: endpoint,
    },
];

/// A socket.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    addresses: Vec<IpAddr>,
    port: u16,
    state: u8,
    inode: u64,
}

/// The sockets that clash with one of these as in bind(2): the same protocol and port, and the same address
/// or one of the two bound to all. One bound to all of IPv6 takes IPv4 as well, as far as can be told here
/// (`IPV6_V6ONLY` cannot be seen).
pub(super) fn listeners(
    wanted: &BTreeSet<(Protocol, Option<Ipv4Addr>, u16)>,
) -> Result<Vec<Listener>, KernelError> {
    let mut found = BTreeSet::new();
    for table in &TABLES {
        if !wanted.iter().any(|(protocol, ..)| *protocol == table.protocol) {
            continue;
        }
        let path = Path::new("/proc/thread-self/net").join(table.name);
        let rows = match read(&path, table) {
            // The host has no IPv6, or no SCTP.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| KernelError::Listeners { source: error.into() })?,
        };
        for (row, address) in rows.iter().flat_map(|row| row.ipv4().map(move |a| (row, a))) {
            let clash = |&(protocol, wanted, port): &(Protocol, Option<Ipv4Addr>, u16)| {
                (protocol, port) == (table.protocol, row.port)
                    && (wanted.is_none() || address.is_none() || wanted == address)
            };
            if wanted.iter().any(clash) {
                found.insert((table.protocol, address, row.port, row.inode));
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
    // A process that is bound to all of IPv4 and to all of IPv6 is one.
    Ok(listeners.collect::<BTreeSet<_>>().into_iter().collect())
}

impl Row {
    /// The IPv4 addresses that it takes packets for; `None` is every one.
    fn ipv4(&self) -> impl Iterator<Item = Option<Ipv4Addr>> {
        self.addresses.iter().filter_map(|address| match address.to_canonical() {
            any if any.is_unspecified() => Some(None),
            IpAddr::V4(address) => Some(Some(address)),
            IpAddr::V6(_) => None,
        })
    }
}

fn read(path: &Path, table: &Table) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in BufReader::new(fs::File::open(path)?).lines().skip(1) {
        let Some(row) = (table.row)(&line?) else { continue };
        if row.state == table.state {
            rows.push(row);
        } else if table.first {
            break;
        }
    }
    Ok(rows)
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode …`
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Row { addresses: vec![hex_address(address)?], port, state, inode })
}

/// `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS` (net/sctp/proc.c).
fn endpoint(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace();
    let state = words.nth(3)?.parse().ok()?;
    let port = words.nth(1)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Row {
        addresses: words.filter_map(|word| word.parse().ok()).collect(),
        port,
        state,
        inode,
    })
}

/// One or four words of 32 bits, each printed as a number although it is in network byte order.
fn hex_address(digits: &str) -> Option<IpAddr> {
    let words: Option<Vec<_>> = digits
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect();
    let octets: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(octets.as_slice()).map(|o| Ipv6Addr::from(o).into());
    v4.or_else(|_not_v4| v6()).ok()
}

/// Who has these sockets open: `name (pid 123)` by inode. Looks through `/proc` only until all are found.
fn processes(mut inodes: BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let ids =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        });
    for id in ids {
        if inodes.is_empty() {
            break;
        }
        // A process may go, and its descriptors may be hidden from us, at any moment.
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|target| {
                target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
            });
            if let Some(inode) = inode.filter(|inode| inodes.remove(inode)) {
                let name = command(id).unwrap_or_else(|| "unknown".to_owned());
                found.insert(inode, format!("{name} (pid {id})"));
            }
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "the name of a process is a file")]
fn command(id: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::kernel::linux::namespace::{
        ip, isolated, isolated_with_shared_descriptors as shared,
    };

    fn find(protocol: Protocol, address: Option<&str>, port: u16) -> Vec<String> {
        let address = address.map(|a| a.parse().unwrap());
        let found = listeners(&BTreeSet::from([(protocol, address, port)])).unwrap();
        let text = |listener: Listener| {
            assert_eq!((listener.protocol, listener.port), (protocol, port));
            listener.address.map_or("any".to_owned(), |a| a.to_string())
        };
        found.into_iter().map(text).collect()
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
    fn the_process_is_named() {
        shared(|| {
            let first = UdpSocket::bind("0.0.0.0:5353").unwrap();
            let second = TcpListener::bind("[::]:5353").unwrap();
            let wanted = [Protocol::Udp, Protocol::Tcp].map(|protocol| (protocol, None, 5353));
            let found = listeners(&wanted.into()).unwrap();
            let id = std::process::id();
            let name = command(id).unwrap();
            let process = Some(format!("{name} (pid {id})"));
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
    fn ipv6_sockets_count_where_they_take_ipv4() {
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
    fn clients_are_no_listeners() {
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
    fn sctp_endpoints_are_read() {
        let line = "ffff8880 ffff8881 2   10  29   9899      0 31337 192.0.2.1 \
                    0000:0000:0000:0000:0000:0000:0000:0000 ";
        let addresses = vec!["192.0.2.1".parse().unwrap(), Ipv6Addr::UNSPECIFIED.into()];
        let expected = Row { addresses, port: 9899, state: LISTEN, inode: 31337 };
        assert_eq!(endpoint(line).as_ref(), Some(&expected));
        let taken: Vec<_> = expected.ipv4().collect();
        assert_eq!(taken, [Some(Ipv4Addr::new(192, 0, 2, 1)), None]);
    }
}
