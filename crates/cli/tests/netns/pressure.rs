//! Clients that exhaust resources: many connections, answers that are not read, and bodies that do not end.

use std::{
    fs::read_dir,
    io::{ErrorKind, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::world::{
    Firewall, World,
    daemon::Daemon,
    function::{exposure, function},
    transport::Transport,
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn assert_serves(daemon: &Daemon) {
    let definition = function("good", &[exposure(Transport::Tcp, 8080, 3000)]).to_string();
    let reply = daemon.ask("PUT", "/v1/functions/good", &definition);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn readers_of_metrics_leave_descriptors_to_the_api() {
    let world = &World::new(Firewall::Nftables);
    let metrics = ["--metrics", "127.0.0.1:9464", "--patience", "60000"];
    let daemon = world.daemon_with_descriptors(120, &metrics);
    let streams: Vec<_> = (0..110)
        .map(|_| {
            let mut stream = world.node.run(|| TcpStream::connect("127.0.0.1:9464"))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").map(|()| stream)
        })
        .collect::<std::io::Result<_>>()
        .expect("it is accepted, or waits in the queue");
    assert_serves(&daemon);
    drop(streams);
}

#[test]
fn client_that_does_not_read_its_answers_is_disconnected() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&["--patience", "300"]);
    let mut stream = UnixStream::connect(world.socket()).expect("it listens");
    stream.set_nonblocking(true).expect("a socket");
    let request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    stream.write_all(&request).expect("the queue has room");
    let limit = Timespec::try_from(SOON).expect("a short time");
    // With no events requested, poll(2) reports only the end of the connection.
    let ended = poll(&mut [PollFd::new(&stream, PollFlags::empty())], Some(&limit)).expect("poll");
    assert_eq!(ended, 1, "the connection is still open after {SOON:?}");
    assert_serves(&daemon);
}

#[test]
fn many_who_ask_for_metrics_take_few_threads() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let threads = || read_dir(format!("/proc/{}/task", daemon.id())).expect("a process").count();
    let idle = threads();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let ask = |_number| {
        let stream = UnixStream::connect(world.socket()).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        (&stream).write_all(&request).expect("the queue has room");
        stream
    };
    let clients: Vec<_> = (0..200).map(ask).collect();
    // As many looks as the daemon can take in this time.
    let most = (0..50).map(|_look| {
        daemon.get("/v1/health");
        threads()
    });
    let most = most.max().expect("there were looks");
    assert!(most <= idle + 20, "{most} threads, {idle} before");
    drop(clients);
    assert_serves(&daemon);
}

#[test]
fn unfinished_bodies_take_bounded_memory() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let before = daemon.resident_kib();
    let head = b"PUT /v1/functions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n";
    let mut clients: Vec<_> = (0..200)
        .map(|_| {
            let stream = UnixStream::connect(world.socket()).expect("it listens");
            stream.set_nonblocking(true).expect("a socket");
            (stream, [&head[..], &vec![b' '; 1_000_000]].concat(), 0)
        })
        .collect();
    let mut passes_without_progress = 0;
    wait_for("the daemon to take no more of any of them", SOON, || {
        passes_without_progress += 1;
        for (stream, text, sent) in &mut clients {
            match stream.write(&text[*sent..]) {
                Ok(0) => {}
                Ok(count) => (*sent, passes_without_progress) = (*sent + count, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        (passes_without_progress == 50).then_some(())
    });
    let taken = daemon.resident_kib().saturating_sub(before);
    // The budget is 16 MiB. What is read ahead, and the first 16 KiB of each body, add to it.
    assert!(taken < 64 << 10, "200 unfinished bodies take {taken} KiB");
    assert_serves(&daemon);
}
