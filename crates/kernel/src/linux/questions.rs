//! Questions of guests for their configuration, which no other socket of the host receives: a socket of packet(7) for all
//! TAPs. Nothing listens at a port.
//!
//! It receives frames before the guard and the firewall drop them, and sends frames past the queueing disciplines of a TAP: its
//! guard passes nothing to many, and its limit of rate may have a queue.
#![expect(unsafe_code, reason = "rustix has no address of packet(7)")]

use std::{
    collections::BTreeSet,
    ffi::c_int,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::libc;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        bind, recvfrom, sendto, socket_with,
    },
};

use super::socket_option;
use crate::{KernelError, Refusal};
use riklet_core::{
    guard::{interface_number, slot_of_interface_number},
    lease::filter,
    model::Slot,
};

/// The size of the buffer in bytes: about as many questions as arrive while one that floods is noticed.
const BUFFER: c_int = 4 << 20;
/// The options of `<linux/if_packet.h>`.
const QDISC_BYPASS: c_int = 20;
const IGNORE_OUTGOING: c_int = 23;
/// `ETH_P_ALL` of `<linux/if_ether.h>`, and the place of a frame's type.
const EVERY_PROTOCOL: u16 = 3;
const ETHER_TYPE: usize = 12;

/// The socket.
#[derive(Debug)]
pub struct Questions {
    socket: OwnedFd,
    frame: Vec<u8>,
}

impl Questions {
    /// Listens on all TAPs of the network namespace of the calling thread, those that are created later as well. TAPs that an
    /// earlier version created without the number of their slot are left out.
    ///
    /// # Errors
    /// Fails without `CAP_NET_RAW`, and if the kernel has no packet(7).
    pub fn listen() -> Result<Self, KernelError> {
        Self::open().map_err(failed)
    }

    fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol, nothing arrives before the filter is there.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        socket_option::set_filter(&socket, &filter::questions(&BTreeSet::new()))?;
        for option in [QDISC_BYPASS, IGNORE_OUTGOING] {
            socket_option::set(&socket, libc::SOL_PACKET, option, 1)?;
        }
        socket_option::set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        bind(&socket, &LinkAddress { protocol: EVERY_PROTOCOL, interface: 0 })?;
        let length = usize::try_from(filter::FRAME).unwrap_or_default();
        Ok(Self { socket, frame: vec![0; length] })
    }

    /// Drops questions of these guests from now on, and of no others.
    ///
    /// # Errors
    /// Fails if memory runs out; then it drops those of the same guests as before.
    pub fn mute(&self, slots: &BTreeSet<Slot>) -> Result<(), KernelError> {
        socket_option::set_filter(&self.socket, &filter::questions(slots)).map_err(failed)
    }

    /// Returns the next frame that has arrived, and the slot whose TAP it is from, without waiting.
    ///
    /// # Errors
    /// Fails if the socket cannot be read.
    pub fn receive(&mut self) -> Result<Option<(Slot, &[u8])>, KernelError> {
        loop {
            let received = recvfrom(&self.socket, &mut self.frame[..], RecvFlags::empty());
            let (length, from) = match received {
                Ok((length, _, from)) => (length, from),
                // A TAP went away or down: the kernel says so once.
                Err(Errno::INTR | Errno::NETDOWN | Errno::NXIO) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            };
            if let Some(slot) = from.as_ref().and_then(slot_of) {
                return Ok(self.frame.get(..length).map(|frame| (slot, frame)));
            }
        }
    }

    /// Sends a frame to the guest of a slot. A frame for which its queue has no room is lost.
    ///
    /// # Errors
    /// Fails if the TAP is gone, or down.
    pub fn send(&self, slot: Slot, frame: &[u8]) -> Result<(), KernelError> {
        let protocol = frame.get(ETHER_TYPE..).and_then(<[u8]>::first_chunk);
        let protocol = protocol.map_or(EVERY_PROTOCOL, |octets| u16::from_be_bytes(*octets));
        let to = LinkAddress { protocol, interface: interface_number(slot) };
        match sendto(&self.socket, frame, SendFlags::empty(), &to) {
            Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }
}

impl AsFd for Questions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(errno: Errno) -> KernelError {
    KernelError::Questions { source: Refusal::from(errno) }
}

/// A protocol, and the number of an interface or 0 for all.
#[derive(Debug, Clone, Copy)]
struct LinkAddress {
    protocol: u16,
    interface: u32,
}

// SAFETY: the address is a whole `struct sockaddr_ll` that lives until the call returns.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let address = libc::sockaddr_ll {
            sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default(),
            sll_protocol: self.protocol.to_be(),
            // The kernel's numbers of interfaces are positive.
            sll_ifindex: c_int::try_from(self.interface).unwrap_or(c_int::MAX),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = SocketAddrLen::try_from(size_of_val(&address)).unwrap_or_default();
        f((&raw const address).cast(), length)
    }
}

/// Returns the slot that an address of packet(7) names.
fn slot_of(address: &SocketAddrAny) -> Option<Slot> {
    let length = usize::try_from(address.addr_len()).ok()?;
    if address.address_family() != AddressFamily::PACKET || length < size_of::<libc::sockaddr_ll>()
    {
        return None;
    }
    // SAFETY: the address is of this family, and long enough for its structure.
    let found = unsafe { address.as_ptr().cast::<libc::sockaddr_ll>().read_unaligned() };
    slot_of_interface_number(found.sll_ifindex.try_into().ok()?)
}
