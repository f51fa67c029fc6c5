//! The guest's TCP/IP stack: smoltcp on the TAP, and the sockets in it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use rustix::io::Errno;
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet},
    socket::{tcp, udp},
    time::{Duration, Instant},
    wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Cidr},
};

use super::{
    Guest, GuestError,
    device::Tap,
    frame::{self, Syn},
};

/// The size of a connection's buffer in each direction. It limits the data in flight, besides the MTU.
const TCP_BUFFER: usize = 32 * 1024;
/// The size of a UDP port's buffer in each direction.
const UDP_BUFFER: usize = 16 * 1024;
/// The number of datagrams in that buffer.
const UDP_DATAGRAMS: usize = 32;
/// The time that the peer has to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(10);
/// The interval of announcing the gateway, shorter than the lifetime of a neighbour in smoltcp (60 s).
const INTRODUCTION: Duration = Duration::from_secs(30);
/// Frames taken before replies are sent, so that a flood of them does not keep us from replying.
const BURST: usize = 128;

/// A socket that waits for the end of its connection.
struct Closing {
    socket: SocketHandle,
    until: Instant,
}

/// The stack.
pub(super) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    closing: Vec<Closing>,
    address: (Ipv4Addr, EthernetAddress),
    gateway: Ipv4Addr,
    introduced: Option<Instant>,
    next_port: u16,
}

/// The answer to a connection request.
pub(super) enum Verdict {
    /// A socket answers the request.
    Accept,
    /// The stack decides, since the request belongs to an existing connection or nobody serves the port.
    Pass,
    /// Nothing is sent, so that the client asks again.
    Ignore,
}

