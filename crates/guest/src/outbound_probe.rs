//! Outbound probes: connections and datagrams that the guest sends because a client asked for them.

use std::net::SocketAddrV4;

use serde::Serialize;
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::State,
    time::{Duration, Instant},
};

use super::{http::Response, stack::Stack};

/// The time limit of a probe.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The most bytes of the peer's answer that are passed on to the client.
const MAX_ANSWER: usize = 64 * 1024;

/// An outbound probe in progress.
pub(super) enum OutboundProbe {
    /// A TCP connection: it sends a request and reads the answer to its end.
    Connect { socket: SocketHandle, to: SocketAddrV4, asked: bool, answer: Vec<u8>, until: Instant },
    /// A UDP socket: it has sent one datagram and awaits another.
    Datagram { socket: SocketHandle, to: SocketAddrV4, until: Instant },
}

#[derive(Serialize)]
struct TcpAnswer<'a> {
    connected: bool,
    body: &'a str,
    local: &'a str,
}

#[derive(Serialize)]
struct TcpFailure {
    connected: bool,
    reason: &'static str,
}

#[derive(Serialize)]
struct UdpAnswer<'a> {
    answered: bool,
    body: &'a str,
}

#[derive(Serialize)]
struct UdpFailure {
    answered: bool,
    reason: &'static str,
}

impl OutboundProbe {
    /// Begins to connect.
    pub(super) fn connect(
        to: SocketAddrV4,
        stack: &mut Stack,
        now: Instant,
    ) -> Result<Self, Response> {
        let socket = stack.connect(to).ok_or_else(|| unusable(to))?;
        Ok(Self::Connect { socket, to, asked: false, answer: Vec::new(), until: now + TIMEOUT })
    }

    /// Sends a datagram.
    pub(super) fn datagram(
        to: SocketAddrV4,
        payload: &[u8],
        stack: &mut Stack,
        now: Instant,
    ) -> Result<Self, Response> {
        let socket = stack.datagrams(None).ok_or_else(|| unusable(to))?;
        if stack.udp(socket).send_slice(payload, to).is_err() {
            stack.remove_datagrams(socket);
            return Err(unusable(to));
        }
        Ok(Self::Datagram { socket, to, until: now + TIMEOUT })
    }

    /// Returns the time at which the probe fails.
    pub(super) const fn deadline(&self) -> Instant {
        match self {
            Self::Connect { until, .. } | Self::Datagram { until, .. } => *until,
        }
    }

    /// Advances the probe as far as possible. Returns the answer for the client once there is one, and releases the
    /// socket then.
    pub(super) fn advance(&mut self, stack: &mut Stack, now: Instant) -> Option<Response> {
        match self {
            Self::Connect { socket, to, asked, answer, until } => {
                let late = *until <= now;
                advance_connect(*socket, *to, asked, answer, late, stack, now)
            }
            Self::Datagram { socket, to, until } => {
                advance_datagram(*socket, *to, *until <= now, stack)
            }
        }
    }

    /// Ends the probe of a client that has gone.
    pub(super) fn cancel(self, stack: &mut Stack, now: Instant) {
        match self {
            Self::Connect { socket, .. } => stack.abort(socket, now),
            Self::Datagram { socket, .. } => stack.remove_datagrams(socket),
        }
    }
}

fn advance_connect(
    handle: SocketHandle,
    to: SocketAddrV4,
    asked: &mut bool,
    answer: &mut Vec<u8>,
    late: bool,
    stack: &mut Stack,
    now: Instant,
) -> Option<Response> {
    let not_connected = |reason| {
        let (connected, status) = (false, if reason == "timeout" { 504 } else { 502 });
        Some(Response::json(status, &TcpFailure { connected, reason }))
    };
    let socket = stack.tcp(handle);
    let state = socket.state();
    if !*asked && socket.may_send() {
        let request = format!("GET / HTTP/1.0\r\nHost: {to}\r\n\r\n");
        *asked = socket.send_slice(request.as_bytes()).is_ok();
    }
    while answer.len() < MAX_ANSWER && socket.can_recv() {
        let read = socket.recv(|bytes| {
            let wanted = bytes.len().min(MAX_ANSWER - answer.len());
            answer.extend(bytes.iter().take(wanted));
            (wanted, wanted)
        });
        if read.is_err() {
            break;
        }
    }
    let ended = *asked && !socket.may_recv() || answer.len() >= MAX_ANSWER;
    if *asked && (ended || late) {
        let local = stack.local(handle);
        stack.close(handle, now);
        let body = String::from_utf8_lossy(body_of(answer));
        let connected = TcpAnswer { connected: true, body: &body, local: &local };
        return Some(Response::json(200, &connected));
    }
    if state == State::Closed {
        // Before the connection is established, only a RST closes the socket.
        stack.abort(handle, now);
        return not_connected("refused");
    }
    if late {
        stack.abort(handle, now);
        return not_connected("timeout");
    }
    None
}

fn advance_datagram(
    handle: SocketHandle,
    to: SocketAddrV4,
    late: bool,
    stack: &mut Stack,
) -> Option<Response> {
    let response = loop {
        match stack.udp(handle).recv() {
            Ok((payload, from)) if from.endpoint == to.into() => {
                let body = String::from_utf8_lossy(payload);
                break Response::json(200, &UdpAnswer { answered: true, body: &body });
            }
            // The datagram is from somebody else.
            Ok(_) => {}
            Err(_) if late => {
                let unanswered = UdpFailure { answered: false, reason: "timeout" };
                break Response::json(504, &unanswered);
            }
            Err(_) => return None,
        }
    };
    stack.remove_datagrams(handle);
    Some(response)
}

/// Returns the body if the answer is HTTP, and otherwise the whole answer.
fn body_of(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = head.filter(|_| answer.starts_with(b"HTTP/")).map_or(0, |at| at + 4);
    answer.split_at(head).1
}

fn unusable(to: SocketAddrV4) -> Response {
    Response::error(400, &format!("nothing can be sent to {to}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_extracted_only_from_http() {
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nhello"), b"hello");
        assert_eq!(body_of(b"SSH-2.0\r\n\r\nhello"), b"SSH-2.0\r\n\r\nhello");
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\n"), b"HTTP/1.0 200 OK\r\n");
    }
}
