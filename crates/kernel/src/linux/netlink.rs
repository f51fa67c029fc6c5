//! A netlink socket: sends requests, and receives answers and refusals in the kernel's own words (netlink(7)).

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::SocketAddr;
use rustix::net::sockopt::set_socket_send_buffer_size_force;

use crate::Refusal;

/// The size of a receive buffer, enough for any message of a dump: the kernel never makes one larger than 32 KiB.
pub(super) const BUFFER: usize = 64 * 1024;
/// A length that fits the initial send buffer of a socket (`net.core.wmem_default`, 208 KiB).
const LARGE: usize = 64 * 1024;
/// Lengths of messages and attributes are rounded up to this (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
pub(super) const ALIGNMENT: usize = 4;
/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;
/// `NLMSG_ERROR`, `NLMSG_DONE` of `<linux/netlink.h>`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`: the words of an extended acknowledgement.
const ERROR_WORDS: u16 = 1;
/// `NLM_F_ACK_TLVS`: attributes follow the acknowledged header.
const ERROR_HAS_ATTRIBUTES: u16 = 0x200;
/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The number of attempts at a dump that others keep interrupting.
const ATTEMPTS: usize = 16;
pub(super) const EINTR: i32 = 4;
pub(super) const ENOBUFS: i32 = 105;
pub(super) const EAGAIN: i32 = 11;

/// A message and its flags (`NLM_F_*`); `NLM_F_REQUEST` is understood.
#[derive(Debug, Clone)]
pub(super) struct NetlinkRequest<T> {
    pub(super) message: T,
    pub(super) flags: u16,
}

/// A socket of one netlink family.
#[derive(Debug)]
pub(super) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Requests that were sent together: their sequence numbers follow each other, and may wrap.
#[derive(Debug, Clone, Copy)]
struct Sent {
    first: u32,
    count: usize,
}

impl Sent {
    /// Returns the index of the request with this sequence number, if it is one of these.
    fn index_of(self, sequence: u32) -> Option<usize> {
        let index = usize::try_from(sequence.wrapping_sub(self.first)).ok()?;
        (index < self.count).then_some(index)
    }
}

/// The contents of one received message.
enum Incoming<'a> {
    /// `NLMSG_ERROR` with code 0.
    Acknowledged,
    Refused(Refusal),
    /// The end of a dump, and whether something changed before it.
    DumpEnd {
        interrupted: bool,
    },
    Message(&'a [u8]),
}

