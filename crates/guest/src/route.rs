//! Routes: the actions that requests ask for. Pure.

use std::net::SocketAddrV4;

use super::http::{HttpRequest, Response, percent_decode};

/// The action that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `GET /`: describes the guest and the client.
    Identity,
    /// `POST /echo`: returns the body.
    Echo,
    /// `GET /connect/<ip>:<port>`: opens a TCP connection to this address.
    Connect(SocketAddrV4),
    /// `GET /udp/<ip>:<port>/<text>`: sends a datagram to this address.
    Datagram(SocketAddrV4, Vec<u8>),
}

/// The longest text of a datagram. It fits into the smallest packet that every IPv4 host must accept (RFC 791).
const MAX_TEXT: usize = 512;

impl Route {
    /// Returns the action that the request asks for.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Response> {
        let get = matches!(&*request.method, "GET" | "HEAD");
        let allow = |allowed: bool, route: Self| {
            let refusal = || Response::error(405, "this method is not for this path");
            allowed.then_some(route).ok_or_else(refusal)
        };
        let path = &*request.path;
        if path == "/" {
            allow(get, Self::Identity)
        } else if path == "/echo" {
            allow(request.method == "POST", Self::Echo)
        } else if let Some(target) = path.strip_prefix("/connect/") {
            allow(get, Self::Connect(address(target)?))
        } else if let Some((target, text)) =
            path.strip_prefix("/udp/").and_then(|rest| rest.split_once('/'))
        {
            let refusal = || Response::error(400, "the text has a percent sign without two digits");
            let text = percent_decode(text).ok_or_else(refusal)?;
            if text.len() > MAX_TEXT {
                return Err(Response::error(400, "the text may have 512 bytes"));
            }
            allow(get, Self::Datagram(address(target)?, text))
        } else {
            let paths = "the paths are /, /echo, /connect/IP:PORT and /udp/IP:PORT/TEXT";
            Err(Response::error(404, paths))
        }
    }
}

fn address(text: &str) -> Result<SocketAddrV4, Response> {
    let refusal = || Response::error(400, "what follows is not an IPv4 address and a port");
    text.parse().ok().filter(|address: &SocketAddrV4| address.port() != 0).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, path: &str) -> Result<Route, u16> {
        let request = HttpRequest { method: method.into(), path: path.into(), body: vec![] };
        Route::of(&request).map_err(|response| response.status())
    }

    #[test]
    fn known_requests_are_routed() {
        let target = "192.0.2.1:80".parse().unwrap();
        assert_eq!(route("GET", "/"), Ok(Route::Identity));
        assert_eq!(route("HEAD", "/"), Ok(Route::Identity));
        assert_eq!(route("POST", "/echo"), Ok(Route::Echo));
        assert_eq!(route("GET", "/connect/192.0.2.1:80"), Ok(Route::Connect(target)));
        let datagram = Route::Datagram(target, b"a/b c".into());
        assert_eq!(route("GET", "/udp/192.0.2.1:80/a/b%20c"), Ok(datagram));
    }

    #[test]
    fn unknown_requests_are_refused_with_the_right_status() {
        assert_eq!(route("GET", "/favicon.ico"), Err(404));
        assert_eq!(route("GET", "/udp/192.0.2.1:80"), Err(404));
        assert_eq!(route("POST", "/"), Err(405));
        assert_eq!(route("GET", "/echo"), Err(405));
        assert_eq!(route("GET", "/connect/example.org:80"), Err(400));
        assert_eq!(route("GET", "/connect/192.0.2.1:0"), Err(400));
        assert_eq!(route("GET", "/udp/192.0.2.1:80/%"), Err(400));
        assert_eq!(route("GET", &format!("/udp/192.0.2.1:80/{}", "a".repeat(513))), Err(400));
    }
}
