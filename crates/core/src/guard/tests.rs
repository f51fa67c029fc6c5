use super::{
    frames::{ARP, INTERFACE, IPV4, IPV6, MORE_FRAGMENTS, VLAN_TAG, from_guest},
    machine::{Place::*, Step::*, *},
    *,
};
use crate::address::{Addresses, Ends, MacAddress, Pool};

/// The slot of the guest in these tests, and the number of an interface of an earlier version.
const SLOT: Slot = Slot::new(0x1234);
const EARLIER: u32 = 17;

fn pool() -> Pool {
    "10.231.0.0/16".parse().unwrap()
}

fn pool_of_all() -> Pool {
    "10.228.0.0/14".parse().unwrap()
}

fn addresses(slot: Slot) -> Addresses {
    pool_of_all().addresses(slot).unwrap()
}

fn guard() -> Guard {
    Guard::of_interface(SLOT, &addresses(SLOT).hosts().map(Addresses::network).collect())
}

/// A frame as the kernel sees it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) interface: u32,
    pub(crate) tagged: bool,
}

/// Runs a program as the kernel does: a load past the end of the frame returns 0.
pub(crate) fn run(program: &[Instruction], frame: &Frame) -> u32 {
    /// `BPF_JMP | BPF_JA`, which the guard does without.
    const JUMP: u16 = 0x05;
    let (mut accumulator, mut index, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0_usize);
    let read = |offset: u32, length: usize| match offset {
        INTERFACE => Some(frame.interface),
        VLAN_TAG => Some(frame.tagged.into()),
        _ => {
            let bytes = frame.bytes.get(usize::try_from(offset).ok()?..)?.get(..length)?;
            Some(bytes.iter().fold(0, |all, &byte| all << 8 | u32::from(byte)))
        }
    };
    loop {
        let Instruction { code, if_true, if_false, operand } = program[at];
        let holds = match code {
            EQUAL => accumulator == operand,
            EQUAL_INDEX => accumulator == index,
            AT_LEAST => accumulator >= operand,
            ANY_BIT => accumulator & operand != 0,
            RETURN => return operand,
            _ => false,
        };
        let loaded = match code {
            WORD => read(operand, 4),
            HALF => read(operand, 2),
            BYTE => read(operand, 1),
            WORD_FROM => read(operand + index, 4),
            HALF_FROM => read(operand + index, 2),
            BYTE_FROM => read(operand + index, 1),
            ADD => Some(accumulator.wrapping_add(operand)),
            SUBTRACT => Some(accumulator.wrapping_sub(operand)),
            MASK => Some(accumulator & operand),
            SHIFT_LEFT => Some(accumulator << operand),
            _ => Some(accumulator),
        };
        let Some(loaded) = loaded else { return 0 };
        accumulator = loaded;
        match code {
            HEADER_LENGTH => index = (read(operand, 1).unwrap() & 0xf) * 4,
            TO_INDEX => index = accumulator,
            STORE => memory[usize::try_from(operand).unwrap()] = accumulator,
            RECALL => index = memory[usize::try_from(operand).unwrap()],
            _ => {}
        }
        let jump = if code == JUMP { operand } else { 0 };
        let jump = usize::try_from(jump).unwrap();
        at += 1 + jump + usize::from(if holds { if_true } else { if_false });
    }
}

const HOST: [u8; 6] = [0x0a, 0x52, 0x49, 0x4b, 0, 1];
const ALL: [u8; 6] = [0xff; 6];

fn frame(to: [u8; 6], from: MacAddress, ether_type: u32, payload: &[u8]) -> Frame {
    let [.., high, low] = ether_type.to_be_bytes();
    let bytes = [&to[..], &from.octets(), &[high, low], payload].concat();
    Frame { bytes, interface: interface_number(SLOT), tagged: false }
}

