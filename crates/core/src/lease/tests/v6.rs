//! Questions by IPv6.

use std::net::Ipv6Addr;

use proptest::{collection, option, prelude::*};

use super::{MAC, lease};
use crate::{
    address::{GATEWAY_MAC, MacAddress},
    lease::{Lease, announcement, answer, frame::checksum},
};

const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd52, 0x494b, 0, 0, 0, 0, 0, 9);
/// The address that the guest gave itself.
const LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4);
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const UDP: u8 = 17;
const ICMP: u8 = 58;

/// Kinds of messages.
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const INFORMATION: u8 = 11;
/// Options by their codes.
const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const ADDRESSES: u16 = 3;
const ADDRESS: u16 = 5;
const PREFERENCE: u16 = 7;
const STATUS: u16 = 13;
const RAPID: u16 = 14;
const RESOLVERS: u16 = 23;
const PREFIXES: u16 = 25;

fn guest() -> Ipv6Addr {
    lease().addresses.v6.unwrap().guest
}

fn server() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &GATEWAY_MAC.octets()].concat()
}

fn frame(source: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[next, hops]].concat();
    let addresses = [source.octets(), ROUTERS.octets()].concat();
    let ethernet = [&[0x33, 0x33, 0, 0, 0, 2][..], &MAC.octets(), &[0x86, 0xdd]].concat();
    [&ethernet[..], &header, &addresses, payload].concat()
}

type Found = Vec<(u16, Vec<u8>)>;

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

fn options(mut bytes: &[u8]) -> Found {
    let mut found = vec![];
    while !bytes.is_empty() {
        let code = u16::from_be_bytes([bytes[0], bytes[1]]);
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        found.push((code, bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length..];
    }
    found
}

/// Returns an identity association of addresses.
fn association(known: &[Ipv6Addr]) -> Vec<u8> {
    let address = |known: &Ipv6Addr| option(ADDRESS, &[&known.octets()[..], &[0; 8]].concat());
    let known: Vec<u8> = known.iter().flat_map(address).collect();
    option(ADDRESSES, &[&[0, 0, 0, 5][..], &[0; 8], &known].concat())
}

fn client() -> Vec<u8> {
    option(CLIENT, &[0, 2, 7])
}

fn datagram(kind: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let message = [&[kind, 1, 2, 3][..], &parts.concat()].concat();
    let length = u16::try_from(8 + message.len()).unwrap();
    let udp = [546, 547, length, 0].map(u16::to_be_bytes).concat();
    frame(LINK, UDP, 1, &[udp, message].concat())
}

/// Returns the frame of a question for an address.
pub(super) fn solicit() -> Vec<u8> {
    datagram(SOLICIT, &[client(), association(&[])])
}

/// Returns the frame of a question for a router.
pub(super) fn router_solicitation() -> Vec<u8> {
    frame(LINK, ICMP, 255, &[133, 0, 0, 0, 0, 0, 0, 0])
}

/// Reads the payload of an answer, and asserts what holds for each.
fn payload(frame: &[u8], to: Ipv6Addr, next: u8) -> Vec<u8> {
    let ethernet = [&MAC.octets()[..], &GATEWAY_MAC.octets(), &[0x86, 0xdd]].concat();
    assert_eq!(frame[..14], ethernet);
    let (header, payload) = frame[14..].split_at(40);
    assert_eq!((header[0] >> 4, header[6], header[7]), (6, next, 255));
    assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), payload.len());
    assert_eq!(header[8..24], Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets());
    assert_eq!(header[24..], to.octets());
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let pseudo = [&header[8..], &length, &[0, 0, 0, next], payload].concat();
    assert_eq!(checksum(&pseudo), 0);
    payload.to_vec()
}

/// Returns the kind and the options of the answer to a message of DHCP.
fn answered(kind: u8, parts: &[Vec<u8>]) -> Option<(u8, Found)> {
    let frame = answer(&datagram(kind, parts), &lease())?;
    let udp = payload(&frame, LINK, UDP);
    assert_eq!(udp[..4], [547, 546].map(u16::to_be_bytes).concat());
    assert_eq!(udp[9..12], [1, 2, 3]);
    Some((udp[8], options(&udp[12..])))
}

