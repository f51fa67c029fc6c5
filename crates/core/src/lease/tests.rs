mod filtered;
mod v6;

use std::net::Ipv4Addr;

use proptest::{option, prelude::*};
use smoltcp::wire::{DhcpMessageType as Kind, DhcpPacket};

use super::{Lease, answer, frame::checksum};
use crate::address::{GATEWAY_MAC, MacAddress, Pool, Slot};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 10);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const MAC: MacAddress = MacAddress::new([6, b'R', b'I', b'K', 0, 1]);

/// Options by their codes (RFC 2132).
const NETMASK: u8 = 1;
const ROUTER: u8 = 3;
const RESOLVERS: u8 = 6;
const HOST_NAME: u8 = 12;
const MTU: u8 = 26;
const REQUESTED: u8 = 50;
const DURATION: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const RENEWAL: u8 = 58;
const REBINDING: u8 = 59;
const CLIENT: u8 = 61;
const RAPID: u8 = 80;

pub(crate) fn lease() -> Lease {
    let pool: Pool = "10.231.0.0/16".parse().unwrap();
    let pool = pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
    let slot = Slot::new(1);
    Lease {
        mac: slot.guest_mac(),
        addresses: pool.addresses(slot).unwrap(),
        mtu: 1400,
        host_name: "hello".to_owned(),
        resolvers: vec![[192, 0, 2, 53].into(), "2001:db8::53".parse().unwrap()],
        routed_v6: true,
    }
}

/// A message of a guest.
#[derive(Debug, Clone)]
struct Message {
    operation: u8,
    known: Ipv4Addr,
    relay: Ipv4Addr,
    mac: MacAddress,
    broadcast: bool,
    options: Vec<(u8, Vec<u8>)>,
}

/// Returns a message of the guest with these options.
fn message(known: Ipv4Addr, options: &[(u8, &[u8])]) -> Message {
    let options = options.iter().map(|(code, value)| (*code, value.to_vec())).collect();
    Message { operation: 1, known, relay: NONE, mac: MAC, broadcast: false, options }
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let flags = if self.broadcast { 0x80 } else { 0 };
        let start = [self.operation, 1, 6, 0, 0, 0, 0, 7, 0, 1, flags, 0];
        let addresses = [self.known, NONE, NONE, self.relay].map(|address| address.octets());
        let options = self.options.iter().flat_map(|(code, value)| {
            [&[*code, u8::try_from(value.len()).unwrap()][..], value].concat()
        });
        let mut bytes = [&start[..], &addresses.concat(), &self.mac.octets(), &[0; 202]].concat();
        bytes.extend([99, 130, 83, 99]);
        bytes.extend(options);
        bytes.push(255);
        bytes
    }
}

/// Returns the frame that a guest sends a message in.
fn framed(message: &Message) -> Vec<u8> {
    frame(MAC, 67, &message.bytes())
}

fn frame(source: MacAddress, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let udp = [68, port, length, 0].map(u16::to_be_bytes).concat();
    let total = (20 + length).to_be_bytes();
    let ip = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0], &[0; 4], &[255; 4]].concat();
    [&[255; 6][..], &source.octets(), &[8, 0], &ip, &udp, payload].concat()
}

/// The parts of an answer's frame.
#[derive(Debug)]
struct Answer {
    destination: Ipv4Addr,
    kind: Kind,
    given: Ipv4Addr,
    known: Ipv4Addr,
    broadcast: bool,
    options: Vec<(u8, Vec<u8>)>,
}

impl Answer {
    fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(found, _)| *found == code).map(|(_, value)| &value[..])
    }
}

/// Reads an answer, and asserts what holds for each.
fn read(frame: &[u8]) -> Answer {
    assert_eq!(frame[..6], MAC.octets());
    assert_eq!(frame[6..12], GATEWAY_MAC.octets());
    assert_eq!(frame[12..14], [8, 0]);
    let packet = &frame[14..];
    assert_eq!(packet[..2], [0x45, 0]);
    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    assert_eq!(checksum(&packet[..20]), 0);
    let udp = &packet[20..];
    let length = u16::try_from(udp.len()).unwrap();
    let pseudo = [&packet[12..20], &[0, 17], &length.to_be_bytes(), udp].concat();
    assert_eq!(checksum(&pseudo), 0);
    assert_eq!(udp[..6], [[0, 67], [0, 68], length.to_be_bytes()].concat());
    assert_eq!(packet[12..16], lease().addresses.v4.host.octets());
    let message = DhcpPacket::new_checked(&udp[8..]).unwrap();
    assert_eq!((message.magic_number(), message.transaction_id()), (0x6382_5363, 7));
    assert_eq!(message.client_hardware_address().0, MAC.octets());
    let options: Vec<_> =
        message.options().map(|option| (option.kind, option.data.to_vec())).collect();
    let kind = options.iter().find(|(code, _)| *code == KIND).unwrap();
    let destination: [u8; 4] = packet[16..20].try_into().unwrap();
    Answer {
        destination: destination.into(),
        kind: kind.1[0].into(),
        given: message.your_ip(),
        known: message.client_ip(),
        broadcast: message.flags().bits() != 0,
        options,
    }
}

fn answered(question: &Message) -> Option<Answer> {
    answer(&framed(question), &lease()).map(|answer| read(&answer))
}

const DISCOVER: (u8, &[u8]) = (KIND, &[1]);
const INFORM: (u8, &[u8]) = (KIND, &[8]);

