//! Questions in frames of Ethernet, and answers: datagrams of UDP by IPv4 and IPv6, and messages of ICMP (RFC 894, RFC 2464;
//! RFC 791, RFC 8200; RFC 768, RFC 4443).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Lease;
use crate::address::{GATEWAY_LINK_LOCAL, GATEWAY_MAC, MacAddress};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
/// The bits of the offset of a fragment, and of the flag that more follow.
const ANY_FRAGMENT: u16 = 0x3fff;
/// The ports of servers and clients of DHCP, by IPv4 and by IPv6.
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const SERVER_V6: u16 = 547;
const CLIENT_V6: u16 = 546;
/// The length of the header of Ethernet, of UDP, and of IPv4 without options.
const ETHERNET_HEADER: usize = 14;
const UDP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The hop limit of messages that no router may have forwarded (RFC 4861, section 6.1.1).
const OF_LINK: u8 = 255;

/// A question of a guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question<'f> {
    /// The sender.
    pub(super) source: MacAddress,
    /// The protocol and the message.
    pub(super) content: Content<'f>,
}

/// The protocol of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'f> {
    /// A message to the port of DHCP servers.
    DhcpV4(&'f [u8]),
    /// A message to the port of DHCP servers by IPv6, and its source.
    DhcpV6(Ipv6Addr, &'f [u8]),
    /// A message of ICMP that no router forwarded, and its source.
    IcmpV6(Ipv6Addr, &'f [u8]),
}

impl<'f> Question<'f> {
    /// Reads a frame; `None` if it is something else, or if its lengths do not fit. Checksums are not compared: a virtio NIC
    /// leaves them to the host, and the frame has passed no cable.
    pub(super) fn read(frame: &'f [u8]) -> Option<Self> {
        let (header, packet) = frame.split_at_checked(ETHERNET_HEADER)?;
        let [_, _, _, _, _, _, source @ .., type_0, type_1] = header else { return None };
        let source = MacAddress::new(source.try_into().ok()?);
        let content = match [*type_0, *type_1] {
            IPV4 => v4(packet),
            IPV6 => v6(packet),
            _ => None,
        };
        content.map(|content| Self { source, content })
    }
}

fn v4(packet: &[u8]) -> Option<Content<'_>> {
    let &[first, _, length_0, length_1, _, _, fragment_0, fragment_1, _, protocol, ..] = packet
    else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([length_0, length_1]));
    let header = usize::from(first & 0xf) * 4;
    let is_whole = u16::from_be_bytes([fragment_0, fragment_1]) & ANY_FRAGMENT == 0;
    if first >> 4 != 4 || protocol != UDP || !is_whole || header < IPV4_HEADER {
        return None;
    }
    // Short frames are padded.
    datagram(packet.get(header..length)?, SERVER).map(Content::DhcpV4)
}

fn v6(packet: &[u8]) -> Option<Content<'_>> {
    let (header, payload) = packet.split_first_chunk::<IPV6_HEADER>()?;
    let [first, _, _, _, length_0, length_1, next, hops, rest @ ..] = header;
    let length = usize::from(u16::from_be_bytes([*length_0, *length_1]));
    let payload = payload.get(..length).filter(|_| first >> 4 == 6)?;
    let source = Ipv6Addr::from(*rest.first_chunk::<16>()?);
    match *next {
        UDP => datagram(payload, SERVER_V6).map(|message| Content::DhcpV6(source, message)),
        ICMP_V6 if *hops == OF_LINK => Some(Content::IcmpV6(source, payload)),
        _ => None,
    }
}

/// Returns the contents of a datagram of UDP to this port.
fn datagram(datagram: &[u8], wanted: u16) -> Option<&[u8]> {
    let (&[_, _, port_0, port_1, length_0, length_1, _, _], _) = datagram.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([length_0, length_1]));
    let payload = datagram.get(UDP_HEADER..length)?;
    (u16::from_be_bytes([port_0, port_1]) == wanted).then_some(payload)
}

/// Returns the frame that brings a message of DHCP to the guest of this lease. It is for its MAC address alone, whatever the
/// destination is.
pub(super) fn dhcp_v4(lease: &Lease, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let addresses = [lease.addresses.v4.host.octets(), destination.octets()].concat();
    let datagram = to_client(&addresses, [SERVER, CLIENT], message);
    let total = length(IPV4_HEADER + datagram.len());
    let start = [&[0x45, 0][..], &total, &[0, 0, 0x40, 0, 64, UDP]].concat();
    let sum = checksum(&[&start[..], &[0, 0], &addresses].concat()).to_be_bytes();
    framed(lease, IPV4, &[&start, &sum, &addresses, &datagram])
}

/// Returns the frame that brings a message of DHCP by IPv6 to the guest of this lease.
pub(super) fn dhcp_v6(lease: &Lease, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let addresses = [GATEWAY_LINK_LOCAL.octets(), destination.octets()].concat();
    let datagram = to_client(&addresses, [SERVER_V6, CLIENT_V6], message);
    by_ipv6(lease, &addresses, UDP, &datagram)
}

/// Returns the frame that brings a message of ICMP, whose checksum is 0, to the guest of this lease.
pub(super) fn icmp_v6(lease: &Lease, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let addresses = [GATEWAY_LINK_LOCAL.octets(), destination.octets()].concat();
    let sum = sum_of_payload(&addresses, ICMP_V6, message).to_be_bytes();
    let mut message = message.to_vec();
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum);
    }
    by_ipv6(lease, &addresses, ICMP_V6, &message)
}

fn by_ipv6(lease: &Lease, addresses: &[u8], next: u8, payload: &[u8]) -> Vec<u8> {
    let start = [&[0x60, 0, 0, 0][..], &length(payload.len()), &[next, OF_LINK]].concat();
    framed(lease, IPV6, &[&start, addresses, payload])
}

/// Returns a datagram of UDP between these ports.
fn to_client(addresses: &[u8], ports: [u16; 2], message: &[u8]) -> Vec<u8> {
    let start = [&ports.map(u16::to_be_bytes).concat()[..], &length(UDP_HEADER + message.len())];
    let start = start.concat();
    let sum = match sum_of_payload(addresses, UDP, &[&start[..], &[0, 0], message].concat()) {
        // This would say that there is no checksum.
        0 => u16::MAX,
        sum => sum,
    };
    [&start[..], &sum.to_be_bytes(), message].concat()
}

/// Returns the checksum of a payload with the pseudo-header of its packet: the same for both families, as long as a payload is
/// shorter than 64 KiB.
fn sum_of_payload(addresses: &[u8], protocol: u8, payload: &[u8]) -> u16 {
    checksum(&[addresses, &[0, protocol], &length(payload.len()), payload].concat())
}

fn framed(lease: &Lease, ether_type: [u8; 2], parts: &[&[u8]]) -> Vec<u8> {
    let header = [&lease.mac.octets()[..], &GATEWAY_MAC.octets(), &ether_type].concat();
    [header, parts.concat()].concat()
}

/// Returns a length as headers have it. An answer is shorter than a frame.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// Returns the checksum of RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |last| u32::from(*last) << 8);
    let sum = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum::<u32>() + last;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}
