//! A client of the daemon's API, which keeps one connection over the Unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The idle time after which the connection is replaced: the daemon closes one that is idle for ten seconds.
const IDLE: Duration = Duration::from_secs(5);

/// A connection to the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
    used: Instant,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = BufReader::new(UnixStream::connect(socket)?);
        Ok(Self { stream, socket: socket.to_owned(), used: Instant::now() })
    }

    /// Replaces the connection if it was idle for a while.
    #[track_caller]
    fn renew(&mut self) {
        if self.used.elapsed() > IDLE {
            *self = Self::connect(&self.socket).unwrap();
        }
    }

    /// Sends a request that must succeed, and returns the document of the answer.
    #[track_caller]
    pub(crate) fn json(&mut self, method: &str, target: &str, body: &str) -> Value {
        self.renew();
        serde_json::from_slice(&self.send(method, target, body)).unwrap()
    }

    /// Returns the time from the request to the end of the answer.
    #[track_caller]
    pub(crate) fn timed(&mut self, method: &str, target: &str, body: &str) -> Duration {
        self.renew();
        let started = Instant::now();
        self.send(method, target, body);
        started.elapsed()
    }

    #[track_caller]
    fn send(&mut self, method: &str, target: &str, body: &str) -> Vec<u8> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: riklet-sdn\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line();
        let mut length = None;
        loop {
            let line = self.line().to_ascii_lowercase();
            match line.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = value.trim().parse().ok(),
                Some(_) => {}
            }
        }
        let body = match length {
            Some(length) => self.exactly(length),
            None => self.chunks(),
        };
        let what = || String::from_utf8_lossy(&body).into_owned();
        self.used = Instant::now();
        assert!(status.contains(" 200 "), "{method} {target}: {status}: {}", what());
        body
    }

    /// Reads a chunked body (RFC 9112, section 7.1).
    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line(), 16).unwrap();
            body.extend(self.exactly(length));
            assert_eq!(self.line(), "");
            if length == 0 {
                return body;
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stream.read_line(&mut line).unwrap() > 0, "the daemon closed the connection");
        line.trim_end().to_owned()
    }
}