#[test]
fn guest_is_offered_and_given_its_address_with_everything_that_it_needs() {
    let (guest, host) = (lease().addresses.v4.guest, lease().addresses.v4.host.octets());
    let client = (CLIENT, &[1, 2, 3][..]);
    let offer = answered(&message(NONE, &[DISCOVER, client])).unwrap();
    assert_eq!(offer.kind, Kind::Offer);
    let asked = [(KIND, &[3][..]), (REQUESTED, &guest.octets()), (SERVER, &host), client];
    let given = answered(&message(NONE, &asked)).unwrap();
    assert_eq!(given.kind, Kind::Ack);
    for answer in [offer, given] {
        assert_eq!((answer.destination, answer.given, answer.known), (guest, guest, NONE));
        for (code, value) in [
            (SERVER, &host[..]),
            (ROUTER, &host),
            (NETMASK, &[255, 255, 255, 252]),
            (MTU, &1400_u16.to_be_bytes()),
            (HOST_NAME, b"hello"),
            // Only those of IPv4.
            (RESOLVERS, &[192, 0, 2, 53]),
            client,
            (DURATION, &86_400_u32.to_be_bytes()),
            (RENEWAL, &43_200_u32.to_be_bytes()),
            (REBINDING, &75_600_u32.to_be_bytes()),
        ] {
            assert_eq!(answer.option(code), Some(value), "option {code}");
        }
    }
}

#[test]
fn rapid_commit_saves_a_question() {
    let given = answered(&message(NONE, &[DISCOVER, (RAPID, &[])])).unwrap();
    assert_eq!((given.kind, given.option(RAPID)), (Kind::Ack, Some(&[][..])));
}

#[test]
fn informed_guest_gets_no_address() {
    let guest = lease().addresses.v4.guest;
    let informed = answered(&message(guest, &[INFORM])).unwrap();
    assert_eq!((informed.destination, informed.given), (guest, NONE));
    assert_eq!(informed.option(DURATION), None);
    assert!(informed.option(MTU).is_some());
    assert!(answered(&message(OTHER, &[INFORM])).is_none());
}

#[test]
fn only_the_guest_itself_is_answered() {
    let question = message(NONE, &[DISCOVER]);
    let bytes = question.bytes();
    assert!(answer(&frame(MAC, 67, &bytes), &lease()).is_some());
    let neighbour = MacAddress::new([6, b'R', b'I', b'K', 0, 2]);
    assert!(answer(&frame(neighbour, 67, &bytes), &lease()).is_none());
    assert!(answer(&frame(MAC, 68, &bytes), &lease()).is_none());
    for other in [
        Message { mac: neighbour, ..question.clone() },
        Message { relay: OTHER, ..question.clone() },
        Message { operation: 2, ..question.clone() },
        // A message of BOOTP has no kind.
        Message { options: vec![], ..question },
    ] {
        assert!(answered(&other).is_none(), "{other:?}");
    }
}

#[test]
fn fragments_and_cut_frames_are_no_questions() {
    let whole = framed(&message(NONE, &[DISCOVER]));
    for length in 0..whole.len() {
        assert!(answer(&whole[..length], &lease()).is_none(), "{length}");
    }
    let padded = [&whole[..], &[0; 40]].concat();
    assert!(answer(&padded, &lease()).is_some());
    for flags in [0x20, 0x00] {
        let mut fragment = whole.clone();
        (fragment[20], fragment[21]) = (flags, u8::from(flags == 0));
        assert!(answer(&fragment, &lease()).is_none());
    }
    for value in [&[][..], &[10, 231, 0]] {
        assert!(answered(&message(NONE, &[DISCOVER, (REQUESTED, value)])).is_none());
    }
}

fn addresses() -> impl Strategy<Value = Ipv4Addr> {
    let v4 = lease().addresses.v4;
    let any = any::<[u8; 4]>().prop_map(Ipv4Addr::from);
    prop_oneof![Just(v4.guest), Just(v4.host), Just(OTHER), Just(NONE), any]
}

proptest! {
    /// An answer gives the lease's address or none. A guest is refused exactly if it wants another address confirmed.
    #[test]
    fn no_guest_is_given_or_confirmed_another_address(
        number in 1..9_u8,
        known in addresses(),
        requested in option::of(addresses()),
        server in option::of(addresses()),
        rapid in any::<bool>(),
        broadcast in any::<bool>(),
    ) {
        let (guest, host) = (lease().addresses.v4.guest, lease().addresses.v4.host);
        let mut options = vec![(KIND, vec![number])];
        options.extend(requested.map(|address| (REQUESTED, address.octets().to_vec())));
        options.extend(server.map(|address| (SERVER, address.octets().to_vec())));
        options.extend(rapid.then(|| (RAPID, vec![])));
        let found = answered(&Message { broadcast, options, ..message(known, &[]) });
        let wanted = requested.or(Some(known).filter(|known| *known != NONE));
        let chosen = server.is_none_or(|server| server == host);
        let expected = match Kind::from(number) {
            Kind::Discover if rapid => Some(Kind::Ack),
            Kind::Discover => Some(Kind::Offer),
            Kind::Request if chosen => {
                wanted.map(|wanted| if wanted == guest { Kind::Ack } else { Kind::Nak })
            }
            Kind::Inform if known == guest => Some(Kind::Ack),
            _ => None,
        };
        prop_assert_eq!(found.as_ref().map(|found| found.kind), expected);
        let Some(answer) = found else { return Ok(()) };
        let refused = answer.kind == Kind::Nak;
        let informed = Kind::from(number) == Kind::Inform;
        prop_assert_eq!(answer.given, if refused || informed { NONE } else { guest });
        prop_assert_eq!(answer.broadcast, broadcast);
        prop_assert_eq!(answer.option(ROUTER).is_some(), !refused);
        let to_all = refused || broadcast && known != guest;
        prop_assert_eq!(answer.destination, if to_all { Ipv4Addr::BROADCAST } else { guest });
    }
}
