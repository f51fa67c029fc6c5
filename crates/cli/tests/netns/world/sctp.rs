//! SCTP associations (RFC 9260) over raw sockets: a kernel need not support SCTP to forward it.
//!
//! This is the part of the protocol that one question and its answer need, in the order that connection tracking
//! expects. While a raw socket takes the packets, the kernel sends no ICMP "protocol unreachable".

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv,
        send, sendto, socket_with,
    },
};

use super::{
    Namespace,
    background::Background,
    traffic::{Endpoints, Server},
};

/// The number of times a chunk is sent before giving up, and the time to wait for each answer.
const ATTEMPTS: u32 = 5;
const WAIT: Duration = Duration::from_millis(400);
/// The type of the only parameter that is read: the state cookie of an INIT ACK.
const COOKIE: u16 = 7;
/// The flags of a DATA chunk that carries a whole message.
const WHOLE: u8 = 0b11;

/// The chunk types in use (RFC 9260, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Init,
    InitAck,
    Sack,
    Abort,
    Shutdown,
    ShutdownAck,
    CookieEcho,
    CookieAck,
    ShutdownComplete,
}

/// The numbers of the chunk types.
const NUMBERS: [(Kind, u8); 10] = [
    (Kind::Data, 0),
    (Kind::Init, 1),
    (Kind::InitAck, 2),
    (Kind::Sack, 3),
    (Kind::Abort, 6),
    (Kind::Shutdown, 7),
    (Kind::ShutdownAck, 8),
    (Kind::CookieEcho, 10),
    (Kind::CookieAck, 11),
    (Kind::ShutdownComplete, 14),
];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunk {
    kind: Kind,
    value: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    tag: u32,
    chunks: Vec<Chunk>,
}

impl Chunk {
    fn new(kind: Kind, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: value.into() }
    }

    /// Makes an INIT or INIT ACK: tag, window, streams out and in, first TSN.
    fn init(kind: Kind, tag: u32, tsn: u32, parameters: &[u8]) -> Self {
        let fixed = [tag, 0x0001_0000, 0x0001_0001, tsn].map(u32::to_be_bytes).concat();
        Self::new(kind, [&fixed, parameters].concat())
    }

    /// Makes the first message of stream 0.
    fn data(tsn: u32, text: &str) -> Self {
        let fixed = [tsn, 0, 0].map(u32::to_be_bytes).concat();
        Self::new(Kind::Data, [&fixed, text.as_bytes()].concat())
    }

    fn sack(tsn: u32) -> Self {
        Self::new(Kind::Sack, [tsn, 0x0001_0000, 0].map(u32::to_be_bytes).concat())
    }

    /// Reads the number at this offset of the value.
    fn number(&self, at: usize) -> Option<u32> {
        self.value.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Returns the state cookie of an INIT ACK.
    fn cookie(&self) -> Option<&[u8]> {
        let mut rest = self.value.get(16..)?;
        loop {
            let header = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?).to_be_bytes();
            let [kind, length] =
                [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes);
            let length = usize::from(length);
            if kind == COOKIE {
                return rest.get(4..length);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..)?;
        }
    }
}

impl Packet {
    fn chunk(&self, kind: Kind) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.kind == kind)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.from, self.to].map(u16::to_be_bytes).concat();
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for Chunk { kind, value } in &self.chunks {
            let number = NUMBERS.iter().find(|(known, _)| known == kind).map_or(0, |(_, n)| *n);
            let length = u16::try_from(4 + value.len()).expect("a short chunk");
            bytes.extend([number, if *kind == Kind::Data { WHOLE } else { 0 }]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&checksum);
        bytes
    }

    /// Returns `None` if the checksum is wrong, which it is if NAT did not correct it.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(12)?;
        let mut zeroed = bytes.to_vec();
        zeroed[8..12].fill(0);
        if header[8..] != crc32c(&zeroed).to_le_bytes() {
            return None;
        }
        let mut chunks = Vec::new();
        while let [number, _, high, low, ..] = *rest {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let value = rest.get(4..length)?;
            let kind = NUMBERS.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind);
            chunks.extend(kind.map(|kind| Chunk::new(kind, value)));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let [from, to] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes);
        let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some(Self { from, to, tag, chunks })
    }
}

/// Computes CRC-32C (RFC 9260, appendix A) bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
    })
}

fn raw_socket(namespace: &Namespace) -> io::Result<OwnedFd> {
    namespace.run(|| {
        let flags = SocketFlags::CLOEXEC;
        Ok(socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::SCTP))?)
    })
}

/// Receives a packet. Returns it with its source, or `None` if it cannot be decoded.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Ipv4Addr, Packet)>> {
    let mut bytes = [0; 2048];
    let (length, _) = recv(socket, &mut bytes, RecvFlags::empty())?;
    // The IP header comes first; the low half of its first byte is its length in words.
    let header = usize::from(bytes[0] & 0xf) * 4;
    let source = Ipv4Addr::from([bytes[12], bytes[13], bytes[14], bytes[15]]);
    Ok(bytes.get(header..length).and_then(Packet::decode).map(|packet| (source, packet)))
}

/// Starts a server that answers the first message of each association with the client's address. `at` must be an
/// address of the namespace, not the unspecified one.
#[track_caller]
pub(crate) fn sctp_server(namespace: &Namespace, at: impl Into<SocketAddr>) -> Server {
    let address = at.into();
    let socket = raw_socket(namespace).expect("a raw socket");
    namespace.run(|| bind(&socket, &address)).expect("an address of the namespace");
    let thread = Background::start(move |stop| {
        let mut tags = BTreeMap::new();
        while stop.readable([socket.as_fd()]).is_some() {
            let Ok(Some((source, packet))) = receive(&socket) else { continue };
            let client = SocketAddrV4::new(source, packet.from);
            let answer = Endpoints { client: client.into(), server: address };
            if packet.to == address.port()
                && let Some(reply) = reply(&mut tags, answer, &packet)
            {
                // The client repeats its request if an answer is lost.
                sendto(&socket, &reply.encode(), SendFlags::empty(), &client).ok();
            }
        }
    });
    Server { address, _thread: thread }
}

