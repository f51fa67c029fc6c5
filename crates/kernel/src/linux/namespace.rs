//! Network namespaces of guests (namespaces(7)): the files that lead to them, and work inside. It has `unsafe`: rustix has
//! no safe wrapper for the requests of `ioctl_nsfs(2)`.

#![expect(unsafe_code, reason = "the requests of <linux/nsfs.h> have no safe wrapper")]

use std::{
    ffi::{c_int, c_void},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{Mode, OFlags, fstat, stat},
    ioctl::{self, Opcode, opcode},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{KernelError, Refusal, threads};
use riklet_core::model::{NamespaceId, NamespacePath};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// `<linux/nsfs.h>`.
const NS_GET_NSTYPE: Opcode = opcode::none(0xb7, 3);
/// `CLONE_NEWNET` of `<linux/sched.h>`.
const NEWNET: c_int = 0x4000_0000;

/// A network namespace, which exists as long as this does.
#[derive(Debug)]
pub(super) struct Namespace {
    file: OwnedFd,
    id: NamespaceId,
}

/// Reports whether this process may enter network namespaces (`CAP_SYS_ADMIN` of capabilities(7)), and is not kept from it
/// by a filter of system calls: a thread of its own enters the namespace where it is already.
#[must_use]
pub fn may_enter() -> bool {
    let enter = || {
        let own = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
    };
    matches!(threads::apart("namespace", enter), Ok(Ok(())))
}

/// Returns the number of the namespace that a file leads to.
pub(super) fn id(path: &NamespacePath) -> Result<NamespaceId, KernelError> {
    let failed = |source| KernelError::Namespace { path: path.clone(), source };
    let found = Namespace::open(path).map_err(failed)?;
    let own = stat(OWN).map_err(|errno| failed(errno.into()))?;
    if u64::from(found.id.number()) == own.st_ino {
        return Err(failed(Refusal::words("it is the node's own")));
    }
    Ok(found.id)
}

impl Namespace {
    /// Opens the file. Fails if it leads to no network namespace.
    fn open(path: &NamespacePath) -> Result<Self, Refusal> {
        // A path may be that of a pipe, whose opening waits for its other end.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(path.as_str(), flags, Mode::empty())?;
        let (found, own) = (fstat(&file)?, stat(OWN)?);
        // SAFETY: the file is of the file system of namespaces, and the request is implemented as it defines it.
        let is_network =
            found.st_dev == own.st_dev && unsafe { ioctl::ioctl(&file, Type) }? == NEWNET;
        let number = u32::try_from(found.st_ino).ok().filter(|_| is_network);
        let id = number.ok_or_else(|| Refusal::words("it leads to no network namespace"))?;
        Ok(Self { file, id: NamespaceId::new(id) })
    }

    /// Opens the file, which must lead to this namespace.
    pub(super) fn of(path: &NamespacePath, id: NamespaceId) -> Result<Self, Refusal> {
        let found = Self::open(path)?;
        if found.id == id {
            return Ok(found);
        }
        Err(Refusal::words(format!("it leads to {} now, no longer to {id}", found.id)))
    }

    /// Returns its descriptor, for messages that name a namespace by it.
    pub(super) fn descriptor(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Does some work in the namespace, on a thread of its own.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Refusal> {
        let work = || {
            move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        threads::apart("namespace", work)?
    }
}

/// Asks for the type of a namespace, which is the request's own result.
struct Type;

// SAFETY: the request has no argument (`ns_ioctl` of fs/nsfs.c).
unsafe impl ioctl::Ioctl for Type {
    type Output = c_int;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_NSTYPE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: ioctl::IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<c_int> {
        Ok(answer)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_of_networks_is_refused() {
        let refused = |path: &str| id(&path.parse().unwrap()).unwrap_err().refusal().to_string();
        for path in ["/dev/null", "/proc/self/ns/mnt"] {
            assert_eq!(refused(path), "it leads to no network namespace");
        }
        assert_eq!(refused("/proc/self/ns/net"), "it is the node's own");
        assert_eq!(refused("/no/such/file"), "No such file or directory (os error 2)");
    }
}
