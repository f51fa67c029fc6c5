//! Datagrams of UDP in frames of Ethernet, with IPv4 (RFC 894, RFC 791, RFC 768).

use std::net::Ipv4Addr;

use super::Lease;
use crate::address::{GATEWAY_MAC, MacAddress};

const IPV4: [u8; 2] = [0x08, 0x00];
const UDP: u8 = 17;
/// The bits of the offset of a fragment, and of the flag that more follow.
const ANY_FRAGMENT: u16 = 0x3fff;
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// The length of the headers of Ethernet and UDP, and of that of IPv4 without options.
const ETHERNET_HEADER: usize = 14;
const UDP_HEADER: usize = 8;
const IPV4_HEADER: u16 = 20;

/// A datagram that a guest sent to the port of DHCP servers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram<'f> {
    /// The sender.
    pub(super) source: MacAddress,
    /// The contents.
    pub(super) payload: &'f [u8],
}

impl<'f> Datagram<'f> {
    /// Reads a frame; `None` if it is something else, or if its lengths do not fit. Checksums are not compared: a virtio NIC
    /// leaves them to the host, and the frame has passed no cable.
    pub(super) fn read(frame: &'f [u8]) -> Option<Self> {
        let (header, packet) = frame.split_at_checked(ETHERNET_HEADER)?;
        let [_, _, _, _, _, _, source @ .., type_0, type_1] = header else { return None };
        let source = MacAddress::new(source.try_into().ok()?);
        let &[first, _, length_0, length_1, _, _, fragment_0, fragment_1, _, protocol, ..] = packet
        else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([length_0, length_1]));
        let header = usize::from(first & 0xf) * 4;
        let is_whole = u16::from_be_bytes([fragment_0, fragment_1]) & ANY_FRAGMENT == 0;
        let is_udp = [*type_0, *type_1] == IPV4 && first >> 4 == 4 && protocol == UDP;
        if !is_udp || !is_whole || header < usize::from(IPV4_HEADER) {
            return None;
        }
        // Short frames are padded.
        let datagram = packet.get(header..length)?;
        let (&[_, _, port_0, port_1, length_0, length_1, _, _], _) =
            datagram.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([length_0, length_1]));
        let payload = datagram.get(UDP_HEADER..length)?;
        (u16::from_be_bytes([port_0, port_1]) == SERVER).then_some(Self { source, payload })
    }
}

/// Returns the frame that brings an answer to the guest of this lease. It is for its MAC address alone, whatever the
/// destination is.
pub(super) fn to_guest(lease: &Lease, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let source = lease.addresses.v4.host;
    // An answer is shorter than a frame.
    let length = u16::try_from(UDP_HEADER + payload.len()).unwrap_or(u16::MAX);
    let addresses = [source.octets(), destination.octets()].concat();
    let ports = [SERVER, CLIENT, length].map(u16::to_be_bytes).concat();
    let pseudo = [&addresses[..], &[0, UDP], &length.to_be_bytes()].concat();
    let sum = match checksum(&[&pseudo[..], &ports, &[0, 0], payload].concat()) {
        // This would say that there is no checksum.
        0 => u16::MAX,
        sum => sum,
    };
    let total = length.saturating_add(IPV4_HEADER).to_be_bytes();
    let start = [&[0x45, 0][..], &total, &[0, 0, 0x40, 0, 64, UDP]].concat();
    let header = checksum(&[&start[..], &[0, 0], &addresses].concat()).to_be_bytes();
    [
        &lease.mac.octets()[..],
        &GATEWAY_MAC.octets(),
        &IPV4,
        &start,
        &header,
        &addresses,
        &ports,
        &sum.to_be_bytes(),
        payload,
    ]
    .concat()
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
