//! Reads, builds and changes single Ethernet frames. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpProtocol, Ipv4Packet, TcpPacket,
};

/// A request for a new TCP connection: a SYN without ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syn {
    pub(super) client: SocketAddrV4,
    pub(super) server: SocketAddrV4,
}

/// Returns the connection request in this frame, if it is one.
pub(super) fn syn(frame: &[u8]) -> Option<Syn> {
    let ip = ipv4(frame)?;
    let tcp = tcp(&ip)?;
    (tcp.syn() && !tcp.ack() && !tcp.rst()).then(|| Syn {
        client: SocketAddrV4::new(ip.src_addr(), tcp.src_port()),
        server: SocketAddrV4::new(ip.dst_addr(), tcp.dst_port()),
    })
}

/// Tells whether this frame resets a TCP connection.
pub(super) fn is_reset(frame: &[u8]) -> bool {
    ipv4(frame).is_some_and(|ip| tcp(&ip).is_some_and(|tcp| tcp.rst()))
}

/// Returns the MAC address that sent an IPv4 frame.
pub(super) fn ipv4_sender(frame: &[u8]) -> Option<EthernetAddress> {
    ipv4(frame)?;
    EthernetFrame::new_checked(frame).ok().map(|ethernet| ethernet.src_addr())
}

fn ipv4(frame: &[u8]) -> Option<Ipv4Packet<&[u8]>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = ethernet.ethertype() == EthernetProtocol::Ipv4;
    ip.then(|| Ipv4Packet::new_checked(ethernet.payload()).ok()).flatten()
}

fn tcp<'a>(ip: &Ipv4Packet<&'a [u8]>) -> Option<TcpPacket<&'a [u8]>> {
    let tcp = ip.next_header() == IpProtocol::Tcp;
    tcp.then(|| TcpPacket::new_checked(ip.payload()).ok()).flatten()
}

/// Returns an ARP reply that says `sender` is at `sender_mac`.
pub(super) fn arp_reply(
    (sender, sender_mac): (Ipv4Addr, EthernetAddress),
    (target, target_mac): (Ipv4Addr, EthernetAddress),
) -> Vec<u8> {
    let ethernet = EthernetRepr {
        src_addr: sender_mac,
        dst_addr: target_mac,
        ethertype: EthernetProtocol::Arp,
    };
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: sender_mac,
        source_protocol_addr: sender,
        target_hardware_addr: target_mac,
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Writes the Internet checksum (RFC 1071) of everything from `start` on to `start + offset`, where the sender has
/// left the checksum of the pseudo-header (virtio 1.2, section 5.1.6.2). A frame that is too short stays unchanged,
/// and its checksum will be found wrong.
pub(super) fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let Some(covered) = frame.get_mut(start..) else { return };
    let sum: u64 = covered
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        // A UDP checksum of 0 means none (RFC 768); 0xffff is the same number in one's complement.
        let checksum = match !fold(sum) {
            0 => 0xffff,
            checksum => checksum,
        };
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Folds a one's-complement sum to 16 bits, adding the carries.
fn fold(mut sum: u64) -> u16 {
    loop {
        match u16::try_from(sum) {
            Ok(folded) => return folded,
            Err(_) => sum = (sum & 0xffff) + (sum >> 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::{phy::ChecksumCapabilities, wire::Ipv4Repr, wire::UdpPacket};

    use super::*;

    fn frame(protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let ip = Ipv4Repr {
            src_addr: Ipv4Addr::new(192, 168, 7, 2),
            dst_addr: Ipv4Addr::new(10, 231, 0, 2),
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; 34];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        ip.emit(
            &mut Ipv4Packet::new_unchecked(ethernet.payload_mut()),
            &ChecksumCapabilities::default(),
        );
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn only_syn_without_ack_is_a_connection_request() {
        let mut segment = [0; 20];
        let mut tcp = TcpPacket::new_unchecked(&mut segment);
        tcp.set_src_port(41_234);
        tcp.set_dst_port(3000);
        tcp.set_header_len(20);
        tcp.set_syn(true);
        let asked = syn(&frame(IpProtocol::Tcp, &segment)).unwrap();
        assert_eq!(asked.client.to_string(), "192.168.7.2:41234");
        assert_eq!(asked.server.to_string(), "10.231.0.2:3000");
        assert_eq!(syn(&frame(IpProtocol::Udp, &segment)), None);
        TcpPacket::new_unchecked(&mut segment).set_ack(true);
        assert_eq!(syn(&frame(IpProtocol::Tcp, &segment)), None);
        assert_eq!(syn(&frame(IpProtocol::Tcp, &segment[..10])), None);
        assert_eq!(syn(&[]), None);
    }

    #[test]
    fn partial_checksum_is_completed() {
        let (client, server) = (Ipv4Addr::new(192, 168, 7, 2), Ipv4Addr::new(10, 231, 0, 2));
        let mut datagram = *b"\xa1\x12\x00\x35\x00\x0d\x00\x00hello";
        let mut pseudo: Vec<u8> = [client.octets(), server.octets()].concat();
        pseudo.extend([0, 17, 0, 13]);
        let sum = pseudo.chunks(2).map(|p| u64::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        datagram[6..8].copy_from_slice(&fold(sum).to_be_bytes());
        let mut frame = frame(IpProtocol::Udp, &datagram);
        let correct = |frame: &[u8]| {
            UdpPacket::new_checked(&frame[34..])
                .unwrap()
                .verify_checksum(&client.into(), &server.into())
        };
        assert!(!correct(&frame));
        complete_checksum(&mut frame, 34, 6);
        assert!(correct(&frame));
        let before = frame.clone();
        complete_checksum(&mut frame, 34, 60);
        complete_checksum(&mut frame, 600, 6);
        assert_eq!(frame, before);
    }
}
