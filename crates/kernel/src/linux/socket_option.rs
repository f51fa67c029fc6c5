//! Options of sockets that rustix does not have.
#![expect(unsafe_code, reason = "these options of getsockopt(2) have no safe wrapper")]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc;
use rustix::io::Errno;

/// `SO_NETNS_COOKIE` of `<asm-generic/socket.h>`.
const NAMESPACE_COOKIE: c_int = 71;

/// Has the kernel read and fill a buffer with an option of a socket.
pub(super) fn get(
    socket: impl AsFd,
    level: c_int,
    option: c_int,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let socket = socket.as_fd().as_raw_fd();
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_too_long| Errno::NOMEM)?;
    let data = buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: the kernel reads and writes at most `length` bytes at `data`, which is the buffer (getsockopt(2)).
    let result = unsafe { libc::getsockopt(socket, level, option, data, &raw mut length) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Returns the number that no other network namespace has, or had, since the host started, while the inode of a namespace is
/// given to a later one. `None` before Linux 5.14.
pub(super) fn namespace_cookie(socket: impl AsFd) -> Option<u64> {
    let mut cookie = [0; size_of::<u64>()];
    get(socket, libc::SOL_SOCKET, NAMESPACE_COOKIE, &mut cookie).ok()?;
    Some(u64::from_ne_bytes(cookie))
}
