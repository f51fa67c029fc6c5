//! Whole downloads, and files that are there already.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_file_is_downloaded_once() {
    let node = NodeWithImages::new();
    let body = bytes(300_000);
    let server = Server::start([serve(&body, TAG)]);
    let url = server.url();
    let mut told = Vec::new();
    let path = node.images().obtain(&kernel(&url), &mut |step| told.push(step)).unwrap();
    assert_eq!(read(&path), body);
    assert_eq!(node.files(), set(&["whole"]));
    assert_eq!(path, node.file(""));
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
    assert_eq!(mode(&node.state_dir()), 0o700);
    let total = Some(300_000);
    assert_eq!(told[0], Progress { received: 0, total, waiting: false });
    assert_eq!(told[told.len() - 1], Progress { received: 300_000, total, waiting: false });
    assert!(told.is_sorted_by_key(|step| step.received) && told.len() > 2);

    assert_eq!(node.obtain(&url).unwrap(), path);
    let requests = server.end();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].line, "GET /vmlinux HTTP/1.1");
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
    assert_eq!(requests[0].range(), None);
    // The server is gone, and no longer needed.
    assert_eq!(node.obtain(&url).unwrap(), path);
}

#[test]
fn each_url_has_its_own_file() {
    let node = NodeWithImages::new();
    let server = Server::start([serve(b"one", TAG), serve(b"two", TAG)]);
    let (one, two) = (format!("{}?v=1", server.url()), format!("{}?v=2", server.url()));
    assert_eq!(read(&node.obtain(&one).unwrap()), b"one");
    assert_eq!(read(&node.obtain(&two).unwrap()), b"two");
    // A fragment is not sent.
    assert_eq!(read(&node.obtain(&format!("{one}#part")).unwrap()), b"one");
    server.end();
}

#[test]
fn a_redirect_is_followed() {
    let node = NodeWithImages::new();
    let server = Server::start([
        send("302 Found; Location: /other; Content-Length: 0", b""),
        serve(b"file", TAG),
    ]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), b"file");
    let lines = server.end().into_iter().map(|request| request.line);
    assert_eq!(lines.collect::<Vec<_>>(), ["GET /vmlinux HTTP/1.1", "GET /other HTTP/1.1"]);
}

#[test]
fn chunked_download_needs_no_length() {
    let node = NodeWithImages::new();
    let chunked = "200 OK; Transfer-Encoding: chunked";
    let server = Server::start([send(chunked, b"4\r\nfile\r\n5\r\n here\r\n0\r\n\r\n")]);
    let mut told = Vec::new();
    let url = server.url();
    let path = node.images().obtain(&kernel(&url), &mut |step| told.push(step)).unwrap();
    assert_eq!(read(&path), b"file here");
    assert!(told.iter().all(|step| step.total.is_none()));
    server.end();
}

#[test]
fn download_without_a_length_needs_a_checksum() {
    let node = NodeWithImages::new();
    let server =
        Server::start([send("200 OK", b"file"), send("200 OK", b"fil"), send("200 OK", b"file")]);
    let url = server.url();
    let expected =
        format!("cannot download the kernel {url}: the server does not say how long it is");
    assert_eq!(words(node.obtain(&url)), expected);
    let sha256 = Digest::of(b"file").0;
    assert!(words(node.obtain_checked(&url, sha256)).contains("has the SHA-256"));
    assert_eq!(node.files(), set(&[]));
    assert_eq!(read(&node.obtain_checked(&url, sha256).unwrap()), b"file");
    server.end();
}

#[test]
fn wrong_checksum_leaves_no_file() {
    let node = NodeWithImages::new();
    let server = Server::start([serve(b"other", TAG), serve(b"file", TAG)]);
    let url = server.url();
    let sha256 = Digest::of(b"file");
    let found = node.obtain_checked(&url, sha256.0);
    let expected =
        format!("the kernel {url} has the SHA-256 {}, not {sha256}", Digest::of(b"other"));
    assert_eq!(words(found), expected);
    assert_eq!(node.files(), set(&[]));
    assert_eq!(read(&node.obtain_checked(&url, sha256.0).unwrap()), b"file");
    server.end();
}

