//! The part of HTTP/1.0 (RFC 1945) that one request and its answer need.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use serde_json::Value;

use super::{
    Namespace,
    background::Background,
    traffic::{Endpoints, PATIENCE, Server, bind, tcp_connect},
};

/// Starts a server that answers each request with the client's address.
#[track_caller]
pub(crate) fn http_server(namespace: &Namespace, at: impl Into<SocketAddr>) -> Server {
    let listener = bind(namespace, at.into(), TcpListener::bind);
    let address = listener.local_addr().expect("the listener's address");
    let thread = Background::start(move |stop| {
        while stop.readable([listener.as_fd()]).is_some() {
            // A client that has gone meanwhile is no failure of the server.
            listener.accept().and_then(|(stream, client)| answer(&stream, client)).ok();
        }
    });
    Server { address, _thread: thread }
}

fn answer(mut stream: &TcpStream, client: SocketAddr) -> io::Result<()> {
    let answer = Endpoints { client, server: stream.local_addr()? };
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    write!(stream, "HTTP/1.0 200 OK\r\n\r\n{answer}")
}

/// Returns the JSON document of an answer with status 200.
#[track_caller]
pub(crate) fn http_get(namespace: &Namespace, from: impl Into<SocketAddr>, path: &str) -> Value {
    let from = from.into();
    let get = || {
        let mut stream = tcp_connect(namespace, from, PATIENCE)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let text = get().unwrap_or_else(|error| panic!("GET {path} from {from}: {error}"));
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert_eq!(head.split(' ').nth(1), Some("200"), "GET {path} from {from}: {text}");
    serde_json::from_str(body).expect("JSON")
}
