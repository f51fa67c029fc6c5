//! The directory with the definition files: what is in it, and when that changes (inotify(7)).

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};

use super::decide::Files;
use crate::{
    definition::{self, MAX_BYTES, Source},
    wire::chain,
};

/// What these files are called.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// The directory, watched.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    inotify: OwnedFd,
}

impl Directory {
    /// Watches from now on. The directory need not be there yet.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let directory = Self { path: path.to_owned(), inotify };
        directory.attend()?;
        Ok(directory)
    }

    /// Watches the directory, and the one that it is in for when it is made anew. Watching it again changes nothing.
    fn attend(&self) -> io::Result<()> {
        let changes = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let names = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            match inotify::add_watch(&self.inotify, parent, names) {
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        match inotify::add_watch(&self.inotify, &self.path, changes) {
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes note of what changed, whatever it is: all is read again.
    pub(super) fn hear(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        self.attend()
    }

    /// What each file defines; none where there is no directory.
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
                // It has gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
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

/// The text of a file that is not too long.
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
