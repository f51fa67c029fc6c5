//! Leases: what a guest is told when it asks for its configuration. Pure.
//!
//! A guest has one lease, which its slot determines. It is the same at every request, so nothing has to be remembered
//! about any guest, and a daemon that has just started answers as the one before it.
//!
//! | file | what |
//! | --- | --- |
//! | `filter` | which frames of all that the host receives are questions of guests |
//! | `allowance` | how many questions of a guest are answered |
//! | `frame` | from a frame to a question, and from an answer to a frame |
//! | `dhcp_v4` | the answers to questions of DHCP for IPv4 |

mod allowance;
mod dhcp_v4;
pub mod filter;
mod frame;
#[cfg(test)]
mod tests;

pub use allowance::{Allowance, Verdict};

use std::net::IpAddr;

use crate::address::{Addresses, MacAddress};

/// Everything that a guest is told about its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The MAC address of the guest. Nobody else is answered.
    pub mac: MacAddress,
    /// The addresses of the guest, and those of the host, which are its gateways.
    pub addresses: Addresses,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The name of the guest: one label (RFC 1123, section 2.1).
    pub host_name: String,
    /// The servers that the guest asks for names.
    pub resolvers: Vec<IpAddr>,
}

/// Returns the frame that answers this frame of a guest; `None` if it asks for nothing, is malformed, or comes from another
/// MAC address than the lease's. The work is bounded by the length of the frame.
#[must_use]
pub fn answer(frame: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    let question = frame::Datagram::read(frame).filter(|datagram| datagram.source == lease.mac)?;
    let answer = dhcp_v4::answer(question.payload, lease)?;
    Some(frame::to_guest(lease, answer.destination, &answer.payload))
}
