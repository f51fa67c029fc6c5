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
//! | `dhcp_v4`, `dhcp_v6` | the answers to questions of DHCP |
//! | `router` | router advertisements |

mod allowance;
mod dhcp_v4;
mod dhcp_v6;
pub mod filter;
mod frame;
mod router;
#[cfg(test)]
mod tests;

pub use allowance::{Allowance, Verdict};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::frame::{Content, Question};
use crate::address::{Addresses, MacAddress};

/// The time that a lease lasts, in seconds: a day. A guest asks for it again after half of it, by then the daemon may have been
/// away for as long. Of 10,000 guests, one asks every four seconds.
const DURATION: u32 = 24 * 60 * 60;
/// The times after which a guest asks its server, and anybody, to have the lease extended, in seconds (RFC 2131, section 4.4.5).
const RENEWAL: u32 = DURATION / 2;
const REBINDING: u32 = DURATION / 8 * 7;

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
    /// True if the host has a way to the Internet by IPv6.
    pub routed_v6: bool,
}

impl Lease {
    fn resolvers_v4(&self) -> Vec<Ipv4Addr> {
        let of_v4 = |resolver: &IpAddr| match *resolver {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        self.resolvers.iter().filter_map(of_v4).collect()
    }

    fn resolvers_v6(&self) -> Vec<Ipv6Addr> {
        let of_v6 = |resolver: &IpAddr| match *resolver {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        };
        self.resolvers.iter().filter_map(of_v6).collect()
    }
}

/// Returns the frame that answers this frame of a guest; `None` if it asks for nothing, is malformed, or comes from another
/// MAC address than the lease's. The work is bounded by the length of the frame.
#[must_use]
pub fn answer(frame: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    let question = Question::read(frame).filter(|question| question.source == lease.mac)?;
    let guest = lease.addresses.v6.map(|ends| ends.guest);
    match question.content {
        Content::DhcpV4(message) => {
            let answer = dhcp_v4::answer(message, lease)?;
            Some(frame::dhcp_v4(lease, answer.destination, &answer.payload))
        }
        Content::DhcpV6(source, message) if is_of_link(source) => {
            let answer = dhcp_v6::answer(message, guest?, lease)?;
            Some(frame::dhcp_v6(lease, source, &answer))
        }
        Content::IcmpV6(source, message) if router::is_solicitation(message) => {
            let known = is_of_link(source).then_some(source);
            guest.and_then(|_| advertised(lease, known.unwrap_or(router::ALL_HOSTS)))
        }
        Content::DhcpV6(..) | Content::IcmpV6(..) => None,
    }
}

/// Returns the frame that tells the guest of its router without having been asked; `None` if the guest has no IPv6.
#[must_use]
pub fn announcement(lease: &Lease) -> Option<Vec<u8>> {
    advertised(lease, router::ALL_HOSTS)
}

fn advertised(lease: &Lease, destination: Ipv6Addr) -> Option<Vec<u8>> {
    let message = router::advertisement(lease);
    lease.addresses.v6.map(|_| frame::icmp_v6(lease, destination, &message))
}

/// Reports whether an address is one of the link that a guest gave itself (RFC 4291, section 2.5.6).
const fn is_of_link(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}
