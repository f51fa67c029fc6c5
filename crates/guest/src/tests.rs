#![expect(unsafe_code, reason = "a namespace for the test's thread, and a TAP's ioctl")]
#![expect(clippy::disallowed_methods, reason = "deadlines")]

use std::{
    ffi::OsStr,
    io::{PipeWriter, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    ioctl::{Setter, ioctl, opcode},
    net::{AddressFamily, SocketType, ipproto},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;
use riklet_kernel::process;

const SERVER: &str = "10.231.0.2:3000";

/// A network namespace with a TAP and a guest on it. The test's thread stays in the namespace.
struct Net {
    guest: JoinHandle<Result<(), GuestError>>,
    stop: PipeWriter,
}

fn ip(args: &str) -> String {
    let args: Vec<_> = args.split(' ').collect();
    let output = process::run(OsStr::new("ip"), &args, b"").unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `struct ifreq` of `<linux/if.h>`, as far as `TUNSETIFF` looks at it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

fn attach(name: &str) -> OwnedFd {
    const TUNSETIFF: u32 = opcode::write::<i32>(b'T', 202);
    // IFF_TAP | IFF_NO_PI | IFF_VNET_HDR of <linux/if_tun.h>
    let mut request = InterfaceRequest { name: [0; 16], flags: 0x5002, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).unwrap();
    // SAFETY: TUNSETIFF reads a struct ifreq, which this is one of.
    unsafe { ioctl(&tap, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }.unwrap();
    tap
}

fn description() -> Guest {
    Guest {
        name: "hello".parse().unwrap(),
        interface: "rik0".parse().unwrap(),
        address: "10.231.0.2/30".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 231, 0, 1),
        mac: MacAddress::new([6, b'R', b'I', b'K', 0, 0]),
        mtu: 1500,
        ports: [(Protocol::Tcp, 3000), (Protocol::Udp, 53), (Protocol::Sctp, 9)].into(),
    }
}

/// Configures the host's side. Returns the attached TAP, which nobody reads yet.
fn host() -> OwnedFd {
    // SAFETY: no file descriptor or memory is shared any less than before.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    ip("link set lo up");
    ip("tuntap add mode tap vnet_hdr name rik0");
    ip("address add 10.231.0.1/30 dev rik0");
    ip("link set rik0 up");
    ip("neighbour add 10.231.0.2 lladdr 06:52:49:4b:00:00 dev rik0 nud permanent");
    let tap = attach("rik0");
    // The kernel drops outgoing packets until it has noticed the carrier (net/core/link_watch.c).
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ip("-brief link show rik0").contains(" UP ") {
        assert!(Instant::now() < deadline, "rik0 is not up");
    }
    tap
}

impl Net {
    fn new() -> Self {
        Self::with(host())
    }

    fn with(tap: OwnedFd) -> Self {
        let (stopped, stop) = io::pipe().unwrap();
        let guest = std::thread::spawn(move || serve(&description(), tap, stopped.as_fd()));
        Self { guest, stop }
    }

    fn end(self) {
        drop(self.stop);
        self.guest.join().unwrap().unwrap();
    }
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Returns the status and body of the answer.
fn answer(mut stream: &TcpStream) -> (u16, Vec<u8>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = str::from_utf8(&bytes[..end]).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let body = bytes[end..].to_vec();
    assert_eq!(body.len(), length.parse::<usize>().unwrap(), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

fn get(path: &str) -> (u16, String) {
    let mut stream = connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {SERVER}\r\n\r\n").unwrap();
    let (status, body) = answer(&stream);
    (status, String::from_utf8(body).unwrap())
}

#[test]
fn root_path_names_the_guest_and_the_client() {
    let net = Net::new();
    let mut stream = connect();
    let client = stream.local_addr().unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (status, body) = answer(&stream);
    let expected = format!(
        "{{\"function\":\"hello\",\"address\":\"10.231.0.2\",\"gateway\":\"10.231.0.1\",\"port\":3000,\"client\":\"{client}\"}}\n"
    );
    assert_eq!((status, String::from_utf8(body).unwrap()), (200, expected));
    net.end();
}

#[test]
fn many_clients_are_served_concurrently() {
    let net = Net::new();
    let mut streams: Vec<_> = (0..64).map(|_| connect()).collect();
    for stream in &mut streams {
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for stream in &streams {
        let (status, body) = answer(stream);
        let client = stream.local_addr().unwrap().to_string();
        assert_eq!(status, 200);
        assert!(String::from_utf8(body).unwrap().contains(&client));
    }
    net.end();
}

/// Begins a connection, whose request waits in the TAP.
fn begin() -> TcpStream {
    let kind = SocketType::STREAM;
    let flags = rustix::net::SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None).unwrap();
    let server: SocketAddr = SERVER.parse().unwrap();
    let begun = rustix::net::connect(&socket, &server).unwrap_err();
    assert_eq!(begun, Errno::INPROGRESS);
    TcpStream::from(socket)
}

#[test]
fn connection_of_a_lost_client_is_not_given_to_the_next() {
    let tap = host();
    // The guest answers their requests, and the host refuses the answers.
    for _ in 0..8 {
        drop(begin());
    }
    let net = Net::with(tap);
    for _ in 0..32 {
        let mut stream = connect();
        write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (_, body) = answer(&stream);
        let client = stream.local_addr().unwrap().to_string();
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(&client), "{client} is told {body}");
    }
    net.end();
}

#[test]
fn burst_of_connections_is_served_completely() {
    let tap = host();
    let sockets: Vec<_> = (0..64).map(|_| begin()).collect();
    // All requests already wait in the TAP when the guest starts.
    let net = Net::with(tap);
    for mut stream in sockets {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None).unwrap();
        assert!(stream.take_error().unwrap().is_none());
        stream.set_nonblocking(false).unwrap();
        write!(stream, "GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(answer(&stream).0, 200);
    }
    net.end();
}

#[test]
fn body_is_echoed_completely() {
    let net = Net::new();
    let body: Vec<u8> =
        (0..300_000_u32).flat_map(|n| n.to_le_bytes().into_iter().take(1)).collect();
    let mut stream = connect();
    write!(stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())
        .unwrap();
    stream.write_all(&body).unwrap();
    assert_eq!(answer(&stream), (200, body));
    net.end();
}

#[test]
fn invalid_request_is_refused() {
    let net = Net::new();
    let mut stream = connect();
    stream.write_all(b"\x16\x03\x01 hello\r\n\r\n").unwrap();
    assert_eq!(answer(&stream).0, 400);
    let mut stream = connect();
    stream.write_all(b"GET / HT").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&stream).0, 400);
    assert_eq!(get("/nothing").0, 404);
    net.end();
}

#[test]
fn unserved_port_refuses_connections() {
    let net = Net::new();
    let error = TcpStream::connect("10.231.0.2:3001").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    net.end();
}

#[test]
fn datagram_is_echoed() {
    let net = Net::new();
    let socket = UdpSocket::bind("10.231.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for payload in [&b"hello"[..], &[7; 1472], b""] {
        socket.send_to(payload, "10.231.0.2:53").unwrap();
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.to_string()), (payload, "10.231.0.2:53".into()));
    }
    net.end();
}

#[test]
fn connect_path_reports_the_outcome() {
    let net = Net::new();
    let listener = TcpListener::bind("10.231.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let host = std::thread::spawn(move || {
        let (mut stream, client) = listener.accept().unwrap();
        let mut request = [0; 18];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"GET / HTTP/1.0\r\nHo");
        let mut rest = [0; 128];
        while !request.is_empty() && !rest.windows(4).any(|window| window == b"\r\n\r\n") {
            assert!(stream.read(&mut rest).unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host\n").unwrap();
        (client, listener)
    });
    let (status, body) = get(&format!("/connect/{address}"));
    let (client, listener) = host.join().unwrap();
    let expected =
        format!("{{\"connected\":true,\"body\":\"from the host\\n\",\"local\":\"{client}\"}}\n");
    assert_eq!((status, body), (200, expected));

    drop(listener);
    let refused = "{\"connected\":false,\"reason\":\"refused\"}\n";
    assert_eq!(get(&format!("/connect/{address}")), (502, refused.into()));

    // The address is not reachable: the host does not forward, and sends no error.
    let timeout = "{\"connected\":false,\"reason\":\"timeout\"}\n";
    assert_eq!(get("/connect/192.0.2.1:80"), (504, timeout.into()));
    net.end();
}

#[test]
fn udp_path_reports_the_answer() {
    let net = Net::new();
    let socket = UdpSocket::bind("10.231.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let host = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&[&buffer[..length], b" back"].concat(), from).unwrap();
    });
    let answered = "{\"answered\":true,\"body\":\"there and back\"}\n";
    assert_eq!(get(&format!("/udp/{address}/there%20and")), (200, answered.into()));
    host.join().unwrap();
    let unanswered = "{\"answered\":false,\"reason\":\"timeout\"}\n";
    assert_eq!(get(&format!("/udp/{address}/hello")), (504, unanswered.into()));
    net.end();
}

