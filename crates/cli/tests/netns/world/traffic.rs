//! Connections and datagrams, and servers that answer with the client's address.

use std::{
    fmt,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    str::FromStr,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
        socket_with,
    },
};

use super::{Namespace, background::Background, wait_for};

/// The longest time that an expected answer may take, on a machine that is busy with ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The time to wait for an answer that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);
/// The time after which the client gives up a connection that hangs.
const HANGING: Duration = Duration::from_secs(20);

/// Both ends of a connection or an exchange, as the server sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.client, self.server)
    }
}

impl FromStr for Endpoints {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        text.trim_end()
            .split_once(' ')
            .and_then(|(client, server)| {
                Some(Self { client: client.parse().ok()?, server: server.parse().ok()? })
            })
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("answer {text:?}")))
    }
}

/// A server. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(super) _thread: Background,
}

/// Returns a socket bound in the namespace. Another test may be starting a program, which inherits all open files
/// until it executes (fork(2)): it may still hold a socket that was just closed, so this tries again.
#[track_caller]
pub(super) fn bind<T: Send>(
    namespace: &Namespace,
    at: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T> + Sync,
) -> T {
    wait_for(&format!("{at} to be free"), PATIENCE, || match namespace.run(|| bind(at)) {
        Ok(socket) => Some(socket),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => panic!("cannot bind to {at}: {error}"),
    })
}

/// Starts a server that sends the client's address, then returns everything that it receives.
#[track_caller]
pub(crate) fn tcp_server(namespace: &Namespace, at: impl Into<SocketAddr>) -> Server {
    let listener = bind(namespace, at.into(), TcpListener::bind);
    let address = listener.local_addr().expect("the listener's address");
    let thread = Background::start(move |stop| {
        while stop.readable([listener.as_fd()]).is_some() {
            // A client that has gone meanwhile is no failure of the server.
            listener
                .accept()
                .map(|(stream, client)| thread::spawn(move || echo(&stream, client)))
                .ok();
        }
    });
    Server { address, _thread: thread }
}

fn echo(mut stream: &TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(HANGING))?;
    stream.set_write_timeout(Some(HANGING))?;
    writeln!(stream, "{}", Endpoints { client, server: stream.local_addr()? })?;
    io::copy(&mut &*stream, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

/// Connects, and returns what [`tcp_server`] sees.
pub(crate) fn tcp_ask(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
) -> io::Result<Endpoints> {
    tcp_ask_within(namespace, target.into(), PATIENCE)
}

pub(super) fn tcp_ask_within(
    namespace: &Namespace,
    target: SocketAddr,
    timeout: Duration,
) -> io::Result<Endpoints> {
    let mut stream = tcp_connect(namespace, target, timeout)?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse()
}

/// Sends these bytes to [`tcp_server`], and returns the bytes that come back.
pub(crate) fn tcp_echo(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
    bytes: &[u8],
) -> io::Result<Vec<u8>> {
    let stream = tcp_connect(namespace, target.into(), PATIENCE)?;
    let mut reader = BufReader::new(&stream);
    reader.read_line(&mut String::new())?;
    let mut back = Vec::new();
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            (&stream).write_all(bytes)?;
            stream.shutdown(Shutdown::Write)
        });
        reader.read_to_end(&mut back)?;
        sent.join().expect("the thread does not panic")
    })?;
    Ok(back)
}

pub(super) fn tcp_connect(
    namespace: &Namespace,
    target: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&target, timeout))?;
    stream.set_read_timeout(Some(HANGING))?;
    stream.set_write_timeout(Some(HANGING))?;
    Ok(stream)
}

