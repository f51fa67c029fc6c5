//! Tests whether a VMM can open a file, by opening it as the VMM's user, so that the kernel decides.

use std::{
    fs::{self, File, FileType, OpenOptions, Permissions},
    io,
    os::fd::AsRawFd,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::OFlags,
    io::Errno,
    process::{Gid, Uid, dumpable_behavior, getegid, geteuid, set_dumpable_behavior},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{Access, Digest, ImageError, Role, Wanted, roots::Located};
use riklet_kernel::{process::Credentials, threads};

/// Opens the file as the VMM's user, and returns it with its absolute path, if the VMM can open it and, with `verify`, if it
/// has the given checksum. Keeps symbolic links in the path.
pub(super) fn check(
    wanted: &Wanted<'_>,
    located: &Located,
    verify: bool,
) -> Result<(PathBuf, File), ImageError> {
    let Wanted { role, access, user, groups, .. } = *wanted;
    let unfound = |source| ImageError::Find { role, path: located.path.clone(), source };
    let path = std::path::absolute(&located.path).map_err(unfound)?;
    let unfound = |source| ImageError::Find { role, path: path.clone(), source };
    // Through its descriptor it is this file, whatever is at the path by now.
    let handle = located.file.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
    let handle = handle.as_deref().map_or(&*path, Path::new);
    let first = fs::metadata(handle).map_err(unfound)?;
    if let Some(found) = unsuitable(first.file_type(), role) {
        return Err(ImageError::Sort { role, path, found });
    }
    let ours = user.is_none_or(is_ours);
    // A VMM's user opens it by its path, as the VMM will.
    let opened = open(if ours { handle } else { &path }, access, user, groups);
    let file = opened.map_err(|failure| failure.with(wanted, &path))?;
    let second = file.metadata().map_err(unfound)?;
    if located.file.is_some() && (first.dev(), first.ino()) != (second.dev(), second.ino()) {
        return Err(unfound(io::Error::other("another file is there by now")));
    }
    if verify && let Some(expected) = wanted.sha256.map(Digest) {
        let unread = |source| ImageError::Read { role, path: path.clone(), source };
        let found = Digest::of_reader(&file).map_err(unread)?;
        if found != expected {
            let origin = path.display().to_string();
            return Err(ImageError::Checksum { role, origin, downloaded: false, expected, found });
        }
    }
    Ok((path, file))
}

/// Lets a VMM's user search a directory. Does not let it list the directory.
pub(crate) fn grant_search(directory: &Path, user: Option<Credentials>) -> io::Result<()> {
    const SEARCH: u32 = 0o011;
    let mode = fs::metadata(directory)?.mode() & 0o7777;
    if user.is_none_or(|user| user.uid == 0) || mode & SEARCH == SEARCH {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(mode | SEARCH))
}

/// Tells whether this user can open a device, such as `/dev/kvm`, with these groups besides its own.
#[must_use]
pub fn opens_device(path: &str, user: Credentials, groups: &[u32]) -> bool {
    open(Path::new(path), Access::Write, Some(user), groups).is_ok()
}

/// Tells whether this user can open a directory of its own, through those above.
pub(super) fn searches(path: &Path, user: Credentials, groups: &[u32]) -> bool {
    open(path, Access::Read, Some(user), groups).is_ok()
}

/// Returns the kind of file, with its article, if a VMM cannot use it.
fn unsuitable(sort: FileType, role: Role) -> Option<&'static str> {
    if sort.is_file() || sort.is_block_device() && role == Role::Rootfs {
        return None;
    }
    Some(if sort.is_dir() {
        "a directory"
    } else if sort.is_block_device() {
        "a block device"
    } else if sort.is_char_device() {
        "a character device"
    } else if sort.is_fifo() {
        "a FIFO"
    } else {
        "a socket"
    })
}

/// The reason why a file could not be opened.
enum Failure {
    /// The calling thread cannot take on the user's credentials.
    Become(Credentials, io::Error),
    Open(io::Error),
}

impl Failure {
    fn with(self, wanted: &Wanted<'_>, path: &Path) -> ImageError {
        let Wanted { role, access, user, .. } = *wanted;
        let path = path.to_owned();
        match self {
            Self::Become(user, source) => ImageError::Become { role, path, access, user, source },
            Self::Open(source) => ImageError::Open { role, path, access, user, source },
        }
    }
}

fn open(
    path: &Path,
    access: Access,
    user: Option<Credentials>,
    groups: &[u32],
) -> Result<File, Failure> {
    // Opening a device whose driver would wait must not block.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Write);
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    match user {
        Some(user) if !is_ours(user) => opened_as(user, groups, || options.open(path)),
        _ => options.open(path).map_err(Failure::Open),
    }
}

fn is_ours(user: Credentials) -> bool {
    (user.uid, user.gid) == (geteuid().as_raw(), getegid().as_raw())
}

/// Locked while a thread has other credentials. They make the whole process undumpable (`commit_creds` in
/// kernel/cred.c) until that is set back.
static BECOMING: Mutex<()> = Mutex::new(());

/// Opens a file on a thread that takes on the user's credentials: to the kernel, credentials(7) belong to a thread.
fn opened_as(
    user: Credentials,
    groups: &[u32],
    open: impl FnOnce() -> io::Result<File> + Send,
) -> Result<File, Failure> {
    let _one_at_a_time = BECOMING.lock().unwrap_or_else(PoisonError::into_inner);
    let dumpable = dumpable_behavior();
    let opened = threads::apart("credentials", move || {
        take_on(user, groups).map_err(|errno| Failure::Become(user, errno.into()))?;
        open().map_err(Failure::Open)
    });
    if let Err(error) = dumpable.and_then(set_dumpable_behavior) {
        tracing::debug!(%error, "the process stays undumpable");
    }
    opened.unwrap_or_else(|error| Err(Failure::Become(user, error)))
}

fn take_on(Credentials { uid, gid }: Credentials, groups: &[u32]) -> Result<(), Errno> {
    // setresuid(2) takes this value for "unchanged".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use rustix::process::DumpableBehavior;

    use super::*;

    #[test]
    fn process_stays_dumpable() {
        let nobody = Credentials { uid: 65534, gid: 65534 };
        // Other tests change the credentials of their threads too, and may leave another value behind.
        let stays = (0..5).any(|_| {
            set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
            assert!(opened_as(nobody, &[], || File::open("/dev/null")).is_ok());
            let _nobody_else = BECOMING.lock().unwrap();
            dumpable_behavior().unwrap() == DumpableBehavior::Dumpable
        });
        assert!(stays);
    }
}
