//! TAP devices by their own interface, `/dev/net/tun`, as far as rtnetlink has no request
//! (Documentation/networking/tuntap.rst). It has `unsafe`: rustix has no safe wrapper for these requests of ioctl(2).

#![expect(unsafe_code, reason = "the requests of <linux/if_tun.h> have no safe wrapper")]

use std::{
    ffi::{c_int, c_void},
    os::fd::{AsFd, FromRawFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{self, IntegerSetter, Opcode, Setter, Updater, opcode},
};

use crate::{AccountKind, Refusal};
use riklet_core::{link::Tap, model::InterfaceName};

/// The length of the `struct virtio_net_hdr` that stands before each frame that an [`attach`]ed descriptor
/// reads or writes (`<linux/virtio_net.h>`).
pub const VNET_HEADER: usize = 10;

/// `<linux/if_tun.h>`.
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_PERSIST: u16 = 0x0800;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;
const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOWNER: Opcode = opcode::write::<c_int>(b'T', 204);
const TUNSETGROUP: Opcode = opcode::write::<c_int>(b'T', 206);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_int>(b'T', 210);
const TUNSETIFINDEX: Opcode = opcode::write::<c_int>(b'T', 218);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);
const TUNGETDEVNETNS: Opcode = opcode::none(b'T', 227);

/// `struct ifreq` of `<linux/if.h>`, with the one field of its union that these requests use.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TAP that is deleted with its descriptor, until [`Self::persist`].
#[derive(Debug)]
pub(super) struct NewTap(OwnedFd);

impl NewTap {
    /// Creates a TAP of this name, with this number if no other interface has it. Fails with `EBUSY` if there is an
    /// interface of that name.
    pub(super) fn create(
        name: &InterfaceName,
        multi_queue: bool,
        number: u32,
    ) -> Result<Self, Refusal> {
        let queues = if multi_queue { IFF_MULTI_QUEUE } else { 0 };
        let create = |number: Option<u32>| {
            let device = open()?;
            number.map_or(Ok(()), |number| set_number(&device, number))?;
            set_interface(&device, name, IFF_TUN_EXCL | queues)?;
            Ok(Self(device))
        };
        match create(Some(number)) {
            // The kernel's word for a name and for a number that another interface has.
            Err(Refusal { errno: Some(Refusal::EBUSY), .. }) => create(None),
            created => created,
        }
    }

    /// Gives the TAP to a user and a group.
    pub(super) fn set_owner(&self, tap: &Tap) -> Result<(), (AccountKind, Refusal)> {
        give(&self.0, tap)
    }

