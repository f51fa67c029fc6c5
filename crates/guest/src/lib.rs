//! A guest without a hypervisor: a TCP/IP host (smoltcp) at the other end of a TAP, in a process of its own. It shows
//! whether a function's network works.
//!
//! It answers pings, serves HTTP on the TCP ports, and sends datagrams back on the UDP ports. It does not serve SCTP,
//! which smoltcp lacks. The paths are:
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | who answers, and to whom: `{"function":"hello","address":"10.231.0.2","gateway":"10.231.0.1","port":3000,"client":"192.168.7.2:41234"}` |
//! | `GET /connect/IP:PORT` | the guest connects to there and sends `GET / HTTP/1.0`: `{"connected":true,"body":"…","local":"10.231.0.2:49152"}`, or 502 (refused) or 504 (timeout, 3 s): `{"connected":false,"reason":"refused"}` |
//! | `GET /udp/IP:PORT/TEXT` | the guest sends a datagram to there: `{"answered":true,"body":"…"}`, or 504 after 3 s: `{"answered":false,"reason":"timeout"}` |
//! | `POST /echo` | the body, of at most 1 MiB |
//!
//! Each connection has one request. A refusal is `{"error":"…"}`.

mod connection;
mod device;
mod frame;
mod http;
mod outbound_probe;
mod route;
mod server;
mod stack;
#[cfg(test)]
#[cfg(privileged)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
};

use ipnet::Ipv4Net;
use rustix::io::Errno;
use serde::Deserialize;

use riklet_core::model::{InstanceName, InterfaceName, MacAddress, Protocol};

/// The configuration of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The name of the instance that it stands in for.
    pub name: InstanceName,
    /// The name of the TAP, for messages. The caller decides which TAP is attached.
    pub interface: InterfaceName,
    /// Its own address, and the length of the prefix.
    pub address: Ipv4Net,
    /// The host's address on the TAP.
    pub gateway: Ipv4Addr,
    /// Its own MAC address.
    pub mac: MacAddress,
    /// The MTU in bytes, as Linux counts it: without the Ethernet header.
    pub mtu: u32,
    /// The ports to serve: HTTP on TCP, an echo on UDP. SCTP ports are ignored.
    pub ports: BTreeSet<(Protocol, u16)>,
}

/// The reason why a guest cannot run, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The TAP cannot be used, or has been deleted (`EBADFD`).
    #[error("cannot read from {interface}")]
    Tap {
        /// The TAP.
        interface: InterfaceName,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// Waiting for events failed.
    #[error("cannot wait for frames")]
    Poll {
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The stack has no room for a default route.
    #[error("cannot route by {gateway}")]
    Gateway {
        /// The host's address.
        gateway: Ipv4Addr,
    },
    /// The argument is not one that [`Guest::to_argument`] wrote.
    #[error("the guest's description cannot be read")]
    Argument {
        /// The place and the reason.
        #[source]
        source: serde_json::Error,
    },
    /// The description has an impossible value.
    #[error("the guest's description has no valid {field}")]
    Value {
        /// The name of the field.
        field: &'static str,
    },
}

impl GuestError {
    fn tap(guest: &Guest, errno: Errno) -> Self {
        Self::Tap { interface: guest.interface.clone(), source: errno.into() }
    }
}

/// Runs the guest on a TAP until `stop` is readable or its other end is closed (a pipe or an eventfd).
///
/// The TAP must have been attached with `IFF_VNET_HDR` and a header of 10 bytes (`TUNSETVNETHDRSZ`, which a
/// persistent TAP keeps from its last owner). It is closed at the end.
///
/// # Errors
/// Fails if the TAP cannot be used, or is deleted.
pub fn serve(guest: &Guest, tap: OwnedFd, stop: BorrowedFd<'_>) -> Result<(), GuestError> {
    let mtu = usize::try_from(guest.mtu).map_err(|_overflow| GuestError::Value { field: "mtu" })?;
    let tap = device::Tap::new(tap, mtu).map_err(|errno| GuestError::tap(guest, errno))?;
    server::Server::new(guest, tap)?.run(stop)
}

/// A guest as JSON.
#[derive(Deserialize)]
struct Description {
    name: String,
    interface: String,
    address: Ipv4Net,
    gateway: Ipv4Addr,
    mac: [u8; 6],
    mtu: u32,
    ports: Vec<(String, u16)>,
}

impl Guest {
    /// Returns the guest as one argument of a command line, for the process that shall run it.
    #[must_use]
    pub fn to_argument(&self) -> String {
        let ports: Vec<_> =
            self.ports.iter().map(|(protocol, port)| (protocol.as_str(), port)).collect();
        serde_json::json!({
            "name": self.name.as_str(),
            "interface": self.interface.as_str(),
            "address": self.address,
            "gateway": self.gateway,
            "mac": self.mac.octets(),
            "mtu": self.mtu,
            "ports": ports,
        })
        .to_string()
    }

    /// Parses an argument that [`Self::to_argument`] wrote.
    ///
    /// # Errors
    /// Fails if the argument is not valid.
    pub fn from_argument(argument: &str) -> Result<Self, GuestError> {
        let description: Description =
            serde_json::from_str(argument).map_err(|source| GuestError::Argument { source })?;
        let value = |field| move || GuestError::Value { field };
        let port = |(protocol, port): (String, u16)| {
            Some((Protocol::from_name(&protocol)?, port)).filter(|_| port != 0)
        };
        let ports: Option<_> = description.ports.into_iter().map(port).collect();
        Ok(Self {
            name: description.name.parse().ok().ok_or_else(value("name"))?,
            interface: description.interface.parse().ok().ok_or_else(value("interface"))?,
            address: description.address,
            gateway: description.gateway,
            mac: MacAddress::new(description.mac),
            mtu: description.mtu,
            ports: ports.ok_or_else(value("ports"))?,
        })
    }
}
