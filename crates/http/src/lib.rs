//! A client of HTTP/1.1 over a unix socket: blocking, with one exchange a connection and a deadline for each.

mod events;
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "it fails by a panic")]
pub mod fuzz;
mod response;

use std::{
    fmt,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use serde_json::Value;

use self::response::{MAX_BODY, Parsed, parse};
pub use self::{
    events::{EventStream, ServerEvent},
    response::{Malformed, Response},
};

/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(2);

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Creates, sets or runs.
    Put,
    /// Runs, or creates something whose name the server chooses.
    Post,
    /// Removes.
    Delete,
}

/// One request, as data.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiCall {
    /// The method.
    pub method: Method,
    /// The path, which begins with `/` and is sent as it is.
    pub path: String,
    /// The JSON body.
    pub body: Option<Value>,
}

impl ApiCall {
    /// Returns a GET request.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self { method: Method::Get, path: path.to_owned(), body: None }
    }

    /// Returns a PUT request with this body.
    #[must_use]
    pub fn put(path: &str, body: Value) -> Self {
        Self { method: Method::Put, path: path.to_owned(), body: Some(body) }
    }

    /// Returns a PUT request without a body, for a command.
    #[must_use]
    pub fn command(path: &str) -> Self {
        Self { method: Method::Put, path: path.to_owned(), body: None }
    }

    /// Returns a POST request.
    #[must_use]
    pub fn post(path: &str, body: Option<Value>) -> Self {
        Self { method: Method::Post, path: path.to_owned(), body }
    }

    /// Returns a DELETE request.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self { method: Method::Delete, path: path.to_owned(), body: None }
    }

    /// Returns the bytes of the request.
    fn render(&self) -> Vec<u8> {
        let head = format!("{self} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        let Some(body) = &self.body else { return format!("{head}\r\n").into_bytes() };
        let body = body.to_string();
        let length = body.len();
        format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// Formats as `PUT /boot-source`: the method and the path.
impl fmt::Display for ApiCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        write!(f, "{method} {}", self.path)
    }
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Nothing listens on the socket, or this process may not use it.
    #[error("no connection to {} after {waited:.1?}", socket.display())]
    NotListening {
        /// The socket.
        socket: PathBuf,
        /// The time spent trying.
        waited: Duration,
        /// The failure of the last attempt.
        #[source]
        source: ExchangeError,
    },
    /// The process that should listen has ended.
    #[error("the process that was to listen on {} has ended", socket.display())]
    NoProcess {
        /// The socket.
        socket: PathBuf,
    },
    /// An exchange failed. The server may or may not have done what was requested.
    #[error("{call} over {} failed", socket.display())]
    Exchange {
        /// Method and path.
        call: String,
        /// The socket.
        socket: PathBuf,
        /// The failure.
        #[source]
        source: ExchangeError,
    },
}

impl HttpError {
    /// Tells whether the server closed the connection without an answer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Exchange { source: ExchangeError::Closed, .. })
    }
}

