//! Downloads that break off and resume.

use super::*;

/// Returns the ranges that the requests asked for.
fn ranges(requests: &[HttpRequest]) -> Vec<Option<(&str, &str)>> {
    requests.iter().map(HttpRequest::range).collect()
}

#[test]
fn a_broken_connection_is_resumed() {
    for end in [End::Close, End::Reset] {
        let node = NodeWithImages::new();
        let body = bytes(300_000);
        let server = Server::start([
            step(move |_, _| end),
            cut(&body, TAG, 100_000, End::Close),
            cut(&body, TAG, 100_001, end),
            serve(&body, TAG),
        ]);
        let mut told = Vec::new();
        let url = server.url();
        let path = node.images().obtain(&kernel(&url), &mut |step| told.push(step)).unwrap();
        assert_eq!(read(&path), body);
        assert_eq!(node.files(), set(&["whole"]));
        assert!(told.is_sorted_by_key(|step| step.received));
        assert!(told.iter().all(|step| step.total == Some(300_000)));
        let requests = server.end();
        let ranges = ranges(&requests);
        assert_eq!(ranges[..2], [None, None]);
        assert_eq!(ranges[2], Some(("bytes=100000-", TAG)));
        // A reset discards what the connection still held.
        assert!(end == End::Reset || ranges[3] == Some(("bytes=100001-", TAG)), "{ranges:?}");
    }
}

#[test]
fn partial_download_is_kept_for_the_next_attempt() {
    let node = NodeWithImages::with(|settings| settings.retries = 2);
    let body = bytes(300);
    let server = Server::start([
        cut(&body, TAG, 10, End::Close),
        cut(&body, TAG, 20, End::Close),
        cut(&body, TAG, 30, End::Close),
        send("503 Service Unavailable; Content-Length: 0", b""),
        serve(&body, TAG),
    ]);
    let url = server.url();
    let broken = words(node.obtain(&url));
    let expected = format!("the download of the kernel {url} broke off after 30 of 300 bytes: ");
    assert!(broken.starts_with(&expected), "{broken}");
    assert_eq!(node.files(), set(&["part", "json"]));
    assert!(words(node.obtain(&url)).ends_with("the server answers 503 Service Unavailable"));
    assert_eq!(read(&node.file("part")), body[..30]);

    let mut told = Vec::new();
    let wanted = Wanted { sha256: Some(Digest::of(&body).0), ..kernel(&url) };
    let path = node.images().obtain(&wanted, &mut |step| told.push(step)).unwrap();
    assert_eq!(read(&path), body);
    assert_eq!(told[0].received, 30);
    assert_eq!(node.files(), set(&["whole"]));
    let requests = server.end();
    let range = |text| Some((text, TAG));
    let expected =
        [None, range("bytes=10-"), range("bytes=20-"), range("bytes=30-"), range("bytes=30-")];
    assert_eq!(ranges(&requests), expected);
}

#[test]
fn server_without_ranges_restarts_the_download() {
    let node = NodeWithImages::new();
    let head = "200 OK; Content-Length: 300; ETag: \"one\"";
    let body = bytes(300);
    let server = Server::start([send(head, &body[..200]), send(head, &body)]);
    let mut told = Vec::new();
    let url = server.url();
    let path = node.images().obtain(&kernel(&url), &mut |step| told.push(step.received));
    assert_eq!(read(&path.unwrap()), body);
    assert_eq!(told, [0, 200, 0, 300]);
    assert_eq!(ranges(&server.end()), [None, Some(("bytes=200-", TAG))]);
}

#[test]
fn file_without_a_strong_validator_is_restarted() {
    let node = NodeWithImages::new();
    let body = bytes(300);
    let weak = "200 OK; Content-Length: 300; ETag: W/\"one\"";
    let dated = "200 OK; Content-Length: 300; Last-Modified: Mon, 02 Nov 2026 10:00:00 GMT; \
                     Date: Mon, 02 Nov 2026 11:00:00 GMT";
    let server = Server::start([
        send("200 OK; Content-Length: 300", &body[..200]),
        send(weak, &body[..200]),
        send(dated, &body[..200]),
        send(weak, &body),
    ]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), body);
    let last = Some(("bytes=200-", "Mon, 02 Nov 2026 10:00:00 GMT"));
    assert_eq!(ranges(&server.end()), [None, None, None, last]);
}

