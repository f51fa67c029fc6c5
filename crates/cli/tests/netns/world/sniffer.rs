//! Sockets that hear frames as the host's protocols get them (packet(7)).

use std::{io, num::NonZeroU32, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with},
};

use super::Namespace;

/// A socket that hears the frames of one protocol that arrive by any interface, after the filters of tc(8) and before
/// any rule of the firewall.
#[derive(Debug)]
pub(crate) struct Sniffer(OwnedFd);

impl Sniffer {
    /// Listens for frames of this type.
    pub(crate) fn new(namespace: &Namespace, ether_type: u16) -> Self {
        let protocol = NonZeroU32::new(u32::from(ether_type.to_be())).map(Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol);
        Self(namespace.run(socket).expect("a packet socket"))
    }

    /// Waits until a frame has arrived, no longer than this.
    pub(crate) fn wait(&self, limit: Duration) {
        let limit = Timespec::try_from(limit).expect("a short time");
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).expect("poll");
    }

    /// Returns the frames that have arrived since the last call.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; 2048];
        let mut heard = Vec::new();
        loop {
            match recv(&self.0, &mut frame, RecvFlags::empty()) {
                Ok((length, _)) => heard.push(frame.get(..length).unwrap_or(&frame).to_vec()),
                Err(Errno::AGAIN) => return heard,
                Err(error) => panic!("cannot receive: {}", io::Error::from(error)),
            }
        }
    }
}
