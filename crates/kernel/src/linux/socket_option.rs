//! Options of sockets that rustix does not have.
#![expect(
    unsafe_code,
    reason = "these options of getsockopt(2) and setsockopt(2) have no safe wrapper"
)]

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use nix::libc;
use riklet_core::guard::Instruction;
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

/// Has the kernel read an option of a socket.
pub(super) fn set(
    socket: impl AsFd,
    level: c_int,
    option: c_int,
    value: c_int,
) -> Result<(), Errno> {
    set_bytes(
        socket.as_fd().as_raw_fd(),
        level,
        option,
        (&raw const value).cast(),
        size_of::<c_int>(),
    )
}

/// Has the kernel run a program of classic BPF for each packet, in place of the former one (socket(7),
/// `SO_ATTACH_FILTER`). A packet of which it returns 0 bytes does not arrive.
pub(super) fn set_filter(socket: impl AsFd, program: &[Instruction]) -> Result<(), Errno> {
    let instruction = |of: &Instruction| libc::sock_filter {
        code: of.code,
        jt: of.if_true,
        jf: of.if_false,
        k: of.operand,
    };
    let mut program: Vec<_> = program.iter().map(instruction).collect();
    let length = u16::try_from(program.len()).map_err(|_too_long| Errno::INVAL)?;
    // The kernel copies the program before the call returns.
    let value = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let data = (&raw const value).cast();
    let socket = socket.as_fd().as_raw_fd();
    set_bytes(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, data, size_of_val(&value))
}

fn set_bytes(
    socket: RawFd,
    level: c_int,
    option: c_int,
    data: *const c_void,
    length: usize,
) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(length).map_err(|_too_long| Errno::NOMEM)?;
    // SAFETY: the kernel reads at most `length` bytes at `data`, which both callers keep until the call returns
    // (setsockopt(2)); the filter that one of them points to as well.
    let result = unsafe { libc::setsockopt(socket, level, option, data, length) };
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
