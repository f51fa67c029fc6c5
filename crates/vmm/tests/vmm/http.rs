//! The HTTP client: waiting for a server, and every way in which an exchange can fail.

use std::{
    error::Error,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::Duration,
};

use riklet_http::{ApiCall, Client, ExchangeError, HttpError, Response};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketAddrUnix, SocketType},
};
use serde_json::json;

use crate::{
    directory::Directory,
    server::{HttpRequest, LONG, Play, Reply, Server, answer},
};

/// A short time, but longer than an immediate event takes on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

/// Returns an error with its causes, as the program prints it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// A server that gives the same reply to every request.
struct Always(Reply);

impl Play for Always {
    fn answer(&mut self, _: &HttpRequest) -> Reply {
        self.0.clone()
    }
}

fn exchange(reply: Reply, timeout: Duration) -> Result<(u16, String), HttpError> {
    let server = Server::start(Always(reply));
    let client = Client::new(server.socket(), timeout);
    let answer = client.exchange(&ApiCall::put("/x", json!({ "a": "b" })))?;
    Ok((answer.status, String::from_utf8(answer.body).unwrap()))
}

/// Returns the reason why an exchange failed. Asserts that the error names method, path and socket.
fn failed(result: Result<(u16, String), HttpError>) -> ExchangeError {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("PUT /x over /") && text.contains("api.sock"), "{text}");
    match error {
        HttpError::Exchange { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

/// Returns the events that the client reads from a stream, and the error that ends it.
fn events(reply: Reply) -> (Vec<(String, String)>, Option<ExchangeError>) {
    let server = Server::start(Always(reply));
    let client = Client::new(server.socket(), SHORT).with_longest(64);
    let reason = |error| match error {
        HttpError::Exchange { call, source, .. } => {
            assert_eq!(call, "GET /x");
            source
        }
        other => panic!("{other:?}"),
    };
    let stream = match client.events("/x") {
        Ok(stream) => stream,
        Err(error) => return (vec![], Some(reason(error))),
    };
    let mut found = Vec::new();
    for event in stream {
        match event {
            Ok(event) => found.push((event.name, event.data)),
            Err(error) => return (found, Some(reason(error))),
        }
    }
    (found, None)
}

fn sent(bytes: &str) -> Reply {
    Reply::Send(bytes.as_bytes().to_vec())
}

fn closed(bytes: &str) -> Reply {
    Reply::SendAndClose(bytes.as_bytes().to_vec())
}

#[test]
fn every_body_framing_is_read() {
    for reply in [
        sent("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        sent("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"),
        closed("HTTP/1.1 200 OK\r\n\r\nok"),
    ] {
        assert_eq!(exchange(reply, LONG).unwrap(), (200, "ok".to_owned()));
    }
    for reply in [
        sent("HTTP/1.1 204 No Content\r\n\r\n"),
        sent("HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n"),
    ] {
        assert_eq!(exchange(reply, LONG).unwrap(), (204, String::new()));
    }
}

#[test]
fn truncated_answer_fails_immediately() {
    for reply in [
        closed(""),
        closed("HTTP/1.1 200 OK\r\nContent-Le"),
        closed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"),
        closed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
    ] {
        let reason = failed(exchange(reply, LONG));
        assert!(matches!(reason, ExchangeError::Closed), "{reason:?}");
    }
}

#[test]
fn malformed_http_fails_immediately() {
    let reason = failed(exchange(sent("SSH-2.0-OpenSSH_9.2\r\n"), LONG));
    assert!(chain(&reason).starts_with("the answer is not HTTP that is understood: "));
    let reason = failed(exchange(sent("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), LONG));
    assert!(chain(&reason).ends_with(": its Content-Length is malformed"));
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1024 * 1024));
    assert_eq!(exchange(closed(&long), LONG).unwrap().1.len(), 1024 * 1024);
    let endless =
        Reply::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n".to_vec());
    let reason = failed(exchange(endless, LONG));
    assert!(chain(&reason).ends_with(": its body is longer than 1048576 bytes"));
}

#[test]
fn body_limit_is_set_by_the_client() {
    const MIB: usize = 1 << 20;
    let head = "HTTP/1.1 200 OK\r\n";
    let body = "x".repeat(7 * MIB);
    let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunks = format!("{MIB:x}\r\n{}\r\n", "x".repeat(MIB)).repeat(7);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    for reply in [sent(&whole), sent(&chunked)] {
        let server = Server::start(Always(reply));
        let client = server.client().with_longest(8 * MIB);
        assert!(client.exchange(&ApiCall::get("/x")).unwrap().body == body.as_bytes());
    }
    let server = Server::start(Always(closed(&format!("{head}Content-Length: 9\r\n\r\n"))));
    let error = server.client().with_longest(8).exchange(&ApiCall::get("/x")).unwrap_err();
    assert!(chain(&error).ends_with(": its body is longer than 8 bytes"), "{}", chain(&error));
}

#[test]
fn events_are_read_as_they_arrive() {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let body = ": alive\n\nevent: up\ndata: {\ndata:}\n\ndata: x\r\n\r\nevent: none\n\nid: 7\ndata\n\ndata: cut";
    let expected = [("up", "{\n}"), ("message", "x"), ("message", "")];
    let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned())).to_vec();
    let (found, reason) = events(closed(&format!("{head}{body}")));
    assert_eq!(found, expected, "an event that is cut off is none");
    assert!(reason.is_none(), "{reason:?}");
    let (found, reason) = events(closed(&format!("{head}data: 1\n\ndata: {}\n\n", "x".repeat(64))));
    assert_eq!(found.len(), 1);
    assert!(matches!(reason, Some(ExchangeError::Malformed(_))), "{reason:?}");
    let (_, reason) = events(closed("HTTP/1.0 404 Not Found\r\n\r\n{}"));
    assert!(matches!(reason, Some(ExchangeError::NoStream(404))), "{reason:?}");
    let (_, reason) = events(closed("HTTP/1.0 200 OK\r\nContent"));
    assert!(matches!(reason, Some(ExchangeError::Closed)), "{reason:?}");
    let (_, reason) = events(closed("SSH-2.0-OpenSSH_9.2\r\n"));
    assert!(matches!(reason, Some(ExchangeError::Malformed(_))), "{reason:?}");
    for reply in [Reply::Silence, sent("HTTP/1.0 200 OK\r\nContent")] {
        let (_, reason) = events(reply);
        assert!(matches!(reason, Some(ExchangeError::Timeout(SHORT))), "{reason:?}");
    }
}

#[test]
fn deadline_covers_the_whole_exchange() {
    for reply in [
        Reply::Silence,
        sent("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"),
        // Each byte arrives in time, and the complete answer does not.
        Reply::Trickle(b"HTTP/1.1 100 \r\n\r\n".to_vec()),
    ] {
        let reason = failed(exchange(reply, SHORT));
        assert!(matches!(reason, ExchangeError::Timeout(SHORT)), "{reason:?}");
    }
}

#[test]
fn deadline_covers_connecting() {
    let directory = Directory::new();
    let socket = directory.path("api.sock");
    let listener: OwnedFd =
        rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = UnixStream::connect(&socket).unwrap();
    let reason = failed(
        Client::new(&socket, SHORT)
            .exchange(&ApiCall::command("/x"))
            .map(|answer| (answer.status, String::new())),
    );
    assert!(matches!(reason, ExchangeError::Timeout(SHORT)), "{reason:?}");
}

/// Makes an exchange with a server that answers and closes without reading the request.
fn answered_unread(
    call: &ApiCall,
    answer: &str,
    once_it_is_there: bool,
) -> Result<Response, HttpError> {
    let directory = Directory::new();
    let socket = directory.path("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            if once_it_is_there {
                let mut request = [PollFd::new(&stream, PollFlags::IN)];
                poll(&mut request, None).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Client::new(&socket, LONG).exchange(call)
    })
}

#[test]
fn answer_is_read_even_if_the_request_was_not() {
    let refusal = "HTTP/1.0 413 \r\n\r\ntoo long";
    let expected = Response { status: 413, body: b"too long".into() };
    // The client sees the end of the connection as a reset.
    let call = ApiCall::put("/x", json!({}));
    assert_eq!(answered_unread(&call, refusal, true).unwrap(), expected);
    // The body exceeds the socket's buffer, so the server closes while the client sends.
    let call = ApiCall::put("/x", json!("x".repeat(4 << 20)));
    assert_eq!(answered_unread(&call, refusal, false).unwrap(), expected);
    let error = answered_unread(&call, "", false).unwrap_err();
    assert!(chain(&error).ends_with(": the connection ended before the answer was whole"));
}

#[test]
fn missing_socket_fails_immediately() {
    let directory = Directory::new();
    let socket = directory.path("api.sock");
    let error = Client::new(&socket, LONG).exchange(&ApiCall::get("/")).unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "GET / over {} failed: cannot connect: No such file or directory (os error 2)",
            socket.display()
        )
    );
    let long = directory.path(&"x".repeat(108));
    let error = Client::new(long, LONG).exchange(&ApiCall::get("/")).unwrap_err();
    assert!(chain(&error).contains("File name too long"), "{}", chain(&error));
}

