//! Functions that fuzzing calls. Each takes bytes that a server sends, and panics if a law is broken.

use std::{
    io::{BufReader, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::{
    Client, Deadline, EventStream, events, receive,
    response::{MAX_BODY, Parsed, parse},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// The number of bytes that a socket's buffer takes while nobody reads.
const LONGEST: usize = 64 * 1024;

/// Reads an answer, from the bytes and from a connection. A complete answer stays complete, whatever follows it.
///
/// # Panics
/// Panics if that does not hold.
pub fn http_answer(data: &[u8]) {
    if let Ok(Parsed::Whole(answer)) = parse(data, false, MAX_BODY) {
        let more = [data, b"\r\n"].concat();
        assert_eq!(parse(&more, false, MAX_BODY), Ok(Parsed::Whole(answer)));
    }
    let _answer = receive(&mut sent(data), MAX_BODY, &Deadline::after(PATIENCE));
}

/// Reads a stream of server-sent events.
pub fn server_sent_events(data: &[u8]) {
    let mut reader = BufReader::new(sent(data));
    if events::head(&mut reader, &Deadline::after(PATIENCE)).is_ok() {
        let client = Client::new("fuzz", PATIENCE);
        let events = EventStream::new(reader, "GET /events".to_owned(), client);
        for event in events.map_while(Result::ok) {
            assert!(event.data.len() <= MAX_BODY);
        }
    }
}

/// Returns a connection on which these bytes arrived, followed by its end.
fn sent(data: &[u8]) -> UnixStream {
    let failed = "a socket of this process";
    let (near, mut far) = UnixStream::pair().expect(failed);
    far.write_all(data.get(..LONGEST).unwrap_or(data)).expect(failed);
    far.shutdown(Shutdown::Write).expect(failed);
    near
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn answers() {
        replay("http_answer", super::http_answer);
    }

    #[test]
    fn events() {
        replay("server_sent_events", super::server_sent_events);
    }
}
