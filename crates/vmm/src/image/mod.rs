//! Turns the kernel, initrd or rootfs that a definition names into a file that the VMM can open.
//!
//! A path is checked: the file exists, is a regular file (or a block device, for a rootfs), the VMM's user can open
//! it, and it has the given SHA-256.
//!
//! A URL is downloaded once, to `<SHA-256 of the URL>` in the directory of images, and from then on used without
//! asking the server again; delete the file to download it anew. If the definition gives a SHA-256 that the file does
//! not have, the file is downloaded anew too, and is replaced if the new one matches: the definition follows a server
//! whose file changed. A VMM that has the old file open keeps it.
//!
//! A download goes to `….part` beside its place, under flock(2): one of several processes downloads, and the others
//! wait and use its file. If the connection breaks, the rest is requested (RFC 9110, 14), provided that the server
//! identifies the file's version by a strong validator, which is kept in `….part.json`; otherwise the whole file is
//! requested again. A complete file has the stated length and the given checksum, is synced to the disk, and gets its
//! name last. The received part is kept for the next attempt, unless the checksum was wrong.

mod access;
mod answer;
mod client;
mod copy;
mod digest;
mod directories;
mod download;
mod error;
mod part;
mod resolver;
mod roots;
mod source;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

pub(super) use access::grant_search;
pub use access::opens_device;
pub use client::Settings;
pub(super) use copy::{copied, remove_copies};
pub use digest::Digest;
pub use error::ImageError;
pub use source::{Source, SourceError, Url};

use download::Download;
use part::{DownloadTarget, Part};
use riklet_kernel::process::Credentials;
use roots::Located;

/// The role of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The guest's kernel.
    Kernel,
    /// The guest's first file system, in memory.
    Initrd,
    /// The guest's disk.
    Rootfs,
}

/// The access that a VMM needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing, for a rootfs that is not read-only.
    Write,
}

/// A request for an image.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The role.
    pub role: Role,
    /// A path or a URL, as the definition has it.
    pub source: &'a str,
    /// The SHA-256 that it must have, if one is given.
    pub sha256: Option<[u8; 32]>,
    /// The access that the VMM needs.
    pub access: Access,
    /// The user that the VMM runs as; `None` for the user of this process.
    pub user: Option<Credentials>,
    /// The groups that this user has besides its own.
    pub groups: &'a [u32],
}

/// The progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The number of bytes received. It drops when the server starts over.
    pub received: u64,
    /// The number of bytes in all, if the server says so.
    pub total: Option<u64>,
    /// True if another process downloads the file and this one waits for it. Reported once, with nothing received.
    pub waiting: bool,
}

/// The images of a node.
#[derive(Debug)]
pub struct Images {
    state_dir: PathBuf,
    settings: Settings,
}

/// Parses the source of an image. Looks at no file.
///
/// # Errors
/// Fails if the text names neither a path nor a URL that can be downloaded, or a URL of an image that is written to.
pub fn source_of(role: Role, text: &str, access: Access) -> Result<Source, ImageError> {
    match Source::parse(text).map_err(|source| ImageError::Source { role, source })? {
        Source::Url(url) if access == Access::Write => Err(ImageError::Shared { role, url }),
        source => Ok(source),
    }
}

impl Images {
    /// Creates the images of the node with this state directory. The first download creates the directory.
    #[must_use]
    pub fn new(state_dir: &Path, settings: Settings) -> Self {
        Self { state_dir: state_dir.to_owned(), settings }
    }

    /// Reports whether an image is a URL whose file is not there yet.
    pub(super) fn lack(&self, role: Role, source: &str) -> bool {
        let Ok(Source::Url(url)) = Source::parse(source) else { return false };
        let target = DownloadTarget::new(self.state_dir.clone(), self.directory(), role, url);
        !target.complete().exists()
    }

    /// Returns the absolute path of a file that the VMM can open, and downloads it if necessary. A download reports
    /// its progress after each piece, which may be every 16 KiB; a file that is already there reports none.
    ///
    /// # Errors
    /// Fails if there is no such file. The next call resumes a download that ended early.
    pub fn obtain(
        &self,
        wanted: &Wanted<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ImageError> {
        self.open(wanted, progress).map(|(path, _file)| path)
    }

    /// Does as [`Self::obtain`] does, and also returns the file, as the VMM's user opened it. Later another file may be at
    /// the path.
    ///
    /// # Errors
    /// Fails as [`Self::obtain`] does.
    pub(super) fn open(
        &self,
        wanted: &Wanted<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(PathBuf, File), ImageError> {
        let role = wanted.role;
        match source_of(role, wanted.source, wanted.access)? {
            Source::Path(path) => {
                let located = roots::locate(role, &path, self.settings.roots.as_deref())?;
                access::check(wanted, &located, true)
            }
            Source::Url(url) => {
                let target =
                    DownloadTarget::new(self.state_dir.clone(), self.directory(), role, url);
                self.download(&target, wanted.sha256.map(Digest), progress)?;
                target.share(self.settings.group)?;
                target.grant_search(wanted.user)?;
                access::check(wanted, &Located::at(target.complete()), false)
            }
        }
    }

    /// Tells whether the VMM's user can open the file that [`Self::open`] returned for another, by its path.
    ///
    /// # Errors
    /// Fails if it cannot, with the reason.
    pub(super) fn check(wanted: &Wanted<'_>, path: &Path, file: &File) -> Result<(), ImageError> {
        let file = file.try_clone().map_err(|source| ImageError::Find {
            role: wanted.role,
            path: path.to_owned(),
            source,
        })?;
        access::check(wanted, &Located { path: path.to_owned(), file: Some(file.into()) }, false)
            .map(drop)
    }

    fn directory(&self) -> PathBuf {
        self.settings.directory.clone().unwrap_or_else(|| self.state_dir.join("images"))
    }

    fn download(
        &self,
        target: &DownloadTarget,
        expected: Option<Digest>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImageError> {
        while !target.has(expected)? {
            target.prepare(self.settings.group)?;
            let mut wait = || progress(Progress { received: 0, total: None, waiting: true });
            let Some(part) = Part::lock(target, &mut wait)? else { continue };
            // The process that held the lock may just have put the file in its place.
            if target.has(expected)? {
                return part.discard();
            }
            return Download::new(target, part, &self.settings, progress).run(expected);
        }
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Rootfs => "rootfs",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
