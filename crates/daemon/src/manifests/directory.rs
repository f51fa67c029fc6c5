//! The directory of the definition files: reads it, and watches it for changes (inotify(7)).

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::decide::Files;
use riklet_api::chain;
use riklet_core::definition::{self, MAX_BYTES, Source};
use riklet_kernel::timer::{self, is_exhausted};

/// The interval in which a directory that cannot be watched is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The directory, watched.
#[derive(Debug)]
pub(super) struct Directory {
    /// The absolute path: the directory's parents are watched as well.
    path: PathBuf,
    /// Is readable after a change; or, if the kernel has no more watches, in each [`LOOK_INTERVAL`].
    changes: OwnedFd,
    /// True if the kernel has no more watches.
    looks: bool,
    /// The number of the directory's watch, while it exists.
    watched: Option<i32>,
}

impl Directory {
    /// Starts to watch a directory. Neither the directory nor its parents need to exist yet.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let changes = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Err(errno) if is_exhausted(errno) => return Self::look(path, LOOK_INTERVAL),
            changes => changes?,
        };
        let mut directory = Self { path, changes, looks: false, watched: None };
        match directory.rewatch() {
            Err(errno) if is_exhausted(errno) => Self::look(directory.path, LOOK_INTERVAL),
            watched => Ok(watched.map(|()| directory)?),
        }
    }

    /// Reads a directory in each interval, since it cannot be watched.
    fn look(path: PathBuf, interval: Duration) -> io::Result<Self> {
        tracing::warn!(
            "cannot watch {}: the user has too many watches (`sysctl fs.inotify`); it is read every {interval:?}",
            path.display()
        );
        Ok(Self { path, changes: timer::every(interval)?, looks: true, watched: None })
    }

    /// Watches the directory, and its nearest existing parent, to notice when the directory is created anew. Watching
    /// one again changes nothing.
    fn rewatch(&mut self) -> Result<(), Errno> {
        let changes = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let names = WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        // If a directory appears between the look and the watch, the next look finds it.
        let mut watched_parent = None;
        while let Some(nearest) = self.path.ancestors().skip(1).find(|above| above.is_dir())
            && watched_parent != Some(nearest)
        {
            if self.add(nearest, names)?.is_some() {
                watched_parent = Some(nearest);
            }
        }
        self.watched = self.add(&self.path, changes)?;
        Ok(())
    }

    /// Returns the number of the watch; `None` if there is no such directory.
    fn add(&self, path: &Path, events: WatchFlags) -> Result<Option<i32>, Errno> {
        match inotify::add_watch(&self.changes, path, events | WatchFlags::ONLYDIR) {
            Ok(number) => Ok(Some(number)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Reports whether the directory has changed or was replaced, so that every file must be read again. Ignores other
    /// changes in the parents. A directory that cannot be watched may have changed.
    pub(super) fn read_changes(&mut self) -> io::Result<bool> {
        if self.looks {
            return Ok(rustix::io::read(&self.changes, &mut [0; 8]).is_ok());
        }
        let before = self.watched;
        let mut changed = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.changes, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    changed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                        || Some(event.wd()) == before;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        match self.rewatch() {
            Err(errno) if is_exhausted(errno) => {
                *self = Self::look(std::mem::take(&mut self.path), LOOK_INTERVAL)?;
                return Ok(true);
            }
            watched => watched?,
        }
        Ok(changed || self.watched != before)
    }

    /// Reads the definitions of each file. Returns none if there is no directory.
    pub(super) fn read(&self) -> io::Result<Files> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries?,
        };
        let mut files = Files::new();
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !definition::is_file_name(name) {
                continue;
            }
            match read(&path) {
                // The file has gone since it was listed. A dangling link is still there, and is reported.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && fs::symlink_metadata(&path).is_err() => {}
                Err(error) => drop(files.insert(name.to_owned(), Err(chain(&error)))),
                Ok(text) => {
                    let parsed = definition::parse(&[Source { name: name.to_owned(), text }]);
                    files.insert(name.to_owned(), parsed.map_err(|errors| errors.to_string()));
                }
            }
        }
        Ok(files)
    }
}

/// Returns the text of a file. Fails if it is too long.
#[expect(clippy::disallowed_methods, reason = "the daemon's edge to files")]
fn read(path: &Path) -> io::Result<String> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if usize::try_from(found.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    fs::read_to_string(path)
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn directory_that_cannot_be_watched_is_looked_at() {
        let path = std::env::temp_dir().join(format!("riklet-looked-at-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let mut directory = Directory::look(path.clone(), Duration::from_secs(1)).unwrap();
        assert!(!directory.read_changes().unwrap(), "not yet");
        File::create(path.join("a.json")).unwrap();
        for _ in 0..2 {
            let mut files = [PollFd::new(&directory, PollFlags::IN)];
            let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(poll(&mut files, Some(&limit)), Ok(1), "in each interval");
            assert!(directory.read_changes().unwrap());
            assert!(!directory.read_changes().unwrap(), "once");
        }
        assert_eq!(directory.read().unwrap().len(), 1);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn changes_outside_the_directory_are_ignored() {
        let above = std::env::temp_dir().join(format!("riklet-manifests-{}", std::process::id()));
        fs::create_dir(&above).unwrap();
        let path = above.join("functions.d");
        let mut directory = Directory::watch(&path).unwrap();
        let mut check = |what: &str, change: &dyn Fn() -> io::Result<()>, wanted: bool| {
            change().unwrap();
            assert_eq!(directory.read_changes().unwrap(), wanted, "{what}");
            assert!(!directory.read_changes().unwrap(), "{what}, once");
        };
        let file = |path: PathBuf| move || File::create(&path).map(drop);
        check("a neighbour", &file(above.join("other")), false);
        check("the directory", &|| fs::create_dir(&path), true);
        check(
            "a neighbour that is renamed",
            &|| fs::rename(above.join("other"), above.join("else")),
            false,
        );
        check("a file", &file(path.join("a.json")), true);
        check("its end", &|| fs::rename(path.join("a.json"), above.join("a.json")), true);
        check("the directory's end", &|| fs::remove_dir(&path), true);
        check("another in its place", &|| fs::create_dir(&path), true);
        let moved = above.join("moved");
        check("its move", &|| fs::rename(&path, &moved), true);
        check("a file of what was moved", &file(moved.join("b.json")), false);
        check("its move back", &|| fs::rename(&moved, &path), true);
        fs::remove_dir_all(&above).unwrap();
    }
}