impl Socket {
    /// Opens a socket to the kernel's side of this family (`NETLINK_ROUTE`, `NETLINK_NETFILTER`), in the network
    /// namespace of the calling thread.
    pub(super) fn open(family: isize) -> Result<Self, Refusal> {
        let socket = netlink_sys::Socket::new(family)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { inner: socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Returns the port by which the kernel names the socket (`nl_pid`).
    pub(super) fn port(&self) -> Option<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.inner.get_address(&mut address).ok()?;
        Some(address.port_number())
    }

    /// Has the kernel check and use every field of a dump's request, as a filter
    /// (`NETLINK_GET_STRICT_CHK` of netlink(7)).
    pub(super) fn check_strictly(&self) -> Result<(), Refusal> {
        Ok(self.inner.set_netlink_get_strict_chk(true)?)
    }

    /// Sends all requests in one `send` and waits for the answer to each. They are no transaction.
    pub(super) fn send_each<T: NetlinkSerializable>(
        &mut self,
        requests: Vec<NetlinkRequest<T>>,
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let acknowledged = requests
            .into_iter()
            .map(|request| NetlinkRequest { flags: request.flags | NLM_F_ACK, ..request })
            .collect();
        let sent = self.send(acknowledged)?;
        let mut results: Vec<Option<Result<(), Refusal>>> = vec![None; sent.count];
        while results.iter().any(Option::is_none) {
            self.receive(&sent, |index, answer| {
                let result = match answer {
                    Incoming::Acknowledged => Ok(()),
                    Incoming::Refused(refusal) => Err(refusal),
                    Incoming::DumpEnd { .. } | Incoming::Message(_) => return,
                };
                if let Some(place) = results.get_mut(index) {
                    *place = Some(result);
                }
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Sends a request for a dump, and reads the first part of the answer by `read`. The rest is not asked for; the socket
    /// serves no other request after that.
    pub(super) fn query_first<T: NetlinkSerializable, U>(
        &mut self,
        message: T,
        read: impl Fn(&[u8]) -> Option<U>,
    ) -> Result<Vec<U>, Refusal> {
        let sent = self.send(vec![NetlinkRequest { message, flags: NLM_F_DUMP }])?;
        let (mut found, mut refused) = (Vec::new(), Ok(()));
        self.receive(&sent, |_, answer| match answer {
            Incoming::Message(bytes) => found.extend(read(bytes)),
            Incoming::Refused(refusal) => refused = Err(refusal),
            Incoming::Acknowledged | Incoming::DumpEnd { .. } => {}
        })?;
        refused.map(|()| found)
    }

    /// Sends one request and collects the answers. A dump during which something changed is begun anew, a few times: it
    /// may lack objects that did not change, or have them twice.
    pub(super) fn query<T: NetlinkSerializable + NetlinkDeserializable + Clone>(
        &mut self,
        message: &T,
        flags: u16,
    ) -> Result<Vec<T>, Refusal> {
        self.query_as(message, flags, decode)
    }

    /// Sends one request as [`Self::query`] does, and reads each message of the answer by `read`; `None` is left out.
    pub(super) fn query_as<T: NetlinkSerializable + Clone, U>(
        &mut self,
        message: &T,
        flags: u16,
        read: impl Fn(&[u8]) -> Option<U>,
    ) -> Result<Vec<U>, Refusal> {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let flags = if dump { flags } else { flags | NLM_F_ACK };
        for _ in 0..ATTEMPTS {
            let sent = self.send(vec![NetlinkRequest { message: message.clone(), flags }])?;
            match self.collect(&sent, &read) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                // The answer to an earlier dump was not received to its end, because of an error. It was now, up to this
                // refusal.
                Err(refusal) if dump && refusal.errno == Some(Refusal::EBUSY) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal { errno: Some(EINTR), words: "it changed whenever it was listed".to_owned() })
    }

    /// Collects the answers to this request; `None` if the listed objects changed between them.
    fn collect<U>(
        &mut self,
        sent: &Sent,
        read: impl Fn(&[u8]) -> Option<U>,
    ) -> Result<Option<Vec<U>>, Refusal> {
        let mut found = Vec::new();
        let mut consistent = true;
        let mut end = None;
        while end.is_none() {
            self.receive(sent, |_, answer| match answer {
                Incoming::Acknowledged => end = Some(Ok(())),
                Incoming::DumpEnd { interrupted } => {
                    consistent &= !interrupted;
                    end = Some(Ok(()));
                }
                Incoming::Refused(refusal) => end = Some(Err(refusal)),
                Incoming::Message(bytes) => {
                    consistent &= !is_interrupted(bytes);
                    found.extend(read(bytes));
                }
            })?;
        }
        end.unwrap_or(Ok(())).map(|()| consistent.then_some(found))
    }

    /// Sends a batch of nfnetlink, with its begin and its end, in one `send`. Fails with the index of the message
    /// that was refused first, and the refusal.
    ///
    /// Only the last message but one asks for an acknowledgement: one for each message would overflow the receive
    /// buffer after a large batch has been committed, and the end of a batch is acknowledged only from Linux 6.10
    /// on.
    pub(super) fn transaction<T: NetlinkSerializable>(
        &mut self,
        mut messages: Vec<NetlinkRequest<T>>,
    ) -> Result<(), (usize, Refusal)> {
        let last = messages.len().saturating_sub(2);
        if let Some(message) = messages.get_mut(last) {
            message.flags |= NLM_F_ACK;
        }
        let sent = self.send(messages).map_err(|refusal| (0, refusal))?;
        let mut refused: Option<(usize, Refusal)> = None;
        let mut answered = false;
        while !answered {
            let received = self.receive(&sent, |index, answer| match answer {
                Incoming::Acknowledged => answered |= index == last,
                Incoming::Refused(refusal) => {
                    // A refusal of the whole batch answers its begin message, and no other answer may follow.
                    answered |= index == last || index == 0;
                    refused.get_or_insert((index, refusal));
                }
                Incoming::DumpEnd { .. } | Incoming::Message(_) => {}
            });
            match received {
                // So many messages were refused that there was no room for all refusals.
                Err(overflow) if overflow.errno == Some(ENOBUFS) => {
                    self.drain(&sent, &mut refused);
                    answered = true;
                    refused.get_or_insert((0, overflow));
                }
                other => other.map_err(|refusal| (0, refusal))?,
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Receives the refusals for which there was room.
    fn drain(&mut self, sent: &Sent, refused: &mut Option<(usize, Refusal)>) {
        let non_blocking = self.inner.set_non_blocking(true);
        let mut end = non_blocking.is_err();
        while !end {
            let received = self.receive(sent, |index, answer| {
                if let Incoming::Refused(refusal) = answer {
                    refused.get_or_insert((index, refusal));
                }
            });
            end = received.is_err_and(|refusal| refusal.errno == Some(EAGAIN));
        }
        if let Err(error) = self.inner.set_non_blocking(false) {
            tracing::debug!(%error, "a netlink socket stays non-blocking");
        }
    }

    /// Sends requests, and returns their sequence numbers.
    fn send<T: NetlinkSerializable>(
        &mut self,
        requests: Vec<NetlinkRequest<T>>,
    ) -> Result<Sent, Refusal> {
        let sent = Sent { first: self.sequence.wrapping_add(1), count: requests.len() };
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = request.flags | NLM_F_REQUEST;
            header.sequence_number = self.sequence;
            let mut message =
                NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.message));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(ALIGNMENT), 0);
            if let Some(place) = bytes.get_mut(start..start + message.buffer_len()) {
                message.serialize(place);
            }
        }
        if bytes.len() > LARGE {
            // The buffer is enlarged, since the kernel refuses a message that does not fit it (EMSGSIZE).
            set_socket_send_buffer_size_force(&self.inner, bytes.len())?;
        }
        self.inner.send(&bytes, 0)?;
        Ok(sent)
    }

    /// Passes on the messages that nobody asked for and that have arrived, up to the first datagram after this many, without
    /// waiting. Returns whether some were lost because the buffer was full.
    pub(super) fn receive_waiting(
        &mut self,
        most: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, Refusal> {
        /// `MSG_DONTWAIT` of `<linux/socket.h>`.
        const WITHOUT_WAITING: i32 = 0x40;
        let (mut lost, mut count) = (false, 0);
        while count < most {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, WITHOUT_WAITING).map_err(Refusal::from) {
                Ok(_) => {}
                Err(refusal) if refusal.errno == Some(EAGAIN) => break,
                Err(refusal) if refusal.errno == Some(EINTR) => continue,
                Err(refusal) if refusal.errno == Some(ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            }
            for message in messages(&self.buffer) {
                each(message);
                count += 1;
            }
        }
        Ok(lost)
    }

    /// Receives once, and passes on each answer with the index of its request. Answers to earlier requests, which are
    /// no longer waited for, are dropped.
    fn receive(
        &mut self,
        sent: &Sent,
        mut each: impl FnMut(usize, Incoming<'_>),
    ) -> Result<(), Refusal> {
        self.buffer.clear();
        self.inner.recv(&mut self.buffer, 0)?;
        for message in messages(&self.buffer) {
            let sequence = read_u32(message, 8).unwrap_or(0);
            if let Some(index) = sent.index_of(sequence) {
                each(index, answer(message));
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Returns nothing if the kernel knows no such object, or nothing of its kind, and otherwise what it has answered.
pub(super) fn or_none<T>(answer: Result<Vec<T>, Refusal>) -> Result<Vec<T>, Refusal> {
    /// `tc_get_qdisc` of `net/sched/sch_api.c` answers so if another handle stands where ours is looked for.
    const EINVAL: i32 = 22;
    const EOPNOTSUPP: i32 = 95;
    const ABSENT: [i32; 4] = [Refusal::ENOENT, Refusal::ENODEV, EINVAL, EOPNOTSUPP];
    match answer {
        Err(refusal) if refusal.errno.is_some_and(|errno| ABSENT.contains(&errno)) => Ok(vec![]),
        answer => answer,
    }
}

/// Decodes a message; `None` if the library cannot: an unknown attribute of a foreign object must not hide the other
/// objects.
pub(super) fn decode<T: NetlinkDeserializable>(message: &[u8]) -> Option<T> {
    match NetlinkMessage::<T>::deserialize(message) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) => Some(inner),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "left out a message of netlink");
            None
        }
    }
}

/// Splits a received datagram into its messages, each with its header, up to the first whose length cannot be right.
pub(super) fn messages(mut received: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(read_u32(received, 0)?).ok()?;
        let message = received.get(..length).filter(|message| message.len() >= HEADER)?;
        received = received.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits bytes into attributes, and returns the type of each, without flags, and its value; up to the first whose length
/// cannot be right.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: all but `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(read_u16(rest, 0)?), read_u16(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

/// Reads received bytes as the answers to a request.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(data: &[u8]) {
    for message in messages(data) {
        let _interrupted = is_interrupted(message);
        if let Incoming::Refused(refusal) = answer(message) {
            let _words = refusal.to_string();
        }
    }
}

fn answer(message: &[u8]) -> Incoming<'_> {
    match read_u16(message, 4) {
        Some(ERROR) => match read_u32(message, HEADER).map(u32::cast_signed) {
            Some(0) => Incoming::Acknowledged,
            code => Incoming::Refused(Refusal {
                errno: code.and_then(i32::checked_neg),
                words: words(message).unwrap_or_default(),
            }),
        },
        Some(DONE) => match read_u32(message, HEADER).map_or(0, u32::cast_signed) {
            code @ ..0 => Incoming::Refused(Refusal::errno(code.saturating_neg())),
            _ => Incoming::DumpEnd { interrupted: is_interrupted(message) },
        },
        _ => Incoming::Message(message),
    }
}

/// Reports whether the listed objects changed since the message before this one (`nl_dump_check_consistent` of
/// `<net/netlink.h>`).
fn is_interrupted(message: &[u8]) -> bool {
    read_u16(message, 6).is_some_and(|flags| flags & DUMP_INTERRUPTED != 0)
}

/// Returns the kernel's words of an extended acknowledgement.
fn words(message: &[u8]) -> Option<String> {
    let flags = read_u16(message, 6)?;
    let rest = message.get(HEADER + 4 + HEADER..)?;
    if flags & ERROR_HAS_ATTRIBUTES == 0 {
        return None;
    }
    let (_, text) = attributes(rest).find(|(kind, _)| *kind == ERROR_WORDS)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
    use netlink_sys::protocols::NETLINK_ROUTE;

    use super::*;
    use riklet_testkit::namespace::{ip, isolated};

    #[test]
    fn sequence_numbers_wrap() {
        isolated(|| {
            ip("link add near type veth peer name far");
            let mut socket = Socket::open(NETLINK_ROUTE).unwrap();
            let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
            for before in [u32::MAX - 1, u32::MAX] {
                socket.sequence = before;
                assert_eq!(socket.query(&message, NLM_F_DUMP).unwrap().len(), 3);
                socket.sequence = before - 1;
                let unknown = || {
                    let message = RouteNetlinkMessage::DelLink(LinkMessage::default());
                    NetlinkRequest { message, flags: 0 }
                };
                let results = socket.send_each(vec![unknown(), unknown(), unknown()]).unwrap();
                assert!(results.len() == 3 && results.iter().all(Result::is_err), "{results:?}");
            }
        });
    }

    #[test]
    fn a_dump_during_a_change_is_repeated() {
        isolated(|| {
            // The answer has more than one part.
            for number in 0..40 {
                ip(&format!("link add near{number} type veth peer name far{number}"));
            }
            let mut socket = Socket::open(NETLINK_ROUTE).unwrap();
            let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
            let request = || vec![NetlinkRequest { message: message.clone(), flags: NLM_F_DUMP }];

            let sent = socket.send(request()).unwrap();
            let read = decode::<RouteNetlinkMessage>;
            let listed = socket.collect(&sent, read).unwrap().unwrap();
            let sent = socket.send(request()).unwrap();
            ip("link add late type veth peer name later");
            assert!(socket.collect(&sent, read).unwrap().is_none());
            let again = socket.query(&message.clone(), NLM_F_DUMP).unwrap();
            assert_eq!(again.len(), listed.len() + 2);

            // Nobody receives the answer to an earlier one, which the kernel has not finished then.
            socket.send(request()).unwrap();
            let again = socket.query(&message.clone(), NLM_F_DUMP).unwrap();
            assert_eq!(again.len(), listed.len() + 2);
        });
    }
}