/// Returns the server's answer to a packet. The server's own tag is its port; its first TSN and its cookie are the
/// client's tag.
fn reply(
    tags: &mut BTreeMap<SocketAddr, u32>,
    answer: Endpoints,
    packet: &Packet,
) -> Option<Packet> {
    let own = u32::from(packet.to);
    let first = packet.chunks.first()?;
    let reply = |tag, chunks| Some(Packet { from: packet.to, to: packet.from, tag, chunks });
    if first.kind == Kind::Init {
        let tag = first.number(0)?;
        let cookie = [&[0, 7, 0, 8], &tag.to_be_bytes()[..]].concat();
        return reply(tag, vec![Chunk::init(Kind::InitAck, own, tag, &cookie)]);
    }
    if packet.tag != own {
        return None;
    }
    if first.kind == Kind::CookieEcho {
        let tag = first.number(0)?;
        tags.insert(answer.client, tag);
        return reply(tag, vec![Chunk::new(Kind::CookieAck, [])]);
    }
    let tag = *tags.get(&answer.client)?;
    if let Some(data) = packet.chunk(Kind::Data) {
        let chunks = vec![Chunk::sack(data.number(0)?), Chunk::data(tag, &answer.to_string())];
        reply(tag, chunks)
    } else if packet.chunk(Kind::Shutdown).is_some() {
        reply(tag, vec![Chunk::new(Kind::ShutdownAck, [])])
    } else {
        None
    }
}

/// Makes an association, and returns what [`sctp_server`] sees. Fails if no answer comes, or if an ABORT does.
pub(crate) fn sctp_ask(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
) -> io::Result<Endpoints> {
    SctpClient::new(namespace, target)?.ask()
}

/// A client that keeps its port.
#[derive(Debug)]
pub(crate) struct SctpClient {
    /// A socket that receives from the target's address only.
    socket: OwnedFd,
    port: u16,
    target: SocketAddr,
    /// The tag that the server sends, which is also our first TSN.
    tag: u32,
}

impl SctpClient {
    pub(crate) fn new(namespace: &Namespace, target: impl Into<SocketAddr>) -> io::Result<Self> {
        /// The next client's port. Each has its own, below the range from which the kernel assigns ports.
        static NEXT: AtomicU16 = AtomicU16::new(20_000);
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let target = target.into();
        let socket = raw_socket(namespace)?;
        namespace.run(|| connect(&socket, &SocketAddr::new(target.ip(), 0)))?;
        Ok(Self { socket, port, target, tag: 0x5249_0000 | u32::from(port) })
    }

    /// Makes an association, and returns what [`sctp_server`] sees.
    pub(crate) fn ask(&self) -> io::Result<Endpoints> {
        self.say("who am I?")?.parse()
    }

    /// Sends one message and returns the answer, from INIT to SHUTDOWN COMPLETE.
    fn say(&self, message: &str) -> io::Result<String> {
        let malformed = || io::Error::from(ErrorKind::InvalidData);
        let init = Chunk::init(Kind::Init, self.tag, self.tag, &[]);
        let accepted = self.exchange(0, &[init], Kind::InitAck)?;
        let peer = accepted.number(0).ok_or_else(malformed)?;
        let cookie = accepted.cookie().ok_or_else(malformed)?;
        self.exchange(peer, &[Chunk::new(Kind::CookieEcho, cookie)], Kind::CookieAck)?;
        let data = self.exchange(peer, &[Chunk::data(self.tag, message)], Kind::Data)?;
        let tsn = data.number(0).ok_or_else(malformed)?;
        let shutdown = Chunk::new(Kind::Shutdown, tsn.to_be_bytes());
        self.exchange(peer, &[Chunk::sack(tsn), shutdown], Kind::ShutdownAck)?;
        self.send(peer, &[Chunk::new(Kind::ShutdownComplete, [])])?;
        let text = data.value.get(12..).ok_or_else(malformed)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn send(&self, tag: u32, chunks: &[Chunk]) -> io::Result<()> {
        let (from, to) = (self.port, self.target.port());
        let packet = Packet { from, to, tag, chunks: chunks.to_vec() };
        send(&self.socket, &packet.encode(), SendFlags::empty())?;
        Ok(())
    }

    /// Sends these chunks until a chunk of this kind comes back.
    fn exchange(&self, tag: u32, chunks: &[Chunk], wanted: Kind) -> io::Result<Chunk> {
        let wait = Timespec::try_from(WAIT).expect("a short time");
        for _ in 0..ATTEMPTS {
            self.send(tag, chunks)?;
            loop {
                let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
                if poll(&mut ready, Some(&wait))? == 0 {
                    break;
                }
                let Some((_, packet)) = receive(&self.socket)? else { continue };
                let ours = packet.from == self.target.port() && packet.to == self.port;
                if !ours || packet.tag != self.tag {
                    continue;
                }
                if packet.chunk(Kind::Abort).is_some() {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
                if let Some(chunk) = packet.chunk(wanted) {
                    return Ok(chunk.clone());
                }
            }
        }
        let what = format!("waited for {wanted:?} of {}", self.target);
        Err(io::Error::new(ErrorKind::TimedOut, what))
    }
}