    /// Lets the TAP outlive its descriptor, which is closed.
    pub(super) fn persist(self) -> Result<(), Refusal> {
        // SAFETY: the request takes an integer, and keeps no pointer.
        unsafe { ioctl::ioctl(&self.0, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?;
        Ok(())
    }
}

/// Opens an existing persistent TAP, as its guest: what is read was sent to the guest, what is written is
/// sent by it, each a frame behind a header of [`VNET_HEADER`] bytes. The header length and the offloads
/// that an earlier guest negotiated are reset: frames are whole, with their checksums filled in.
///
/// # Errors
/// Fails with `ENODEV` if there is no persistent TAP of that name, with `EINVAL` if it is another kind of
/// interface, and with `EBUSY` if a process has it open. A TAP that can have several queues is opened as one of
/// them.
pub fn attach(name: &InterfaceName) -> Result<OwnedFd, Refusal> {
    let device = open_existing(name)?;
    let header = c_int::try_from(VNET_HEADER).map_err(|_wide| Errno::INVAL)?;
    // SAFETY: the request reads one int from the pointer, and keeps none.
    unsafe { ioctl::ioctl(&device, Setter::<TUNSETVNETHDRSZ, c_int>::new(header)) }?;
    // SAFETY: the request takes an integer, and keeps no pointer.
    unsafe { ioctl::ioctl(&device, IntegerSetter::<TUNSETOFFLOAD>::new_usize(0)) }?;
    Ok(device)
}

/// Gives an existing persistent TAP to a user and a group.
pub(super) fn set_owner(name: &InterfaceName, tap: &Tap) -> Result<(), (AccountKind, Refusal)> {
    let device = open_existing(name).map_err(|refusal| (AccountKind::User, refusal))?;
    give(&device, tap)
}

fn give(device: &OwnedFd, tap: &Tap) -> Result<(), (AccountKind, Refusal)> {
    if let Some(id) = tap.owner {
        set_account::<TUNSETOWNER>(device, id)
            .map_err(|errno| (AccountKind::User, errno.into()))?;
    }
    if let Some(id) = tap.group {
        set_account::<TUNSETGROUP>(device, id)
            .map_err(|errno| (AccountKind::Group, errno.into()))?;
    }
    Ok(())
}

fn set_account<const OPCODE: Opcode>(device: &OwnedFd, id: u32) -> Result<(), Errno> {
    let id = usize::try_from(id).map_err(|_narrow| Errno::INVAL)?;
    // SAFETY: both requests take an integer, and keep no pointer.
    unsafe { ioctl::ioctl(device, IntegerSetter::<OPCODE>::new_usize(id)) }
}

/// Opens a persistent TAP. `IFF_MULTI_QUEUE` must be as the TAP was made, or the kernel says EINVAL.
fn open_existing(name: &InterfaceName) -> Result<OwnedFd, Refusal> {
    let device = open()?;
    match set_interface(&device, name, 0) {
        Err(Errno::INVAL) => set_interface(&device, name, IFF_MULTI_QUEUE)?,
        result => result?,
    }
    // If there was no such TAP, TUNSETIFF has just created one, which is deleted when the descriptor is closed.
    if flags(&device)? & IFF_PERSIST == 0 {
        return Err(Refusal::errno(Refusal::ENODEV));
    }
    Ok(device)
}

pub(super) fn open() -> Result<OwnedFd, Refusal> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
        |errno| Refusal { errno: Some(errno.raw_os_error()), words: "/dev/net/tun".to_owned() },
    )
}

/// Attaches the descriptor to the TAP of this name. `IFF_VNET_HDR` is always set: opening a TAP without it would
/// clear it.
pub(super) fn set_interface(
    device: &OwnedFd,
    name: &InterfaceName,
    flags: u16,
) -> Result<(), Errno> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags;
    let mut request = InterfaceRequest { name: [0; 16], flags, rest: [0; 22] };
    let place = request.name.get_mut(..name.as_str().len()).ok_or(Errno::INVAL)?;
    place.copy_from_slice(name.as_str().as_bytes());
    // SAFETY: the request reads and writes one `struct ifreq`, whose layout and size (40 bytes where
    // pointers have 64 bits, 32 elsewhere: never more) InterfaceRequest has, and keeps no pointer.
    unsafe { ioctl::ioctl(device, Updater::<TUNSETIFF, _>::new(&mut request)) }
}

/// Has the next interface that the descriptor creates bear this number.
fn set_number(device: &OwnedFd, number: u32) -> Result<(), Errno> {
    let number = c_int::try_from(number).map_err(|_wide| Errno::INVAL)?;
    // SAFETY: the request reads one int from the pointer, and keeps none.
    unsafe { ioctl::ioctl(device, Setter::<TUNSETIFINDEX, c_int>::new(number)) }
}

fn flags(device: &OwnedFd) -> Result<u16, Errno> {
    let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
    // SAFETY: as in `set_interface`.
    unsafe { ioctl::ioctl(device, Updater::<TUNGETIFF, _>::new(&mut request)) }?;
    Ok(request.flags)
}

/// Asks for the network namespace of a TAP, as a new descriptor.
struct NamespaceGetter;

// SAFETY: the request has no argument, and its answer is a new descriptor that nobody else has (`open_related_ns` of
// net/socket.c).
unsafe impl ioctl::Ioctl for NamespaceGetter {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        TUNGETDEVNETNS
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: ioctl::IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: see above.
        Ok(unsafe { OwnedFd::from_raw_fd(answer) })
    }
}

/// Returns the network namespace that an attached TAP is in. Fails with `EPERM` without `CAP_NET_ADMIN` in it.
pub(super) fn namespace(device: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the request is implemented as the kernel defines it.
    unsafe { ioctl::ioctl(device, NamespaceGetter) }
}
