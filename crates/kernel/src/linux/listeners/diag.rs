//! Sockets by `sock_diag(7)`: the kernel looks through them, and returns those that were asked for.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::Socket;
use crate::{Refusal, linux::netlink};
use riklet_core::model::{PortRange, Protocol};

/// Returns the sockets of the protocol that accept something; if there is only one port, those at that port.
pub(super) fn sockets(
    protocol: Protocol,
    ports: &BTreeSet<PortRange>,
) -> Result<Vec<Socket>, Refusal> {
    let states = match protocol {
        Protocol::Tcp => StateFlags::LISTEN,
        // The socket is not connected.
        Protocol::Udp => StateFlags::CLOSE,
        // `/proc/net/sctp/eps` has endpoints only, and is short.
        Protocol::Sctp => return Err(Refusal::errno(Refusal::ENOENT)),
    };
    let only = ports.first().filter(|ports| ports.is_single()).filter(|_| ports.len() == 1);
    let port = only.map_or(0, |port| port.first());
    let mut socket = netlink::Socket::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states: states.clone(),
            socket_id: SocketId { source_port: port, ..id },
        });
        for answer in socket.query(&request, NLM_F_DUMP)? {
            if let SockDiagMessage::InetResponse(response) = answer {
                found.push(of(&response));
            }
        }
    }
    Ok(found)
}

fn of(response: &InetResponse) -> Socket {
    let id = &response.header.socket_id;
    let addresses: Vec<IpAddr> = vec![id.source_address];
    let v6_only = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
    Socket { addresses, v6_only, port: id.source_port, inode: response.header.inode.into() }
}

/// Reads a message as a socket.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    if let Some(SockDiagMessage::InetResponse(response)) = netlink::decode(message) {
        let _socket = of(&response);
    }
}
