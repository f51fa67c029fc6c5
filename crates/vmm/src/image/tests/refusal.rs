//! Failed downloads: the error and the files that remain.

use super::*;

/// Requests a download that gets this one answer, and returns the error. Asserts that no file remains.
fn refused(answer: server::Step) -> String {
    let node = NodeWithImages::with(|settings| settings.retries = 0);
    let server = Server::start([answer]);
    let url = server.url();
    let words = words(node.obtain(&url));
    assert_eq!(node.files(), set(&[]));
    server.end();
    words.replace(&url, "URL")
}

#[test]
fn refused_status_is_named() {
    for status in ["404 Not Found", "500 Internal Server Error", "401 Unauthorized"] {
        let answer = send(&format!("{status}; Content-Length: 4"), b"oops");
        let expected = format!("cannot download the kernel URL: the server answers {status}");
        assert_eq!(refused(answer), expected);
    }
    // The status is a success, and there is no file.
    assert!(refused(send("204 No Content", b"")).ends_with("answers 204 No Content"));
}

#[test]
fn hint_matches_the_status() {
    let hint = |status: u16| {
        let status = ureq::http::StatusCode::from_u16(status).unwrap();
        let Ok(Source::Url(url)) = Source::parse("http://h/") else { panic!("it is a URL") };
        ImageError::Status { role: Role::Kernel, url, status }.hint().unwrap_or_default()
    };
    assert_eq!(hint(404), "check the URL");
    assert_eq!(hint(503), "try again later");
    assert!(hint(403).starts_with("no credentials are sent"));
    assert_eq!(hint(204), "");
}

#[test]
fn number_of_redirects_is_limited() {
    let node = NodeWithImages::with(|settings| settings.redirects = 2);
    let again = || send("302 Found; Location: /vmlinux; Content-Length: 0", b"");
    let server = Server::start([again(), again(), again()]);
    let url = server.url();
    let expected = format!("cannot download the kernel {url}: more than 2 redirects");
    assert_eq!(words(node.obtain(&url)), expected);
    server.end();
}

#[test]
fn shorter_file_than_announced_is_refused() {
    let node = NodeWithImages::new();
    let short = || send("200 OK; Content-Length: 10", b"short");
    let server = Server::start([short(), short(), short(), short()]);
    let broken = words(node.obtain(&server.url()));
    assert!(broken.contains("broke off after 5 of 10 bytes: "), "{broken}");
    // Without a version, the file cannot be completed.
    assert_eq!(node.files(), set(&[]));
    server.end();
    let chunks = send("200 OK; Transfer-Encoding: chunked", b"4\r\nfile\r\n5\r\n he");
    let broken = refused(chunks);
    assert!(broken.contains("broke off after 7 bytes: "), "{broken}");
}

#[test]
fn longer_file_than_announced_is_refused() {
    let node = NodeWithImages::new();
    let more = "206 Partial Content; Content-Range: bytes 5-9/10; Transfer-Encoding: chunked";
    let server = Server::start([
        cut(&bytes(10), TAG, 5, End::Close),
        send(more, b"6\r\nlonger\r\n0\r\n\r\n"),
        serve(&bytes(10), TAG),
    ]);
    let url = server.url();
    let expected = format!("cannot download the kernel {url}: more than the stated 10 bytes came");
    assert_eq!(words(node.obtain(&url)), expected);
    assert_eq!(read(&node.obtain(&url).unwrap()), bytes(10));
    server.end();
}

#[test]
fn answer_that_is_not_http_is_refused() {
    let answer = step(|_: &HttpRequest, stream: &mut dyn server::Stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").unwrap();
        End::Close
    });
    let words = refused(answer);
    let expected = "cannot download the kernel URL: the server's answer cannot be understood: ";
    assert!(words.starts_with(expected), "{words}");
    let words = refused(Box::new(|_, _| End::Close));
    let expected = "the download of the kernel URL broke off after 0 bytes: ";
    assert!(words.starts_with(expected), "{words}");
}

#[test]
fn silent_server_times_out() {
    let node = NodeWithImages::with(|settings| settings.silence = Duration::from_millis(100));
    let server = Server::start([silent()]);
    let url = server.url();
    let expected = format!("cannot download the kernel {url}: no data within 100ms");
    assert_eq!(words(node.obtain(&url)), expected);
    assert_eq!(node.files(), set(&[]));
    server.end();
}

