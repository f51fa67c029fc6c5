//! Keeps definitions from naming any file of the host: root reads and copies images, and guests read them.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use super::{ImageError, Role};

/// An image at its path.
#[derive(Debug)]
pub(super) struct Located {
    /// The path for the VMM.
    pub(super) path: PathBuf,
    /// The file, opened without access to it (`O_PATH`); `None` if nobody else can replace what is at the path.
    pub(super) file: Option<OwnedFd>,
}

impl Located {
    /// Returns the image at a path that only its owner can change.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, file: None }
    }
}

/// Finds a file in one of these directories, and returns its absolute path with all symbolic links followed. The file is
/// found from the directory's descriptor, and through no link, so it is inside even if somebody changes the names meanwhile.
/// Without `roots` the path stays as it is.
pub(super) fn locate(
    role: Role,
    path: &Path,
    roots: Option<&[PathBuf]>,
) -> Result<Located, ImageError> {
    let Some(roots) = roots else { return Ok(Located::at(path.to_owned())) };
    let unfound = |path: PathBuf| move |source| ImageError::Find { role, path, source };
    let named = std::path::absolute(path).map_err(unfound(path.to_owned()))?;
    // A missing file outside is refused like any other: who asks must not learn what exists there.
    let found = fs::canonicalize(&named);
    let real = |root: &PathBuf| fs::canonicalize(root).unwrap_or_else(|_missing| root.clone());
    let inside = |path: &Path| roots.iter().map(real).find(|root| path.starts_with(root));
    let found = match found {
        Ok(found) => inside(&found).map(|root| (found, root)),
        Err(source)
            if inside(&named).is_some() || roots.iter().any(|root| named.starts_with(root)) =>
        {
            return Err(ImageError::Find { role, path: named, source });
        }
        Err(_outside) => None,
    };
    let Some((found, root)) = found else {
        return Err(ImageError::Outside { role, path: named, roots: roots.to_owned() });
    };
    let file = open_beneath(&root, &found).map_err(|errno| unfound(found.clone())(errno.into()))?;
    Ok(Located { path: found, file: Some(file) })
}

/// Opens a file below a directory, without access to it: a FIFO is not waited for, and a device does nothing.
fn open_beneath(root: &Path, found: &Path) -> Result<OwnedFd, Errno> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, root, directory, Mode::empty())?;
    let below = match found.strip_prefix(root) {
        Ok(below) if !below.as_os_str().is_empty() => below,
        // The directory itself, which is no image.
        _ => return Ok(directory),
    };
    let through = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), through)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_that_leads_outside_by_now_is_not_opened() {
        let root = std::env::temp_dir().join(format!("riklet-beneath-{}", std::process::id()));
        let inside = root.join("inside");
        fs::create_dir(&root).and_then(|()| fs::create_dir(&inside)).unwrap();
        let image = inside.join("image");
        fs::File::create(&image).unwrap();
        assert!(open_beneath(&root, &image).is_ok());
        // As if somebody did this after the path was looked at.
        fs::rename(&inside, root.join("aside")).unwrap();
        symlink("/etc", &inside).unwrap();
        for name in ["image", "passwd"] {
            assert_eq!(open_beneath(&root, &inside.join(name)).unwrap_err(), Errno::LOOP);
        }
        let file = root.join("file");
        symlink("/etc/passwd", &file).unwrap();
        assert_eq!(open_beneath(&root, &file).unwrap_err(), Errno::LOOP);
        let dots = root.join("aside/../../x");
        assert_eq!(open_beneath(&root, &dots).unwrap_err(), Errno::XDEV);
        fs::remove_dir_all(&root).unwrap();
    }
}
