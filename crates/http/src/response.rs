//! Parses the answer to a request from the bytes of a connection (RFC 9112). Pure.

use httparse::{EMPTY_HEADER, Header, Status};

/// The longest status line and header fields together, those of interim answers included.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The longest body as transmitted, by default.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// The largest number of header fields.
pub(super) const MAX_FIELDS: usize = 64;

/// The answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code: 200 to 999.
    pub status: u16,
    /// The body; empty where there is none.
    pub body: Vec<u8>,
}

/// The state of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of an answer.
    Partial,
    /// An answer.
    Whole(Response),
}

/// The reason why bytes are not an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The status line or the header fields are malformed.
    #[error("its head is malformed")]
    Head(#[source] httparse::Error),
    /// The body is in a coding other than `chunked`.
    #[error("its Transfer-Encoding is not chunked")]
    Coding,
    /// `Content-Length` is not a number, or has two values.
    #[error("its Content-Length is malformed")]
    Length,
    /// A chunk is not `SIZE CRLF DATA CRLF`.
    #[error("one of its chunks is malformed")]
    Chunk,
    /// The head is too long.
    #[error("its head is longer than {MAX_HEAD} bytes")]
    LongHead,
    /// The body is too long.
    #[error("its body is longer than {0} bytes")]
    LongBody(usize),
}

/// The length of the body (RFC 9112, section 6.3).
enum Framing {
    Bytes(usize),
    Chunked,
    UntilEnd,
}

/// Parses an answer from the bytes received so far; `ended` tells that no more will come.
pub(super) fn parse(bytes: &[u8], ended: bool, longest: usize) -> Result<Parsed, Malformed> {
    let mut start = 0;
    loop {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let rest = bytes.get(start..).unwrap_or_default();
        let Status::Complete(length) = head.parse(rest).map_err(Malformed::Head)? else {
            let long = bytes.len() > MAX_HEAD;
            return if long { Err(Malformed::LongHead) } else { Ok(Parsed::Partial) };
        };
        start += length;
        if start > MAX_HEAD {
            return Err(Malformed::LongHead);
        }
        let status = head.code.unwrap_or_default();
        // An interim answer precedes the answer (RFC 9110, section 15.2).
        if !(100..200).contains(&status) {
            let rest = bytes.get(start..).unwrap_or_default();
            let framing = framing(status, head.headers)?;
            let body = body(rest, &framing, ended, longest)?;
            return Ok(
                body.map_or(Parsed::Partial, |body| Parsed::Whole(Response { status, body }))
            );
        }
    }
}

fn framing(status: u16, fields: &[Header<'_>]) -> Result<Framing, Malformed> {
    if matches!(status, 204 | 304) {
        return Ok(Framing::Bytes(0));
    }
    let values = |name: &'static str| {
        let fields = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value.trim_ascii())
    };
    if let Some(coding) = values("transfer-encoding").next() {
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        return if chunked { Ok(Framing::Chunked) } else { Err(Malformed::Coding) };
    }
    let mut lengths = values("content-length");
    if let Some(length) = lengths.next() {
        if lengths.any(|other| other != length) || !length.iter().all(u8::is_ascii_digit) {
            return Err(Malformed::Length);
        }
        let length = str::from_utf8(length).ok().filter(|digits| !digits.is_empty());
        // The text has digits only, so a number that does not parse is too large.
        let length = length.ok_or(Malformed::Length)?.parse().unwrap_or(usize::MAX);
        return Ok(Framing::Bytes(length));
    }
    // micro_http, which serves the API of Firecracker and of Cloud Hypervisor, sent no Content-Length with an
    // empty body before its change 48 of 2024, and does not close the connection either.
    let kept = values("connection").any(|value| value.eq_ignore_ascii_case(b"keep-alive"));
    Ok(if kept { Framing::Bytes(0) } else { Framing::UntilEnd })
}

/// Returns the body, if it is complete.
fn body(
    bytes: &[u8],
    framing: &Framing,
    ended: bool,
    longest: usize,
) -> Result<Option<Vec<u8>>, Malformed> {
    let announced = if let Framing::Bytes(length) = framing { *length } else { bytes.len() };
    if announced > longest {
        return Err(Malformed::LongBody(longest));
    }
    match framing {
        Framing::Bytes(length) => Ok(bytes.get(..*length).map(<[u8]>::to_vec)),
        Framing::Chunked => chunks(bytes),
        Framing::UntilEnd => Ok(ended.then(|| bytes.to_vec())),
    }
}

