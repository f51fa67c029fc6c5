//! The part of HTTP/1.1 that the guest supports (RFC 9110, RFC 9112): one request a connection. Pure.

use serde::Serialize;

/// The longest request line and header fields together.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// The longest body.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpRequest {
    pub(super) method: String,
    /// The path, without the query.
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// The state of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a request, and whether the client waits before it sends the body (`Expect: 100-continue`).
    Partial { expects_continue: bool },
    /// A request.
    Whole(HttpRequest),
    /// The bytes are not the beginning of a request.
    Refused(Response),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

/// The interim answer for a client that waits before it sends the body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Reads a request from the bytes received so far.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    // RFC 9112, section 2.2: a line may end in a bare LF.
    let start = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let ends = [&b"\n\r\n"[..], b"\n\n"].map(|end| position(start, end));
    let Some(end) = ends.into_iter().flatten().min() else {
        return if bytes.len() >= MAX_HEAD {
            refused(431, "the request's header fields are too long")
        } else {
            Parsed::Partial { expects_continue: false }
        };
    };
    let (head, body) = bytes.split_at(end);
    match parse_head(head) {
        Err(response) => Parsed::Refused(response),
        Ok(head) if body.len() < head.length => {
            let expects_continue = head.expects_continue && body.is_empty();
            Parsed::Partial { expects_continue }
        }
        Ok(head) => {
            let body = body[..head.length].to_vec();
            Parsed::Whole(HttpRequest { method: head.method, path: head.path, body })
        }
    }
}

/// Returns the index after the first occurrence.
fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what).map(|at| at + what.len())
}

struct Head {
    method: String,
    path: String,
    length: usize,
    expects_continue: bool,
}

fn parse_head(head: &[u8]) -> Result<Head, Response> {
    let bad = |reason: &str| Response::error(400, reason);
    let head = str::from_utf8(head).map_err(|_invalid| bad("the request is not text"))?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("the first line is not METHOD TARGET VERSION"));
    };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(bad("the method is not a word"));
    }
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err(match version.strip_prefix("HTTP/") {
            Some(_) => Response::error(505, "HTTP/1.0 and HTTP/1.1 are understood"),
            None => bad("the first line has no HTTP version"),
        });
    }
    let path = origin_form(target).ok_or_else(|| bad("the target is not a path"))?;
    let (mut length, mut host, mut expects_continue) = (None, false, false);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header has no colon"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(bad("a header's name has white space"));
        }
        let value = value.trim();
        match &*name.to_ascii_lowercase() {
            "host" => host = true,
            "transfer-encoding" => {
                return Err(Response::error(411, "say the body's Content-Length"));
            }
            "content-length" => {
                let number = body_length(value)?;
                if length.replace(number).is_some_and(|before| before != number) {
                    return Err(bad("two values of Content-Length"));
                }
            }
            "expect" => expects_continue = value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
    if !host && version == "HTTP/1.1" {
        return Err(bad("HTTP/1.1 requires a Host header"));
    }
    Ok(Head {
        method: method.to_owned(),
        path: path.to_owned(),
        length: length.unwrap_or(0),
        expects_continue,
    })
}

fn body_length(value: &str) -> Result<usize, Response> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Response::error(400, "Content-Length is not a number"));
    }
    // The text has digits only, so a number that does not parse is too large.
    let length = value.parse().ok().filter(|&length: &usize| length <= MAX_BODY);
    length.ok_or_else(|| Response::error(413, "a body may have 1048576 bytes"))
}

/// Returns the path of a target in origin form, or in the absolute form that every server must accept (RFC 9112,
/// section 3.2.2).
fn origin_form(target: &str) -> Option<&str> {
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            rest.find('/').map_or("/", |slash| rest.split_at(slash).1)
        }
        _ => target,
    };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    path.starts_with('/').then_some(path)
}

/// Decodes `%41` and the like (RFC 3986, section 2.1). Returns `None` if a `%` is not followed by two hexadecimal
/// digits.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut digit = || u8::try_from(char::from(bytes.next()?).to_digit(16)?).ok();
        decoded.push(if byte == b'%' { digit()? << 4 | digit()? } else { byte });
    }
    Some(decoded)
}

