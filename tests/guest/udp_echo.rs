//! `udp-echo ADDRESS PORT…`: sends each datagram back to whom it came from. Debian's busybox has nothing for it.

use std::{env, io, net::UdpSocket, thread};

fn main() {
    let mut words = env::args().skip(1);
    let address = words.next().expect("an address");
    let ports = words.map(|port| format!("{address}:{port}"));
    let threads: Vec<_> = ports.map(|at| thread::spawn(move || echo(&at))).collect();
    for thread in threads {
        let ended = thread.join().expect("a thread that does not panic");
        ended.expect("a socket that works");
    }
}

fn echo(at: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    let mut datagram = [0; 65_535];
    loop {
        let (length, client) = socket.recv_from(&mut datagram)?;
        // Whoever does not hear it has gone.
        socket.send_to(&datagram[..length], client).ok();
    }
}