/// Both ends of an established connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Connection {
    /// Connects `client` to `to`, which must lead to `server`, an address and port that are free there.
    #[track_caller]
    pub(crate) fn new(
        client: &Namespace,
        to: impl Into<SocketAddr>,
        server: &Namespace,
        at: impl Into<SocketAddr>,
    ) -> Self {
        let to = to.into();
        let listener = bind(server, at.into(), TcpListener::bind);
        let client = tcp_connect(client, to, PATIENCE);
        let client = client.unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        listener.set_nonblocking(true).expect("a socket");
        let (server, _) =
            wait_for(&format!("the connection to {to}"), PATIENCE, || listener.accept().ok());
        server.set_nonblocking(false).expect("a socket");
        server.set_read_timeout(Some(HANGING)).expect("a timeout above zero");
        Self { client, server }
    }

    /// Asserts that each end receives what the other one sends. The server sends first: a packet of the client would
    /// create a lost translation again (`nf_conntrack_tcp_loose`).
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let Self { client, server } = self;
        for (mut from, mut to, who) in [(server, client, "server"), (client, server, "client")] {
            from.write_all(b"alive").unwrap_or_else(|error| panic!("the {who}: {error}"));
            to.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
            let heard = to.read_exact(&mut [0; 5]);
            heard.unwrap_or_else(|error| panic!("the {who} is not heard any more: {error}"));
        }
    }

    /// Asserts that the connection is reset as soon as the client sends something.
    #[track_caller]
    pub(crate) fn assert_reset(&self) {
        let mut client = &self.client;
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let result = client.write_all(b"alive?").and_then(|()| client.read(&mut [0; 5]));
        let kind = result.as_ref().map_err(io::Error::kind);
        assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{result:?}");
    }
}

/// Asserts that a connection is refused at once.
#[track_caller]
pub(crate) fn assert_tcp_refused(namespace: &Namespace, target: impl Into<SocketAddr>) {
    let target = target.into();
    let result = tcp_connect(namespace, target, PATIENCE).map_err(|error| error.kind());
    let refused = matches!(result, Err(ErrorKind::ConnectionRefused));
    assert!(refused, "a connection to {target} should be refused: {result:?}");
}

/// Asserts that no connection is established, whether it is refused, rejected on the way or not answered.
#[track_caller]
pub(crate) fn assert_tcp_closed(namespace: &Namespace, target: impl Into<SocketAddr>) {
    let target = target.into();
    let result = tcp_connect(namespace, target, SILENCE);
    assert!(result.is_err(), "a connection to {target} should fail: {result:?}");
}

/// Starts a server that answers each datagram with the client's address.
#[track_caller]
pub(crate) fn udp_server(namespace: &Namespace, at: impl Into<SocketAddr>) -> Server {
    let socket = bind(namespace, at.into(), UdpSocket::bind);
    let address = socket.local_addr().expect("the socket's address");
    let thread = Background::start(move |stop| {
        let mut request = [0; 64];
        while stop.readable([socket.as_fd()]).is_some() {
            // This may report an ICMP error about an earlier answer. There is nothing to answer then.
            let Ok((length, client)) = socket.recv_from(&mut request) else { continue };
            let number = String::from_utf8_lossy(&request[..length]);
            let answer = Endpoints { client, server: address };
            socket.send_to(format!("{number} {answer}").as_bytes(), client).ok();
        }
    });
    Server { address, _thread: thread }
}

/// A client that keeps its socket, and so its port.
#[derive(Debug)]
pub(crate) struct UdpClient {
    socket: UdpSocket,
    asked: u32,
}

impl UdpClient {
    /// Creates a client that receives from `target` only.
    #[track_caller]
    pub(crate) fn new(namespace: &Namespace, target: impl Into<SocketAddr>) -> Self {
        let target = target.into();
        let connect = || {
            let any: IpAddr = match target {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(target)?;
            io::Result::Ok(socket)
        };
        let socket = namespace.run(connect);
        let socket = socket.unwrap_or_else(|error| panic!("no way to {target}: {error}"));
        Self { socket, asked: 0 }
    }

    /// Sends a datagram to another target.
    #[track_caller]
    pub(crate) fn send_to(&self, target: impl Into<SocketAddr>) {
        let target = target.into();
        let sent = self.socket.send_to(b"1", target);
        sent.unwrap_or_else(|error| panic!("cannot send to {target}: {error}"));
    }

    /// Sends one datagram, and returns what [`udp_server`] saw, or `None` if no answer came.
    pub(crate) fn ask(&mut self, timeout: Duration) -> Option<Endpoints> {
        self.try_ask(timeout).ok()
    }

    /// Sends one datagram, and returns what [`udp_server`] saw, or the reason why no answer came: `ConnectionRefused`
    /// if the node or a router refused it (ICMP).
    pub(crate) fn try_ask(&mut self, timeout: Duration) -> io::Result<Endpoints> {
        self.asked += 1;
        let number = self.asked.to_string();
        self.socket.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        self.socket.send(number.as_bytes())?;
        let mut answer = [0; 128];
        loop {
            let length = self.socket.recv(&mut answer)?;
            let text = String::from_utf8_lossy(&answer[..length]);
            match text.split_once(' ') {
                Some((answered, answer)) if answered == number => return answer.parse(),
                // This is a late answer to an earlier question.
                _ => {}
            }
        }
    }
}

/// A receiver that does not answer.
#[derive(Debug)]
pub(crate) struct Ear(UdpSocket);

impl Ear {
    #[track_caller]
    pub(crate) fn new(namespace: &Namespace, at: impl Into<SocketAddr>) -> Self {
        Self(bind(namespace, at.into(), UdpSocket::bind))
    }

