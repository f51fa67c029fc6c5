//! A download as files: its place, the part that is there, and the facts that identify that part's version.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatvfs},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Digest, ImageError, Role, Url, access,
    answer::{Begun, Validator},
    digest::update,
    directories,
};
use crate::same_file::is_at;
use riklet_kernel::process::Credentials;

/// A partial file is nobody else's.
const PART_MODE: u32 = 0o600;
/// An image is readable by a group that all VMMs have, or else by everybody, since each VMM runs as its own user.
const FILE_MODES: [u32; 2] = [0o640, 0o644];
const DIRECTORY_MODES: [u32; 2] = [0o750, 0o755];

/// Makes the directory of images, unless it exists.
pub(super) fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    directories::make(path, mode(DIRECTORY_MODES, group), group)
}

fn mode(modes: [u32; 2], group: Option<u32>) -> u32 {
    let [of_group, of_all] = modes;
    if group.is_some() { of_group } else { of_all }
}

/// The place of a download.
#[derive(Debug)]
pub(super) struct DownloadTarget {
    pub(super) role: Role,
    pub(super) url: Url,
    state_dir: PathBuf,
    dir: PathBuf,
    key: String,
}

impl DownloadTarget {
    pub(super) fn new(state_dir: PathBuf, dir: PathBuf, role: Role, url: Url) -> Self {
        let key = Digest::of(url.as_str().as_bytes()).to_string();
        Self { role, url, state_dir, dir, key }
    }

    /// Returns the path of the whole file.
    pub(super) fn complete(&self) -> PathBuf {
        self.dir.join(&self.key)
    }

    fn part(&self) -> PathBuf {
        self.dir.join(format!("{}.part", self.key))
    }

    fn state(&self) -> PathBuf {
        self.dir.join(format!("{}.part.json", self.key))
    }

    /// Tells whether the whole file is there and has the expected checksum, if one is given.
    pub(super) fn has(&self, expected: Option<Digest>) -> Result<bool, ImageError> {
        let path = self.complete();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(|error| self.failed("open", &path, error))?,
        };
        let Some(expected) = expected else { return Ok(true) };
        let found = Digest::of_reader(file);
        Ok(found.map_err(|error| self.failed("read", &path, error))? == expected)
    }

    /// Creates the directories, unless they exist. The state directory is accessible to its owner only.
    pub(super) fn prepare(&self, group: Option<u32>) -> Result<(), ImageError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.state_dir);
        made.map_err(|error| self.failed("make", &self.state_dir, error))?;
        make_directory(&self.dir, group).map_err(|error| self.failed("make", &self.dir, error))
    }

    /// Lets the VMMs read the whole file.
    pub(super) fn share(&self, group: Option<u32>) -> Result<(), ImageError> {
        let path = self.complete();
        let shared = share(&path, mode(FILE_MODES, group), group);
        shared.map_err(|error| self.failed("change the permissions of", &path, error))
    }

    /// Lets a VMM's user search the state directory, if the images are in it. Does not let it list the directory. Other
    /// directories are not ours to open.
    pub(super) fn grant_search(&self, user: Option<Credentials>) -> Result<(), ImageError> {
        let dir = &self.state_dir;
        if self.dir.parent() != Some(dir) {
            return Ok(());
        }
        access::grant_search(dir, user)
            .map_err(|error| self.failed("change the permissions of", dir, error))
    }

    /// Returns the error of an operation on a file of the download.
    pub(super) fn failed(
        &self,
        operation: &'static str,
        path: &Path,
        source: io::Error,
    ) -> ImageError {
        let (role, url) = (self.role, self.url.clone());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ImageError::Full { role, url, dir: self.dir.clone(), source }
            }
            _ => ImageError::Store { role, url, operation, path: path.to_owned(), source },
        }
    }
}

/// Gives a file to a group, and then this mode, where they differ: only the owner may change them.
fn share(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if let Some(group) = group.filter(|group| *group != found.gid()) {
        chown(path, None, Some(group))?;
    }
    if found.mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The facts known about a partial file.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    validator: Option<Validator>,
    total: Option<u64>,
    /// The boot during which it was written. After a crash its length may be on the disk and its bytes not.
    boot: String,
}

/// The partial file of a download, under an exclusive lock.
#[derive(Debug)]
pub(super) struct Part<'a> {
    target: &'a DownloadTarget,
    file: File,
    hasher: Sha256,
    received: u64,
    /// The facts, once something was received.
    state: Option<State>,
}

