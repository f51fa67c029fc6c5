//! Notifications of the kernel: multicast groups of netlink(7).

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::SocketAddr;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::super::netlink::{
    BUFFER, EAGAIN, EINTR, ENOBUFS, HEADER, attributes, messages, read_u16, read_u32,
};
use crate::Refusal;

/// The size of the receive buffer, which holds notifications until they are read: about 8,000 of links, of 4 KiB each.
const ROOM: usize = 32 * 1024 * 1024;
/// `MSG_DONTWAIT` of `<linux/socket.h>`.
const WITHOUT_WAITING: i32 = 0x40;

/// A socket that only listens.
#[derive(Debug)]
pub(super) struct Feed {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// A notification.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux) struct Message<'a> {
    /// `nlmsg_type`.
    pub(in crate::linux) kind: u16,
    /// `nlmsg_pid`: the port of the socket whose request caused it; 0 is the kernel itself.
    pub(in crate::linux) port: u32,
    /// The message, with its header.
    pub(super) whole: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the header of a message.
    pub(super) fn new(whole: &'a [u8]) -> Self {
        let kind = read_u16(whole, 4).unwrap_or_default();
        Self { kind, port: read_u32(whole, 12).unwrap_or_default(), whole }
    }

    /// Returns the message without its header.
    pub(in crate::linux) fn body(&self) -> &'a [u8] {
        self.whole.get(HEADER..).unwrap_or_default()
    }

    /// Returns the attribute of this type, behind a body of this length.
    pub(in crate::linux) fn attribute(&self, after: usize, wanted: u16) -> Option<&'a [u8]> {
        let mut attributes = attributes(self.body().get(after..)?);
        attributes.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Returns the same as text.
    pub(in crate::linux) fn text(&self, after: usize, wanted: u16) -> Option<&'a str> {
        let value = self.attribute(after, wanted)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }
}

impl Feed {
    /// Listens to these groups, in the network namespace of the calling thread.
    pub(super) fn open(family: isize, groups: &[u32]) -> Result<Self, Refusal> {
        let mut socket = netlink_sys::Socket::new(family)?;
        set_socket_recv_buffer_size_force(&socket, ROOM)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Passes on the notifications that have arrived. Returns whether some were lost because the buffer was full.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Message<'_>)) -> Result<bool, Refusal> {
        let mut lost = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, WITHOUT_WAITING).map_err(Refusal::from) {
                Ok(_) => {}
                Err(refusal) if refusal.errno == Some(EAGAIN) => return Ok(lost),
                Err(refusal) if refusal.errno == Some(EINTR) => continue,
                Err(refusal) if refusal.errno == Some(ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            }
            messages(&self.buffer).for_each(|whole| each(Message::new(whole)));
        }
    }
}

impl AsFd for Feed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
