//! Sockets by `sock_diag(7)`: the kernel looks through them, and returns those that were asked for.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_DUMP, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{CLOSE, LISTEN, Socket};
use crate::{
    Refusal,
    linux::{
        netlink::{self, HEADER, attributes, read_u16, read_u32},
        opened,
    },
};
use riklet_core::model::{PortRange, Protocol};

/// `SOCK_DIAG_BY_FAMILY` of `<linux/sock_diag.h>`.
const BY_FAMILY: u16 = 20;
/// `TCPDIAG_GETSOCK` of `<linux/inet_diag.h>`: the TCP sockets of both families. It is the older of the two requests, and
/// the kernel looks through its table of listening sockets once for it instead of twice.
const TCP: u16 = 18;
/// `AF_INET` and `AF_INET6` of `<linux/socket.h>`.
const INET: u8 = 2;
const INET6: u8 = 10;
/// `sizeof(struct inet_diag_msg)`, and where it has the port, the address and the inode.
const ANSWER: usize = 72;
const PORT: usize = 4;
const ADDRESS: usize = 8;
const INODE: usize = 68;
/// `INET_DIAG_SKV6ONLY`.
const V6_ONLY: u16 = 11;

/// A request for a list of sockets.
#[derive(Debug, Clone)]
struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// Returns the requests for all sockets of a protocol that accept something at this port; 0 stands for every port.
    fn all(protocol: Protocol, port: u16) -> Option<Vec<Self>> {
        match protocol {
            Protocol::Tcp => Some(vec![Self::tcp(port)]),
            Protocol::Udp => Some([INET, INET6].map(|family| Self::udp(family, port)).to_vec()),
            // `/proc/net/sctp/eps` has endpoints only, and is short.
            Protocol::Sctp => None,
        }
    }

    /// `struct inet_diag_req`.
    fn tcp(port: u16) -> Self {
        const PROCESSES: u32 = 0;
        let mut body = vec![0; 4];
        body.extend(socket_id(port));
        body.extend((1_u32 << LISTEN).to_ne_bytes());
        body.extend(PROCESSES.to_ne_bytes());
        Self { kind: TCP, body }
    }

    /// `struct inet_diag_req_v2`. A socket of UDP that is not connected counts as closed.
    fn udp(family: u8, port: u16) -> Self {
        let mut body = vec![family, Protocol::Udp.number(), 0, 0];
        body.extend((1_u32 << CLOSE).to_ne_bytes());
        body.extend(socket_id(port));
        Self { kind: BY_FAMILY, body }
    }
}

/// `struct inet_diag_sockid` with a source port only.
fn socket_id(port: u16) -> impl Iterator<Item = u8> {
    const LENGTH: usize = 48;
    port.to_be_bytes().into_iter().chain([0; LENGTH - 2])
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// Returns the sockets of the protocol that accept something; if there is only one port, those at that port. Opens the
/// socket to ask by, unless it is open.
pub(super) fn sockets(
    asking: &mut Option<netlink::Socket>,
    protocol: Protocol,
    ports: &BTreeSet<PortRange>,
) -> Result<Vec<Socket>, Refusal> {
    let only = ports.first().filter(|ports| ports.is_single()).filter(|_| ports.len() == 1);
    let port = only.map_or(0, |port| port.first());
    let requests = Request::all(protocol, port).ok_or_else(|| Refusal::errno(Refusal::ENOENT))?;
    let asking = opened(asking, || netlink::Socket::open(NETLINK_SOCK_DIAG))?;
    let mut found = Vec::new();
    for request in requests {
        found.extend(asking.query_as(&request, NLM_F_DUMP, read)?);
    }
    Ok(found)
}

/// Reads a socket (`struct inet_diag_msg`).
fn read(message: &[u8]) -> Option<Socket> {
    let body = message.get(HEADER..)?;
    let address = body.get(ADDRESS..)?;
    let address: IpAddr = match *body.first()? {
        INET => <[u8; 4]>::try_from(address.get(..4)?).ok()?.into(),
        INET6 => <[u8; 16]>::try_from(address.get(..16)?).ok()?.into(),
        _ => return None,
    };
    let attributes = body.get(ANSWER..)?;
    let mut attributes = self::attributes(attributes);
    Some(Socket {
        addresses: vec![address],
        v6_only: attributes.any(|(kind, value)| kind == V6_ONLY && value.first() == Some(&1)),
        port: u16::from_be(read_u16(body, PORT)?),
        inode: read_u32(body, INODE)?.into(),
    })
}

/// Reads a message as a socket.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    let _socket = read(message);
}
