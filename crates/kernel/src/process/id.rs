use std::{fmt, io, num::NonZeroU32, os::fd::OwnedFd, process::Child, str::FromStr};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::procfs;

/// A process, identified by its number and its start time, so that a later process with the same number is not
/// taken for it. It can be recorded, and looked up by another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pid: NonZeroU32,
    /// Clock ticks after boot: field 22 of `/proc/<pid>/stat` (`proc_pid_stat(5)`).
    start: u64,
}

/// A text that does not identify a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a process; one is written PID@START")]
pub struct ProcessIdError {
    text: String,
}

impl ProcessId {
    /// Returns the calling process.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns the process that has this number now, or `None` if none has. A process that has ended and was not
    /// waited for yet (a zombie) does not count: it has closed all its files.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let text = match procfs::text(&format!("/proc/{pid}/stat")) {
            // ESRCH: the process ended while its file was read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                return Ok(None);
            }
            text => text?,
        };
        let start = start_of(&text);
        Ok(NonZeroU32::new(pid).zip(start).map(|(pid, start)| Self { pid, start }))
    }

    /// Returns a child of ours that was not waited for yet. It keeps its number even if it has ended.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    pub fn of_child(child: &Child) -> io::Result<Self> {
        let text = procfs::text(&format!("/proc/{}/stat", child.id()))?;
        let pid = NonZeroU32::new(child.id());
        let id = pid.zip(fields(&text)).map(|(pid, (_, start))| Self { pid, start });
        id.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns the process' number.
    #[must_use]
    pub const fn pid(self) -> u32 {
        self.pid.get()
    }

    /// Reports whether it still runs.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    pub fn is_alive(self) -> io::Result<bool> {
        Ok(Self::of(self.pid())? == Some(self))
    }

    /// Returns the user that it runs as (the effective one, credentials(7)), or `None` if it has ended.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    pub fn user(self) -> io::Result<Option<u32>> {
        let text = match procfs::text(&format!("/proc/{}/status", self.pid)) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                return Ok(None);
            }
            text => text?,
        };
        // The real, the effective, the saved one, and that of the file system (`proc_pid_status(5)`).
        let users = text.lines().find_map(|line| line.strip_prefix("Uid:"));
        let user = users.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
        Ok(user.filter(|_| self.is_alive().unwrap_or(false)))
    }

    /// Returns a file that becomes readable when the process ends (`pidfd_open(2)`), or `None` if it has ended.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(None) };
        let file = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            file => file?,
        };
        // The file belongs to the process that had the number when it was opened.
        Ok(self.is_alive()?.then_some(file))
    }

    /// Sends a signal, and reports whether the process was still there.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(file) = self.open()? else { return Ok(false) };
        match pidfd_send_signal(file, signal) {
            Err(Errno::SRCH) => Ok(false),
            sent => Ok(sent.map(|()| true)?),
        }
    }
}

/// Returns the start time of the process, or thread, of this `/proc/<pid>/stat`, or `None` if it has ended. The second field
/// is its name in parentheses, which may contain anything.
pub(super) fn start_of(text: &str) -> Option<u64> {
    let (state, start) = fields(text)?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start)
}

/// Returns the letter of the state in this `/proc/<pid>/stat`.
pub(super) fn state_of(text: &str) -> Option<&str> {
    fields(text).map(|(state, _)| state)
}

/// Returns the number of the parent in this `/proc/<pid>/stat`.
pub(super) fn parent_of(text: &str) -> Option<u32> {
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Returns the state and the start time.
fn fields(text: &str) -> Option<(&str, u64)> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?, fields.nth(18)?.parse().ok()?))
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start)
    }
}

impl FromStr for ProcessId {
    type Err = ProcessIdError;

    fn from_str(text: &str) -> Result<Self, ProcessIdError> {
        let parsed = text.split_once('@').and_then(|(pid, start)| {
            Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
        });
        parsed.ok_or_else(|| ProcessIdError { text: text.to_owned() })
    }
}

/// Reads a `/proc/<pid>/stat`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    let _started = start_of(text);
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, io::Read, path::Path};

    use super::*;
    use crate::process::{Tied, spawn_tied};

    /// A process may name itself (`proc_pid_comm(5)`), also to be overlooked by whoever ends what a VMM left.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
    fn a_process_is_known_whatever_its_name_is() {
        let script = "printf '\\377) Z' >/proc/self/comm; echo; read -r _";
        let mut child = std::process::Command::new("bash")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let found = ProcessId::of(child.id());
        let of_child = ProcessId::of_child(&child);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(found.unwrap(), Some(of_child.unwrap()));
    }

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = spawn_tied(&Tied {
            program: OsStr::new("sleep"),
            arguments: vec!["600".into()],
            credentials: None,
            groups: &[],
            user_is_its_own: false,
            directory: Path::new("/"),
            errors_apart: false,
            mark: "",
        })
        .unwrap();
        let id = ProcessId::of(child.id()).unwrap().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        let ours = rustix::process::geteuid().as_raw();
        assert_eq!(id.user().unwrap(), Some(ours));
        assert!(id.is_alive().unwrap());
        let later = ProcessId { start: id.start + 1, ..id };
        assert!(!later.is_alive().unwrap(), "another process with the same number");
        assert!(!later.signal(Signal::KILL).unwrap());

        assert!(id.signal(Signal::KILL).unwrap());
        let file = id.open().unwrap();
        if let Some(file) = file {
            let mut files = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut files, None).unwrap();
        }
        assert!(!id.is_alive().unwrap(), "a zombie has ended");
        child.wait().unwrap();
        assert!(!id.is_alive().unwrap());
        assert!(id.open().unwrap().is_none());
        assert!(!id.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn a_process_name_may_have_parentheses_and_spaces() {
        let text = "7 (a) Z 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
        assert_eq!(start_of(text), Some(12_345));
        assert_eq!(start_of(&text.replace(") S", ") Z")), None);
        assert!(ProcessId::current().unwrap().is_alive().unwrap());
        assert!("7".parse::<ProcessId>().is_err());
        assert!("0@1".parse::<ProcessId>().is_err());
    }
}