#[test]
fn wait_returns_once_the_server_listens() {
    let directory = Directory::new();
    let socket = directory.path("api.sock");
    let mut looks = 0;
    let mut listener = None;
    // First there is no file, then one that nobody listens on, then a server.
    let runs = || {
        looks += 1;
        match looks {
            3 => drop(UnixListener::bind(&socket).unwrap()),
            5 => {
                std::fs::rename(&socket, directory.path("old")).unwrap();
                listener = Some(UnixListener::bind(&socket).unwrap());
            }
            _ => {}
        }
        true
    };
    Client::new(&socket, LONG).wait(runs).unwrap();
    assert_eq!(looks, 5);
}

#[test]
fn wait_fails_at_its_time_limit() {
    let directory = Directory::new();
    let client = Client::new(directory.path("api.sock"), SHORT);
    let error = client.wait(|| true).unwrap_err();
    assert!(matches!(&error, HttpError::NotListening { waited, .. } if *waited >= SHORT));
    let text = chain(&error);
    assert!(text.starts_with("no connection to /") && text.contains("api.sock after "), "{text}");
    assert!(text.ends_with(": cannot connect: No such file or directory (os error 2)"), "{text}");
    let mut looks = 0;
    let runs = || {
        looks += 1;
        looks < 3
    };
    let error = Client::new(directory.path("api.sock"), LONG).wait(runs).unwrap_err();
    assert!(matches!(error, HttpError::NoProcess { .. }), "{error:?}");
    // The path can never become a socket.
    let error = Client::new(directory.file("file").join("x"), LONG).wait(|| true).unwrap_err();
    assert!(chain(&error).ends_with("Not a directory (os error 20)"), "{}", chain(&error));
}

