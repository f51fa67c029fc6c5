//! Keeps the output of a VMM and its guest in a log of bounded size, and that of the run before.

mod panic;
mod recorded;
mod times;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use riklet_kernel::{
    threads,
    timer::{self, is_exhausted},
};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use self::times::Times;
pub use self::{
    panic::{KernelPanic, kernel_panic},
    recorded::{Selection, read},
};

/// The size in bytes at which a log is set aside as `<log>.1`. So between one and two times as much is kept.
pub const LIMIT: u64 = 4 << 20;

/// The interval in which a log that cannot be watched is read.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The log of one run.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    file: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    written: u64,
    times: Times,
}

impl Console {
    /// The part of a line that is looked at, in bytes.
    const LINE: usize = 512;

    /// Creates an empty log at this path, readable by its owner only. It is a new file, so followers of an earlier one
    /// notice. The log of the earlier run stays as that of the [`previous`] run, in place of the one before.
    ///
    /// # Errors
    /// Fails if it cannot be created.
    pub fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        let previous = previous(&path);
        rename(&aside(&path), &aside(&previous))?;
        rename(&path, &previous)?;
        let file = Mutex::new(Log::create(&path)?);
        Ok(Arc::new(Self { path, file }))
    }

    /// Copies everything from this reader into the log, on a thread of its own, until the end of input.
    ///
    /// # Errors
    /// Fails if the host has no thread left.
    pub fn follow(
        self: &Arc<Self>,
        from: impl Read + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        self.follow_lines(from, |_line| {})
    }

    /// Copies as [`Self::follow`] does, and shows each line to `seen`, shortened to 512 bytes.
    ///
    /// # Errors
    /// Fails if the host has no thread left.
    pub fn follow_lines(
        self: &Arc<Self>,
        mut from: impl Read + Send + 'static,
        mut seen: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let console = Arc::clone(self);
        threads::start("console", move || {
            let mut bytes = [0; 8192];
            let mut line = Vec::new();
            loop {
                match from.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(length) => {
                        let read = bytes.get(..length).unwrap_or_default();
                        console.write(read);
                        for &byte in read {
                            if byte == b'\n' {
                                seen(&String::from_utf8_lossy(&line));
                                line.clear();
                            } else if line.len() < Self::LINE {
                                line.push(byte);
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot read what the VMM writes");
                        return;
                    }
                }
            }
        })
    }

    /// Appends to the log. A full disk must not stop a guest: what does not fit is dropped.
    fn write(&self, bytes: &[u8]) {
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if (log.written >= LIMIT || log.times.are_many())
            && let Err(error) = self.set_aside(&mut log)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot set the log aside");
        }
        let Log { written, times, .. } = &mut *log;
        if let Err(error) = times.note(epoch_millis(), *written) {
            tracing::warn!(%error, path = %self.path.display(), "cannot note the time of output");
        }
        if let Err(error) = log.file.write_all(bytes) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the log");
        }
        log.written += u64::try_from(bytes.len()).unwrap_or_default();
    }

    fn set_aside(&self, log: &mut Log) -> io::Result<()> {
        rename(&self.path, &aside(&self.path))?;
        *log = Log::create(&self.path)?;
        Ok(())
    }
}

impl Log {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: empty(path)?, written: 0, times: Times::create(path)? })
    }
}

/// Returns the path of the log of the run before.
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    with_suffix(path, ".previous")
}

/// Returns the path of the older part of a log.
#[must_use]
pub fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".1")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the last line that is not empty; `None` if there is none, or no log.
#[must_use]
pub fn last_line(path: &Path) -> Option<String> {
    /// The number of bytes at the end that are searched.
    const TAIL: u64 = 4096;
    last_lines(path, 1, TAIL).pop().map(|line| line.trim().to_owned())
}

