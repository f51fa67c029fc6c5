//! The guest's event loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddrV4,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use smoltcp::{iface::SocketHandle, time::Instant};

use super::{
    Guest, GuestError,
    connection::Connection,
    device::Tap,
    frame::Syn,
    stack::{Stack, Verdict},
};
use riklet_core::model::Protocol;

/// The largest number of connections. Further clients are ignored until they ask again.
const MAX_CONNECTIONS: usize = 1024;

/// A running guest.
pub(super) struct Server<'a> {
    guest: &'a Guest,
    tap: Tap,
    stack: Stack,
    clock: Clock,
    tcp_ports: BTreeSet<u16>,
    echoes: Vec<SocketHandle>,
    connections: BTreeMap<(SocketAddrV4, u16), Connection>,
}

impl<'a> Server<'a> {
    pub(super) fn new(guest: &'a Guest, mut tap: Tap) -> Result<Self, GuestError> {
        let clock = Clock::start();
        let seed = RandomState::new().build_hasher().finish();
        let mut stack = Stack::new(guest, &mut tap, seed, clock.now())?;
        let of = |wanted: Protocol| {
            guest
                .ports
                .iter()
                .filter(move |(protocol, _)| *protocol == wanted)
                .map(|(_, port)| *port)
        };
        let tcp_ports = of(Protocol::Tcp).collect();
        let echoes = of(Protocol::Udp).filter_map(|port| stack.datagrams(Some(port))).collect();
        Ok(Self { guest, tap, stack, clock, tcp_ports, echoes, connections: BTreeMap::new() })
    }

    /// Serves until `stop` is readable or closed.
    pub(super) fn run(mut self, stop: BorrowedFd<'_>) -> Result<(), GuestError> {
        loop {
            self.turn()?;
            if self.wait(stop)? {
                return Ok(());
            }
        }
    }

    /// Does all work that is possible now.
    fn turn(&mut self) -> Result<(), GuestError> {
        let now = self.clock.now();
        let (connections, ports) = (&mut self.connections, &self.tcp_ports);
        let mut asked = BTreeSet::new();
        let mut judge = |syn: Syn| {
            let key = (syn.client, syn.server.port());
            if !ports.contains(&key.1) || connections.contains_key(&key) || asked.contains(&key) {
                return Verdict::Pass;
            }
            if connections.len() + asked.len() >= MAX_CONNECTIONS {
                return Verdict::Ignore;
            }
            asked.insert(key);
            Verdict::Accept
        };
        let accepted = self.stack.ingress(&mut self.tap, now, &mut judge);
        let accepted = accepted.map_err(|errno| GuestError::tap(self.guest, errno))?;
        let accepted = accepted.into_iter().map(|(socket, syn)| Connection::new(socket, syn, now));
        connections.extend(accepted.map(|connection| (connection.key(), connection)));
        loop {
            self.echo();
            let (guest, stack) = (self.guest, &mut self.stack);
            self.connections.retain(|_, connection| connection.advance(guest, stack, now));
            if !self.stack.egress(&mut self.tap, now) {
                break;
            }
        }
        self.stack.reap(now);
        Ok(())
    }

    /// Sends datagrams back.
    fn echo(&mut self) {
        for &handle in &self.echoes {
            let socket = self.stack.udp(handle);
            while socket.can_send() && socket.can_recv() {
                let Ok((payload, from)) = socket.recv() else { break };
                let payload = payload.to_vec();
                // Without room, the datagram is lost, as UDP allows.
                if let Err(error) = socket.send_slice(&payload, from) {
                    tracing::debug!(%error, "datagram not sent back");
                }
            }
        }
    }

    /// Sleeps until there is work. Returns whether to stop.
    fn wait(&mut self, stop: BorrowedFd<'_>) -> Result<bool, GuestError> {
        let now = self.clock.now();
        let deadlines = self.connections.values().map(Connection::deadline);
        let wake = deadlines.chain(self.stack.next_wake(now)).min();
        let timeout = wake.map(|wake| timespec(if wake > now { wake - now } else { NOTHING }));
        let mut fds = [
            PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            // A deleted TAP has POLLERR; the next read reports the reason.
            Ok(_) => Ok(!fds[1].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(GuestError::Poll { source: errno.into() }),
        }
    }
}

const NOTHING: smoltcp::time::Duration = smoltcp::time::Duration::ZERO;

fn timespec(duration: smoltcp::time::Duration) -> Timespec {
    let duration = std::time::Duration::from(duration);
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}

/// The clock of smoltcp, which starts at 0.
struct Clock(std::time::Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the guest's own clock")]
    fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}
