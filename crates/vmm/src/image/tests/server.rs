//! A server that answers its connections one after the other, each by the next step of a script.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivateKeyDer};

/// The head of a request, as the client sent it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct HttpRequest {
    pub(super) line: String,
    headers: Vec<String>,
}

impl HttpRequest {
    fn read(stream: &mut dyn Stream) -> io::Result<Self> {
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        let mut headers = Vec::new();
        for header in lines {
            match header? {
                header if header.is_empty() => break,
                header => headers.push(header),
            }
        }
        Ok(Self { line, headers })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.iter().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the missing range, and the version that it belongs to.
    pub(super) fn range(&self) -> Option<(&str, &str)> {
        Some((self.header("range")?, self.header("if-range")?))
    }
}

pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Reset,
}

pub(super) type Step = Box<dyn FnOnce(&HttpRequest, &mut dyn Stream) -> End + Send>;

/// Returns a step made of this function.
pub(super) fn step(
    answer: impl FnOnce(&HttpRequest, &mut dyn Stream) -> End + Send + 'static,
) -> Step {
    Box::new(answer)
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    scheme: &'static str,
    closing: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<HttpRequest>, usize)>,
}

impl Server {
    pub(super) fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::new(None, steps.into_iter().collect())
    }

    /// Starts a server with TLS. The certificate (DER) must belong to the key `server.key.der`.
    pub(super) fn start_tls(certificate: &[u8], steps: impl IntoIterator<Item = Step>) -> Self {
        let key = PrivateKeyDer::try_from(include_bytes!("certificates/server.key.der").as_slice());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.to_vec().into()], key.unwrap())
            .unwrap();
        Self::new(Some(config.into()), steps.into_iter().collect())
    }

    fn new(tls: Option<Arc<ServerConfig>>, steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let closing = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let closing = closing.clone();
            move || {
                let mut steps = steps.into_iter();
                let mut requests = Vec::new();
                loop {
                    let (stream, _) = listener.accept().unwrap();
                    if closing.load(Ordering::SeqCst) {
                        return (requests, steps.len());
                    }
                    let step = steps.next().expect("no more connections");
                    requests.extend(answer(stream, tls.clone(), step).ok());
                }
            }
        });
        Self { address, scheme, closing, thread }
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}/vmlinux", self.scheme, self.address)
    }

    /// Returns the requests. Asserts that every step of the script was used.
    pub(super) fn end(self) -> Vec<HttpRequest> {
        self.closing.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).expect("the server still runs");
        let (requests, left) = self.thread.join().expect("each connection had its step");
        assert_eq!(left, 0, "steps are left");
        requests
    }
}

fn answer(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    step: Step,
) -> io::Result<HttpRequest> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let reset = stream.try_clone()?;
    let mut stream: Box<dyn Stream> = match tls {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream)),
        None => Box::new(stream),
    };
    let request = HttpRequest::read(&mut *stream)?;
    if step(&request, &mut *stream) == End::Reset {
        set_socket_linger(&reset, Some(Duration::ZERO))?;
    }
    Ok(request)
}

/// Sends this and closes. Ignores a client that no longer listens.
fn put(stream: &mut dyn Stream, bytes: &[u8]) {
    let _unheard = stream.write_all(bytes).and_then(|()| stream.flush());
}

/// Answers with this status, these headers (separated by `; `) and this body.
pub(super) fn send(head: &str, body: &[u8]) -> Step {
    let head = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", head.replace("; ", "\r\n"));
    let answer = [head.as_bytes(), body].concat();
    Box::new(move |_, stream| {
        put(stream, &answer);
        End::Close
    })
}

/// Serves this version of a file: the whole, or the rest if the request asks for the rest of this version.
pub(super) fn serve(body: &[u8], tag: &str) -> Step {
    cut(body, tag, body.len(), End::Close)
}

/// Serves a file as [`serve`] does, and ends the connection after `at` bytes of the file.
pub(super) fn cut(body: &[u8], tag: &str, at: usize, end: End) -> Step {
    let (body, tag) = (body.to_vec(), tag.to_owned());
    Box::new(move |request, stream| {
        let total = body.len();
        let first = request.range().filter(|(_, version)| *version == tag).map(|(range, _)| {
            let first = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
            first.parse::<usize>().unwrap()
        });
        let (status, range) = match first {
            Some(first) => ("206 Partial Content", format!("bytes {first}-{}/{total}", total - 1)),
            None => ("200 OK", String::new()),
        };
        let range = if range.is_empty() { range } else { format!("Content-Range: {range}\r\n") };
        let first = first.unwrap_or(0);
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: {}\r\n{range}\r\n",
            total - first
        );
        put(stream, head.as_bytes());
        put(stream, &body[first..at]);
        end
    })
}

/// Does another step, and then waits for the client to give up.
pub(super) fn then_silent(step: Step) -> Step {
    Box::new(move |request, stream| {
        let end = step(request, stream);
        let _gone = io::copy(stream, &mut io::sink());
        end
    })
}

/// Never answers.
pub(super) fn silent() -> Step {
    then_silent(Box::new(|_, _| End::Close))
}
