use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
};

use super::*;

/// A time limit for answers that come.
const PATIENCE: Duration = Duration::from_secs(10);
/// A time limit for answers that do not come.
const IMPATIENCE: Duration = Duration::from_millis(20);

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// QEMU's side of a connection.
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn say(&mut self, line: &str) {
        self.write(&format!("{line}\r\n"));
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Returns the next command and its id.
    fn hear(&mut self) -> (String, u64) {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "no command comes");
        let command: Value = serde_json::from_str(&line).unwrap();
        (command["execute"].as_str().unwrap().to_owned(), command["id"].as_u64().unwrap())
    }

    /// Expects this command, and answers it.
    fn serve(&mut self, command: &str, answer: &str) {
        let (heard, id) = self.hear();
        assert_eq!(heard, command);
        self.say(&format!(r#"{{"return": {answer}, "id": {id}}}"#));
    }

    fn agree(&mut self) {
        self.say(GREETING);
        self.serve("qmp_capabilities", "{}");
    }
}

/// Returns a connection whose other side follows this script.
fn against(script: impl FnOnce(&mut Peer) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, thread::spawn(move || script(&mut Peer(BufReader::new(theirs)))))
}

fn agreed(script: impl FnOnce(&mut Peer) + Send + 'static) -> (Qmp, JoinHandle<()>) {
    let (stream, peer) = against(|peer| {
        peer.agree();
        script(peer);
    });
    (Qmp::begin(stream, PATIENCE).unwrap(), peer)
}

#[test]
fn commands_are_answered_in_order() {
    let (mut qmp, peer) = agreed(|peer| {
        peer.serve(
            "query-status",
            r#"{"running": true, "singlestep": false, "status": "running"}"#,
        );
        peer.serve("system_powerdown", "{}");
        peer.serve("quit", "{}");
    });
    assert_eq!(qmp.version(), Version { major: 7, minor: 2, micro: 22 });
    let running = Status { running: true, status: "running".to_owned() };
    assert_eq!(qmp.query_status().unwrap(), running);
    qmp.system_powerdown().unwrap();
    qmp.quit().unwrap();
    peer.join().unwrap();
    let closed = qmp.query_status().unwrap_err();
    assert!(matches!(closed, QmpError::Closed { .. }), "{closed:?}");
}