/// Returns the data of all chunks, if the last chunk and the trailer are there (RFC 9112, section 7.1).
fn chunks(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut data = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(bytes).map_err(|_invalid| Malformed::Chunk)?;
        let Status::Complete((start, size)) = size else { return Ok(None) };
        let rest = bytes.get(start..).unwrap_or_default();
        if size == 0 {
            let mut trailer = [EMPTY_HEADER; MAX_FIELDS];
            let end = httparse::parse_headers(rest, &mut trailer).map_err(Malformed::Head)?;
            return Ok(end.is_complete().then_some(data));
        }
        // A size that does not fit is longer than any allowed body.
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some((chunk, rest)) = rest.split_at_checked(size) else { return Ok(None) };
        let Some((end, rest)) = rest.split_at_checked(2) else { return Ok(None) };
        if end != b"\r\n" {
            return Err(Malformed::Chunk);
        }
        data.extend_from_slice(chunk);
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &str) -> Response {
        match parse(bytes.as_bytes(), true, MAX_BODY) {
            Ok(Parsed::Whole(answer)) => answer,
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    /// Asserts that every proper prefix of these bytes is partial as long as more may come.
    fn whole_with_its_last_byte(bytes: &str) -> Response {
        for length in 0..bytes.len() {
            let parsed = parse(&bytes.as_bytes()[..length], false, MAX_BODY);
            assert_eq!(parsed, Ok(Parsed::Partial), "{length} bytes of {bytes:?}");
        }
        match parse(bytes.as_bytes(), false, MAX_BODY) {
            Ok(Parsed::Whole(answer)) => answer,
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    fn refused(bytes: &str) -> Malformed {
        parse(bytes.as_bytes(), false, MAX_BODY).unwrap_err()
    }

    #[test]
    fn answer_is_complete_with_its_last_byte() {
        let answer = |status, body: &str| Response { status, body: body.into() };
        assert_eq!(
            whole_with_its_last_byte("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
            answer(200, "hello")
        );
        // As Firecracker writes it: no reason phrase, no length.
        assert_eq!(
            whole_with_its_last_byte("HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n"),
            answer(204, "")
        );
        assert_eq!(
            whole_with_its_last_byte("HTTP/1.1 200 \r\nConnection: keep-alive\r\n\r\n"),
            answer(200, "")
        );
        assert_eq!(
            whole_with_its_last_byte(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\n\
                 Transfer-Encoding: Chunked\r\n\r\n\
                 3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nDigest: x\r\n\r\n"
            ),
            answer(400, "hello")
        );
    }

    #[test]
    fn body_without_a_length_ends_with_the_connection() {
        let bytes = "HTTP/1.0 500 Oh\r\nServer: x\r\n\r\nit broke";
        assert_eq!(parse(bytes.as_bytes(), false, MAX_BODY), Ok(Parsed::Partial));
        assert_eq!(whole(bytes), Response { status: 500, body: b"it broke".into() });
    }

    #[test]
    fn malformed_answer_is_refused() {
        assert!(matches!(refused("SSH-2.0-OpenSSH_9.2\r\n"), Malformed::Head(_)));
        assert!(matches!(refused("HTTP/1.1 OK\r\n\r\n"), Malformed::Head(_)));
        let length =
            |value: &str| refused(&format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n"));
        assert_eq!(length("+5"), Malformed::Length);
        assert_eq!(length(""), Malformed::Length);
        assert_eq!(length("5\r\nContent-Length: 6"), Malformed::Length);
        assert_eq!(length("1048577"), Malformed::LongBody(MAX_BODY));
        assert_eq!(length("99999999999999999999999"), Malformed::LongBody(MAX_BODY));
        let coded = |coding: &str, body: &str| {
            refused(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n{body}"))
        };
        assert_eq!(coded("gzip", ""), Malformed::Coding);
        assert_eq!(coded("chunked", "x\r\n"), Malformed::Chunk);
        assert_eq!(coded("chunked", "2\r\nabc\r\n"), Malformed::Chunk);
    }

    #[test]
    fn answer_size_is_bounded() {
        let field = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        assert_eq!(refused(&field), Malformed::LongHead);
        assert_eq!(refused(&"HTTP/1.1 100 \r\n\r\n".repeat(4096)), Malformed::LongHead);
        let body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY + 1));
        assert_eq!(refused(&body), Malformed::LongBody(MAX_BODY));
        let chunk = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(refused(&chunk), Malformed::LongBody(MAX_BODY));
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY}\r\n\r\n");
        assert_eq!(whole(&format!("{body}{}", "x".repeat(MAX_BODY))).body.len(), MAX_BODY);
    }
}