/// A packet of a guest.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    mac: MacAddress,
    from: Ipv4Addr,
    to: [u8; 4],
    protocol: u8,
    fragment: u16,
    /// The number of words of options in the header.
    options: u8,
    payload: &'a [u8],
}

/// Returns a packet of the guest to its gateway.
fn packet(protocol: u8, payload: &[u8]) -> Packet<'_> {
    let Addresses { v4, .. } = addresses(SLOT);
    Packet {
        mac: SLOT.guest_mac(),
        from: v4.guest,
        to: v4.host.octets(),
        protocol,
        fragment: 0,
        options: 0,
        payload,
    }
}

impl Packet<'_> {
    fn bytes(self) -> Vec<u8> {
        let [high, low] = self.fragment.to_be_bytes();
        let start = [0x45 + self.options, 0, 0, 0, 0, 0, high, low, 64, self.protocol, 0, 0];
        let options = vec![1; usize::from(self.options) * 4];
        [&start[..], &self.from.octets(), &self.to, &options, self.payload].concat()
    }

    fn frame(self) -> Frame {
        frame(HOST, self.mac, IPV4, &self.bytes())
    }

    #[track_caller]
    fn passes(self, expected: bool, what: &str) {
        assert_eq!(passes(&self.frame()), expected, "{what}: {self:?}");
    }
}

fn passes(frame: &Frame) -> bool {
    run(&guard().from_guest(), frame) != DROP
}

fn udp(port: u16) -> Vec<u8> {
    [[0, 67], port.to_be_bytes(), [0, 8], [0, 0]].concat()
}

/// Returns an error of ICMP that quotes a packet to this address.
fn error(kind: u8, quoted: Ipv4Addr) -> Vec<u8> {
    [&[kind, 4, 0, 0, 0, 0, 0, 0][..], &packet(0, &[]).bytes()[..16], &quoted.octets()].concat()
}

#[test]
fn a_guest_speaks_to_one_host_and_configures_none() {
    for options in [0, 5] {
        for (protocol, payload, expected, what) in [
            (17, &*udp(53), true, "DNS"),
            (17, &udp(67), false, "a client of DHCP"),
            (17, &udp(68), false, "a server of DHCP"),
            (6, &udp(68), true, "TCP"),
            (1, &[8, 0, 0, 0], true, "an echo"),
            (1, &[5, 1, 0, 0], false, "a redirect"),
            (1, &[9, 0, 0, 0], false, "a router"),
        ] {
            Packet { options, ..packet(protocol, payload) }.passes(expected, what);
        }
    }
    Packet { fragment: 0x2000, ..packet(17, &udp(68)) }.passes(false, "a first fragment");
    Packet { fragment: 0x2001, ..packet(17, &udp(68)) }.passes(true, "it has no ports");
    let special = [[224, 0, 0, 251], [224, 0, 0, 252], [255; 4], [240, 0, 0, 1], [127, 9, 0, 1]];
    for to in special {
        Packet { to, ..packet(17, &udp(5353)) }.passes(false, "not one host");
    }
    Packet { to: [203, 0, 113, 1], ..packet(132, &[0; 12]) }.passes(true, "SCTP");
    let for_all = frame(ALL, SLOT.guest_mac(), IPV4, &packet(17, &udp(53)).bytes());
    assert!(!passes(&for_all), "the frame is for all hosts");
    for other in [0x86dd, 0x88cc, 0x8100, 0x88a8, 0x8863] {
        assert!(!passes(&frame(HOST, SLOT.guest_mac(), other, &[0; 40])), "{other:#x}");
    }
    let tagged = Frame { tagged: true, ..packet(17, &udp(53)).frame() };
    assert!(!passes(&tagged), "VLAN");
}