#[test]
fn another_version_is_never_appended() {
    let node = NodeWithImages::new();
    let (old, new) = (bytes(300), vec![1; 250]);
    let wrong = "206 Partial Content; Content-Range: bytes 200-249/250; Content-Length: 50; \
                     ETag: \"two\"";
    let server = Server::start([
        cut(&old, TAG, 200, End::Close),
        serve(&new, "\"two\""),
        // The server does not understand If-Range.
        cut(&old, TAG, 200, End::Close),
        send(wrong, &new[200..]),
        serve(&new, "\"two\""),
    ]);
    let other = format!("{}/other", server.url());
    for url in [server.url(), other] {
        assert_eq!(read(&node.obtain(&url).unwrap()), new);
    }
    let asked = Some(("bytes=200-", TAG));
    assert_eq!(ranges(&server.end()), [None, asked, None, asked, None]);
}

#[test]
fn unsatisfiable_range_restarts_the_download() {
    let node = NodeWithImages::new();
    let body = bytes(300);
    let server = Server::start([
        cut(&body, TAG, 200, End::Close),
        send("416 Range Not Satisfiable; Content-Range: bytes */100; Content-Length: 0", b""),
        serve(b"short", "\"two\""),
    ]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), b"short");
    server.end();
}

#[test]
fn stalled_download_resumes_on_another_connection() {
    let node = NodeWithImages::with(|settings| settings.silence = Duration::from_millis(200));
    let body = bytes(300);
    let server = Server::start([then_silent(cut(&body, TAG, 100, End::Close)), serve(&body, TAG)]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), body);
    assert_eq!(ranges(&server.end()), [None, Some(("bytes=100-", TAG))]);
}

#[test]
fn repeated_stalls_are_reported() {
    let node = NodeWithImages::with(|settings| {
        settings.silence = Duration::from_millis(100);
        settings.retries = 1;
    });
    let body = bytes(300);
    let server = Server::start([
        then_silent(cut(&body, TAG, 100, End::Close)),
        then_silent(cut(&body, TAG, 200, End::Close)),
    ]);
    let url = server.url();
    let expected = "broke off after 200 of 300 bytes: no data within 100ms";
    assert_eq!(words(node.obtain(&url)), format!("the download of the kernel {url} {expected}"));
    server.end();
}

/// Returns a node that has 200 of 300 bytes, and the server that still has this version of the file.
fn broken_off(then: impl IntoIterator<Item = server::Step>) -> (NodeWithImages, Server) {
    let mut node = NodeWithImages::with(|settings| settings.retries = 0);
    let first = cut(&bytes(300), TAG, 200, End::Close);
    let server = Server::start([first].into_iter().chain(then));
    assert!(words(node.obtain(&server.url())).contains("broke off after 200 of 300 bytes"));
    node.settings.retries = 3;
    (node, server)
}

#[test]
fn complete_partial_file_is_not_requested_again() {
    let (node, server) = broken_off([]);
    // Simulates a process that died between receiving the last byte and renaming the file.
    let body = bytes(300);
    write(&node.file("part"), &body);
    let sha256 = Digest::of(&body).0;
    let path = node.obtain_checked(&server.url(), sha256).unwrap();
    assert_eq!(read(&path), body);
    assert_eq!(node.files(), set(&["whole"]));
    server.end();
}

#[test]
fn doubtful_partial_file_is_not_resumed() {
    let too_long = |node: &NodeWithImages| write(&node.file("part"), &bytes(301));
    let unnamed = |node: &NodeWithImages| write(&node.file("json"), b"{\"validator\":");
    let other_boot = |node: &NodeWithImages| {
        let state = String::from_utf8(read(&node.file("json"))).unwrap();
        let (before, _) = state.split_once("\"boot\":").unwrap();
        write(&node.file("json"), format!("{before}\"boot\":\"another\"}}").as_bytes());
    };
    let cases: [fn(&NodeWithImages); 3] = [too_long, unnamed, other_boot];
    for spoil in cases {
        let (node, server) = broken_off([serve(&bytes(300), TAG)]);
        spoil(&node);
        assert_eq!(read(&node.obtain(&server.url()).unwrap()), bytes(300));
        assert_eq!(ranges(&server.end()), [None, None]);
    }
}

#[test]
fn wrongly_resumed_file_is_deleted() {
    let (node, server) = broken_off([serve(&bytes(300), TAG), serve(&bytes(300), TAG)]);
    write(&node.file("part"), &[0; 200]);
    let sha256 = Digest::of(&bytes(300)).0;
    assert!(words(node.obtain_checked(&server.url(), sha256)).contains("has the SHA-256"));
    assert_eq!(node.files(), set(&[]));
    assert_eq!(read(&node.obtain_checked(&server.url(), sha256).unwrap()), bytes(300));
    server.end();
}
