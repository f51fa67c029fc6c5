//! Requests to guests, and a server for requests from guests.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use serde_json::Value;

use crate::world::{Namespace, background::Background, command::Output};

/// The number of seconds that a guest may take to answer. It may have to send a request to another guest first.
const PATIENCE: u64 = 30;

/// Returns the JSON document of an answer with status 200.
#[track_caller]
pub(crate) fn get(namespace: &Namespace, from: SocketAddrV4, path: &str) -> Value {
    let body = try_get(namespace, from, path, PATIENCE).success();
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error} in {body}"))
}

/// Makes a request that may fail.
#[track_caller]
pub(crate) fn try_get(
    namespace: &Namespace,
    from: SocketAddrV4,
    path: &str,
    seconds: u64,
) -> Output {
    let url = format!("http://{from}{path}");
    let seconds = seconds.to_string();
    let curl = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time"];
    namespace.feed(&[&curl[..], &[&seconds, &url]].concat(), "")
}

/// Sends these words, and returns the answer, or `None` if there is none.
pub(crate) fn udp_echo(namespace: &Namespace, to: SocketAddrV4, words: &str) -> Option<String> {
    let socket = namespace.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(PATIENCE))).expect("a timeout above zero");
    socket.connect(to).expect("a route");
    socket.send(words.as_bytes()).ok()?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A server. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct WhoServer {
    pub(crate) address: SocketAddrV4,
    _thread: Background,
}

/// Starts an HTTP/1.0 server that answers each request with the client's address, as the guests do.
#[track_caller]
pub(crate) fn who_server(namespace: &Namespace, at: SocketAddrV4) -> WhoServer {
    let listener = namespace.run(|| TcpListener::bind(at)).expect("a free port");
    let thread = Background::start(move |stop| {
        while stop.readable([listener.as_fd()]).is_some() {
            // A client that has gone meanwhile is no failure of the server.
            listener.accept().and_then(|(stream, client)| answer(&stream, client)).ok();
        }
    });
    WhoServer { address: at, _thread: thread }
}

fn answer(mut stream: &TcpStream, client: std::net::SocketAddr) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    write!(stream, "HTTP/1.0 200 OK\r\n\r\n{{\"client\": \"{client}\"}}")
}