#[test]
fn a_guest_has_its_own_addresses_only() {
    let other = Slot::new(0x1235);
    let whole = packet(6, &[0; 20]);
    whole.passes(true, "its own");
    for from in [
        addresses(other).v4.guest,
        addresses(SLOT).v4.host,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        [198, 51, 100, 1].into(),
        [224, 0, 0, 1].into(),
    ] {
        Packet { from, ..whole }.passes(false, "another's address");
    }
    let [.., m_4, m_5] = SLOT.guest_mac().octets();
    for mac in [other.guest_mac(), MacAddress::new([2, b'R', b'I', b'K', m_4, m_5])] {
        Packet { mac, ..whole }.passes(false, "another's MAC address");
    }
    let both = Packet { mac: other.guest_mac(), from: addresses(other).v4.guest, ..whole };
    both.passes(false, "both are another's");
    let earlier = |packet: Packet<'_>| Frame { interface: EARLIER, ..packet.frame() };
    assert!(passes(&earlier(whole)), "an interface of an earlier version");
    assert!(passes(&earlier(both)), "`rp_filter` of the interface drops it");
    assert!(!passes(&earlier(Packet { from: both.from, ..whole })), "they do not belong together");
}

#[test]
fn every_slot_of_every_pool_passes_its_own_guard() {
    let both = [pool(), pool_of_all()].map(|pool| pool.with_v6(PREFIX.parse().unwrap()).unwrap());
    let pools = [pool(), pool_of_all(), "192.168.9.0/30".parse().unwrap(), both[0], both[1]];
    let slots = [0, 1, 127, 128, 16_383, 16_384, u16::MAX].map(Slot::new);
    for (pool, slot) in pools.iter().flat_map(|pool| slots.map(|slot| (pool, slot))) {
        let Some(of_slot) = pool.addresses(slot) else { continue };
        let on_tap = of_slot.hosts().map(Addresses::network).collect();
        let guard = Guard::of_interface(slot, &on_tap);
        assert!(guard.fits(slot, &on_tap), "{pool} {slot}");
        let Ends { host, guest } = of_slot.v4;
        let own =
            Packet { mac: slot.guest_mac(), from: guest, to: host.octets(), ..packet(6, &[]) };
        let own = Frame { interface: interface_number(slot), ..own.frame() };
        assert_ne!(run(&guard.from_guest(), &own), DROP, "{pool} {slot}");
        let all = Guard::of_interface(Slot::new(0), &first_of(*pool));
        assert_eq!(guard, all, "one program for all slots");
    }
}

fn first_of(pool: Pool) -> SmallSet<IpNet> {
    pool.addresses(Slot::new(0)).unwrap().hosts().map(Addresses::network).collect()
}

#[test]
fn a_guest_asks_for_addresses_by_its_own() {
    let ask = |mac: MacAddress, sender: Ipv4Addr| {
        let start = [0, 1, 8, 0, 6, 4, 0, 1];
        let rest = [0, 0, 0, 0, 0, 0, 10, 231, 0, 1];
        let bytes = [&start[..], &mac.octets(), &sender.octets(), &rest].concat();
        frame(ALL, SLOT.guest_mac(), ARP, &bytes)
    };
    let (own, other) = (SLOT.guest_mac(), Slot::new(7));
    assert!(passes(&ask(own, addresses(SLOT).v4.guest)));
    assert!(passes(&ask(own, Ipv4Addr::UNSPECIFIED)), "a probe");
    for sender in [addresses(other).v4.guest, addresses(SLOT).v4.host, [192, 168, 7, 1].into()] {
        assert!(!passes(&ask(own, sender)), "{sender}");
    }
    assert!(!passes(&ask(other.guest_mac(), addresses(SLOT).v4.guest)));
    assert!(!passes(&ask(MacAddress::new(HOST), addresses(SLOT).v4.guest)));
}

#[test]
fn errors_quote_what_the_guest_was_sent() {
    let own = addresses(SLOT).v4.guest;
    for kind in [3, 4, 11, 12] {
        for options in [0, 10] {
            let error_of = |quoted| error(kind, quoted);
            let passes = |quoted, expected, what: &str| {
                let payload = error_of(quoted);
                Packet { options, ..packet(1, &payload) }.passes(expected, what);
            };
            passes(own, true, "its own flow");
            passes([203, 0, 113, 1].into(), false, "somebody else's flow");
        }
        let payload = error(kind, own);
        let first = Packet { fragment: MORE_FRAGMENTS.try_into().unwrap(), ..packet(1, &payload) };
        first.passes(false, "the quotation may be in another fragment");
    }
}

