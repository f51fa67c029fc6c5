//! DHCP of IPv6 (RFC 8415) as its only server on the link answers it.

use std::net::Ipv6Addr;

use super::{DURATION, Lease, REBINDING, RENEWAL};
use crate::address::GATEWAY_MAC;

/// The number of identity associations that are answered: a client has one of addresses, and may have one of prefixes.
const ASSOCIATIONS: usize = 4;
/// The preference of a server for which a client waits no longer (RFC 8415, section 18.2.1).
const ONLY: u8 = 255;
/// The length of `msg-type` and `transaction-id`.
const START: usize = 4;
/// The longest identifier of a client (RFC 8415, section 11.1).
const LONGEST_IDENTIFIER: usize = 130;

/// The types of messages (RFC 8415, section 7.3).
mod kind {
    pub(super) const SOLICIT: u8 = 1;
    pub(super) const ADVERTISE: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CONFIRM: u8 = 4;
    pub(super) const RENEW: u8 = 5;
    pub(super) const REBIND: u8 = 6;
    pub(super) const REPLY: u8 = 7;
    pub(super) const RELEASE: u8 = 8;
    pub(super) const DECLINE: u8 = 9;
    pub(super) const INFORMATION_REQUEST: u8 = 11;
}

/// The options that are read or written (RFC 8415, section 21; RFC 3646).
mod code {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const ADDRESSES: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID: u16 = 14;
    pub(super) const RESOLVERS: u16 = 23;
    pub(super) const PREFIXES: u16 = 25;
}

/// The codes of the status option (RFC 8415, section 21.13).
mod status {
    pub(super) const SUCCESS: u16 = 0;
    pub(super) const NO_ADDRESSES: u16 = 2;
    pub(super) const NOT_ON_LINK: u16 = 4;
    pub(super) const NO_PREFIXES: u16 = 6;
}

/// The parts of a question that decide about the answer.
#[derive(Debug)]
struct Question<'m> {
    kind: u8,
    transaction: [u8; 3],
    client: Option<&'m [u8]>,
    server: Option<&'m [u8]>,
    /// The identity associations: their kinds, identifiers and addresses.
    associations: Vec<(u16, [u8; 4], Vec<Ipv6Addr>)>,
    rapid: bool,
}

impl<'m> Question<'m> {
    /// Reads a message of a client; `None` if it is malformed.
    fn read(message: &'m [u8]) -> Option<Self> {
        let (&[kind, t_0, t_1, t_2], options) = message.split_first_chunk::<START>()?;
        let transaction = [t_0, t_1, t_2];
        let (client, server, associations, rapid) = (None, None, vec![], false);
        let mut question = Self { kind, transaction, client, server, associations, rapid };
        for option in Options(options) {
            match option? {
                (code::CLIENT, value) if value.len() <= LONGEST_IDENTIFIER => {
                    question.client = Some(value);
                }
                (code::CLIENT, _) => return None,
                (code::SERVER, value) => question.server = Some(value),
                (code::RAPID, _) => question.rapid = true,
                (code @ (code::ADDRESSES | code::PREFIXES), value)
                    if question.associations.len() < ASSOCIATIONS =>
                {
                    let (identifier, rest) = value.split_first_chunk::<4>()?;
                    // Two times come before its options.
                    let addresses = Options(rest.get(8..)?).filter_map(address);
                    question.associations.push((code, *identifier, addresses.collect()));
                }
                _ => {}
            }
        }
        Some(question)
    }

    /// Reports whether the message has the identifiers that one of its kind must have (RFC 8415, section 16), and is for this
    /// server.
    fn is_for_us(&self) -> bool {
        let us = server();
        let names_us = self.server == Some(&us[..]);
        match self.kind {
            kind::SOLICIT | kind::CONFIRM | kind::REBIND => {
                self.client.is_some() && self.server.is_none()
            }
            kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => {
                self.client.is_some() && names_us
            }
            kind::INFORMATION_REQUEST => {
                self.associations.is_empty() && (self.server.is_none() || names_us)
            }
            _ => false,
        }
    }

    /// Returns an answer of this kind with both identifiers.
    fn answer(&self, kind: u8) -> Written {
        let [t_0, t_1, t_2] = self.transaction;
        let mut written = Written(vec![kind, t_0, t_1, t_2]);
        if let Some(client) = self.client {
            written.add(code::CLIENT, client);
        }
        written.add(code::SERVER, &server());
        written
    }

