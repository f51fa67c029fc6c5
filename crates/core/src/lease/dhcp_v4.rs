//! DHCP of IPv4 (RFC 2131, RFC 2132) as its only server on the link answers it.

use std::net::Ipv4Addr;

use super::{DURATION, Lease, REBINDING, RENEWAL};
use crate::address::{Addresses, MacAddress};

/// The fields before the options (RFC 2131, section 2): `op`, `htype`, `hlen` and `hops`; `xid`, `secs` and `flags`;
/// `ciaddr`, `yiaddr`, `siaddr`, `giaddr` and `chaddr`; `sname`, `file`, and the magic cookie.
const START: usize = 4;
const ADDRESS: usize = 4;
const HARDWARE: usize = 16;
const NAMES: usize = 64 + 128;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The shortest message that every client takes (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// A message of a client, and of a server, on Ethernet.
const QUESTION: [u8; 3] = [1, 1, 6];
const ANSWER: [u8; 4] = [2, 1, 6, 0];
/// The flag of a client that wants its answer broadcast, in the first octet.
const BROADCAST: u8 = 0x80;

/// The options that are read or written.
mod code {
    pub(super) const PAD: u8 = 0;
    pub(super) const NETMASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const RESOLVERS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const MTU: u8 = 26;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const DURATION: u8 = 51;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WORDS: u8 = 56;
    pub(super) const RENEWAL: u8 = 58;
    pub(super) const REBINDING: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    /// RFC 4039.
    pub(super) const RAPID: u8 = 80;
    pub(super) const END: u8 = 255;
}

/// The kinds of messages (RFC 2132, section 9.6).
mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const INFORM: u8 = 8;
}

/// An answer to a guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The address of IP that it is sent to.
    pub(super) destination: Ipv4Addr,
    /// The message.
    pub(super) payload: Vec<u8>,
}

/// The parts of a question that decide about the answer.
#[derive(Debug)]
struct Question<'m> {
    kind: u8,
    /// `xid`, `secs` and `flags`.
    transaction: &'m [u8; 8],
    /// The address that the client has.
    known: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// The identifier of the client.
    client: Option<&'m [u8]>,
    rapid: bool,
}

impl<'m> Question<'m> {
    /// Reads a message of a client on this link; `None` if it is malformed, or comes through a relay.
    fn read(message: &'m [u8], mac: MacAddress) -> Option<Self> {
        let (start, rest) = message.split_first_chunk::<START>()?;
        let (transaction, rest) = rest.split_first_chunk::<8>()?;
        let (known, rest) = rest.split_first_chunk::<ADDRESS>()?;
        let (_, rest) = rest.split_first_chunk::<{ 2 * ADDRESS }>()?;
        let (relay, rest) = rest.split_first_chunk::<ADDRESS>()?;
        let (hardware, rest) = rest.split_first_chunk::<HARDWARE>()?;
        let (_, rest) = rest.split_first_chunk::<NAMES>()?;
        let (cookie, options) = rest.split_first_chunk::<4>()?;
        let is_from = start.starts_with(&QUESTION)
            && hardware.starts_with(&mac.octets())
            && *relay == [0; ADDRESS]
            && *cookie == COOKIE;
        if !is_from {
            return None;
        }
        let (mut kind, mut requested, mut server, mut client) = (None, None, None, None);
        let mut rapid = false;
        for option in Options(options) {
            let (code, value) = option?;
            let address = || <[u8; ADDRESS]>::try_from(value).map(Ipv4Addr::from);
            match code {
                code::KIND => kind = value.first().copied(),
                code::REQUESTED => requested = Some(address().ok()?),
                code::SERVER => server = Some(address().ok()?),
                code::CLIENT => client = Some(value),
                code::RAPID => rapid = true,
                _ => {}
            }
        }
        let known = Ipv4Addr::from(*known);
        Some(Self { kind: kind?, transaction, known, requested, server, client, rapid })
    }

    /// Returns the answer of this kind, to the address where its client waits for it.
    fn answer(&self, kind: u8, mut options: Written, lease: &Lease) -> Answer {
        let guest = lease.addresses.v4.guest;
        let refused = kind == kind::NAK;
        let none = Ipv4Addr::UNSPECIFIED;
        let given = if refused || self.kind == kind::INFORM { none } else { guest };
        let known = if kind == kind::ACK { self.known } else { none };
        // RFC 6842.
        if let Some(client) = self.client {
            options.add(code::CLIENT, client);
        }
        let [xid @ .., _, _, flags, more_flags] = *self.transaction;
        let mut payload = [&ANSWER[..], &xid, &[0, 0, flags, more_flags]].concat();
        payload.extend([known, given, none, none].iter().flat_map(Ipv4Addr::octets));
        payload.extend(lease.mac.octets());
        payload.extend([0; HARDWARE - 6 + NAMES]);
        payload.extend(COOKIE);
        payload.extend([code::KIND, 1, kind]);
        payload.extend(options.0);
        payload.push(code::END);
        payload.resize(payload.len().max(SHORTEST), code::PAD);
        let destination = match self.known {
            _ if refused => Ipv4Addr::BROADCAST,
            known if known == guest => known,
            _ if flags & BROADCAST != 0 => Ipv4Addr::BROADCAST,
            _ => guest,
        };
        Answer { destination, payload }
    }
}