impl Stack {
    /// Creates the stack. `seed` makes sequence numbers and local ports hard to guess.
    pub(super) fn new(
        guest: &Guest,
        tap: &mut Tap,
        seed: u64,
        now: Instant,
    ) -> Result<Self, GuestError> {
        let mac = EthernetAddress(guest.mac.octets());
        let mut config = Config::new(mac.into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, tap, now);
        let cidr = Ipv4Cidr::new(guest.address.addr(), guest.address.prefix_len());
        // There is room for one address and one route.
        interface.update_ip_addrs(|addresses| addresses.extend([IpCidr::Ipv4(cidr)]));
        let route = interface.routes_mut().add_default_ipv4_route(guest.gateway);
        route.map_err(|_full| GuestError::Gateway { gateway: guest.gateway })?;
        let [.., high, low] = seed.to_be_bytes();
        Ok(Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            closing: Vec::new(),
            address: (guest.address.addr(), mac),
            gateway: guest.gateway,
            introduced: None,
            next_port: FIRST_EPHEMERAL | u16::from_be_bytes([high, low]),
        })
    }

    /// Receives a burst of frames, and calls `judge` for each connection request among them. Returns the sockets of
    /// accepted requests, each with its request.
    pub(super) fn ingress(
        &mut self,
        tap: &mut Tap,
        now: Instant,
        judge: &mut impl FnMut(Syn) -> Verdict,
    ) -> Result<Vec<(SocketHandle, Syn)>, Errno> {
        let mut accepted = Vec::new();
        for _ in 0..BURST {
            let Some(frame) = tap.next_frame()? else { break };
            let syn = frame::syn(frame).filter(|syn| *syn.server.ip() == self.address.0);
            let sender = frame::ipv4_sender(frame);
            let reset = frame::is_reset(frame);
            let listener = match syn.map(|syn| (syn, judge(syn))) {
                Some((syn, Verdict::Accept)) => self.listen(syn.server).map(|s| (s, syn)),
                Some((_, Verdict::Ignore)) => {
                    tap.discard();
                    continue;
                }
                Some((_, Verdict::Pass)) | None => None,
            };
            if let Some(mac) = sender {
                self.introduce_gateway(tap, mac, now);
            }
            while self.interface.poll_ingress_single(now, tap, &mut self.sockets)
                != PollIngressSingleResult::None
            {}
            if reset {
                self.end_listeners();
            }
            // The socket is still listening: the request was invalid, for example by its checksum.
            match listener {
                Some((socket, _)) if self.tcp(socket).is_listening() => {
                    self.sockets.remove(socket);
                }
                taken => accepted.extend(taken),
            }
        }
        Ok(accepted)
    }

    /// Closes sockets that listen again because their client gave up before it was answered (RFC 9293, section
    /// 3.10.7.4, SYN-RECEIVED). Such a socket would take the next client for the former.
    fn end_listeners(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket
                && socket.is_listening()
            {
                socket.abort();
            }
        }
    }

    /// Announces the gateway by ARP. Every frame comes through the gateway, so the stack never needs to ask for its
    /// address. While it asked, it would drop packets that do not belong to a socket: replies to pings, and refusals
    /// of connections.
    fn introduce_gateway(&mut self, tap: &mut Tap, mac: EthernetAddress, now: Instant) {
        if self.introduced.is_none_or(|then| now - then >= INTRODUCTION) {
            self.introduced = Some(now);
            tap.make_up(frame::arp_reply((self.gateway, mac), self.address));
        }
    }

    /// Sends one packet for each socket that has something to send. Returns whether any did.
    pub(super) fn egress(&mut self, tap: &mut Tap, now: Instant) -> bool {
        self.interface.poll_egress(now, tap, &mut self.sockets) == PollResult::SocketStateChanged
    }

    /// Returns the time of the stack's next work; `None` if there is none.
    pub(super) fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let lingering = self.closing.iter().map(|closing| closing.until).min();
        let stack = self.interface.poll_at(now, &self.sockets);
        lingering.into_iter().chain(stack).min()
    }

    /// Creates a socket that accepts one connection; `None` if the port is 0.
    fn listen(&mut self, local: SocketAddrV4) -> Option<SocketHandle> {
        let mut socket = tcp_socket();
        socket.listen(local).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Creates a socket that opens a connection; `None` if no connection to that address is possible.
    pub(super) fn connect(&mut self, to: SocketAddrV4) -> Option<SocketHandle> {
        let local = (IpAddress::Ipv4(self.address.0), self.ephemeral_port());
        let mut socket = tcp_socket();
        socket.connect(self.interface.context(), to, local).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Creates a socket for datagrams on this port, or on a free one; `None` if the port is 0.
    pub(super) fn datagrams(&mut self, port: Option<u16>) -> Option<SocketHandle> {
        let port = port.unwrap_or_else(|| self.ephemeral_port());
        let buffer = || {
            let datagrams = vec![udp::PacketMetadata::EMPTY; UDP_DATAGRAMS];
            udp::PacketBuffer::new(datagrams, vec![0; UDP_BUFFER])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind((IpAddress::Ipv4(self.address.0), port)).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Returns a port from 49152 to 65535 (RFC 6335) that none of our sockets uses.
    fn ephemeral_port(&mut self) -> u16 {
        use smoltcp::socket::Socket;
        let taken: BTreeSet<u16> = self
            .sockets
            .iter()
            .filter_map(|(_, socket)| match socket {
                Socket::Tcp(socket) => socket.local_endpoint().map(|local| local.port),
                Socket::Udp(socket) => Some(socket.endpoint().port),
            })
            .collect();
        let mut port = self.next_port;
        while taken.contains(&port) && port.wrapping_add(1) | FIRST_EPHEMERAL != self.next_port {
            port = port.wrapping_add(1) | FIRST_EPHEMERAL;
        }
        self.next_port = port.wrapping_add(1) | FIRST_EPHEMERAL;
        port
    }

    pub(super) fn tcp(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    pub(super) fn udp(&mut self, socket: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    /// Returns the socket's own address as text; empty if it has none.
    pub(super) fn local(&mut self, socket: SocketHandle) -> String {
        let local = self.tcp(socket).local_endpoint();
        local.map(|local| SocketAddr::from(local).to_string()).unwrap_or_default()
    }

    /// Closes our side of a connection once everything is sent. The stack owns the handle from then on.
    pub(super) fn close(&mut self, socket: SocketHandle, now: Instant) {
        self.tcp(socket).close();
        self.closing.push(Closing { socket, until: now + LINGER });
    }

    /// Resets a connection. The stack owns the handle from then on.
    pub(super) fn abort(&mut self, socket: SocketHandle, now: Instant) {
        self.tcp(socket).abort();
        self.closing.push(Closing { socket, until: now + LINGER });
    }

    /// Removes a socket for datagrams.
    pub(super) fn remove_datagrams(&mut self, socket: SocketHandle) {
        self.sockets.remove(socket);
    }

    /// Removes closed sockets. Call it after [`Self::egress`], which sends their last ACK or RST.
    ///
    /// No socket stays in TIME-WAIT: every connection has its own socket, so that a late segment finds none and is
    /// refused. The sockets of the last 10 s would slow down the search for a segment's socket.
    pub(super) fn reap(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.closing.retain_mut(|closing| {
            let socket: &mut tcp::Socket<'_> = sockets.get_mut(closing.socket);
            // Data that still arrives is read: otherwise the stack would answer it by a RST, which might overtake our
            // answer.
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|length| length > 0) {}
            let gone = match socket.state() {
                tcp::State::TimeWait => true,
                // A socket with an unsent RST still has the address of the other side.
                tcp::State::Closed => socket.remote_endpoint().is_none() || closing.until <= now,
                _ => false,
            };
            if gone {
                sockets.remove(closing.socket);
                return false;
            }
            if closing.until <= now {
                socket.abort();
                closing.until = now + LINGER;
            }
            true
        });
    }
}

/// The lowest ephemeral port (RFC 6335, section 6). All ephemeral ports have its bits set.
const FIRST_EPHEMERAL: u16 = 0xc000;

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Waiting gains nothing: the other end of the wire is the host.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket
}