fn refused(status: u16, reason: &str) -> Parsed {
    Parsed::Refused(Response::error(status, reason))
}

impl Response {
    /// Creates an answer with one line of JSON.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        let mut body = serde_json::to_vec(value).unwrap_or_else(|error| {
            tracing::error!(%error, "an answer that is not JSON");
            b"null".to_vec()
        });
        body.push(b'\n');
        Self { status, content_type: "application/json", body }
    }

    /// Creates the answer `{"error": reason}`.
    pub(super) fn error(status: u16, reason: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": reason }))
    }

    /// Creates an answer with uninterpreted bytes.
    pub(super) fn bytes(body: Vec<u8>) -> Self {
        Self { status: 200, content_type: "application/octet-stream", body }
    }

    /// Returns the status code.
    pub(super) const fn status(&self) -> u16 {
        self.status
    }

    /// Returns the bytes of the answer; to HEAD, without the body.
    pub(super) fn render(&self, to_head: bool) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let allow = if *status == 405 { "Allow: GET, HEAD, POST\r\n" } else { "" };
        let mut bytes = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            reason_phrase(*status),
            body.len(),
        )
        .into_bytes();
        if !to_head {
            bytes.extend(body);
        }
        bytes
    }
}

/// Returns the reason phrase (RFC 9110, section 15).
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad HttpRequest",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "HttpRequest Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "HttpRequest Header Fields Too Large",
        502 => "Bad Gateway",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> u16 {
        match parse(request.as_bytes()) {
            Parsed::Refused(response) => response.status(),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    #[test]
    fn request_is_complete_with_its_last_byte() {
        let request = b"POST /echo?x=1 HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\n\r\nhello";
        for length in 0..request.len() {
            let parsed = parse(&request[..length]);
            assert_eq!(parsed, Parsed::Partial { expects_continue: false }, "{length}");
        }
        let whole =
            HttpRequest { method: "POST".into(), path: "/echo".into(), body: b"hello".into() };
        assert_eq!(parse(request), Parsed::Whole(whole));
        let bare = HttpRequest { method: "GET".into(), path: "/".into(), body: vec![] };
        assert_eq!(parse(b"GET / HTTP/1.0\n\n"), Parsed::Whole(bare));
    }

    #[test]
    fn continue_is_sent_once() {
        let head =
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
        assert_eq!(parse(head.as_bytes()), Parsed::Partial { expects_continue: true });
        let more = format!("{head}a");
        assert_eq!(parse(more.as_bytes()), Parsed::Partial { expects_continue: false });
    }

    #[test]
    fn invalid_request_is_refused_with_the_right_status() {
        for (request, expected) in [
            ("hello\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
            ("POST / HTTP/1.0\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nContent-Length: 1048577\r\n\r\n", 413),
            ("POST / HTTP/1.0\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ] {
            assert_eq!(status(request), expected, "{request:?}");
        }
        assert_eq!(status(&"a".repeat(MAX_HEAD)), 431);
    }

    #[test]
    fn absolute_form_target_yields_its_path() {
        assert_eq!(origin_form("http://10.231.0.2:3000/echo?x"), Some("/echo"));
        assert_eq!(origin_form("http://10.231.0.2"), Some("/"));
        assert_eq!(origin_form("/connect/http://x"), Some("/connect/http://x"));
        assert_eq!(origin_form("*"), None);
    }

    #[test]
    fn percent_signs_need_two_digits() {
        assert_eq!(percent_decode("a%20b%C3%a9"), Some("a bé".into()));
        assert_eq!(percent_decode("100%"), None);
        assert_eq!(percent_decode("%4"), None);
        assert_eq!(percent_decode("%zz"), None);
    }

    #[test]
    fn head_answer_has_a_length_and_no_body() {
        let response = Response::error(404, "nothing here");
        let whole = String::from_utf8(response.render(false)).unwrap();
        assert_eq!(
            whole,
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 25\r\nConnection: close\r\n\r\n{\"error\":\"nothing here\"}\n"
        );
        let head = String::from_utf8(response.render(true)).unwrap();
        assert_eq!(whole.strip_prefix(&head), Some("{\"error\":\"nothing here\"}\n"));
    }
}