#[test]
fn unusable_state_directory_is_reported() {
    let node = NodeWithImages::new();
    write(&node.state_dir(), b"no directory");
    let refused = words(node.obtain("http://127.0.0.1:1/k"));
    let dir = node.state_dir().display().to_string();
    let expected =
        format!("cannot store the kernel http://127.0.0.1:1/k: cannot open {dir}/images/");
    assert!(refused.starts_with(&expected), "{refused}");
    assert!(refused.ends_with(": Not a directory (os error 20)"), "{refused}");
}

#[test]
fn size_is_limited_whether_stated_or_not() {
    let limited = || NodeWithImages::with(|settings| settings.most = 1 << 20);
    let expected = |url: &str| {
        format!(
            "cannot download the kernel {url}: it is larger than 1 MiB, the most that is downloaded"
        )
    };
    let large = bytes((1 << 20) + 1);
    let chunk = [format!("{:x}\r\n", large.len()).as_bytes(), &large, b"\r\n"].concat();
    let endless = "200 OK; Transfer-Encoding: chunked; ETag: \"one\"";
    for answer in [serve(&large, TAG), send(endless, &chunk)] {
        let node = limited();
        let server = Server::start([answer]);
        let url = server.url();
        assert_eq!(words(node.obtain(&url)), expected(&url));
        assert_eq!(node.files(), set(&[]));
        server.end();
    }
    let node = limited();
    let server = Server::start([serve(&large[1..], TAG)]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), large[1..]);
    server.end();
}

#[test]
fn time_of_a_whole_download_is_limited() {
    let slow = |answers: Vec<server::Step>| {
        let node = NodeWithImages::with(|settings| settings.whole = Duration::from_millis(200));
        let server = Server::start(answers);
        let url = server.url();
        let expected = format!("the download of the kernel {url} is not complete after 200ms");
        assert_eq!(words(node.obtain(&url)), expected);
        server.end();
        node.files()
    };
    assert_eq!(slow(vec![silent()]), set(&[]));
    // What came is kept for the next attempt.
    let kept = slow(vec![then_silent(cut(&bytes(10), TAG, 5, End::Close))]);
    assert_eq!(kept, set(&["part", "json"]));
}

#[test]
fn private_host_of_a_member_is_refused() {
    let node = NodeWithImages::with(|settings| {
        (settings.private_redirects, settings.public_only) = (false, true);
    });
    let server = Server::start([]);
    let port = server.url().rsplit_once(':').map(|(_, rest)| rest.to_owned()).unwrap();
    for (host, address) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("[::]", "::"),
        ("0", "0.0.0.0"),
        ("localhost", ""),
        ("169.254.169.254", "169.254.169.254"),
    ] {
        let url = format!("http://{host}:{port}");
        let refused = words(node.obtain(&url));
        let expected = format!("cannot download the kernel {url}: its host is at {address}");
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(refused.ends_with(", which is not a public address"), "{refused}");
        assert_eq!(node.files(), set(&[]));
    }
    server.end();
}

#[test]
fn redirect_into_a_private_network_is_refused() {
    let node = NodeWithImages::with(|settings| settings.private_redirects = false);
    for (to, address) in [
        ("http://127.0.0.1:9/secret", "127.0.0.1"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("http://10.0.0.1/", "10.0.0.1"),
        ("http://[::1]:9/", "::1"),
        ("http://localhost:9/", ""),
    ] {
        let redirect = send(&format!("302 Found; Location: {to}; Content-Length: 0"), b"");
        let server = Server::start([redirect]);
        let url = server.url();
        let refused = words(node.obtain(&url));
        let expected = format!("cannot download the kernel {url}: it redirects to ");
        assert!(refused.starts_with(&expected), "{to}: {refused}");
        assert!(
            refused.contains(address) && refused.ends_with("not a public address"),
            "{refused}"
        );
        assert_eq!(node.files(), set(&[]));
        server.end();
    }
    // A host that the definition names may have any address, also after a redirect.
    let redirect = send("302 Found; Location: /other; Content-Length: 0", b"");
    let server = Server::start([redirect, serve(b"kernel", TAG)]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), b"kernel");
    server.end();
}
