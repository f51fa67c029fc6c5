//! Router advertisements (RFC 4861): the default route of guests by IPv6, and where they get their address.

use std::net::Ipv6Addr;

use super::Lease;
use crate::address::GATEWAY_MAC;

/// The types of messages (RFC 4861, sections 4.1 and 4.2).
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// The options (RFC 4861, section 4.6; RFC 8106, section 5.1).
const SOURCE: u8 = 1;
const MTU: u8 = 5;
const RESOLVERS: u8 = 25;
/// The hop limit that guests use.
const HOP_LIMIT: u8 = 64;
/// The flag that addresses come by DHCP.
const MANAGED: u8 = 0x80;
/// The time for which the guest keeps its default route and its resolvers, in seconds: the longest (RFC 8319). The daemon may be
/// away for as long.
const LIFETIME: u16 = u16::MAX;
/// The group of all hosts of a link.
pub(super) const ALL_HOSTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Reports whether this message of ICMP asks for an advertisement.
pub(super) fn is_solicitation(message: &[u8]) -> bool {
    message.len() >= 8 && message.starts_with(&[SOLICITATION, 0])
}

/// Returns the advertisement for the guest of this lease, without its checksum. It names no prefix: a guest that chose an address
/// by itself would not be heard. Without a way to the Internet, the host is no default router (RFC 4861, section 6.2.5).
pub(super) fn advertisement(lease: &Lease) -> Vec<u8> {
    let lifetime = if lease.routed_v6 { LIFETIME } else { 0 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED];
    message.extend(lifetime.to_be_bytes());
    // The guest's own times of neighbour discovery.
    message.extend([0; 8]);
    message.extend([SOURCE, 1]);
    message.extend(GATEWAY_MAC.octets());
    message.extend([MTU, 1, 0, 0]);
    message.extend(lease.mtu.to_be_bytes());
    let resolvers = lease.resolvers_v6();
    // A length counts eight octets.
    if let Ok(length) = u8::try_from(1 + 2 * resolvers.len())
        && !resolvers.is_empty()
    {
        message.extend([RESOLVERS, length, 0, 0]);
        message.extend(u32::from(LIFETIME).to_be_bytes());
        message.extend(resolvers.iter().flat_map(Ipv6Addr::octets));
    }
    message
}
