//! The daemon's answers to malformed requests, and the clients that it answers at all.

use std::{
    io::Read,
    io::Write,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use riklet_sdn::store::Lock;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::world::{
    Firewall, NODE_LAN, World,
    daemon::{Api, Reply},
    function::{exposure, function},
    traffic::tcp_ask,
    transport::Transport,
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

fn definition(name: &str, port: u16) -> String {
    function(name, &[exposure(Transport::Tcp, port, 3000)]).to_string()
}

/// Asserts that the daemon still serves.
#[track_caller]
fn assert_serves(api: &Api) {
    let reply = api.ask("PUT", "/v1/functions/good", &definition("good", 8080));
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Asserts that the reply is a problem document with this status and these words.
#[track_caller]
fn assert_problem(reply: &Reply, status: u16, words: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    let head = reply.head.to_lowercase();
    assert!(head.contains("content-type: application/problem+json"), "{reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], status, "{problem}");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains(words), "{words:?}: {problem}");
}

#[test]
fn daemon_answers_invalid_requests_and_keeps_serving() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let path = "/v1/functions/hello";
    let long = format!("{{\"apiVersion\": \"{}\"}}", "x".repeat(1024 * 1024));
    let cases = [
        ("PATCH", path, String::new(), 405, "has no PATCH"),
        ("GET", "/v2/functions", String::new(), 404, "there is no /v2/functions"),
        ("GET", "/v1/functions/helo", String::new(), 404, "no instance named helo is recorded"),
        ("DELETE", "/v1/functions/helo", String::new(), 404, "no instance named helo is recorded"),
        ("GET", "/v1/functions/%ff", String::new(), 400, "UTF-8"),
        ("DELETE", "/v1/functions", String::new(), 400, "either name=NAME"),
        (
            "DELETE",
            "/v1/functions?everything=true",
            String::new(),
            400,
            "unknown parameter everything",
        ),
        ("PUT", path, long, 413, "more than 1048576 bytes"),
        ("PUT", path, "{\n  \"kind\": \n".to_owned(), 400, "request body:3:"),
        ("PUT", path, "hello: there".to_owned(), 400, "begins with { or ["),
        ("PUT", path, "\u{0}".to_owned(), 400, "begins with"),
        ("PUT", path, "[]".to_owned(), 422, "no definition"),
        ("PUT", path, definition("other", 8080), 422, "the definition is of other"),
        (
            "PUT",
            path,
            definition("hello", 8080).replace("exposure", "exposures"),
            422,
            "unknown field",
        ),
        ("PUT", path, definition("hello", 8080).replace("8080", "0"), 422, "port"),
        ("PUT", "/v1/functions/Hello!", definition("hello", 8080), 422, "Hello!"),
        ("POST", "/v1/plan", String::new(), 400, "begins with"),
    ];
    for (method, path, body, status, words) in cases {
        let reply = daemon.ask(method, path, &body);
        assert_problem(&reply, status, words);
        if status == 405 {
            assert!(reply.head.to_lowercase().contains("allow: put,get"), "{reply:?}");
        }
        assert_serves(&daemon);
    }
    let details = daemon.ask("PUT", path, &definition("hello", 8080).replace("port", "prt")).json();
    assert_eq!(details["details"][0]["file"], "request body", "{details}");
    assert!(details["details"][0]["line"].is_u64(), "{details}");
    let form = b"PUT /v1/functions/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                 Content-Type: text/html\r\nContent-Length: 2\r\n\r\n{}";
    assert_problem(&daemon.say(form).expect("an answer"), 415, "text/html");
    let not_utf8 = b"PUT /v1/functions/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Content-Length: 2\r\n\r\n{\xff";
    assert_problem(&daemon.say(not_utf8).expect("an answer"), 400, "UTF-8");
    let taken = daemon.ask("PUT", path, &definition("hello", 8080));
    assert_problem(&taken, 409, "good has tcp 8080");
    assert_serves(&daemon);
    let listed = daemon.get("/v1/functions");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
}

#[test]
fn daemon_does_not_wait_for_slow_senders() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&["--patience", "300"]);
    let heads: [&[u8]; 3] = [
        b"GET /v1/heal",
        b"not HTTP at all\r\n\r\n",
        b"PUT /v1/functions/good HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ];
    for head in heads {
        let mut stream = UnixStream::connect(world.socket()).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(head).expect("it is read");
        let mut answer = String::new();
        // The daemon closes the connection, whether it answers or not.
        stream.read_to_string(&mut answer).expect("an end");
        if head.starts_with(b"PUT") {
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
        assert_serves(&daemon);
    }
}

#[test]
fn client_that_has_closed_its_end_gets_its_answer() {
    let world = &World::new(Firewall::Nftables);
    let _daemon = world.daemon(&[]);
    let (body, length) = (definition("hello", 8080), definition("hello", 8080).len());
    let put = format!(
        "PUT /v1/functions/hello HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    for request in ["GET /v1/check HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), put] {
        let mut stream = UnixStream::connect(world.socket()).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it is read");
        stream.shutdown(Shutdown::Write).expect("a connection");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and an end");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer}");
    }
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a limit");
    let mut streams: Vec<_> =
        (0..1000).map(|_| UnixStream::connect(world.socket()).expect("it is accepted")).collect();
    let request = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for stream in &mut streams {
        stream.write_all(request).expect("it is read");
    }
    for mut stream in streams {
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_serves(&daemon);
}

#[test]
fn only_root_and_the_group_may_connect() {
    let world = &World::new(Firewall::Nftables);
    let _daemon = world.daemon(&["--api-group", "4242"]);
    let socket = world.socket();
    let socket = socket.to_str().expect("UTF-8");
    let ask = |group: &str| {
        let curl = ["curl", "-sS", "--unix-socket", socket, "http://x/v1/version"];
        let who = ["--reuid=65534", "--regid=65534", group];
        world.program("setpriv", &[&who[..], &curl[..]].concat(), "")
    };
    let refused = ask("--clear-groups").failure(7);
    assert!(refused.contains("connect") || refused.contains("Permission"), "{refused}");
    assert!(ask("--groups=4242").success().contains("\"api\":\"v1\""));
}

#[test]
fn second_daemon_is_refused() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let refused = world.riklet(&["serve"], "").failure(1);
    assert!(refused.contains("a daemon is already running"), "{refused}");
    assert_serves(&daemon);
    daemon.end(Signal::KILL);
    // The killed daemon's socket still exists.
    let daemon = world.daemon(&[]);
    assert_serves(&daemon);
    daemon.end(Signal::TERM);
    assert!(!world.socket().exists());
    std::fs::File::create(world.socket()).expect("a file");
    let refused = world.riklet(&["serve"], "").failure(1);
    assert!(refused.contains("is there, and is no socket"), "{refused}");
    let other = world.directory.path().join("other.sock");
    let _listener = UnixListener::bind(&other).expect("a socket");
    let other = other.to_str().expect("UTF-8");
    let refused = world.riklet(&["--api", other, "serve"], "").failure(1);
    assert!(refused.contains("a daemon is already running"), "{refused}");
}

#[test]
fn watcher_is_told_of_each_change() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let mut stream = UnixStream::connect(world.socket()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    stream
        .write_all(b"GET /v1/functions?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("it is read");
    let mut told = String::new();
    let mut sees = |words: &str| {
        wait_for(words, SOON, || {
            let mut buffer = [0; 4096];
            if let Ok(count) = stream.read(&mut buffer) {
                told.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            told.contains(words).then_some(())
        });
    };
    sees("event: list\ndata: []");
    assert_serves(&daemon);
    sees("event: up\ndata: {\"name\":\"good\"");
    assert_eq!(daemon.ask("DELETE", "/v1/functions/good", "").status, 200);
    sees("event: down\ndata: {\"name\":\"good\"}");
}

#[test]
fn metrics_count_traffic() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&["--metrics", "127.0.0.1:9464"]);
    let web = function("web", &[exposure(Transport::Tcp, 8080, 3000)]);
    let [_web] = world.start([(web, &[(Transport::Tcp, 3000)])]);
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("it is reached");
    let text = daemon.ask("GET", "/metrics", "").body;
    let number = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {text}")).trim().parse().expect("a number")
    };
    assert!(number("riklet_sdn_function_received_packets_total{function=\"web\"}") >= 3.0);
    assert!(number("riklet_sdn_function_sent_bytes_total{function=\"web\"}") > 100.0);
    assert!(number("riklet_sdn_function_conntrack_entries{function=\"web\"}") >= 1.0);
    assert!(number("riklet_sdn_operation_seconds_count{operation=\"up\",outcome=\"done\"}") >= 1.0);
    let by_tcp = world.node.tool(&["curl", "-sS", "http://127.0.0.1:9464/metrics"]);
    assert!(by_tcp.contains("riklet_sdn_functions 1"), "{by_tcp}");
}

