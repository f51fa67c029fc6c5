//! One client's connection: a request, possibly an outbound probe, and a response.

use std::net::SocketAddrV4;

use serde::Serialize;
use smoltcp::{
    iface::SocketHandle,
    time::{Duration, Instant},
};

use super::{
    Guest,
    frame::Syn,
    http::{self, HttpRequest, Parsed, Response},
    outbound_probe::OutboundProbe,
    route::Route,
    stack::Stack,
};

/// The longest time without progress.
const IDLE: Duration = Duration::from_secs(10);

/// A connection of a client.
pub(super) struct Connection {
    socket: SocketHandle,
    syn: Syn,
    phase: Phase,
    until: Instant,
}

enum Phase {
    /// The request is being received. `continued` says whether the client was told to send the body.
    Reading { input: Vec<u8>, continued: bool },
    /// The answer waits for an outbound probe.
    Waiting { outbound_probe: OutboundProbe, to_head: bool },
    /// The answer is being sent.
    Answering { output: Vec<u8>, sent: usize },
}

#[derive(Serialize)]
struct Identity<'a> {
    function: &'a str,
    address: String,
    gateway: String,
    port: u16,
    client: String,
}

impl Connection {
    /// Creates the state of a connection that a client has just requested.
    pub(super) fn new(socket: SocketHandle, syn: Syn, now: Instant) -> Self {
        let phase = Phase::Reading { input: Vec::new(), continued: false };
        Self { socket, syn, phase, until: now + IDLE }
    }

    /// Returns the addresses of client and server, which together are unique to a connection.
    pub(super) const fn key(&self) -> (SocketAddrV4, u16) {
        (self.syn.client, self.syn.server.port())
    }

    /// Returns the time at which the connection must be examined, even if nothing arrives.
    pub(super) fn deadline(&self) -> Instant {
        match &self.phase {
            Phase::Waiting { outbound_probe, .. } => outbound_probe.deadline(),
            _ => self.until,
        }
    }

    /// Advances the connection as far as possible. Returns whether it goes on; if not, the socket is released.
    pub(super) fn advance(&mut self, guest: &Guest, stack: &mut Stack, now: Instant) -> bool {
        loop {
            let next = match &mut self.phase {
                Phase::Reading { .. } => self.read(guest, stack, now),
                Phase::Waiting { outbound_probe, to_head } => {
                    let answer = outbound_probe.advance(stack, now);
                    answer.map(|response| answering(&response, *to_head))
                }
                Phase::Answering { output, sent } => {
                    let socket = stack.tcp(self.socket);
                    let rest = output.get(*sent..).unwrap_or_default();
                    if let Ok(more @ 1..) = socket.send_slice(rest) {
                        *sent += more;
                        self.until = now + IDLE;
                    }
                    if *sent == output.len() {
                        stack.close(self.socket, now);
                        return false;
                    }
                    None
                }
            };
            match next {
                Some(phase) => {
                    self.phase = phase;
                    self.until = now + IDLE;
                }
                None if self.is_lost(stack, now) => {
                    let idle = Phase::Answering { output: Vec::new(), sent: 0 };
                    if let Phase::Waiting { outbound_probe, .. } =
                        std::mem::replace(&mut self.phase, idle)
                    {
                        outbound_probe.cancel(stack, now);
                    }
                    stack.abort(self.socket, now);
                    return false;
                }
                None => return true,
            }
        }
    }

    /// Tells whether the client has gone, or is too slow.
    fn is_lost(&self, stack: &mut Stack, now: Instant) -> bool {
        let socket = stack.tcp(self.socket);
        let late = !matches!(self.phase, Phase::Waiting { .. }) && self.until <= now;
        !socket.is_open() || late
    }

    fn read(&mut self, guest: &Guest, stack: &mut Stack, now: Instant) -> Option<Phase> {
        let Phase::Reading { input, continued } = &mut self.phase else { return None };
        let socket = stack.tcp(self.socket);
        let before = input.len();
        while input.len() <= http::MAX_HEAD + http::MAX_BODY && socket.can_recv() {
            let read = socket.recv(|bytes| {
                input.extend(bytes.iter());
                (bytes.len(), ())
            });
            if read.is_err() {
                break;
            }
        }
        if input.len() == before {
            return match (input.is_empty(), closed_by_client(socket), self.until <= now) {
                (true, true, _) => Some(Phase::Answering { output: Vec::new(), sent: 0 }),
                (false, true, _) => {
                    Some(answering(&Response::error(400, "the request ends early"), false))
                }
                (false, _, true) => {
                    Some(answering(&Response::error(408, "the request takes too long"), false))
                }
                _ => None,
            };
        }
        self.until = now + IDLE;
        match http::parse(input) {
            Parsed::Partial { expects_continue } => {
                if expects_continue && !*continued {
                    // The socket's buffer is empty, since nothing was sent before.
                    *continued = socket.send_slice(http::CONTINUE).is_ok();
                }
                None
            }
            Parsed::Refused(response) => {
                self.log("-", "-", response.status());
                Some(answering(&response, false))
            }
            Parsed::Whole(request) => Some(self.answer(request, guest, stack, now)),
        }
    }

    fn answer(
        &self,
        request: HttpRequest,
        guest: &Guest,
        stack: &mut Stack,
        now: Instant,
    ) -> Phase {
        let to_head = request.method == "HEAD";
        let (method, path) = (request.method.clone(), request.path.clone());
        let outbound_probe = Route::of(&request).and_then(|route| match route {
            Route::Identity => Err(self.identity(guest)),
            Route::Echo => Err(Response::bytes(request.body)),
            Route::Connect(to) => OutboundProbe::connect(to, stack, now),
            Route::Datagram(to, text) => OutboundProbe::datagram(to, &text, stack, now),
        });
        match outbound_probe {
            Ok(outbound_probe) => Phase::Waiting { outbound_probe, to_head },
            Err(response) => {
                self.log(&method, &path, response.status());
                answering(&response, to_head)
            }
        }
    }

    fn identity(&self, guest: &Guest) -> Response {
        let identity = Identity {
            function: guest.name.as_str(),
            address: guest.address.addr().to_string(),
            gateway: guest.gateway.to_string(),
            port: self.syn.server.port(),
            client: self.syn.client.to_string(),
        };
        Response::json(200, &identity)
    }

    fn log(&self, method: &str, path: &str, status: u16) {
        tracing::debug!(client = %self.syn.client, method, path, status, "request");
    }
}

/// Tells whether the client closed its side and everything it sent was read.
fn closed_by_client(socket: &smoltcp::socket::tcp::Socket<'_>) -> bool {
    use smoltcp::socket::tcp::State;
    !matches!(socket.state(), State::Listen | State::SynReceived) && !socket.may_recv()
}

fn answering(response: &Response, to_head: bool) -> Phase {
    Phase::Answering { output: response.render(to_head), sent: 0 }
}