#[test]
fn events_are_kept_in_order_among_answers() {
    let (mut qmp, peer) = agreed(|peer| {
        peer.say(r#"{"timestamp": {"seconds": 1}, "event": "RESUME"}"#);
        let (_, id) = peer.hear();
        peer.say(r#"{"event": "NIC_RX_FILTER_CHANGED", "data": {"path": "/nic"}}"#);
        peer.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
        for byte in "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\n{\"eve".chars() {
            peer.write(&byte.to_string());
        }
        peer.write("nt\": \"POWERDOWN\"}\n");
    });
    qmp.system_powerdown().unwrap();
    peer.join().unwrap();
    let other = |name: &str, data| Event::Other { name: name.to_owned(), data };
    let wanted = [
        other("RESUME", Value::Null),
        other("NIC_RX_FILTER_CHANGED", json!({ "path": "/nic" })),
        Event::Shutdown { guest: true, reason: "guest-shutdown".to_owned() },
        other("POWERDOWN", Value::Null),
    ];
    for event in wanted {
        assert_eq!(qmp.next_event(PATIENCE).unwrap(), Some(event));
    }
    let end = qmp.next_event(PATIENCE).unwrap_err();
    assert_eq!(end.to_string(), "QEMU closed the connection before its next event");
}

#[test]
fn next_event_without_an_event_is_none() {
    let (mut qmp, peer) = agreed(|peer| peer.serve("quit", "{}"));
    assert_eq!(qmp.next_event(IMPATIENCE).unwrap(), None);
    assert_eq!(qmp.next_event(Duration::ZERO).unwrap(), None);
    qmp.quit().unwrap();
    peer.join().unwrap();
}

#[test]
fn refusal_contains_qemus_message() {
    let (mut qmp, peer) = agreed(|peer| {
        let (_, id) = peer.hear();
        let desc = "The command system_powerdown has not been found";
        peer.say(&format!(
            r#"{{"error": {{"class": "CommandNotFound", "desc": "{desc}"}}, "id": {id}}}"#
        ));
        peer.hear();
        peer.say(r#"{"error": {"class": "GenericError", "desc": "Expecting a value"}}"#);
    });
    assert_eq!(
        qmp.system_powerdown().unwrap_err().to_string(),
        "QEMU refused system_powerdown: The command system_powerdown has not been found"
    );
    let second = qmp.quit().unwrap_err();
    assert_eq!(second.to_string(), "QEMU refused quit: Expecting a value");
    assert!(matches!(second, QmpError::Refused { class, .. } if class == "GenericError"));
    peer.join().unwrap();
}

#[test]
fn missing_answer_times_out() {
    // Each script ends with its connection.
    let silent = |peer: &mut Peer| assert_eq!(peer.0.read_line(&mut String::new()).unwrap(), 0);
    let half = |peer: &mut Peer| {
        peer.write(r#"{"QMP": {"#);
        assert_eq!(peer.0.read_line(&mut String::new()).unwrap(), 0);
    };
    let expect = |stream: UnixStream, missing: &str| {
        let timeout = Qmp::begin(stream, IMPATIENCE).unwrap_err();
        assert_eq!(timeout.to_string(), format!("QEMU has not sent its {missing} within 20 ms"));
    };
    let scripts: [fn(&mut Peer); 2] = [silent, half];
    for script in scripts {
        let (stream, peer) = against(script);
        expect(stream, "greeting");
        peer.join().unwrap();
    }
    let (stream, mut deaf) = UnixStream::pair().unwrap();
    deaf.write_all(format!("{GREETING}\n").as_bytes()).unwrap();
    expect(stream, "answer to qmp_capabilities");
}

#[test]
fn late_answer_is_discarded() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (mut qmp, peer) = agreed(move |peer| {
        let (_, late) = peer.hear();
        receiver.recv().unwrap();
        peer.say(&format!(r#"{{"return": {{"running": false, "status": "late"}}, "id": {late}}}"#));
        peer.serve("query-status", r#"{"running": true, "status": "running"}"#);
    });
    qmp.patience = IMPATIENCE;
    let timeout = qmp.query_status().unwrap_err();
    assert!(matches!(timeout, QmpError::Timeout { .. }), "{timeout}");
    sender.send(()).unwrap();
    qmp.patience = PATIENCE;
    assert_eq!(qmp.query_status().unwrap().status, "running");
    peer.join().unwrap();
}

#[test]
fn invalid_qmp_is_refused() {
    for (text, words) in [
        ("HTTP/1.1 400 Bad Request\r\n", "what came instead of QEMU's greeting is no QMP"),
        ("{}\n", "what came instead of QEMU's greeting is no QMP"),
        ("", "QEMU closed the connection before its greeting"),
    ] {
        let (stream, peer) = against(move |peer| peer.write(text));
        assert_eq!(Qmp::begin(stream, PATIENCE).unwrap_err().to_string(), words);
        peer.join().unwrap();
    }
    let (stream, peer) = against(|peer| {
        let line = [b'x'; 4096];
        while peer.0.get_mut().write_all(&line).is_ok() {}
    });
    let endless = Qmp::begin(stream, PATIENCE).unwrap_err();
    assert!(matches!(endless, QmpError::Connection { .. }), "{endless}");
    peer.join().unwrap();
    let (mut qmp, peer) = agreed(|peer| peer.serve("query-status", "[]"));
    let wrong = qmp.query_status().unwrap_err();
    assert_eq!(wrong.to_string(), "what came instead of QEMU's answer to query-status is no QMP");
    peer.join().unwrap();
}

/// The path of a socket, which is removed when this is dropped.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("riklet-sdn-qmp-{}-{name}", std::process::id())))
    }
}

impl Drop for SocketPath {
    #[expect(clippy::disallowed_methods, reason = "the socket is the test's own")]
    fn drop(&mut self) {
        // Some tests create no socket.
        let _missing = std::fs::remove_file(&self.0);
    }
}

#[test]
fn connect_opens_a_socket_by_path() {
    let place = SocketPath::new("served");
    let listener = UnixListener::bind(&place.0).unwrap();
    let peer = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        Peer(BufReader::new(stream)).agree();
    });
    Qmp::connect(&place.0, PATIENCE).unwrap();
    peer.join().unwrap();
}

#[test]
fn connect_without_a_listener_fails_immediately() {
    let refused = |place: &SocketPath| match Qmp::connect(&place.0, PATIENCE).unwrap_err() {
        QmpError::Connect { source, .. } => source.kind(),
        other => panic!("{other}"),
    };
    let place = SocketPath::new("missing");
    assert_eq!(refused(&place), io::ErrorKind::NotFound);
    drop(UnixListener::bind(&place.0).unwrap());
    assert_eq!(refused(&place), io::ErrorKind::ConnectionRefused);
    let long = SocketPath::new(&"x".repeat(200));
    assert_eq!(refused(&long), io::ErrorKind::InvalidFilename);
}
