//! Sockets by `/proc/net` of the calling thread's namespace (`proc_pid_net(5)`), for protocols without `sock_diag(7)`.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use super::{CLOSE, LISTEN, Socket};
use crate::Refusal;
use riklet_core::model::Protocol;

/// A table of `/proc/net`.
struct Table {
    name: &'static str,
    protocol: Protocol,
    /// The state of listening sockets.
    state: u8,
    /// True if listening sockets come first, so that reading can stop at the first of another state (`tcp_get_idx` in
    /// `net/ipv4/tcp_ipv4.c`): a busy host has many connections and few listeners.
    first: bool,
    row: fn(&str) -> Option<(u8, Socket)>,
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

/// Returns all sockets of the protocol that accept something.
pub(super) fn sockets(protocol: Protocol) -> Result<Vec<Socket>, Refusal> {
    let mut found = Vec::new();
    for table in TABLES.iter().filter(|table| table.protocol == protocol) {
        let path = Path::new("/proc/thread-self/net").join(table.name);
        match read(&path, table) {
            // The host has no IPv6, or no SCTP.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => found.extend(other?),
        }
    }
    Ok(found)
}

fn read(path: &Path, table: &Table) -> io::Result<Vec<Socket>> {
    let mut rows = Vec::new();
    for line in BufReader::new(fs::File::open(path)?).lines().skip(1) {
        let Some((state, socket)) = (table.row)(&line?) else { continue };
        if state == table.state {
            rows.push(socket);
        } else if table.first {
            break;
        }
    }
    Ok(rows)
}

/// Reads a row `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode …`.
fn row(line: &str) -> Option<(u8, Socket)> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((state, Socket { addresses: vec![hex_address(address)?], v6_only: false, port, inode }))
}

/// Reads a row `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS` (net/sctp/proc.c).
fn endpoint(line: &str) -> Option<(u8, Socket)> {
    let mut words = line.split_ascii_whitespace();
    let state = words.nth(3)?.parse().ok()?;
    let port = words.nth(1)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    let addresses = words.filter_map(|word| word.parse().ok()).collect();
    Some((state, Socket { addresses, v6_only: false, port, inode }))
}

/// Reads one or four words of 32 bits, each printed as a number although it is in network byte order.
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

/// Reads lines of `/proc/net`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    for line in text.lines() {
        let _sockets = (row(line), endpoint(line));
    }
}

#[cfg(test)]
mod tests {
    use riklet_core::model::Family;

    use super::*;

    #[test]
    fn sctp_endpoints_are_read() {
        let line = "ffff8880 ffff8881 2   10  29   9899      0 31337 192.0.2.1 \
                    0000:0000:0000:0000:0000:0000:0000:0000 ";
        let addresses = vec!["192.0.2.1".parse().unwrap(), Ipv6Addr::UNSPECIFIED.into()];
        let expected = Socket { addresses, v6_only: false, port: 9899, inode: 31337 };
        let (state, socket) = endpoint(line).unwrap();
        assert_eq!((state, &socket), (LISTEN, &expected));
        let taken: Vec<_> = expected.taken(Family::V4).collect();
        assert_eq!(taken, [Some([192, 0, 2, 1].into()), None]);
    }
}