/// Returns the last lines that are not empty, at most `count`, from the last `bytes` of a log. Returns none if there is
/// no log.
#[must_use]
pub fn last_lines(path: &Path, count: usize, bytes: u64) -> Vec<String> {
    let tail = tail(path, bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines = text.lines().rev().map(str::trim_end).filter(|line| !line.trim().is_empty());
    let mut lines: Vec<_> = lines.take(count).map(str::to_owned).collect();
    lines.reverse();
    lines
}

fn tail(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Follows a log as it grows, also when it is set aside or a new run replaces it.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// Is readable after a change; or, if the kernel has no more watches, in each [`LOOK_INTERVAL`].
    changes: OwnedFd,
    /// True if the kernel has no more watches.
    looks: bool,
}

impl Follower {
    /// Opens the log at this path, to read it from its beginning.
    ///
    /// # Errors
    /// Fails if it cannot be opened, or not be watched (inotify(7)).
    pub fn open(path: &Path) -> io::Result<Self> {
        let (path, file) = (path.to_owned(), File::open(path)?);
        let looked_at = || timer::every(LOOK_INTERVAL);
        let (changes, looks) = match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Err(errno) if is_exhausted(errno) => (looked_at()?, true),
            changes => (changes?, false),
        };
        let mut follower = Self { path, file, changes, looks };
        follower.watch()?;
        Ok(follower)
    }

    /// Reads what was written since the last call.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn read_new(&mut self) -> io::Result<Vec<u8>> {
        let mut events = [0; 4096];
        // Only the fact of a change matters. A change from here on wakes the reader again.
        while rustix::io::read(&self.changes, &mut events).is_ok_and(|length| length > 0) {}
        let mut new = Vec::new();
        self.file.read_to_end(&mut new)?;
        if self.was_set_aside()? {
            self.file = File::open(&self.path)?;
            self.watch()?;
            self.file.read_to_end(&mut new)?;
        }
        Ok(new)
    }

    fn watch(&mut self) -> io::Result<()> {
        if self.looks {
            return Ok(());
        }
        // Removing an open file is reported as a change of its number of links.
        let wanted = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
        match inotify::add_watch(&self.changes, &self.path, wanted) {
            Err(errno) if is_exhausted(errno) => {
                (self.changes, self.looks) = (timer::every(LOOK_INTERVAL)?, true);
            }
            watched => drop(watched?),
        }
        Ok(())
    }

    fn was_set_aside(&self) -> io::Result<bool> {
        let (ours, there) = (self.file.metadata()?, std::fs::metadata(&self.path));
        Ok(there.is_ok_and(|there| there.ino() != ours.ino()))
    }
}

impl AsFd for Follower {
    /// The descriptor is readable once something was written.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

fn empty(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Moves a log and its times to another path, in place of what is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    for (from, to) in [(from.to_owned(), to.to_owned()), (times::path(from), times::path(to))] {
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => remove(&to)?,
            moved => moved?,
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the log is this module's own")]
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the log keeps the time of its output")]
fn epoch_millis() -> u64 {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test reads what was written")]
    fn log_keeps_the_latest_output_in_bounded_size() {
        let directory = std::env::temp_dir().join(format!("riklet-console-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("console.log");
        fs::write(&path, "an earlier run").unwrap();
        let wake = |follower: &Follower| {
            let mut files = [PollFd::new(follower, PollFlags::IN)];
            assert_eq!(poll(&mut files, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap(), 1);
        };
        let mut follower = Follower::open(&path).unwrap();
        assert_eq!(follower.read_new().unwrap(), b"an earlier run");
        let console = Console::create(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(previous(&path)).unwrap(), "an earlier run");
        wake(&follower);
        console.follow(&b"first words\n"[..]).unwrap().join().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first words\n");
        assert_eq!(follower.read_new().unwrap(), b"first words\n", "there is a new log");

        let mut follower = Follower::open(&path).unwrap();
        assert_eq!(follower.read_new().unwrap(), b"first words\n");
        assert_eq!(follower.read_new().unwrap(), b"");
        console.follow(&b"second words\n"[..]).unwrap().join().unwrap();
        wake(&follower);
        assert_eq!(follower.read_new().unwrap(), b"second words\n");

        let much = vec![b'x'; 9 << 20];
        console.follow(io::Cursor::new(much)).unwrap().join().unwrap();
        console.follow(&b"last words\n"[..]).unwrap().join().unwrap();
        let kept = fs::metadata(&path).unwrap().len() + fs::metadata(aside(&path)).unwrap().len();
        assert!((LIMIT..2 * LIMIT + 16_384).contains(&kept), "{kept} bytes are kept");
        assert!(follower.read_new().unwrap().ends_with(b"xlast words\n"), "the log was set aside");
        assert_eq!(last_line(&path).unwrap(), format!("{}last words", "x".repeat(4085)));
        console.follow(&b"\r\nkilled \xff\r\n \r\n"[..]).unwrap().join().unwrap();
        assert_eq!(last_line(&path).unwrap(), "killed \u{fffd}");
        assert_eq!(last_line(&directory.join("none")), None);
        fs::remove_dir_all(&directory).unwrap();
    }
}
