//! Makes the directories of images, with their permissions from their first moment. Those that exist stay as they are: whoever
//! made them decides who may search them.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

/// Others may pass through, and cannot list.
const ABOVE: u32 = 0o711;
/// The number of the next new directory: threads may make the same one at the same time.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Makes a directory with this mode, whatever umask(2) says, and this group, unless it exists. Missing ones above can be
/// searched by everybody, and listed by their owner alone.
pub(super) fn make(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    above.map_or(Ok(()), |above| make(above, ABOVE, None))?;
    // It gets its name when its permissions are right: a process may be killed in between.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let new = format!(".{}.{}.{number}.new", name.display(), std::process::id());
    let new = path.with_file_name(new);
    let _left_by_another_of_this_number = fs::remove_dir(&new);
    DirBuilder::new().mode(0o700).create(&new)?;
    let named = || {
        chown(&new, None, group)?;
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        match renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE) {
            // The file system cannot refuse to replace, and replaces only an empty directory.
            Err(Errno::INVAL) => fs::rename(&new, path),
            renamed => Ok(renamed?),
        }
    };
    match named() {
        Ok(()) => Ok(()),
        Err(error) => {
            fs::remove_dir(&new)?;
            // Another process was faster.
            if path.is_dir() { Ok(()) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_directories_get_permissions() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let there = std::env::temp_dir().join(format!("riklet-made-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&there).unwrap();
        let (above, path) = (there.join("above"), there.join("above/images"));
        for _ in 0..2 {
            make(&path, 0o750, None).unwrap();
            assert_eq!([&*there, &above, &path].map(mode), [0o700, 0o711, 0o750]);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        make(&path, 0o750, None).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(fs::read_dir(&above).unwrap().count(), 1);
        fs::remove_dir_all(&there).unwrap();
    }

    #[test]
    fn many_may_make_the_same_directory_at_once() {
        let there =
            std::env::temp_dir().join(format!("riklet-made-at-once-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&there).unwrap();
        for round in 0..50 {
            let path = there.join(format!("{round}/images"));
            for made in riklet_kernel::threads::at_once(0..4, 4, |_| make(&path, 0o750, None)) {
                made.unwrap();
            }
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
        fs::remove_dir_all(&there).unwrap();
    }
}
