//! The system calls that have no safe wrapper. All `unsafe` code of the harness is here.
#![expect(
    unsafe_code,
    reason = "unshare(2), addresses of packet(7) and the ioctls of /dev/net/tun have no safe wrapper"
)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::OwnedFd,
};

use rustix::{
    ioctl::{self, IntegerSetter, Opcode, Setter, opcode},
    net::{
        AddressFamily, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        bind, netdevice, socket_with,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

/// Request `_IOW('T', 202, int)` of `<linux/if_tun.h>`, although its argument is a `struct ifreq`.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// Request `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
const TAP_FLAGS: i16 = 0x0002 | 0x1000 | 0x4000;
/// `IFNAMSIZ`.
const NAME_SIZE: usize = 16;

/// `struct ifreq` of `<linux/if.h>`, with its union as `ifr_flags`.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: i16,
    rest: [u8; 22],
}

/// Moves the calling thread into a new network namespace.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: only `CLONE_FILES` is unsafe, and it is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Gives the calling thread its own root and current directory, which setns(2) requires.
pub(super) fn unshare_directories() -> io::Result<()> {
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(())
}

/// Attaches to the TAP of this name in the calling thread's namespace, with a `struct virtio_net_hdr` before each
/// frame and no offload. If there is no such TAP, creates one, which exists while the file is open.
pub(super) fn attach_tap(name: &str) -> io::Result<File> {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; NAME_SIZE], flags: TAP_FLAGS, rest: [0; 22] };
    for (place, byte) in request.name.iter_mut().take(NAME_SIZE - 1).zip(name.bytes()) {
        *place = byte;
    }
    // SAFETY: `TUNSETIFF` reads a `struct ifreq`, whose size and layout `InterfaceRequest` has.
    unsafe { ioctl::ioctl(&tap, Setter::<TUNSETIFF, _>::new(request)) }?;
    // SAFETY: `TUNSETOFFLOAD` takes its flags as an integer.
    unsafe { ioctl::ioctl(&tap, IntegerSetter::<TUNSETOFFLOAD>::new_usize(0)) }?;
    Ok(tap)
}

/// `struct sockaddr_ll` of `<linux/if_packet.h>`.
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    interface: i32,
    rest: [u8; 12],
}

// SAFETY: the address is a whole `struct sockaddr_ll` that lives until the call returns.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let length = SocketAddrLen::try_from(size_of::<Self>()).expect("20 bytes");
        f((&raw const *self).cast(), length)
    }
}

/// Returns a socket that sends frames by this interface of the calling thread's namespace, and hears none (packet(7)).
pub(super) fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let interface = netdevice::name_to_index(&socket, name)?;
    let interface = i32::try_from(interface).expect("the number of an interface");
    let family = AddressFamily::PACKET.as_raw();
    bind(&socket, &LinkAddress { family, protocol: 0, interface, rest: [0; 12] })?;
    Ok(socket)
}
