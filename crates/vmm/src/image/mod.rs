//! From what a definition names as kernel, initrd or rootfs to a file that the VMM can open.
//!
//! A path is checked: it is there, it is a file (or a block device, for a rootfs), the VMM's user can open it,
//! and it has the SHA-256 that was given.
//!
//! What a URL names is downloaded once, to `images/<SHA-256 of the URL>` of the state directory, and used from
//! then on without asking the server again; delete the file to have it downloaded anew. Where a SHA-256 is
//! given that the file does not have, it is downloaded anew too, and replaces the file if that one has it:
//! the definition follows a server whose file changed, and a VMM that has the old file open keeps it.
//!
//! A download goes to `….part` beside its place, under flock(2): of several processes one downloads, and the
//! others wait and use its file. Where the connection breaks, it is asked for the rest (RFC 9110, 14), provided
//! that the server names the file's version by a strong validator, which is kept in `….part.json`; otherwise
//! for the whole. A whole file has the stated length and the given checksum, is on the disk, and gets its name
//! last. What came stays for the next try, except where the checksum was wrong.

mod access;
mod answer;
mod client;
mod digest;
mod download;
mod error;
mod part;
mod source;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub(super) use access::admit;
pub use access::opens_device;
pub use client::Settings;
pub use digest::Digest;
pub use error::ImageError;
pub use source::{Source, SourceError, Url};

use download::Download;
use part::{DownloadTarget, Part};
use riklet_kernel::process::Credentials;

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
    /// To read.
    Read,
    /// To read and to write: a rootfs that is not read-only.
    Write,
}

/// An image that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The role.
    pub role: Role,
    /// A path or a URL, as the definition has it.
    pub source: &'a str,
    /// The SHA-256 that it must have.
    pub sha256: Option<[u8; 32]>,
    /// The access that the VMM needs.
    pub access: Access,
    /// The user that the VMM runs as; `None` for the user of this process.
    pub user: Option<Credentials>,
}

/// The progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The number of bytes received. It drops when the server starts over.
    pub received: u64,
    /// The number of bytes in all, if the server says so.
    pub total: Option<u64>,
    /// Another process downloads it, and this one waits for it to end. Told once, with nothing received.
    pub waiting: bool,
}

/// The images of a node.
#[derive(Debug)]
pub struct Images {
    state_dir: PathBuf,
    settings: Settings,
}

impl Images {
    /// Downloads go to the state directory, which is made when the first one begins.
    #[must_use]
    pub fn new(state_dir: &Path, settings: Settings) -> Self {
        Self { state_dir: state_dir.to_owned(), settings }
    }

    /// Answers the absolute path of a file that the VMM can open, and downloads it where that is needed. A
    /// download tells its progress after each piece, which may be every 16 KiB; a file that is there already
    /// tells none.
    ///
    /// # Errors
    /// Where there is no such file. A download that ended early goes on from there at the next call.
    pub fn obtain(
        &self,
        wanted: &Wanted<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ImageError> {
        let role = wanted.role;
        let source = Source::parse(wanted.source);
        match source.map_err(|source| ImageError::Source { role, source })? {
            Source::Path(path) => access::check(wanted, &path, true),
            Source::Url(url) if wanted.access == Access::Write => {
                Err(ImageError::Shared { role, url })
            }
            Source::Url(url) => {
                let target = DownloadTarget::new(&self.state_dir, role, url);
                self.download(&target, wanted.sha256.map(Digest), progress)?;
                target.admit(wanted.user)?;
                access::check(wanted, &target.complete(), false)
            }
        }
    }

    fn download(
        &self,
        target: &DownloadTarget,
        expected: Option<Digest>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImageError> {
        while !target.has(expected)? {
            target.prepare()?;
            let mut wait = || progress(Progress { received: 0, total: None, waiting: true });
            let Some(part) = Part::lock(target, &mut wait)? else { continue };
            // Whoever held the lock before may just have put the file in its place.
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
