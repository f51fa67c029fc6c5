//! Downloads by https, with valid and invalid certificates.

use super::*;

pub(super) const AUTHORITY: &[u8] = include_bytes!("certificates/authority.der");
const SERVER: &[u8] = include_bytes!("certificates/server.der");
const ELSEWHERE: &[u8] = include_bytes!("certificates/elsewhere.der");
const EXPIRED: &[u8] = include_bytes!("certificates/expired.der");
const ITSELF: &[u8] = include_bytes!("certificates/itself.der");

#[test]
fn download_from_a_trusted_server_succeeds() {
    let node = NodeWithImages::new();
    let body = bytes(300_000);
    let steps = [cut(&body, TAG, 100_000, End::Close), serve(&body, TAG)];
    let server = Server::start_tls(SERVER, steps);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), body);
    assert_eq!(server.end()[1].range(), Some(("bytes=100000-", TAG)));
}

/// Returns the reason why a server with this certificate is refused.
fn refused(certificate: &[u8], trusted: Option<Vec<Vec<u8>>>) -> String {
    let node = NodeWithImages::with(|settings| settings.certificates = trusted);
    let server = Server::start_tls(certificate, [serve(b"file", TAG)]);
    let url = server.url();
    let words = words(node.obtain(&url));
    assert_eq!(node.files(), set(&[]));
    assert_eq!(server.end(), [], "nothing was asked for");
    let before = format!("cannot download the kernel {url}: the server's certificate is refused: ");
    words.strip_prefix(&before).unwrap_or_else(|| panic!("{words}")).to_owned()
}

#[test]
fn certificate_refusal_explains_the_reason() {
    let trusted = || Some(vec![AUTHORITY.to_vec()]);
    let nobody = "nobody whom this host trusts signed it";
    assert_eq!(refused(SERVER, Some(vec![])), nobody);
    // The certificates that the host trusts do not include the test's authority.
    assert_eq!(refused(SERVER, None), nobody);
    assert_eq!(refused(ITSELF, trusted()), "it is signed by itself");
    assert_eq!(refused(EXPIRED, trusted()), "it has expired");
    let elsewhere = refused(ELSEWHERE, trusted());
    assert!(elsewhere.starts_with("certificate not valid for name \"127.0.0.1\""));
    assert!(elsewhere.contains("elsewhere.example"), "{elsewhere}");
}

#[test]
fn redirect_from_https_to_http_is_refused() {
    let node = NodeWithImages::new();
    let redirect = "302 Found; Location: http://127.0.0.1:9/vmlinux; Content-Length: 0";
    let server = Server::start_tls(SERVER, [send(redirect, b"")]);
    let url = server.url();
    let expected = format!("cannot download the kernel {url}: it redirects from https to http");
    assert_eq!(words(node.obtain(&url)), expected);
    server.end();
}

#[test]
fn redirect_from_http_to_https_is_followed() {
    let node = NodeWithImages::new();
    let safe = Server::start_tls(SERVER, [serve(b"file", TAG)]);
    let redirect = format!("302 Found; Location: {}; Content-Length: 0", safe.url());
    let server = Server::start([send(&redirect, b"")]);
    assert_eq!(read(&node.obtain(&server.url()).unwrap()), b"file");
    server.end();
    safe.end();
}