#[test]
fn large_invalid_request_gets_a_short_answer() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let nonsense = format!("[{}]", vec!["{}"; 340_000].join(","));
    let reply = daemon.ask("POST", "/v1/functions", &nonsense);
    assert_problem(&reply, 422, "only the first 100 errors are listed");
    assert!(reply.body.len() < 100_000, "{} bytes", reply.body.len());
    assert_eq!(reply.json()["details"].as_array().map(Vec::len), Some(100));
    assert_serves(&daemon);
}

#[test]
fn removed_socket_is_recreated_and_no_second_daemon_starts() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    world.node.tool(&["rm", world.socket().to_str().expect("UTF-8")]);
    let second = world.riklet(&["serve", "--ready-slots", "0"], "");
    let refused = second.failure(1);
    assert!(refused.contains("a daemon is already running for"), "{refused}");
    wait_for("the socket to come back", SOON, || daemon.try_ask("GET", "/v1/health", "").ok());
    assert_serves(&daemon);
    let socket = world.socket();
    daemon.end(Signal::TERM);
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn daemon_that_is_asked_to_end_while_it_starts_leaves_no_socket() {
    let world = &World::new(Firewall::Nftables);
    let state_dir = &world.environment["RIKLET_SDN_STATE_DIR"];
    for signal in [Signal::TERM, Signal::INT] {
        // The engine waits for the lock before it has started.
        let lock = Lock::exclusive(state_dir.as_ref()).expect("the lock");
        let starting = world.riklet_in_background(&["serve"], "");
        wait_for("the socket", SOON, || world.socket().exists().then_some(()));
        starting.signal(signal);
        starting.wait_within(SOON).success();
        assert!(!world.socket().exists(), "the socket is left behind");
        drop(lock);
    }
    let daemon = world.daemon(&[]);
    assert_serves(&daemon);
}

