//! The guests' gateway: the same on every TAP of every node.
//!
//! A guest that is restored from a snapshot knows its gateway's MAC address, and may find itself on another slot or
//! another node. If the address differed there, the packets of the guest would be lost until its neighbour entry
//! expires: 12 to 27 seconds.

use std::net::Ipv6Addr;

use super::MacAddress;

/// The host's MAC address on every TAP: locally administered and unicast (IEEE 802, bits 1 and 0 of the first octet).
/// No version of this program gave it to anything else.
pub const GATEWAY_MAC: MacAddress = MacAddress::new([0x0a, b'R', b'I', b'K', 0, 1]);

/// The host's IPv6 link-local address on every TAP whose guest has IPv6 ([`crate::link::LinkSpec::link_local`]).
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