#[test]
fn the_host_speaks_to_one_guest() {
    let passes = |to, ether_type| {
        run(&to_guest(), &frame(to, MacAddress::new(HOST), ether_type, &[0; 40])) != DROP
    };
    assert!(passes(SLOT.guest_mac().octets(), IPV4));
    assert!(passes(ALL, ARP));
    for group in [ALL, [1, 0, 0x5e, 0, 0, 0xfb]] {
        assert!(!passes(group, IPV4), "{group:?}");
    }
    assert!(!passes([0x33, 0x33, 0, 0, 0, 2], 0x86dd));
}

#[test]
fn a_guard_is_read_from_its_program() {
    let guard = guard();
    let program = bytes(&guard.from_guest());
    assert_eq!(Guard::read(&program), Some(guard));
    for other in [&program[8..], &program[..program.len() - 8], &bytes(&to_guest()), &[]] {
        assert_eq!(Guard::read(other), None);
    }
    let other: SmallSet<_> = ["10.9.0.1/30".parse().unwrap()].into_iter().collect();
    assert!(!guard.fits(SLOT, &other), "another pool's");
    assert!(guard.fits(SLOT, &SmallSet::default()), "the interface lost its address");
}

#[test]
fn every_jump_leads_to_its_place() {
    let (first, first_v6) = (addresses(SLOT).v4.guest, Some(Ipv6Addr::LOCALHOST));
    for steps in [from_guest(first, None), from_guest(first, first_v6)] {
        let program = assemble(&steps);
        for (at, instruction) in program.iter().enumerate() {
            for distance in [instruction.if_true, instruction.if_false] {
                assert!(at + usize::from(distance) < program.len(), "{at}");
                assert!(distance < u8::MAX, "{at}");
            }
        }
        let targets = steps.iter().filter_map(|step| match step {
            If(_, _, yes, no) => Some([*yes, *no]),
            _ => None,
        });
        for target in targets.flatten() {
            let here = steps.iter().any(|step| matches!(step, At(place) if *place == target));
            assert!(here || matches!(target, On | Pass | Drop), "{target:?}");
        }
    }
}

const PREFIX: &str = "fd52:494b:7:8::/64";

fn with_v6() -> (Guard, Ends<Ipv6Addr>) {
    let pool = pool_of_all().with_v6(PREFIX.parse().unwrap()).unwrap();
    let of_slot = pool.addresses(SLOT).unwrap();
    let on_tap = of_slot.hosts().chain([crate::address::GATEWAY_LINK_LOCAL.into()]);
    (Guard::of_interface(SLOT, &on_tap.map(Addresses::network).collect()), of_slot.v6.unwrap())
}

/// Returns a frame with a packet of IPv6.
fn frame_v6(to: [u8; 6], from: Ipv6Addr, dest: Ipv6Addr, next: u8, payload: &[u8]) -> Frame {
    let start = [0x60, 0, 0, 0, 0, 0, next, 255];
    let bytes = [&start[..], &from.octets(), &dest.octets(), payload].concat();
    frame(to, SLOT.guest_mac(), IPV6, &bytes)
}

