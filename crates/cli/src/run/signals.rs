use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::input;

/// A descriptor that is readable after SIGINT, SIGTERM, or the SIGHUP of a closed terminal.
pub(super) struct Signals(UnixStream);

impl Signals {
    /// Catches the signals, which from then on do not end the process. If SIGHUP is ignored, as nohup(1) does, it
    /// stays ignored.
    pub(super) fn watch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let status = input::read(Path::new("/proc/self/status")).unwrap_or_default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && ignores(&status, signal) {
                continue;
            }
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells whether the process of this `/proc/<pid>/status` ignores a signal: the mask `SigIgn` (`proc_pid_status(5)`), whose
/// lowest bit is signal 1.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, SIGHUP));
        assert!(!ignores(status, SIGINT) && !ignores("", SIGHUP));
    }
}