#[test]
fn new_checksum_replaces_the_file_if_the_server_has_it() {
    let node = NodeWithImages::new();
    let server = Server::start([serve(b"old", TAG), serve(b"old", TAG), serve(b"new", "\"two\"")]);
    let url = server.url();
    let old = node.obtain_checked(&url, Digest::of(b"old").0).unwrap();
    let open = File::open(&old).unwrap();
    let sha256 = Digest::of(b"new").0;
    assert!(words(node.obtain_checked(&url, sha256)).contains("has the SHA-256"));
    assert_eq!(read(&old), b"old");
    assert_eq!(node.files(), set(&["whole"]));
    assert_eq!(node.obtain_checked(&url, sha256).unwrap(), old);
    assert_eq!(read(&old), b"new");
    // A process that has the old file open keeps it.
    assert_eq!(Digest::of_reader(open).unwrap(), Digest::of(b"old"));
    server.end();
}

#[test]
fn concurrent_downloads_of_one_file_share_it() {
    let node = NodeWithImages::new();
    let body = bytes(200_000);
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let half = step({
        let body = body.clone();
        move |_: &HttpRequest, stream: &mut dyn server::Stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body[..1000]).unwrap();
            may_go_on.recv_timeout(PATIENCE).unwrap();
            stream.write_all(&body[1000..]).unwrap();
            End::Close
        }
    });
    let server = Server::start([half]);
    let (url, images) = (server.url(), node.images());
    let (began, has_begun) = mpsc::channel();
    let waits = Mutex::new(0);
    thread::scope(|scope| {
        let first = scope.spawn(|| images.obtain(&kernel(&url), &mut |_| began.send(()).unwrap()));
        has_begun.recv_timeout(PATIENCE).unwrap();
        let second = scope.spawn(|| {
            images.obtain(&kernel(&url), &mut |step| {
                assert!(step.waiting);
                *waits.lock().unwrap() += 1;
                go_on.send(()).unwrap();
            })
        });
        let paths = [first, second].map(|thread| thread.join().unwrap().unwrap());
        assert_eq!(paths[0], paths[1]);
        assert_eq!(read(&paths[0]), body);
    });
    assert_eq!(*waits.lock().unwrap(), 1);
    assert_eq!(node.files(), set(&["whole"]));
    server.end();
}

#[test]
fn file_completed_by_another_process_is_not_downloaded_again() {
    let node = NodeWithImages::new();
    let url = "http://127.0.0.1:1/vmlinux";
    assert!(node.obtain(url).is_err());
    let images = node.state_dir().join("images");
    let complete = images.join(Digest::of(url.as_bytes()).to_string());
    let part = complete.with_extension("part");
    write(&part, b"");
    let mut held = Some(File::open(&part).unwrap());
    flock(held.as_ref().unwrap(), FlockOperation::LockExclusive).unwrap();
    let obtained = node.images().obtain(&kernel(url), &mut |step| {
        assert!(step.waiting);
        write(&complete, b"file");
        held = None;
    });
    assert_eq!(obtained.unwrap(), complete);
    assert_eq!(node.files(), set(&["whole"]));
}

#[test]
fn waiting_process_downloads_if_the_other_failed() {
    let node = NodeWithImages::new();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let refuse = step(move |_: &HttpRequest, stream: &mut dyn server::Stream| {
        may_go_on.recv_timeout(PATIENCE).unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        End::Close
    });
    let server = Server::start([refuse, serve(b"file", TAG)]);
    let (url, images) = (server.url(), node.images());
    thread::scope(|scope| {
        // Each waits for the lock or for an answer. It does not matter which of them is first.
        let obtain = || {
            images.obtain(&kernel(&url), &mut |step| {
                if step.waiting {
                    go_on.send(()).unwrap();
                }
            })
        };
        let threads = [scope.spawn(obtain), scope.spawn(obtain)];
        let results = threads.map(|thread| thread.join().unwrap());
        let paths: Vec<_> = results.iter().flatten().collect();
        assert_eq!(paths.len(), 1, "{results:?}");
        assert_eq!(read(paths[0]), b"file");
    });
    assert_eq!(node.files(), set(&["whole"]));
    server.end();
}

#[test]
fn downloaded_image_cannot_be_opened_for_writing() {
    let node = NodeWithImages::new();
    let url = "http://127.0.0.1:1/rootfs";
    let wanted = Wanted { role: Role::Rootfs, access: Access::Write, ..kernel(url) };
    let refused = words(node.images().obtain(&wanted, &mut |_| {}));
    let expected = "is shared by all that name it, and cannot be written to";
    assert_eq!(refused, format!("the rootfs {url} {expected}"));
    assert!(!node.state_dir().exists());
}
