//! A server on a unix socket that gives the replies that a test asks for, as any VMM might.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use riklet_http::Client;
use serde_json::Value;

use crate::directory::Directory;

/// A time limit that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The pause between two bytes of an answer that trickles.
const PAUSE: Duration = Duration::from_millis(5);

/// A complete request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

impl HttpRequest {
    /// Returns the method and path, such as `PUT /boot-source`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The reaction of a server to a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Sends this, and waits for the next request.
    Send(Vec<u8>),
    /// Sends this, and closes.
    SendAndClose(Vec<u8>),
    /// Sends these bytes over and over, one at a time.
    Trickle(Vec<u8>),
    /// Does nothing until the client goes.
    Silence,
}

/// The behaviour of a server.
pub(crate) trait Play: Send + 'static {
    fn answer(&mut self, request: &HttpRequest) -> Reply;
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    directory: Option<Directory>,
    socket: PathBuf,
    received: Arc<Mutex<Vec<HttpRequest>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a socket in a directory of its own.
    pub(crate) fn start(player: impl Play) -> Self {
        let directory = Directory::new();
        let mut server = Self::at(directory.path("api.sock"), player);
        server.directory = Some(directory);
        server
    }

    /// Starts a server on this socket, which must not exist yet.
    pub(crate) fn at(socket: PathBuf, player: impl Play) -> Self {
        let listener = UnixListener::bind(&socket).expect("a socket");
        Self::on(socket, listener, player)
    }

    fn on(socket: PathBuf, listener: UnixListener, mut player: impl Play) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    converse(stream.expect("a connection"), &mut player, &received);
                }
            })
        };
        Self { directory: None, socket, received, stop, thread: Some(thread) }
    }

    /// Starts a server as this user: the kernel tells its clients so (unix(7), `SO_PEERCRED`).
    #[allow(dead_code, reason = "only the tests in netns use it")]
    pub(crate) fn at_as(user: u32, socket: PathBuf, player: impl Play) -> Self {
        let user = rustix::process::Uid::from_raw(user);
        let listen = || {
            // A user of one thread only.
            rustix::thread::set_thread_res_uid(user, user, user).expect("to become a user");
            UnixListener::bind(&socket).expect("a socket")
        };
        let listener = thread::scope(|scope| scope.spawn(listen).join());
        Self::on(socket, listener.expect("no panic"), player)
    }

    /// Returns a directory that exists as long as the server.
    pub(crate) fn directory(&self) -> &Directory {
        self.directory.as_ref().expect("a server with a directory")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket(), LONG)
    }

    /// Returns the requests so far.
    pub(crate) fn received(&self) -> Vec<HttpRequest> {
        self.received.lock().expect("a server that did not panic").clone()
    }

    /// Returns the methods and paths of the requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.received().iter().map(HttpRequest::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(self.socket()));
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        assert!(ended.is_ok() || thread::panicking(), "the server panicked");
    }
}

/// Answers the requests of one connection.
fn converse(mut stream: UnixStream, player: &mut impl Play, received: &Mutex<Vec<HttpRequest>>) {
    while let Some(request) = receive(&mut stream) {
        received.lock().expect("a test that did not panic").push(request.clone());
        match player.answer(&request) {
            Reply::Send(bytes) => stream.write_all(&bytes).expect("an answer"),
            Reply::SendAndClose(bytes) => return stream.write_all(&bytes).expect("an answer"),
            Reply::Trickle(bytes) => return trickle(&mut stream, &bytes),
            Reply::Silence => {
                let rest = io::copy(&mut stream, &mut io::sink());
                assert_eq!(rest.expect("the end"), 0, "a client that does not wait its turn");
                return;
            }
        }
    }
}

/// Returns the next request; `None` if the client has gone.
fn receive(stream: &mut UnixStream) -> Option<HttpRequest> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(request) = parse(&bytes) {
            return Some(request);
        }
        match stream.read(&mut buffer).expect("a request") {
            0 => {
                assert!(bytes.is_empty(), "half a request: {:?}", String::from_utf8_lossy(&bytes));
                return None;
            }
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<HttpRequest> {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(start) = head.parse(bytes).expect("a request") else {
        return None;
    };
    let field = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| str::from_utf8(field.value).expect("text"))
    };
    assert_eq!(field("Host"), Some("localhost"));
    // The client uses HTTP/1.0 for streams, since it has no chunks.
    let wanted = if head.version == Some(0) { "text/event-stream" } else { "application/json" };
    assert_eq!(field("Accept"), Some(wanted));
    let body = field("Content-Length").map(|length| {
        assert_eq!(field("Content-Type"), Some("application/json"));
        length.parse::<usize>().expect("a length")
    });
    let rest = &bytes[start..];
    let body = match body {
        None => None,
        Some(length) if rest.len() < length => return None,
        Some(length) => Some(serde_json::from_slice(&rest[..length]).expect("JSON")),
    };
    let (method, path) = (head.method.expect("a method"), head.path.expect("a path"));
    Some(HttpRequest { method: method.to_owned(), path: path.to_owned(), body })
}

fn trickle(stream: &mut UnixStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(PAUSE)).expect("a timeout");
    for byte in bytes.iter().cycle() {
        // Each read is a pause, until the client has gone.
        let gone = matches!(stream.read(&mut [0]), Ok(0));
        if gone || stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

/// Returns an answer in the format of `micro_http`, the HTTP server in both VMMs: without a reason phrase, and without
/// a length if there is no body.
pub(crate) fn answer(status: u16, body: Option<&Value>) -> Reply {
    let head = format!("HTTP/1.1 {status} \r\nServer: played\r\nConnection: keep-alive\r\n");
    let body = body.map_or_else(
        || "\r\n".to_owned(),
        |body| {
            let body = body.to_string();
            let length = body.len();
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        },
    );
    Reply::Send(format!("{head}{body}").into_bytes())
}