fn get(found: &Found, code: u16) -> Option<&[u8]> {
    found.iter().find(|(of, _)| *of == code).map(|(_, value)| &value[..])
}

/// Returns the addresses of an association, with the times that they last.
fn given(found: &Found) -> Vec<(Ipv6Addr, u32)> {
    let inner = options(&get(found, ADDRESSES).unwrap()[12..]);
    let address = |(code, value): &(u16, Vec<u8>)| {
        assert_eq!(*code, ADDRESS);
        let octets: [u8; 16] = value[..16].try_into().unwrap();
        assert_eq!(value[16..20], value[20..24], "preferred as long as valid");
        (octets.into(), u32::from_be_bytes(value[20..24].try_into().unwrap()))
    };
    inner.iter().map(address).collect()
}

#[test]
fn guest_is_offered_and_given_its_address() {
    let parts = [client(), association(&[])];
    let (kind, offer) = answered(SOLICIT, &parts).unwrap();
    assert_eq!((kind, get(&offer, PREFERENCE)), (ADVERTISE, Some(&[255][..])));
    let rapid = [client(), association(&[]), option(RAPID, &[])];
    let (kind, rapid) = answered(SOLICIT, &rapid).unwrap();
    assert_eq!((kind, get(&rapid, RAPID)), (REPLY, Some(&[][..])));
    let asked = [client(), option(SERVER, &server()), association(&[guest()])];
    let (kind, leased) = answered(REQUEST, &asked).unwrap();
    assert_eq!(kind, REPLY);
    for found in [offer, rapid, leased] {
        assert_eq!(given(&found), [(guest(), 86_400)]);
        assert_eq!(get(&found, CLIENT), Some(&[0, 2, 7][..]));
        assert_eq!(get(&found, SERVER), Some(&server()[..]));
        let times = [43_200_u32, 75_600].map(u32::to_be_bytes).concat();
        assert_eq!(get(&found, ADDRESSES).unwrap()[..12], [&[0, 0, 0, 5][..], &times].concat());
        let resolver: Ipv6Addr = "2001:db8::53".parse().unwrap();
        assert_eq!(get(&found, RESOLVERS), Some(&resolver.octets()[..]), "only those of IPv6");
    }
}

#[test]
fn address_of_another_slot_ends() {
    for (kind, server) in [(RENEW, option(SERVER, &server())), (REBIND, vec![])] {
        let (kind, found) = answered(kind, &[client(), server, association(&[OTHER])]).unwrap();
        assert_eq!((kind, given(&found)), (REPLY, vec![(guest(), 86_400), (OTHER, 0)]));
    }
    let status = |known: &[Ipv6Addr]| {
        let (_, found) = answered(CONFIRM, &[client(), association(known)])?;
        get(&found, STATUS).map(<[u8]>::to_vec)
    };
    assert_eq!(status(&[guest()]), Some(vec![0, 0]));
    assert_eq!(status(&[OTHER]), Some(vec![0, 4]));
    assert_eq!(status(&[]), None);
}

