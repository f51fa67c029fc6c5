//! Builds frames, field by field.

use std::net::Ipv4Addr;

use riklet_core::model::MacAddress;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const VLAN: u16 = 0x8100;
pub(super) const LLDP: u16 = 0x88cc;
pub(super) const PPPOE: u16 = 0x8863;

pub(super) const BROADCAST: MacAddress = MacAddress::new([0xff; 6]);

/// `IPPROTO_ICMP`, `IPPROTO_TCP` and `IPPROTO_UDP`.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Flags of TCP (RFC 9293, section 3.1).
pub(super) const SYN: u8 = 2;

/// A packet of IPv4 in a frame.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) from_mac: MacAddress,
    pub(super) to_mac: MacAddress,
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    pub(super) protocol: u8,
    /// The flags and the offset of a fragment (RFC 791).
    pub(super) fragment: u16,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let nobody = MacAddress::new([0; 6]);
        Self { from_mac: nobody, to_mac: nobody, from, to, protocol, fragment: 0, payload }
    }

    /// Returns a datagram of UDP, without a checksum (RFC 768).
    pub(super) fn udp(
        (from, source): (Ipv4Addr, u16),
        (to, port): (Ipv4Addr, u16),
        words: &str,
    ) -> Self {
        let length = u16::try_from(8 + words.len()).expect("few words");
        let header = [source, port, length, 0].map(u16::to_be_bytes).concat();
        Self::new(from, to, UDP, [&header, words.as_bytes()].concat())
    }

    /// Returns a segment of TCP with these flags and no options.
    pub(super) fn tcp(
        (from, source): (Ipv4Addr, u16),
        (to, port): (Ipv4Addr, u16),
        flags: u8,
    ) -> Self {
        let start = [source, port].map(u16::to_be_bytes).concat();
        let rest = [0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
        let mut segment = [&start[..], &rest].concat();
        let length = u16::try_from(segment.len()).expect("a short segment");
        let pseudo = [&from.octets()[..], &to.octets(), &[0, TCP], &length.to_be_bytes(), &segment];
        let sum = checksum(&pseudo.concat());
        segment[16..18].copy_from_slice(&sum);
        Self::new(from, to, TCP, segment)
    }

    /// Returns a message of ICMP: its type, its code, the rest of its header, and its body.
    pub(super) fn icmp(
        (from, to): (Ipv4Addr, Ipv4Addr),
        [kind, code]: [u8; 2],
        header: u32,
        body: &[u8],
    ) -> Self {
        let mut message = [&[kind, code, 0, 0][..], &header.to_be_bytes(), body].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        Self::new(from, to, ICMP, message)
    }

    /// Returns the packet between these MAC addresses.
    pub(super) fn by(self, from_mac: MacAddress, to_mac: MacAddress) -> Self {
        Self { from_mac, to_mac, ..self }
    }

    /// Returns the packet with its header.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(20 + self.payload.len()).expect("a short packet");
        let [high, low] = self.fragment.to_be_bytes();
        let mut header = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 7, high, low]].concat();
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.from.octets().into_iter().chain(self.to.octets()));
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [header, self.payload.clone()].concat()
    }

    /// Returns the frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        frame(self.to_mac, self.from_mac, IPV4, &self.bytes())
    }

    /// Returns the frame with the tags of these VLANs.
    pub(super) fn tagged(&self, tags: &[u16]) -> Vec<u8> {
        let tags = tags.iter().flat_map(|tag| [VLAN.to_be_bytes(), tag.to_be_bytes()]);
        let tags: Vec<u8> = tags.flatten().collect();
        let mut frame = self.frame();
        frame.splice(12..12, tags);
        frame
    }
}

/// Returns a frame of this type.
pub(super) fn frame(to: MacAddress, from: MacAddress, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to.octets()[..], &from.octets(), &ether_type.to_be_bytes(), payload].concat()
}

/// A message of ARP (RFC 826) in a frame of its own sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arp {
    /// 1 asks, 2 answers.
    pub(super) operation: u8,
    pub(super) frame_from: MacAddress,
    pub(super) sender: (MacAddress, Ipv4Addr),
    pub(super) target: Ipv4Addr,
}

impl Arp {
    pub(super) fn frame(&self) -> Vec<u8> {
        let (mac, address) = self.sender;
        let start = [0, 1, 8, 0, 6, 4, 0, self.operation];
        let (mac, address, target) = (mac.octets(), address.octets(), self.target.octets());
        let body = [&start[..], &mac, &address, &[0; 6], &target].concat();
        frame(BROADCAST, self.frame_from, ARP, &body)
    }
}

/// Returns the checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).expect("16 bits")).to_be_bytes()
}
