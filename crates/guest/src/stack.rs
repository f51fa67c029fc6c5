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

/// Each way, of a connection. With the MTU it bounds what is in flight.
const TCP_BUFFER: usize = 32 * 1024;
/// Each way, of a UDP port.
const UDP_BUFFER: usize = 16 * 1024;
/// Each way, in datagrams.
const UDP_DATAGRAMS: usize = 32;
/// The time that the peer has to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(10);
/// The interval of announcing the gateway, shorter than the lifetime of a neighbour in smoltcp (60 s).
const INTRODUCTION: Duration = Duration::from_secs(30);
/// Frames taken before replies are sent, so that a flood of them does not keep us from replying.
const BURST: usize = 128;

/// A socket that has nothing more to say.
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
    /// Let a socket answer it.
    Accept,
    /// Let the stack decide: it is for a connection there is, or nobody serves the port.
    Pass,
    /// Say nothing; the client will ask again.
    Ignore,
}

impl Stack {
    /// `seed` makes sequence numbers and local ports hard to guess.
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
        // One address and one route: both have room for them.
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

    /// Takes a burst of frames in, and asks about each connection request in them. The sockets that were
    /// made for accepted requests are returned with what they were made for.
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
            // Still listening: the request was not good, its checksum wrong for one.
            match listener {
                Some((socket, _)) if self.tcp(socket).is_listening() => {
                    self.sockets.remove(socket);
                }
                taken => accepted.extend(taken),
            }
        }
        Ok(accepted)
    }

    /// A client that gives up before it is answered has its socket listen again (RFC 9293, section 3.10.7.4,
    /// SYN-RECEIVED): the next client would get it, and be taken for the former.
    fn end_listeners(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket
                && socket.is_listening()
            {
                socket.abort();
            }
        }
    }

    /// Everything that comes, comes from the gateway; knowing that, the stack need not ask by ARP. While it
    /// asks it would drop what is not a socket's: replies to a ping, and refusals of a connection.
    fn introduce_gateway(&mut self, tap: &mut Tap, mac: EthernetAddress, now: Instant) {
        if self.introduced.is_none_or(|then| now - then >= INTRODUCTION) {
            self.introduced = Some(now);
            tap.make_up(frame::arp_reply((self.gateway, mac), self.address));
        }
    }

    /// Sends what the sockets have to send, a packet each; whether there was any.
    pub(super) fn egress(&mut self, tap: &mut Tap, now: Instant) -> bool {
        self.interface.poll_egress(now, tap, &mut self.sockets) == PollResult::SocketStateChanged
    }

    /// Returns the time at which the stack has work to do; `None` is never.
    pub(super) fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let lingering = self.closing.iter().map(|closing| closing.until).min();
        let stack = self.interface.poll_at(now, &self.sockets);
        lingering.into_iter().chain(stack).min()
    }

    /// A socket that takes one connection; `None` where the port is 0.
    fn listen(&mut self, local: SocketAddrV4) -> Option<SocketHandle> {
        let mut socket = tcp_socket();
        socket.listen(local).ok()?;
        Some(self.sockets.add(socket))
    }

    /// A socket that opens a connection; `None` where there can be none to that address.
    pub(super) fn connect(&mut self, to: SocketAddrV4) -> Option<SocketHandle> {
        let local = (IpAddress::Ipv4(self.address.0), self.ephemeral_port());
        let mut socket = tcp_socket();
        socket.connect(self.interface.context(), to, local).ok()?;
        Some(self.sockets.add(socket))
    }

    /// A socket for datagrams on this port, or on one that is free; `None` where the port is 0.
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

    /// A port of 49152 to 65535 (RFC 6335) that no socket of ours has.
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

    /// The socket's own address, as text; empty where it has none.
    pub(super) fn local(&mut self, socket: SocketHandle) -> String {
        let local = self.tcp(socket).local_endpoint();
        local.map(|local| SocketAddr::from(local).to_string()).unwrap_or_default()
    }

    /// Ends our side of a connection once everything is sent. The handle is ours from then on.
    pub(super) fn close(&mut self, socket: SocketHandle, now: Instant) {
        self.tcp(socket).close();
        self.closing.push(Closing { socket, until: now + LINGER });
    }

    /// Ends a connection with a RST. The handle is ours from then on.
    pub(super) fn abort(&mut self, socket: SocketHandle, now: Instant) {
        self.tcp(socket).abort();
        self.closing.push(Closing { socket, until: now + LINGER });
    }

    /// Ends a socket for datagrams.
    pub(super) fn remove_datagrams(&mut self, socket: SocketHandle) {
        self.sockets.remove(socket);
    }

    /// Removes closed sockets. It comes after [`Self::egress`], which sends their last ACK or RST.
    ///
    /// None stays in TIME-WAIT: every connection has a socket of its own, so a late segment finds nothing
    /// and is refused, and 10 s of connections would slow down the search for a segment's socket.
    pub(super) fn reap(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.closing.retain_mut(|closing| {
            let socket: &mut tcp::Socket<'_> = sockets.get_mut(closing.socket);
            // What still comes is read, so that it is not answered by a RST that overtakes our answer.
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|length| length > 0) {}
            let gone = match socket.state() {
                tcp::State::TimeWait => true,
                // A RST that is yet to be sent keeps the address of the other side.
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

/// The lowest ephemeral port (RFC 6335, section 6). Its bits are those that all of them have.
const FIRST_EPHEMERAL: u16 = 0xc000;

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Nothing is gained by waiting: the other end of the wire is the host.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket
}
