//! The three transport protocols behind one question: which client address does the server see?

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use super::{
    Namespace,
    sctp::{sctp_ask, sctp_server},
    traffic::{
        Endpoints, PATIENCE, SILENCE, Server, UdpClient, tcp_ask_within, tcp_server, udp_server,
    },
};

/// The error that an ICMP "protocol unreachable" becomes: `ENOPROTOOPT` of `<errno.h>`.
const PROTOCOL_UNREACHABLE: i32 = 92;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

use Transport::{Sctp, Tcp, Udp};

impl Transport {
    pub(crate) const ALL: [Self; 3] = [Tcp, Udp, Sctp];

    /// Returns the protocol's name in a definition.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Tcp => "TCP",
            Udp => "UDP",
            Sctp => "SCTP",
        }
    }

    #[track_caller]
    pub(crate) fn serve(self, namespace: &Namespace, address: Ipv4Addr, port: u16) -> Server {
        match self {
            Tcp => tcp_server(namespace, (address, port)),
            Udp => udp_server(namespace, (address, port)),
            Sctp => sctp_server(namespace, (address, port)),
        }
    }

    /// Asks from a new port, and returns the addresses that the server sees.
    pub(crate) fn ask(
        self,
        namespace: &Namespace,
        target: impl Into<SocketAddr>,
    ) -> io::Result<Endpoints> {
        self.ask_within(PATIENCE, namespace, target.into())
    }

    /// Asks within this time. SCTP has a time limit of its own.
    pub(crate) fn ask_within(
        self,
        timeout: Duration,
        namespace: &Namespace,
        target: SocketAddr,
    ) -> io::Result<Endpoints> {
        match self {
            Tcp => tcp_ask_within(namespace, target, timeout),
            Udp => UdpClient::new(namespace, target).try_ask(timeout),
            Sctp => sctp_ask(namespace, target),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A question, and the answer that the server must give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'a> {
    pub(crate) from: &'a Namespace,
    pub(crate) to: (Ipv4Addr, u16),
    /// The client's address as the server sees it.
    pub(crate) seen_as: Ipv4Addr,
    pub(crate) server: (Ipv4Addr, u16),
}

/// Asserts that each question is answered by each of these protocols, with the expected addresses.
#[track_caller]
pub(crate) fn assert_paths(what: &str, transports: &[Transport], paths: &[Path<'_>]) {
    for transport in transports {
        for Path { from, to, seen_as, server } in paths {
            let (to, server) = (SocketAddr::from(*to), SocketAddr::from(*server));
            let answer = transport.ask(from, to);
            let answer = answer.unwrap_or_else(|e| panic!("{what}: {transport} to {to}: {e}"));
            let found = (answer.client.ip(), answer.server);
            assert_eq!(found, ((*seen_as).into(), server), "{what}: {transport} to {to}");
        }
    }
}

/// Asserts that the node itself refuses at once. For SCTP it answers that it has no such protocol, unless a raw socket
/// for it is open on the node.
#[track_caller]
pub(crate) fn assert_refused(
    transport: Transport,
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
) {
    let target = target.into();
    let result = transport.ask(namespace, target);
    let refused = result.as_ref().is_err_and(|error| {
        error.kind() == io::ErrorKind::ConnectionRefused
            || transport == Sctp && error.raw_os_error() == Some(PROTOCOL_UNREACHABLE)
    });
    assert!(refused, "{transport} to {target} should be refused: {result:?}");
}

/// Asserts that none of these can be reached. All are tried at the same time.
#[track_caller]
pub(crate) fn assert_no_way<A: Copy + Into<IpAddr>>(tries: &[(Transport, &Namespace, (A, u16))]) {
    let place = |(address, port): (A, u16)| SocketAddr::new(address.into(), port);
    let answers: Vec<_> = thread::scope(|scope| {
        let asked = tries.iter().map(|(transport, from, to)| {
            let to = place(*to);
            scope.spawn(move || transport.ask_within(SILENCE, from, to))
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for ((transport, _, to), answer) in tries.iter().zip(answers) {
        let to = place(*to);
        assert!(answer.is_err(), "{transport} to {to} should not be answered: {answer:?}");
    }
}
