//! Questions of DHCP for IPv4, field by field (RFC 2131).

use std::{net::Ipv4Addr, time::Instant};

use riklet_core::model::MacAddress;

use crate::world::{guest::Guest, sniffer::Sniffer, traffic::SILENCE};

/// Kinds of messages (RFC 2132, section 9.6).
pub(super) const DISCOVER: u8 = 1;
pub(super) const OFFER: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const ACK: u8 = 5;
pub(super) const NAK: u8 = 6;

const IPV4: u16 = 0x0800;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Returns the frame of a question.
pub(super) fn frame(
    mac: MacAddress,
    kind: u8,
    known: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
) -> Vec<u8> {
    let known = known.map_or([0; 4], |address| address.octets());
    let start = [&[1, 1, 6, 0, 0, 0, 0, 7, 0, 0, 0, 0][..], &known, &[0; 12]].concat();
    let mut message =
        [&start[..], &mac.octets(), &[0; 10 + 64 + 128], &COOKIE, &[53, 1, kind]].concat();
    if let Some(address) = requested {
        message.extend([&[50, 4][..], &address.octets()].concat());
    }
    message.push(255);
    to_servers(mac, &message)
}

/// Returns a frame to the same port whose contents are none of DHCP.
pub(super) fn garbage(mac: MacAddress) -> Vec<u8> {
    to_servers(mac, &[0xa5; 1400])
}

fn to_servers(mac: MacAddress, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + message.len()).expect("a short message");
    let udp = [68, 67, length, 0].map(u16::to_be_bytes).concat();
    let total = (20 + length).to_be_bytes();
    let start = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0]].concat();
    let ip = [&start[..], &[255; 4]].concat();
    [&[255; 6][..], &mac.octets(), &[8, 0], &ip, &udp, message].concat()
}

/// An answer: its kind, and the address that it gives.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: u8,
    pub(super) given: Ipv4Addr,
}

/// Asks at a guest's TAP, and hears the answers in the guest.
#[derive(Debug)]
pub(super) struct Asker(Sniffer);

impl Asker {
    pub(super) fn new(guest: &Guest) -> Self {
        Self(Sniffer::new(&guest.namespace, IPV4))
    }

    /// Asks as this guest, and returns the answer if one comes.
    pub(super) fn ask(
        &mut self,
        guest: &Guest,
        kind: u8,
        known: Option<Ipv4Addr>,
        requested: Option<Ipv4Addr>,
    ) -> Option<Answer> {
        self.hear(guest, &frame(guest.nic.mac, kind, known, requested))
    }

    /// Asks with another MAC address.
    pub(super) fn ask_as(&mut self, guest: &Guest, mac: MacAddress, kind: u8) -> Option<Answer> {
        self.hear(guest, &frame(mac, kind, None, None))
    }

    fn hear(&mut self, guest: &Guest, question: &[u8]) -> Option<Answer> {
        drop(self.0.heard());
        guest.send(question);
        #[expect(clippy::disallowed_methods, reason = "the test waits for an answer")]
        let begin = Instant::now();
        while begin.elapsed() < SILENCE {
            let found = self.0.heard().iter().find_map(|frame| read(frame));
            if found.is_some() {
                return found;
            }
            self.0.wait(SILENCE);
        }
        None
    }
}

/// Reads an answer's frame.
fn read(frame: &[u8]) -> Option<Answer> {
    let message = frame.get(14 + 20 + 8..)?;
    let is_answer = frame.get(34..38)? == [0, 67, 0, 68] && message.get(236..240)? == COOKIE;
    let given: [u8; 4] = message.get(16..20)?.try_into().ok()?;
    let mut options = message.get(240..)?;
    while let [code, length, rest @ ..] = options {
        if *code == 53 && is_answer {
            return Some(Answer { kind: *rest.first()?, given: given.into() });
        }
        options = rest.get(usize::from(*length)..)?;
    }
    None
}