    /// Returns the next datagram and its sender, or `None` if none comes within this time.
    pub(crate) fn hear(&self, timeout: Duration) -> Option<(String, SocketAddr)> {
        self.0.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        let mut words = [0; 64];
        let (length, from) = self.0.recv_from(&mut words).ok()?;
        Some((String::from_utf8_lossy(&words[..length]).into_owned(), from))
    }
}

/// Asserts that none of these receives anything that was sent before this call.
#[track_caller]
pub(crate) fn assert_silence(ears: &[(Ear, &str)]) {
    let mut timeout = SILENCE;
    for (ear, who) in ears {
        assert_eq!(ear.hear(timeout), None, "{who}");
        // Everything that was sent has arrived while the first one listened.
        timeout = Duration::from_millis(1);
    }
}

/// Sends a datagram from this address, which must be one of the namespace's, or 0.0.0.0.
#[track_caller]
pub(crate) fn say(namespace: &Namespace, from: Ipv4Addr, to: impl Into<SocketAddr>, words: &str) {
    let to = to.into();
    let sent = namespace.run(|| UdpSocket::bind((from, 0))?.send_to(words.as_bytes(), to));
    sent.unwrap_or_else(|error| panic!("cannot send from {from} to {to}: {error}"));
}

/// Sends one datagram from a new socket, and returns what [`udp_server`] saw.
#[track_caller]
pub(crate) fn udp_ask(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
    timeout: Duration,
) -> Option<Endpoints> {
    UdpClient::new(namespace, target).ask(timeout)
}

/// Sends these words, and returns the answer, or `None` if there is none.
pub(crate) fn udp_echo(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
    words: &str,
) -> Option<String> {
    let client = UdpClient::new(namespace, target);
    client.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    client.socket.send(words.as_bytes()).ok()?;
    let mut answer = [0; 64];
    let length = client.socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Tells whether the echo request is answered (RFC 792).
pub(crate) fn ping(namespace: &Namespace, target: Ipv4Addr, timeout: Duration) -> bool {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = id.to_be_bytes();
    // All fields but the type and the identifier are 0, and the checksum is the complement of the sum.
    let [sum_high, sum_low] = (!(0x0800_u16.checked_add(id).expect("few pings"))).to_be_bytes();
    let request = [8, 0, sum_high, sum_low, high, low, 0, 0];
    let icmp = namespace
        .run(|| {
            let flags = SocketFlags::CLOEXEC;
            socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::ICMP))
        })
        .expect("a raw socket");
    if sendto(&icmp, &request, SendFlags::empty(), &SocketAddr::from((target, 0))).is_err() {
        return false;
    }
    let timeout = Timespec::try_from(timeout).expect("a short time");
    let mut packet = [0; 256];
    loop {
        let mut ready = [PollFd::new(&icmp, PollFlags::IN)];
        if poll(&mut ready, Some(&timeout)).expect("poll") == 0 {
            return false;
        }
        let (length, _) = recv(&icmp, &mut packet, RecvFlags::empty()).expect("a packet");
        // The IP header comes first, 20 bytes without options; type 0 is an echo reply.
        let reply = packet.get(20..length).unwrap_or_default();
        if reply.first() == Some(&0) && reply.get(4..6) == Some(&[high, low]) {
            return true;
        }
    }
}
