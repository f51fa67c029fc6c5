//! The directory of the definition files: reads it, and watches it for changes (inotify(7)).

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::decide::Files;
use riklet_api::chain;
use riklet_core::definition::{self, MAX_BYTES, Source};

/// The extensions of definition files.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// The directory, watched.
#[derive(Debug)]
pub(super) struct Directory {
    /// The absolute path: the directory's parents are watched as well.
    path: PathBuf,
    inotify: OwnedFd,
    /// The number of the directory's watch, while it exists.
    watched: Option<i32>,
}

impl Directory {
    /// Starts to watch a directory. Neither the directory nor its parents need to exist yet.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let path = std::path::absolute(path)?;
        let mut directory = Self { path, inotify, watched: None };
        directory.rewatch()?;
        Ok(directory)
    }

    /// Watches the directory, and its nearest existing parent, to notice when the directory is created anew. Watching
    /// one again changes nothing.
    fn rewatch(&mut self) -> io::Result<()> {
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
    fn add(&self, path: &Path, events: WatchFlags) -> io::Result<Option<i32>> {
        match inotify::add_watch(&self.inotify, path, events | WatchFlags::ONLYDIR) {
            Ok(number) => Ok(Some(number)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Tells whether the directory has changed or was replaced, so that every file must be read again. Ignores other
    /// changes in the parents.
    pub(super) fn read_changes(&mut self) -> io::Result<bool> {
        let before = self.watched;
        let mut changed = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
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
        self.rewatch()?;
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
            let known = path.extension().and_then(|ending| ending.to_str());
            if name.starts_with('.') || !known.is_some_and(|ending| ENDINGS.contains(&ending)) {
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
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

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