#[test]
fn refused_daemon_creates_nothing() {
    let world = &World::new(Firewall::Nftables);
    let state = world.socket().parent().expect("a directory").to_owned();
    for (code, arguments) in [
        (2, &["--manifests", "/nonexistent"][..]),
        (2, &["--api-group", "nobody-knows"]),
        (1, &["--metrics", "192.0.2.77:9464"]),
    ] {
        let refused = world.riklet(&[&["serve"], arguments].concat(), "").failure(code);
        assert!(refused.starts_with("error: "), "{refused}");
        let created: Vec<_> = state.read_dir().expect("a directory").collect();
        assert!(created.is_empty(), "{arguments:?}: {created:?}");
    }
}

#[test]
fn another_socket_in_the_place_of_ours_is_reported_once() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let path = world.socket();
    world.node.tool(&["rm", path.to_str().expect("UTF-8")]);
    let other = UnixListener::bind(&path).expect("the path is free");
    // The daemon finds out who listens there, once each second.
    for _ in 0..3 {
        other.accept().expect("a connection");
    }
    let running = daemon.into_running();
    running.signal(Signal::TERM);
    let output = running.wait();
    assert_eq!(output.stderr.matches("was removed").count(), 1, "{output}");
    assert!(path.exists(), "the other socket stays");
}
