//! Asks the upstream resolvers: the host's own, or those of a definition.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::message::{self, Found, Question, Upstream};
use crate::now;
use riklet_kernel::linux::resolvers;

/// The port of name servers.
const PORT: u16 = 53;
/// The time that one upstream has for an answer by UDP, and by TCP.
const PATIENCE: Duration = Duration::from_millis(1500);
const PATIENCE_BY_TCP: Duration = Duration::from_secs(3);
/// The most upstreams that are asked one after another, and how often all of them are.
const MOST: usize = 3;
const ROUNDS: usize = 2;
/// The time after which the host's resolv.conf(5) is read again.
const FRESH: Duration = Duration::from_secs(5);
/// The longest answer by TCP, in bytes: more addresses than a guest is told of.
const LONGEST: usize = 16 * 1024;
/// The size of the buffer for an answer by UDP, larger than what is asked for.
const BUFFER: usize = 4096;

/// The host's own resolvers, as they were lately.
#[derive(Debug, Default)]
pub(super) struct HostResolvers(RefCell<Option<(Instant, Vec<IpAddr>)>>);

impl HostResolvers {
    /// Returns them. Those that cannot be read are none.
    pub(super) fn get(&self) -> Vec<IpAddr> {
        let mut known = self.0.borrow_mut();
        let now = now();
        if let Some((read, servers)) = &*known
            && now.saturating_duration_since(*read) < FRESH
        {
            return servers.clone();
        }
        let servers = resolvers::own_resolvers().unwrap_or_else(|error| {
            tracing::warn!(%error, "names of guests are not resolved");
            vec![]
        });
        *known = Some((now, servers.clone()));
        servers
    }
}

/// Asks these upstreams one after another; `None` if none of them has an answer.
pub(super) async fn ask(question: &Question, servers: &[IpAddr]) -> Option<Box<Found>> {
    for server in (0..ROUNDS).flat_map(|_| servers.iter().take(MOST)) {
        let server = SocketAddr::new(*server, PORT);
        match timeout(PATIENCE, by_udp(question, server)).await {
            Ok(Ok(Upstream::Found(found))) => return Some(found),
            Ok(Ok(Upstream::Truncated)) => {
                let asked = timeout(PATIENCE_BY_TCP, by_tcp(question, server)).await;
                if let Ok(Ok(Upstream::Found(found))) = asked {
                    return Some(found);
                }
            }
            Ok(Ok(Upstream::Failed)) => {}
            Ok(Err(error)) => tracing::debug!(%error, %server, "an upstream does not answer"),
            Err(_late) => tracing::debug!(%server, "an upstream does not answer in time"),
        }
    }
    None
}

fn unencodable() -> io::Error {
    io::Error::other("the question cannot be written")
}

/// Asks by a socket of its own: the kernel chooses its port at random, and takes packets of this server only. Others than the
/// answer are ignored.
async fn by_udp(question: &Question, server: SocketAddr) -> io::Result<Upstream> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let id = message::random();
    socket.send(&question.for_upstream(id).ok_or_else(unencodable)?).await?;
    let mut buffer = [0; BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).and_then(|bytes| question.answered(id, bytes)) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(question: &Question, server: SocketAddr) -> io::Result<Upstream> {
    let mut stream = TcpStream::connect(server).await?;
    let id = message::random();
    let asked = question.for_upstream(id).ok_or_else(unencodable)?;
    write(&mut stream, &asked).await?;
    let answer = read(&mut stream, LONGEST).await?;
    question.answered(id, &answer).ok_or_else(|| io::Error::other("it answers something else"))
}

/// Reads a message by TCP, which begins with its length (RFC 1035, section 4.2.2). Fails if it is longer than `most`: the time
/// to decode one grows faster than its length, since names point to names.
pub(super) async fn read(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message by TCP.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