#[test]
fn only_the_socket_of_the_right_user_is_spoken_to() {
    let server = Server::start(Always(answer(200, None)));
    let ours = rustix::process::geteuid().as_raw();
    let ask = |socket: &Path, user| {
        let client = Client::new(socket, SHORT).served_by(user);
        client.exchange(&ApiCall::get("/x")).map_err(|error| chain(&error))
    };
    assert_eq!(ask(&server.socket(), ours).unwrap().status, 200);
    let received = server.received().len();
    let other = ask(&server.socket(), ours + 1).unwrap_err();
    let expected = format!("user {ours} listens, and not user {}", ours + 1);
    assert!(other.ends_with(&expected), "{other}");
    // A link may lead to the socket of another service.
    let link = server.directory().path("link.sock");
    std::os::unix::fs::symlink(server.socket(), &link).unwrap();
    let linked = ask(&link, ours).unwrap_err();
    assert!(linked.ends_with(": cannot connect: it is no socket"), "{linked}");
    let file = server.directory().file("file.sock");
    assert!(ask(&file, ours).unwrap_err().ends_with(": it is no socket"));
    assert_eq!(server.received().len(), received, "nothing is said to another");
    let missing = Client::new(server.directory().path("none"), SHORT).served_by(ours);
    let missing = missing.wait(|| true).unwrap_err();
    assert!(matches!(missing, HttpError::NotListening { .. }), "{missing}");
}