#[test]
fn only_one_address_and_no_prefix_is_given() {
    let prefixes = option(PREFIXES, &[0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    let parts = [client(), association(&[]), association(&[]), prefixes];
    let (_, found) = answered(SOLICIT, &parts).unwrap();
    let [first, second, third] = [3, 4, 5].map(|place: usize| &found[place]);
    assert_eq!((first.0, options(&first.1[12..])[0].0), (ADDRESSES, ADDRESS));
    assert_eq!((second.0, options(&second.1[12..])), (ADDRESSES, vec![(STATUS, vec![0, 2])]));
    assert_eq!((third.0, options(&third.1[12..])), (PREFIXES, vec![(STATUS, vec![0, 6])]));
    // However many it asks for, the answer is shorter than a frame.
    let many = vec![association(&[OTHER; 20]); 4];
    let frame = answer(&datagram(REBIND, &[vec![client()], many].concat()), &lease()).unwrap();
    assert!(frame.len() < 600, "{}", frame.len());
}

#[test]
fn messages_for_others_are_not_answered() {
    let other = option(SERVER, &[0, 3, 0, 1, 1, 2, 3, 4, 5, 6]);
    assert!(answered(REQUEST, &[client(), other, association(&[])]).is_none());
    assert!(answered(SOLICIT, &[client(), option(SERVER, &server())]).is_none());
    assert!(answered(SOLICIT, &[association(&[])]).is_none(), "nobody asks");
    assert!(answered(12, &[client()]).is_none(), "a relay");
    let released = answered(RELEASE, &[client(), option(SERVER, &server())]).unwrap();
    assert_eq!(get(&released.1, STATUS), Some(&[0, 0][..]));
    assert!(answered(INFORMATION, &[]).is_some());
    let without = Lease { addresses: without_v6(), ..lease() };
    let asked = datagram(SOLICIT, &[client(), association(&[])]);
    assert!(answer(&asked, &lease()).is_some());
    assert!(answer(&asked, &without).is_none());
    assert!(answer(&asked, &Lease { mac: MacAddress::new([9; 6]), ..lease() }).is_none());
    for length in 0..asked.len() {
        assert!(answer(&asked[..length], &lease()).is_none(), "{length}");
    }
}

fn without_v6() -> crate::address::Addresses {
    crate::address::Addresses { v6: None, ..lease().addresses }
}

#[test]
fn solicited_router_is_advertised_without_a_prefix() {
    let asked =
        |source, hops| answer(&frame(source, ICMP, hops, &[133, 0, 0, 0, 0, 0, 0, 0]), &lease());
    let advertised = payload(&asked(LINK, 255).unwrap(), LINK, ICMP);
    assert_eq!(
        payload(&asked(Ipv6Addr::UNSPECIFIED, 255).unwrap(), ALL, ICMP)[4..],
        advertised[4..]
    );
    assert!(asked(LINK, 64).is_none(), "a router forwarded it");
    assert_eq!(advertised[..2], [134, 0]);
    // The hop limit, the flag M, and the lifetime of the default route.
    assert_eq!(advertised[4..8], [64, 0x80, 0xff, 0xff]);
    let (mut rest, mut found) = (&advertised[16..], vec![]);
    while let [kind, length, ..] = rest {
        let (option, more) = rest.split_at(usize::from(*length) * 8);
        found.push((*kind, option[2..].to_vec()));
        rest = more;
    }
    let resolver: Ipv6Addr = "2001:db8::53".parse().unwrap();
    let resolvers = [&[0, 0, 0, 0, 0xff, 0xff][..], &resolver.octets()].concat();
    let mtu = [0, 0, 0, 0, 5, 120].to_vec();
    assert_eq!(found, [(1, GATEWAY_MAC.octets().to_vec()), (5, mtu), (25, resolvers)]);
}

#[test]
fn host_without_a_route_is_no_default_router() {
    let announced = payload(&announcement(&lease()).unwrap(), ALL, ICMP);
    assert_eq!(announced[5..8], [0x80, 0xff, 0xff]);
    let lost = Lease { routed_v6: false, ..lease() };
    let withdrawn = payload(&announcement(&lost).unwrap(), ALL, ICMP);
    assert_eq!(withdrawn[5..8], [0x80, 0, 0]);
    assert_eq!(announcement(&Lease { addresses: without_v6(), ..lease() }), None);
}

fn addresses() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![Just(guest()), Just(OTHER), any::<[u8; 16]>().prop_map(Ipv6Addr::from)]
}

proptest! {
    /// Whatever a guest asks for, no address but its own lasts.
    #[test]
    fn no_guest_is_given_another_address(
        kind in 0..14_u8,
        known in collection::vec(addresses(), 0..8),
        names_us in option::of(any::<bool>()),
        rapid in any::<bool>(),
    ) {
        let mut parts = vec![client(), association(&known)];
        parts.extend(names_us.map(|us| if us { option(SERVER, &server()) } else { option(SERVER, &[1]) }));
        parts.extend(rapid.then(|| option(RAPID, &[])));
        let Some((_, found)) = answered(kind, &parts) else { return Ok(()) };
        if get(&found, ADDRESSES).is_some() {
            let given = given(&found);
            prop_assert_eq!(given[0], (guest(), 86_400));
            prop_assert!(given[1..].iter().all(|(address, lasts)| *lasts == 0 && *address != guest()));
        }
        let confirmed = kind == CONFIRM && get(&found, STATUS) == Some(&[0, 0]);
        prop_assert!(!confirmed || known.iter().all(|known| *known == guest()));
    }
}
