//! Negotiates the offloads of a TAP as a VMM does. All `unsafe` code of the benches is here.
#![expect(unsafe_code, reason = "TUNSETOFFLOAD has no safe wrapper")]

use std::fs::File;

use rustix::{
    io,
    ioctl::{self, IntegerSetter, Opcode, opcode},
};

/// Request of `<linux/if_tun.h>`.
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;

/// Makes the TAP deliver frames with unfinished checksums, and segments larger than the MTU. The `struct
/// virtio_net_hdr` of each frame says so.
pub(super) fn take_all(tap: &File) -> io::Result<()> {
    let flags = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // SAFETY: the request takes its flags as an integer, and keeps no pointer.
    unsafe { ioctl::ioctl(tap, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }
}
