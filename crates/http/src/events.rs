//! Server-sent events (the living standard of HTML, section 9.2), a line at a time.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::unix::net::UnixStream,
};

use httparse::{EMPTY_HEADER, Status};

use super::{
    ApiCall, Client, Deadline, ExchangeError, HttpError, Malformed, connect, is_retried,
    response::{MAX_FIELDS, MAX_HEAD},
    send,
};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerEvent {
    /// The kind of event; `message` where the server does not say.
    pub name: String,
    /// The data of the event.
    pub data: String,
}

/// The events of one answer, as they arrive. There is no time limit, since a stream may be silent for long.
#[derive(Debug)]
pub struct EventStream {
    reader: BufReader<UnixStream>,
    /// The longest event, in bytes.
    longest: usize,
    /// The request, for error messages.
    call: String,
    client: Client,
}

impl Client {
    /// Requests a stream of events. Its head must arrive within the time of an exchange.
    ///
    /// # Errors
    /// Fails if there is no connection, or the answer is not a stream.
    pub fn events(&self, path: &str) -> Result<EventStream, HttpError> {
        let call = ApiCall::get(path).to_string();
        let reader = self.begin(path).map_err(|source| self.failed(&call, source))?;
        Ok(EventStream::new(reader, call, self.clone()))
    }

    /// Requests an answer of any length, and returns its body. Its head must arrive within the time of an exchange.
    ///
    /// # Errors
    /// Fails if there is no connection, or the answer has another status than 200.
    pub fn stream(&self, path: &str) -> Result<impl Read + use<>, HttpError> {
        let call = ApiCall::get(path).to_string();
        self.begin(path).map_err(|source| self.failed(&call, source))
    }

    fn begin(&self, path: &str) -> Result<BufReader<UnixStream>, ExchangeError> {
        let deadline = Deadline::after(self.timeout);
        let mut stream = connect(&self.socket, &deadline)?;
        // HTTP/1.0 has no chunks: everything after the head is the body.
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        send(&mut stream, request.as_bytes(), &deadline)?;
        let mut reader = BufReader::new(stream);
        let status = head(&mut reader, &deadline)?;
        reader.get_ref().set_read_timeout(None).map_err(ExchangeError::Receive)?;
        if status == 200 { Ok(reader) } else { Err(ExchangeError::NoStream(status)) }
    }
}

/// Reads the head of an answer, and no further. Returns the status.
pub(super) fn head(
    reader: &mut BufReader<UnixStream>,
    deadline: &Deadline,
) -> Result<u16, ExchangeError> {
    let mut bytes = Vec::new();
    loop {
        let left = Some(deadline.left()?);
        reader.get_ref().set_read_timeout(left).map_err(ExchangeError::Receive)?;
        let more = match reader.fill_buf() {
            Ok([]) => return Err(ExchangeError::Closed),
            Ok(more) => more,
            Err(error) if is_retried(&error) => continue,
            Err(error) => return Err(ExchangeError::Receive(error)),
        };
        let (before, read) = (bytes.len(), more.len());
        bytes.extend_from_slice(more);
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        let whole = parsed.parse(&bytes).map_err(|error| malformed(Malformed::Head(error)))?;
        if let Status::Complete(length) = whole {
            reader.consume(length.saturating_sub(before));
            return Ok(parsed.code.unwrap_or_default());
        }
        if bytes.len() > MAX_HEAD {
            return Err(malformed(Malformed::LongHead));
        }
        reader.consume(read);
    }
}

impl EventStream {
    pub(super) fn new(reader: BufReader<UnixStream>, call: String, client: Client) -> Self {
        Self { reader, longest: client.longest, call, client }
    }

    /// Reads the next event. Returns `None` once the server has ended the stream.
    fn read(&mut self) -> Result<Option<ServerEvent>, ExchangeError> {
        let mut event = ServerEvent { name: "message".to_owned(), data: String::new() };
        let mut lines = 0_usize;
        loop {
            let left = self.longest.saturating_sub(event.data.len());
            let Some(line) = line(&mut self.reader, left)? else { return Ok(None) };
            if line.is_empty() {
                if lines > 0 {
                    return Ok(Some(event));
                }
                "message".clone_into(&mut event.name);
                continue;
            }
            // A line that begins with a colon is a comment.
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut event.name),
                "data" => {
                    if lines > 0 {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                    lines += 1;
                }
                _ => {}
            }
        }
    }
}

impl Iterator for EventStream {
    type Item = Result<ServerEvent, HttpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        read.map_err(|source| self.client.failed(&self.call, source)).transpose()
    }
}

/// Reads a line of at most `longest` bytes, without its end. Returns `None` if the input ends within a line.
fn line(reader: &mut impl BufRead, longest: usize) -> Result<Option<String>, ExchangeError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(longest).unwrap_or(u64::MAX);
    match reader.by_ref().take(limit).read_until(b'\n', &mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(ExchangeError::Receive(error)),
    }
    if bytes.pop_if(|last| *last == b'\n').is_none() {
        let long = bytes.len() >= longest;
        return if long { Err(malformed(Malformed::LongBody(longest))) } else { Ok(None) };
    }
    bytes.pop_if(|last| *last == b'\r');
    let text = String::from_utf8(bytes);
    let not_text = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    text.map(Some).map_err(|error| ExchangeError::Receive(not_text(error)))
}

fn malformed(reason: Malformed) -> ExchangeError {
    ExchangeError::Malformed(reason)
}
