//! Finds the process that holds a lock on a file, so that whoever waits for it can be told.

use std::{fmt, fs, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::{major, minor};

use super::id::state_of;
use crate::procfs;

/// The longest command line that is shown, in characters.
const LONGEST: usize = 80;

/// Another process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The number of the process.
    pub pid: u32,
    /// Its command line, shortened; empty if it cannot be read.
    pub command: String,
    /// True if it is stopped, by Ctrl-Z or SIGSTOP.
    pub is_stopped: bool,
}

impl LockHolder {
    /// Returns another process that holds a lock on one of these files, of flock(2) or of fcntl(2), by `/proc/locks`
    /// (`proc_locks(5)`). Writers come before readers. `None` if there is none, or none in this PID namespace.
    #[must_use]
    pub fn of(files: &[&Path]) -> Option<Self> {
        let text = listed();
        let locks = text.lines().filter_map(parse);
        let found = files.iter().filter_map(|path| fs::metadata(path).ok());
        let (own, found): (_, Vec<_>) = (std::process::id(), found.collect());
        let mut holding: Vec<_> = locks
            .filter(|lock| !lock.waits && lock.pid != own)
            .filter(|lock| found.iter().any(|file| lock.is_on(file)))
            .collect();
        holding.sort_by_key(|lock| !lock.writes);
        holding.into_iter().find_map(|lock| Self::new(lock.pid))
    }

    /// Reports whether another process waits for a lock on this file (`proc_locks(5)`).
    #[must_use]
    pub fn is_awaited(path: &Path) -> bool {
        let Ok(file) = fs::metadata(path) else { return false };
        let (own, text) = (std::process::id(), listed());
        text.lines()
            .filter_map(parse)
            .any(|lock| lock.waits && lock.pid != own && lock.is_on(&file))
    }

    /// Returns another process that has this file open and does not wait for a lock: a lock of flock(2) stays with an open
    /// file that was inherited, when the process that took it has ended.
    #[must_use]
    pub fn with_open(path: &Path) -> Option<Self> {
        let wanted = fs::metadata(path).ok()?;
        let text = listed();
        let waiting = text.lines().filter_map(parse).filter(|lock| lock.waits);
        let mut not: Vec<_> = waiting.map(|lock| lock.pid).collect();
        not.push(std::process::id());
        let others = procfs::processes().into_iter().filter(|pid| !not.contains(pid));
        others.filter(|pid| has_open(*pid, &wanted)).find_map(Self::new)
    }

    /// Returns the process of this number, whatever it holds; `None` if it has ended.
    #[must_use]
    pub fn new(pid: u32) -> Option<Self> {
        let stat = procfs::text(&format!("/proc/{pid}/stat")).ok()?;
        let is_stopped = matches!(state_of(&stat)?, "T" | "t");
        let command = procfs::read(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(Self { pid, command: shown(&command), is_stopped })
    }
}

/// Formats as `process 77 (sleep 60), which is stopped`.
impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if !self.command.is_empty() {
            write!(f, " ({})", self.command)?;
        }
        f.write_str(if self.is_stopped { ", which is stopped" } else { "" })
    }
}

/// A line of `/proc/locks`.
#[derive(Debug, PartialEq, Eq)]
struct Held<'a> {
    pid: u32,
    /// True if the process waits for the lock.
    waits: bool,
    writes: bool,
    device: (u32, u32),
    inode: &'a str,
}

impl Held<'_> {
    /// Returns whether the lock is on this file. Some file systems give stat(2) another device than the kernel has, so
    /// an unnamed device (major number 0) is not compared: the process must have the file open then.
    fn is_on(&self, file: &fs::Metadata) -> bool {
        let device = (major(file.dev()), minor(file.dev()));
        let unnamed = self.device.0 == 0 && device.0 == 0;
        self.inode.parse() == Ok(file.ino())
            && (self.device == device || unnamed && has_open(self.pid, file))
    }
}