/// The reason why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// There is no such socket, nobody listens on it, or this process may not use it.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Another user listens than the one whose server it is.
    #[error("user {peer} listens, and not user {user}")]
    Peer {
        /// The user whose server it is.
        user: u32,
        /// The user that listens.
        peer: u32,
    },
    /// The request could not be sent.
    #[error("cannot send the request")]
    Send(#[source] io::Error),
    /// The answer could not be read.
    #[error("cannot read the answer")]
    Receive(#[source] io::Error),
    /// It took too long.
    #[error("there was no whole answer within {0:?}")]
    Timeout(Duration),
    /// The server closed the connection.
    #[error("the connection ended before the answer was whole")]
    Closed,
    /// The answer is not HTTP, or is too long.
    #[error("the answer is not HTTP that is understood")]
    Malformed(#[source] Malformed),
    /// The answer is not a stream of events.
    #[error("the answer is no stream of events: its status is {0}")]
    NoStream(u16),
}

/// A client of one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    /// The deadline of all exchanges together.
    shared: Option<Deadline>,
    /// The user that must have begun to listen on the socket.
    user: Option<u32>,
    /// The longest body of an answer, in bytes.
    longest: usize,
}

impl Client {
    /// Creates a client of the server on this socket. Each exchange may take `timeout`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout, shared: None, user: None, longest: MAX_BODY }
    }

    /// Counts the time limit for all waits and exchanges from now on together, not for each.
    #[must_use]
    pub fn within_one_limit(self) -> Self {
        Self { shared: Some(Deadline::after(self.timeout)), ..self }
    }

    /// Speaks to a server of this user only, and to a socket only: a path in a directory of another user may lead anywhere,
    /// say to the socket of a powerful service.
    #[must_use]
    pub fn served_by(self, user: u32) -> Self {
        Self { user: Some(user), ..self }
    }

    fn connect(&self, deadline: &Deadline) -> Result<UnixStream, ExchangeError> {
        match self.user {
            None => connect(&self.socket, deadline),
            Some(user) => connect_to_user(&self.socket, user, deadline),
        }
    }

    fn deadline(&self) -> Deadline {
        self.shared.unwrap_or_else(|| Deadline::after(self.timeout))
    }

    /// Gives each exchange this time.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Accepts answers with bodies of up to this many bytes.
    #[must_use]
    pub fn with_longest(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until a server accepts connections, for no longer than an exchange may last. A server that was just
    /// started creates its socket a moment later; `runs` tells whether the server is still alive.
    ///
    /// # Errors
    /// Fails if no server listens in time, the server's process has ended, or this process may not use the socket.
    pub fn wait(&self, mut runs: impl FnMut() -> bool) -> Result<(), HttpError> {
        let deadline = self.deadline();
        let mut early = None;
        loop {
            let Err(source) = self.connect(&deadline) else { return Ok(()) };
            let over = match &source {
                // The socket does not exist yet, or it is bound and does not listen yet.
                ExchangeError::Connect(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ),
                _ => true,
            };
            if over {
                let (socket, waited) = (self.socket.clone(), deadline.passed());
                // At the time limit, the failure of the last attempt explains more than the timeout.
                let source = match (source, early) {
                    (ExchangeError::Timeout(_), Some(early)) => early,
                    (source, _) => source,
                };
                return Err(HttpError::NotListening { socket, waited, source });
            }
            if !runs() {
                return Err(HttpError::NoProcess { socket: self.socket.clone() });
            }
            early = Some(source);
            pause();
        }
    }

    /// Sends a request and waits for the answer, with any status.
    ///
    /// # Errors
    /// Fails if the answer is not complete in time.
    pub fn exchange(&self, call: &ApiCall) -> Result<Response, HttpError> {
        self.converse(call).map_err(|source| self.failed(&call.to_string(), source))
    }

    fn failed(&self, call: &str, source: ExchangeError) -> HttpError {
        HttpError::Exchange { call: call.to_owned(), socket: self.socket.clone(), source }
    }

    fn converse(&self, call: &ApiCall) -> Result<Response, ExchangeError> {
        let deadline = self.deadline();
        let mut stream = self.connect(&deadline)?;
        match send(&mut stream, &call.render(), &deadline) {
            // The server closed before it had read everything. It may have sent an answer.
            Err(ExchangeError::Send(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        receive(&mut stream, self.longest, &deadline)
    }
}

/// Connects. Waits while the server's queue of connections is full (listen(2)).
fn connect(socket: &Path, deadline: &Deadline) -> Result<UnixStream, ExchangeError> {
    let failed = |errno: Errno| ExchangeError::Connect(errno.into());
    let address = SocketAddrUnix::new(socket).map_err(failed)?;
    let stream =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    loop {
        let left = Some(deadline.left()?);
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, left).map_err(failed)?;
        match net::connect(&stream, &address) {
            Ok(()) => return Ok(UnixStream::from(stream)),
            // unix(7): the time limit for sending has passed, or a signal arrived.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Connects to a server of this user. The path must lead to a socket without a link in its last part; what is opened is
/// what is connected to.
fn connect_to_user(
    socket: &Path,
    user: u32,
    deadline: &Deadline,
) -> Result<UnixStream, ExchangeError> {
    // Whoever waits for the socket to appear must not wait forever.
    deadline.left()?;
    let file = owned_socket(socket).map_err(ExchangeError::Connect)?;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let stream = connect(Path::new(&name), deadline)?;
    let peer = sockopt::socket_peercred(&stream);
    let peer = peer.map_err(|errno| ExchangeError::Connect(errno.into()))?.uid.as_raw();
    if peer == user { Ok(stream) } else { Err(ExchangeError::Peer { user, peer }) }
}

/// Opens a socket as a file, to be named by its descriptor. Fails if the path leads to a link or to another kind of file.
///
/// # Errors
/// Fails also if there is no such file.
pub fn owned_socket(socket: &Path) -> io::Result<OwnedFd> {
    let file = fs::open(socket, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(fs::fstat(&file)?.st_mode);
    if kind == FileType::Socket { Ok(file) } else { Err(io::Error::other("it is no socket")) }
}

fn send(
    stream: &mut UnixStream,
    mut bytes: &[u8],
    deadline: &Deadline,
) -> Result<(), ExchangeError> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(deadline.left()?)).map_err(ExchangeError::Send)?;
        match stream.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if is_retried(&error) => {}
            Err(error) => return Err(ExchangeError::Send(error)),
        }
    }
    Ok(())
}

fn receive(
    stream: &mut UnixStream,
    longest: usize,
    deadline: &Deadline,
) -> Result<Response, ExchangeError> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(deadline.left()?)).map_err(ExchangeError::Receive)?;
        let ended = match stream.read(&mut buffer) {
            Ok(count) => {
                bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
                count == 0
            }
            Err(error) if is_retried(&error) => continue,
            // The server closed with some of the request unread (unix(7)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
            Err(error) => return Err(ExchangeError::Receive(error)),
        };
        match parse(&bytes, ended, longest).map_err(ExchangeError::Malformed)? {
            Parsed::Whole(answer) => return Ok(answer),
            Parsed::Partial if ended => return Err(ExchangeError::Closed),
            Parsed::Partial => {}
        }
    }
}