    /// Adds an answer for each identity association. The first of addresses gets the address of the lease, whatever it had; what
    /// else it had ends at once (RFC 8415, section 18.3.4).
    fn associate(&self, written: &mut Written, guest: Ipv6Addr) {
        let mut given = false;
        for (code, identifier, known) in &self.associations {
            let mut times = [0, 0];
            let mut options = Written::default();
            if *code == code::PREFIXES {
                options.add_status(status::NO_PREFIXES);
            } else if given {
                options.add_status(status::NO_ADDRESSES);
            } else {
                given = true;
                times = [RENEWAL, REBINDING];
                options.add_address(guest, DURATION);
                let others = known.iter().filter(|known| **known != guest).take(ASSOCIATIONS);
                others.for_each(|other| options.add_address(*other, 0));
            }
            let times = times.map(u32::to_be_bytes).concat();
            written.add(*code, &[&identifier[..], &times, &options.0].concat());
        }
    }
}

/// Returns the identifier of this server: that of its MAC address (RFC 8415, section 11.4). It is the same on every node.
fn server() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &GATEWAY_MAC.octets()].concat()
}

/// Returns the address of an option that has one.
fn address(option: Option<(u16, &[u8])>) -> Option<Ipv6Addr> {
    let (_, value) = option.filter(|(code, _)| *code == code::ADDRESS)?;
    value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// The options of a message, in order. The last is `None` if one is cut off.
#[derive(Debug)]
struct Options<'m>(&'m [u8]);

impl<'m> Iterator for Options<'m> {
    type Item = Option<(u16, &'m [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = |bytes: &'m [u8]| {
            let (&[code_0, code_1, length_0, length_1], rest) = bytes.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes([length_0, length_1]));
            let (value, rest) = rest.split_at_checked(length)?;
            Some(((u16::from_be_bytes([code_0, code_1]), value), rest))
        };
        let found = read(self.0);
        self.0 = found.map_or(&[], |(_, rest)| rest);
        Some(found.map(|(option, _)| option))
    }
}

/// A message, or options, as far as they are written.
#[derive(Debug, Default)]
struct Written(Vec<u8>);

impl Written {
    /// Adds an option. What is longer than an option can be is left out.
    fn add(&mut self, code: u16, value: &[u8]) {
        if let Ok(length) = u16::try_from(value.len()) {
            self.0.extend([code, length].map(u16::to_be_bytes).concat());
            self.0.extend(value);
        }
    }

    fn add_status(&mut self, status: u16) {
        self.add(code::STATUS, &status.to_be_bytes());
    }

    /// Adds an address that lasts for this time.
    fn add_address(&mut self, address: Ipv6Addr, duration: u32) {
        let times = [duration; 2].map(u32::to_be_bytes).concat();
        self.add(code::ADDRESS, &[&address.octets()[..], &times].concat());
    }

    fn add_resolvers(&mut self, lease: &Lease) {
        let resolvers: Vec<_> = lease.resolvers_v6().iter().flat_map(Ipv6Addr::octets).collect();
        if !resolvers.is_empty() {
            self.add(code::RESOLVERS, &resolvers);
        }
    }
}

/// Returns the answer to a message of the guest of this lease, which has this address; `None` if it needs none.
///
/// A guest that has another address is told that this one is its own, and that the other ends: its disk, or its memory, was copied
/// from another slot. One that returns its address, or says that somebody else has it, is heard, and the address stays with the
/// slot.
pub(super) fn answer(message: &[u8], guest: Ipv6Addr, lease: &Lease) -> Option<Vec<u8>> {
    let question = Question::read(message).filter(Question::is_for_us)?;
    let mut answer = match question.kind {
        kind::SOLICIT if !question.rapid => question.answer(kind::ADVERTISE),
        _ => question.answer(kind::REPLY),
    };
    match question.kind {
        kind::CONFIRM => {
            let mut known = question.associations.iter().flat_map(|(_, _, known)| known).peekable();
            // A client that has no address has nothing to confirm (RFC 8415, section 18.3.3).
            known.peek()?;
            let on_link = known.all(|known| *known == guest);
            answer.add_status(if on_link { status::SUCCESS } else { status::NOT_ON_LINK });
        }
        kind::RELEASE | kind::DECLINE => answer.add_status(status::SUCCESS),
        _ => {
            if question.kind == kind::SOLICIT && question.rapid {
                answer.add(code::RAPID, &[]);
            }
            if question.kind == kind::SOLICIT {
                answer.add(code::PREFERENCE, &[ONLY]);
            }
            question.associate(&mut answer, guest);
            answer.add_resolvers(lease);
        }
    }
    Some(answer.0)
}