#[test]
fn a_guest_has_its_own_address_of_ipv6_only() {
    let (guard, Ends { host, guest }) = with_v6();
    let sent = |from: Ipv6Addr, next, payload: &[u8]| {
        run(&guard.from_guest(), &frame_v6(HOST, from, host, next, payload)) != DROP
    };
    assert!(sent(guest, 6, &[0; 20]), "its own");
    assert!(!passes(&frame_v6(HOST, guest, host, 6, &[0; 20])), "guests have no IPv6");
    let address = |text: &str| -> Ipv6Addr { text.parse().unwrap() };
    let others = [
        host,
        address("fd52:494b:7:8::1"),
        address("fd52:494b:7:9::2469"),
        address("2001:db8::1"),
        address("fe80::1"),
        address("fe80::7"),
        address("fe81::7"),
        address("fe80:0:0:1::7"),
        address("::"),
        address("::1"),
        address("::ffff:10.228.72.210"),
        address("ff02::1"),
    ];
    for from in others {
        assert!(!sent(from, 6, &[0; 20]), "{from}");
        // Neighbour discovery, by addresses of the link, or while the address is not known to be free.
        let discovers =
            from == address("::") || from.octets()[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
        for kind in [135, 136] {
            assert_eq!(sent(from, 58, &[kind; 24]), discovers, "{from} {kind}");
        }
        for kind in [128, 133, 134, 137, 143] {
            assert!(!sent(from, 58, &[kind; 24]), "{from} {kind}");
        }
    }
}

#[test]
fn a_guest_configures_no_host_by_ipv6() {
    let (guard, Ends { host, guest }) = with_v6();
    let sent_to = |to, dest, next, payload: &[u8]| {
        run(&guard.from_guest(), &frame_v6(to, guest, dest, next, payload)) != DROP
    };
    let sent = |next, payload: &[u8]| sent_to(HOST, host, next, payload);
    for kind in [128, 129, 135, 136] {
        assert!(sent(58, &[kind; 24]), "{kind}");
    }
    for kind in [130, 131, 132, 133, 134, 137, 138, 139, 143, 151, 255] {
        assert!(!sent(58, &[kind; 24]), "{kind}");
    }
    assert!(sent(17, &udp(53)), "DNS");
    assert!(!sent(17, &udp(546)), "a server of DHCP");
    assert!(!sent(17, &udp(547)), "a client of DHCP");
    assert!(sent(44, &[17; 8]), "a fragment");
    for header in [0, 43, 60] {
        assert!(!sent(header, &[58, 0, 1, 4, 0, 0, 0, 0, 134]), "{header}");
    }
    let many: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    assert!(!sent_to(group, many, 17, &udp(5353)), "not one host");
    assert!(!sent_to(HOST, many, 17, &udp(5353)), "not one host");
    assert!(!sent_to(group, host, 17, &udp(53)), "the frame is for many hosts");
    assert!(sent_to(group, many, 58, &[135; 24]), "it asks for the gateway");
    for kind in [1, 2, 3, 4] {
        let quoting = |quoted: Ipv6Addr| {
            let start = [&[kind, 0, 0, 0, 0, 0, 5, 0][..], &[0x60, 0, 0, 0, 0, 0, 6, 64]].concat();
            sent(58, &[&start[..], &host.octets(), &quoted.octets()].concat())
        };
        assert!(quoting(guest), "its own flow");
        assert!(!quoting(host), "somebody else's flow");
        assert!(!quoting("2001:db8::7".parse().unwrap()), "somebody else's flow");
    }
}

#[test]
fn a_guard_with_ipv6_is_read_from_its_program() {
    let (guard, ends) = with_v6();
    assert_eq!(Guard::read(&bytes(&guard.from_guest())), Some(guard));
    let v4 = || addresses(SLOT).hosts().map(Addresses::network);
    let both = |host: Ipv6Addr| v4().chain([Addresses::network(host.into())]).collect();
    assert!(guard.fits(SLOT, &both(ends.host)));
    assert!(!guard.fits(SLOT, &both("fd52:494b:7:9::2468".parse().unwrap())), "another prefix");
    assert!(guard.fits(SLOT, &v4().collect()), "the interface lost its address");
    assert!(
        !Guard::of_interface(SLOT, &v4().collect()).fits(SLOT, &both(ends.host)),
        "none of IPv6"
    );
}