#[test]
fn first_ping_is_answered() {
    let net = Net::new();
    let (kind, protocol) = (SocketType::RAW, Some(ipproto::ICMP));
    let socket = rustix::net::socket(AddressFamily::INET, kind, protocol).unwrap();
    let guest: SocketAddr = "10.231.0.2:0".parse().unwrap();
    rustix::net::connect(&socket, &guest).unwrap();
    // Echo request, identifier 1, sequence number 1: 8 + 0 + checksum + 1 + 1 is 0xffff.
    let request = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    rustix::net::send(&socket, &request, rustix::net::SendFlags::empty()).unwrap();
    let mut reply = [0; 64];
    let timeout = Some(Duration::from_secs(30));
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, timeout)
        .unwrap();
    let (length, _) =
        rustix::net::recv(&socket, &mut reply, rustix::net::RecvFlags::empty()).unwrap();
    // The echo reply follows an IPv4 header of 20 bytes.
    assert_eq!(&reply[20..length], [0, 0, 0xff, 0xfd, 0, 1, 0, 1]);
    net.end();
}

#[test]
fn guest_ends_when_its_tap_is_deleted() {
    let net = Net::new();
    assert_eq!(get("/").0, 200);
    ip("link delete rik0");
    let error = net.guest.join().unwrap().unwrap_err();
    let GuestError::Tap { interface, source } = error else { panic!("{error}") };
    assert_eq!(interface.as_str(), "rik0");
    assert_eq!(source.raw_os_error(), Some(Errno::BADFD.raw_os_error()));
}

#[test]
fn guest_round_trips_through_its_argument() {
    let guest = description();
    let argument = guest.to_argument();
    assert_eq!(Guest::from_argument(&argument).unwrap(), guest);
    let refused = |argument: &str| Guest::from_argument(argument).unwrap_err().to_string();
    assert_eq!(refused("{}"), "the guest's description cannot be read");
    let nobody = argument.replace("hello", "Hello");
    assert_eq!(refused(&nobody), "the guest's description has no valid name");
    let nowhere = argument.replace("3000", "0");
    assert_eq!(refused(&nowhere), "the guest's description has no valid ports");
}