impl<'a> Part<'a> {
    /// Locks the partial file, and calls `wait` once if it has to wait for another process. Returns `None` if that
    /// process has moved or deleted the file.
    pub(super) fn lock(
        target: &'a DownloadTarget,
        wait: &mut dyn FnMut(),
    ) -> Result<Option<Self>, ImageError> {
        let path = target.part();
        let failed = |operation| move |error| target.failed(operation, &target.part(), error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PART_MODE);
        let file = options.open(&path).map_err(failed("make"))?;
        take(&file, wait).map_err(failed("lock"))?;
        if !is_at(&file, &path).map_err(failed("look for"))? {
            return Ok(None);
        }
        file.set_permissions(Permissions::from_mode(PART_MODE))
            .map_err(failed("change the permissions of"))?;
        let received = file.metadata().map_err(failed("read"))?.len();
        let mut part = Self { target, file, hasher: Sha256::new(), received, state: None };
        part.state = part.usable_state()?;
        if part.state.is_some() {
            let mut hasher = Sha256::new();
            update(&mut hasher, &part.file).map_err(failed("read"))?;
            part.hasher = hasher;
        } else {
            part.clear()?;
        }
        Ok(Some(part))
    }

    /// Returns the version of the partial file, if it can be completed.
    pub(super) fn begun(&self) -> Option<Begun> {
        let state = self.state.as_ref().filter(|_| self.received > 0)?;
        let validator = state.validator.clone()?;
        Some(Begun { received: self.received, validator, total: state.total })
    }

    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Tells whether all announced bytes are there.
    pub(super) fn is_whole(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.total == Some(self.received))
    }

    /// Starts over, with this version of the file.
    pub(super) fn begin(
        &mut self,
        total: Option<u64>,
        validator: Option<Validator>,
        spare: u64,
    ) -> Result<(), ImageError> {
        self.clear()?;
        let state = State { validator, total, boot: boot() };
        let path = self.target.state();
        write(&path, &state).map_err(|error| self.target.failed("write", &path, error))?;
        self.state = Some(state);
        self.reserve(total, spare)
    }

    /// Reserves disk space for the rest, if the file system supports it, so that a full disk shows before the
    /// download. Leaves so many bytes to others: the records may be on the same file system.
    pub(super) fn reserve(&self, total: Option<u64>, spare: u64) -> Result<(), ImageError> {
        let missing = total.and_then(|total| total.checked_sub(self.received));
        self.refuse_full(missing.unwrap_or(0).saturating_add(spare))?;
        let Some(missing) = missing.filter(|missing| *missing > 0) else { return Ok(()) };
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.received, missing) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                Err(self.target.failed("write", &self.target.part(), error.into()))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to go on if fewer than `needed` bytes are free on the file system. What it has reserved is not free.
    pub(super) fn refuse_full(&self, needed: u64) -> Result<(), ImageError> {
        let part = self.target.part();
        let found = fstatvfs(&self.file);
        let found = found.map_err(|error| self.target.failed("look at", &part, error.into()))?;
        if found.f_bavail.saturating_mul(found.f_frsize) < needed {
            return Err(self.target.failed("write", &part, Errno::NOSPC.into()));
        }
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.target.failed("write", &self.target.part(), error))?;
        self.hasher.update(bytes);
        self.received += u64::try_from(bytes.len()).unwrap_or_default();
        Ok(())
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// Syncs the file to the disk and puts it in its place.
    pub(super) fn finish(self) -> Result<(), ImageError> {
        let (path, complete) = (self.target.part(), self.target.complete());
        let failed = |operation, path| move |error| self.target.failed(operation, path, error);
        self.file.sync_all().map_err(failed("write", &path))?;
        fs::rename(&path, &complete).map_err(failed("rename", &path))?;
        let dir = &self.target.dir;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))?;
        remove(&self.target.state()).map_err(failed("delete", &self.target.state()))
    }

    /// Deletes the partial file and its facts.
    pub(super) fn discard(self) -> Result<(), ImageError> {
        for path in [self.target.state(), self.target.part()] {
            remove(&path).map_err(|error| self.target.failed("delete", &path, error))?;
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), ImageError> {
        let (part, state) = (self.target.part(), self.target.state());
        remove(&state).map_err(|error| self.target.failed("delete", &state, error))?;
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(|error| self.target.failed("clear", &part, error))?;
        (self.hasher, self.received, self.state) = (Sha256::new(), 0, None);
        Ok(())
    }

    /// Returns the facts about the partial file, if it is whole or can be completed. Unreadable facts count as unknown.
    fn usable_state(&self) -> Result<Option<State>, ImageError> {
        let path = self.target.state();
        let state = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.target.failed("open", &path, error))?,
        };
        let state = serde_json::from_reader(BufReader::new(state)).ok();
        Ok(state.filter(|State { validator, total, boot: then }| {
            let whole = *total == Some(self.received);
            let too_long = total.is_some_and(|total| total < self.received);
            self.received > 0 && *then == boot() && (whole || validator.is_some() && !too_long)
        }))
    }
}

fn take(file: &File, wait: &mut dyn FnMut()) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => wait(),
        result => return Ok(result?),
    }
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a file of procfs, which only the kernel writes")]
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this is the place that stores downloads")]
fn write(path: &Path, state: &State) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(state)?)
}

/// Deletes a file. Succeeds if it does not exist.
#[expect(clippy::disallowed_methods, reason = "this is the place that stores downloads")]
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