/// Returns whether the process has this file open, as far as its descriptors can be listed.
fn has_open(pid: u32, wanted: &fs::Metadata) -> bool {
    let mut found = procfs::descriptors(pid).filter_map(|file| fs::metadata(file.path()).ok());
    found.any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

/// Returns `/proc/locks`; nothing if it cannot be read.
fn listed() -> String {
    procfs::text("/proc/locks").unwrap_or_default()
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 77 00:1b:3141 0 EOF`, with `->` before the type if the process waits;
/// `None` for a process of another PID namespace.
fn parse(line: &str) -> Option<Held<'_>> {
    let mut words = line.split_whitespace().skip(1).peekable();
    let waits = words.next_if_eq(&"->").is_some();
    let writes = words.nth(2)? == "WRITE";
    let pid = words.next()?.parse().ok().filter(|pid| *pid != 0)?;
    let mut file = words.next()?.splitn(3, ':');
    let mut number = || u32::from_str_radix(file.next()?, 16).ok();
    let device = (number()?, number()?);
    Some(Held { pid, waits, writes, device, inode: file.next()? })
}

/// Returns a command line as text on one line: its arguments end in NUL.
fn shown(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    let plain = |c: char| {
        if c == '\0' {
            ' '
        } else if c.is_control() {
            '?'
        } else {
            c
        }
    };
    let text: String = text.trim_end_matches('\0').chars().map(plain).collect();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests, and a deadline")]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};

    #[test]
    fn lines_of_proc_locks_are_read() {
        let held = |pid, writes, device, inode| {
            Some(Held { pid, waits: pid == 78, writes, device, inode })
        };
        for (line, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 77 00:1b:3141 0 EOF", held(77, true, (0, 0x1b), "3141")),
            (
                "12: POSIX  ADVISORY  READ  8 08:02:5 1073741826 1073742335",
                held(8, false, (8, 2), "5"),
            ),
            ("1: -> FLOCK  ADVISORY  WRITE 78 00:1b:3141 0 EOF", held(78, true, (0, 0x1b), "3141")),
            ("2: OFDLCK ADVISORY  WRITE -1 00:1b:3141 0 EOF", None),
            ("3: FLOCK  ADVISORY  WRITE 0 00:1b:3141 0 EOF", None),
            ("", None),
            ("nonsense", None),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    /// Every tmpfs numbers its files from 1 on, so that locks of others are on files of the same number.
    #[test]
    fn a_file_of_the_same_number_is_another_one() {
        let path = std::env::temp_dir().join(format!("riklet-sdn-number-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        let found = file.metadata().unwrap();
        let (pid, inode) = (std::process::id(), found.ino().to_string());
        let lock = |device, inode| Held { pid, waits: false, writes: true, device, inode };
        let own = (major(found.dev()), minor(found.dev()));
        assert!(lock(own, &inode).is_on(&found));
        let elsewhere = (own.0, own.1 + 1);
        assert_eq!(lock(elsewhere, &inode).is_on(&found), own.0 == 0, "an unnamed device");
        fs::remove_file(&path).unwrap();
        drop(file);
        assert!(!lock(elsewhere, &inode).is_on(&found), "it is not open");
        assert!(!lock(own, "1").is_on(&found));
    }

    #[test]
    fn a_command_line_is_one_short_line() {
        assert_eq!(shown(b"sleep\0"), "sleep");
        assert_eq!(shown(b"sh\0-c\0a\nb\0"), "sh -c a?b");
        assert_eq!(shown(&[b'x'; 200]).chars().count(), LONGEST + 1);
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn this_process_is_no_other_holder() {
        let path = std::env::temp_dir().join(format!("riklet-sdn-holder-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(LockHolder::of(&[&path]), None);
        // A program that another test starts has all files of this process open from fork(2) to execve(2).
        let begun = std::time::Instant::now();
        while LockHolder::with_open(&path).is_some() {
            assert!(begun.elapsed().as_secs() < 30, "a process has the file open for long");
            std::thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
    }
}
