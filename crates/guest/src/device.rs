//! The TAP as a device of smoltcp.

use std::{
    borrow::Cow,
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, writev},
};
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use super::frame;

/// `struct virtio_net_hdr` of `<linux/virtio_net.h>`, which `IFF_VNET_HDR` puts before each frame:
/// `flags`, `gso_type`, `hdr_len` (2), `gso_size` (2), `csum_start` (2), `csum_offset` (2); in host order.
const HEADER: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is that of the pseudo-header only.
const NEEDS_CHECKSUM: u8 = 1;
/// The Ethernet header, which smoltcp counts into the MTU and Linux does not.
const ETHERNET: usize = 14;
/// The longest frame: a TAP whose last owner set `TUNSETOFFLOAD` yields unsegmented packets.
const LONGEST: usize = ETHERNET + 65_535;

/// A TAP with `IFF_VNET_HDR`, of which one received frame is held at a time.
pub(super) struct Tap {
    fd: OwnedFd,
    mtu: usize,
    received: Vec<u8>,
    pending: Option<usize>,
    made_up: Option<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl Tap {
    pub(super) fn new(fd: OwnedFd, mtu: usize) -> Result<Self, Errno> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        let received = vec![0; HEADER + LONGEST];
        Ok(Self { fd, mtu, received, pending: None, made_up: None, outgoing: Vec::new() })
    }

    /// Takes the next frame from the TAP's queue; returns `None` if it is empty. [`Device::receive`] gives the frame
    /// to the stack, unless [`Self::discard`] drops it first.
    pub(super) fn next_frame(&mut self) -> Result<Option<&[u8]>, Errno> {
        let length = loop {
            match read(&self.fd, &mut self.received[..]) {
                Ok(length) if length > HEADER => break length - HEADER,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        };
        let (header, rest) = self.received.split_at_mut(HEADER);
        let received = &mut rest[..length];
        if header[0] & NEEDS_CHECKSUM != 0 {
            let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
            frame::complete_checksum(received, field(6), field(8));
        }
        self.pending = Some(length);
        Ok(Some(received))
    }

    /// Drops the frame that [`Self::next_frame`] took.
    pub(super) fn discard(&mut self) {
        self.pending = None;
    }

    /// Makes the stack receive this frame, before the frame that was really received.
    pub(super) fn make_up(&mut self, frame: Vec<u8>) {
        self.made_up = Some(frame);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Device for Tap {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Outgoing<'_>)> {
        let frame = match self.made_up.take() {
            Some(frame) => Cow::Owned(frame),
            None => Cow::Borrowed(self.received.get(HEADER..HEADER + self.pending.take()?)?),
        };
        Some((Received(frame), Outgoing { fd: self.fd.as_fd(), buffer: &mut self.outgoing }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing { fd: self.fd.as_fd(), buffer: &mut self.outgoing })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET;
        capabilities
    }
}

/// A received frame.
pub(super) struct Received<'a>(Cow<'a, [u8]>);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

/// Space for a frame to send.
pub(super) struct Outgoing<'a> {
    fd: BorrowedFd<'a>,
    buffer: &'a mut Vec<u8>,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.buffer.clear();
        self.buffer.resize(length, 0);
        let result = fill(self.buffer);
        let frame = [IoSlice::new(&[0; HEADER]), IoSlice::new(self.buffer)];
        if let Err(error) = writev(self.fd, &frame) {
            // The frame is lost, as may happen on any Ethernet. If the TAP is down (EIO) or deleted, the next read
            // reports it.
            tracing::debug!(%error, "frame not sent");
        }
        result
    }
}
