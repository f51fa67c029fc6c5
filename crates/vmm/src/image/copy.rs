//! Private copies of images: what a guest may write to, and what its VMM's user cannot read where it is.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{fstatvfs, ioctl_ficlone},
    io::Errno,
};

use super::{ImageError, Role, access, directories, part::make_directory};
use riklet_core::model::InstanceName;
use riklet_kernel::process::Credentials;

/// The bytes that a copy leaves free on its file system.
const SPARE: u64 = 64 << 20;

/// Returns the directory of the copies of an instance's images.
fn directory(image_dir: &Path, name: &InstanceName) -> PathBuf {
    image_dir.join("private").join(name.as_str())
}

/// Copies images of an instance that is to run, for the user of its VMM alone, and returns the paths of the copies. Those of
/// an earlier run are gone then. A file system that can share blocks copies nothing; holes stay holes.
///
/// # Errors
/// Fails if there is no room, or a file cannot be read or written.
pub(crate) fn copied(
    image_dir: &Path,
    name: &InstanceName,
    user: Credentials,
    groups: &[u32],
    sources: &[(Role, &Path, &File)],
) -> Result<Vec<PathBuf>, ImageError> {
    let home = directory(image_dir, name);
    let mut copies = Vec::new();
    for (index, (role, source, file)) in sources.iter().enumerate() {
        let (role, target) = (*role, home.join(role.to_string()));
        let failed = |error| ImageError::Copy {
            role,
            path: (*source).to_owned(),
            target: target.clone(),
            source: error,
        };
        if index == 0 {
            make_home(image_dir, &home, user, groups).map_err(failed)?;
        }
        copy(file, &target, user).map_err(failed)?;
        copies.push(target);
    }
    Ok(copies)
}

/// Removes the copies of an instance's images. Succeeds if there are none.
pub(crate) fn remove_copies(image_dir: &Path, name: &InstanceName) -> io::Result<()> {
    match fs::remove_dir_all(directory(image_dir, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes an empty directory of this user.
fn make_home(image_dir: &Path, home: &Path, user: Credentials, groups: &[u32]) -> io::Result<()> {
    make_directory(image_dir, groups.first().copied())?;
    directories::make(home.parent().unwrap_or(image_dir), 0o711, None)?;
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(home)?;
    chown(home, Some(user.uid), Some(user.gid))?;
    if access::searches(home, user, groups) {
        return Ok(());
    }
    let (uid, dir) = (user.uid, image_dir.display());
    let words =
        format!("user {uid} cannot reach it: let others search {dir} and the directories above");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

fn copy(from: &File, target: &Path, user: Credentials) -> io::Result<()> {
    let mut from = from.try_clone()?;
    let mut options = OpenOptions::new();
    let mut to = options.write(true).create_new(true).mode(0o600).open(target)?;
    if ioctl_ficlone(&to, &from).is_err() {
        refuse_full(&from, &to)?;
        copy_data(&mut from, &mut to)?;
    }
    std::os::unix::fs::fchown(&to, Some(user.uid), Some(user.gid))
}

/// Refuses a copy that leaves no room to others.
fn refuse_full(from: &File, to: &File) -> io::Result<()> {
    let found = fstatvfs(to)?;
    let needed = from.metadata()?.blocks().saturating_mul(512).saturating_add(SPARE);
    if found.f_bavail.saturating_mul(found.f_frsize) < needed {
        return Err(Errno::NOSPC.into());
    }
    Ok(())
}

/// Copies the parts of a file that have data.
fn copy_data(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
            // lseek(2): nothing but a hole follows.
            Err(Errno::NXIO) => break,
            // The file system has no holes.
            Err(Errno::INVAL) => at,
            data => data?,
        };
        let hole = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(data)).unwrap_or(length);
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        io::copy(&mut io::Read::take(&*from, hole - data), to)?;
        at = hole;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test reads what was copied")]
    fn data_and_holes_are_copied() {
        let directory = std::env::temp_dir().join(format!("riklet-copy-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (source, target) = (directory.join("source"), directory.join("target"));
        let mut file = File::create(&source).unwrap();
        for (at, text) in [(0, "first"), (40 << 20, "second")] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        file.set_len(80 << 20).unwrap();
        let (mut from, mut to) = (File::open(&source).unwrap(), File::create(&target).unwrap());
        copy_data(&mut from, &mut to).unwrap();
        assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
        assert!(to.metadata().unwrap().blocks() < 2048, "the holes stay");
        fs::remove_dir_all(&directory).unwrap();
    }
}
