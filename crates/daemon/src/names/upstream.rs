//! Asks the upstream resolvers: the host's own, or those of a definition.

use std::{
    cell::RefCell,
    collections::BTreeMap,
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
/// The time for which an upstream that did not answer is asked after the others.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest answer by TCP, in bytes: more addresses than a guest is told of.
pub(super) const LONGEST: usize = 16 * 1024;
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

/// The upstreams that did not answer lately.
#[derive(Debug, Default)]
pub(super) struct Silent(RefCell<BTreeMap<IpAddr, Instant>>);

impl Silent {
    /// Asks these upstreams one after another, those that did not answer lately at last; `None` if none of them has an answer.
    pub(super) async fn ask(&self, question: &Question, servers: &[IpAddr]) -> Option<Box<Found>> {
        let servers = self.in_order(servers, now());
        for &server in (0..ROUNDS).flat_map(|_| &servers) {
            let to = SocketAddr::new(server, PORT);
            let asked = timeout(PATIENCE, by_udp(question, to)).await;
            let answered = asked.unwrap_or_else(|late| Err(late.into()));
            self.note(server, answered.as_ref().err(), now());
            match answered {
                Ok(Upstream::Found(found)) => return Some(found),
                Ok(Upstream::Truncated) => {
                    let asked = timeout(PATIENCE_BY_TCP, by_tcp(question, to)).await;
                    if let Ok(Ok(Upstream::Found(found))) = asked {
                        return Some(found);
                    }
                }
                Ok(Upstream::Failed) | Err(_) => {}
            }
        }
        None
    }

    /// Returns those of the upstreams that are asked, in this order.
    fn in_order(&self, servers: &[IpAddr], now: Instant) -> Vec<IpAddr> {
        let silent = self.0.borrow();
        let mut servers: Vec<_> = servers.iter().copied().take(MOST).collect();
        servers.sort_by_key(|server| silent.get(server).is_some_and(|until| *until > now));
        servers
    }

    /// Notes whether an upstream has answered.
    fn note(&self, server: IpAddr, error: Option<&io::Error>, now: Instant) {
        let mut silent = self.0.borrow_mut();
        let Some(error) = error else {
            silent.remove(&server);
            return;
        };
        silent.retain(|_, until| *until > now);
        if silent.insert(server, now + SILENCE).is_none() {
            tracing::warn!(%server, %error, "a name server does not answer what guests ask");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_that_did_not_answer_are_asked_last_for_a_while() {
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|n| IpAddr::from([203, 0, 113, n]));
        let all = [first, second, third, fourth];
        let (silent, start) = (Silent::default(), now());
        assert_eq!(silent.in_order(&all, start), [first, second, third]);
        silent.note(first, Some(&io::ErrorKind::TimedOut.into()), start);
        assert_eq!(silent.in_order(&all, start), [second, third, first]);
        assert_eq!(silent.in_order(&all, start + SILENCE), [first, second, third]);
        silent.note(first, None, start);
        assert_eq!(silent.in_order(&all, start), [first, second, third]);
    }
}