/// Tells whether to try again: after a signal, or after the call's own time limit, which the deadline then reports.
fn is_retried(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The time by which an exchange must be over.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self { start: now(), timeout }
    }

    fn passed(&self) -> Duration {
        now().duration_since(self.start)
    }

    /// Returns the remaining time. It is never zero, which would mean no limit to a socket.
    fn left(&self) -> Result<Duration, ExchangeError> {
        let left = self.timeout.saturating_sub(self.passed());
        if left.is_zero() { Err(ExchangeError::Timeout(self.timeout)) } else { Ok(left) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the wait for another process is measured here")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when a server begins to listen")]
fn pause() {
    thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn request_states_the_length_of_its_body() {
        let call = ApiCall::put("/actions", json!({ "action_type": "InstanceStart" }));
        assert_eq!(
            String::from_utf8(call.render()).unwrap(),
            "PUT /actions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: 31\r\n\r\n\
             {\"action_type\":\"InstanceStart\"}"
        );
        assert_eq!(
            String::from_utf8(ApiCall::get("/").render()).unwrap(),
            "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
        );
        assert_eq!(ApiCall::command("/vm.boot").to_string(), "PUT /vm.boot");
        let post = ApiCall::post("/v1/functions", Some(json!([])));
        assert_eq!(
            String::from_utf8(post.render()).unwrap(),
            "POST /v1/functions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"
        );
        assert_eq!(ApiCall::delete("/v1/functions/x").to_string(), "DELETE /v1/functions/x");
    }
}