/// The options of a message, in order. The last is `None` if one is cut off.
#[derive(Debug)]
struct Options<'m>(&'m [u8]);

impl<'m> Iterator for Options<'m> {
    type Item = Option<(u8, &'m [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0 {
                [] | [code::END, ..] => return None,
                [code::PAD, rest @ ..] => self.0 = rest,
                [code, length, rest @ ..] if rest.len() >= usize::from(*length) => {
                    let (value, rest) = rest.split_at(usize::from(*length));
                    self.0 = rest;
                    return Some(Some((*code, value)));
                }
                _ => {
                    self.0 = &[];
                    return Some(None);
                }
            }
        }
    }
}

/// Options of an answer.
#[derive(Debug, Default)]
struct Written(Vec<u8>);

impl Written {
    /// Adds an option. What is longer than an option can be is left out.
    fn add(&mut self, code: u8, value: &[u8]) {
        if let Ok(length) = u8::try_from(value.len()) {
            self.0.extend([code, length]);
            self.0.extend(value);
        }
    }

    /// Adds the server's address, which every answer has.
    fn of(lease: &Lease) -> Self {
        let mut options = Self::default();
        options.add(code::SERVER, &lease.addresses.v4.host.octets());
        options
    }

    /// Adds everything about the network. The gateway is in the guest's own network, so no route is needed to reach it.
    fn settings(lease: &Lease) -> Self {
        let mut options = Self::of(lease);
        options.add(code::NETMASK, &Addresses::NETMASK.octets());
        options.add(code::ROUTER, &lease.addresses.v4.host.octets());
        // A larger one is none of IPv4's.
        options.add(code::MTU, &u16::try_from(lease.mtu).unwrap_or(u16::MAX).to_be_bytes());
        options.add(code::HOST_NAME, lease.host_name.as_bytes());
        let resolvers: Vec<_> = lease.resolvers_v4().iter().flat_map(Ipv4Addr::octets).collect();
        if !resolvers.is_empty() {
            options.add(code::RESOLVERS, &resolvers);
        }
        options
    }

    /// Adds how long the lease lasts.
    fn lasting(lease: &Lease) -> Self {
        let mut options = Self::settings(lease);
        options.add(code::DURATION, &DURATION.to_be_bytes());
        options.add(code::RENEWAL, &RENEWAL.to_be_bytes());
        options.add(code::REBINDING, &REBINDING.to_be_bytes());
        options
    }
}

/// Returns the answer to a message of the guest of this lease; `None` if it needs none.
///
/// * A guest that asks for an address gets the lease's, whichever it asks for.
/// * A guest that asks for another address to be confirmed is refused: its disk, or its memory, was copied from another slot.
///   It asks again from the start then.
/// * A guest that returns its address, or says that somebody else has it, gets no answer: the address stays with the slot.
pub(super) fn answer(message: &[u8], lease: &Lease) -> Option<Answer> {
    let question = Question::read(message, lease.mac)?;
    let Addresses { v4, .. } = lease.addresses;
    match question.kind {
        kind::DISCOVER if question.rapid => {
            let mut options = Written::lasting(lease);
            options.add(code::RAPID, &[]);
            Some(question.answer(kind::ACK, options, lease))
        }
        kind::DISCOVER => Some(question.answer(kind::OFFER, Written::lasting(lease), lease)),
        // The guest chose another server.
        kind::REQUEST if question.server.is_some_and(|server| server != v4.host) => None,
        kind::REQUEST => {
            let known = Some(question.known).filter(|known| !known.is_unspecified());
            if question.requested.or(known)? == v4.guest {
                return Some(question.answer(kind::ACK, Written::lasting(lease), lease));
            }
            let mut options = Written::of(lease);
            options.add(code::WORDS, b"this guest has another address");
            Some(question.answer(kind::NAK, options, lease))
        }
        kind::INFORM if question.known == v4.guest => {
            Some(question.answer(kind::ACK, Written::settings(lease), lease))
        }
        _ => None,
    }
}
