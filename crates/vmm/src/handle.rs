//! A running VMM, as any process can reach it, not only the one that started it.

use std::{io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::Signal,
};

use super::driver;
use riklet_core::model::Vmm;
use riklet_kernel::process::{self, ProcessId};

/// A handle that ends a VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// The VMM.
    pub vmm: Vmm,
    /// Its process.
    pub process: ProcessId,
    /// The socket of its API.
    pub socket: PathBuf,
    /// The mark of its process, and of those that it started.
    pub mark: String,
}

/// The time that each way of ending a VMM is given before the next is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The time after the guest was asked to power off.
    pub guest: Duration,
    /// The time after SIGTERM, and again after SIGKILL.
    pub process: Duration,
}

impl Default for Patience {
    /// Returns 10 s for the guest and 3 s for the process.
    fn default() -> Self {
        Self { guest: Duration::from_secs(10), process: Duration::from_secs(3) }
    }
}

/// The way in which a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had ended already.
    Before,
    /// The guest powered off when asked.
    ByGuest,
    /// SIGTERM ended it.
    Terminated,
    /// SIGKILL ended it.
    Killed,
    /// Its supervisor ended it, in one of these ways.
    BySupervisor,
}

impl Stopped {
    /// Returns the way as a reason for the records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "had ended already",
            Self::ByGuest => "the guest powered off",
            Self::Terminated => "SIGTERM",
            Self::Killed => "SIGKILL",
            Self::BySupervisor => "its supervisor ended it",
        }
    }
}

impl Handle {
    /// Ends the VMM, with all processes that it started: asks the guest to power off (Ctrl+Alt+Del for Firecracker, the power button for the others), then
    /// sends SIGTERM, then SIGKILL, and waits after each as `patience` says. A VMM that cannot ask its guest gets
    /// SIGTERM at once.
    ///
    /// # Errors
    /// Fails if the process cannot be signalled, or SIGKILL does not end it in time.
    pub fn stop(&self, patience: Patience) -> io::Result<Stopped> {
        let Some(ended) = self.process.open()? else { return self.end(patience) };
        let Some(user) = self.process.user()? else { return self.end(patience) };
        match driver::ask_to_power_off(self.vmm, &self.socket, user) {
            Ok(()) => {
                if within(&ended, patience.guest)? {
                    return Ok(Stopped::ByGuest);
                }
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::info!(vmm = %self.vmm, error, "the guest was not asked to power off");
            }
        }
        self.end(patience)
    }

    /// Ends the VMM as [`Self::stop`] does, without asking the guest.
    ///
    /// # Errors
    /// Fails as [`Self::stop`] does.
    pub fn end(&self, patience: Patience) -> io::Result<Stopped> {
        let stopped = self.end_group(patience)?;
        // A wrapper may have ended before the VMM.
        process::end_marked(&self.mark)?;
        Ok(stopped)
    }

    fn end_group(&self, patience: Patience) -> io::Result<Stopped> {
        let Some(ended) = self.process.open()? else { return Ok(Stopped::Before) };
        for (signal, stopped) in
            [(Signal::TERM, Stopped::Terminated), (Signal::KILL, Stopped::Killed)]
        {
            // A VMM that an earlier version started leads no group.
            if !process::signal_group(self.process, signal)? {
                self.process.signal(signal)?;
            }
            if within(&ended, patience.process)? {
                return Ok(stopped);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} does not end", self.process)))
    }
}

/// Waits for the process of this pidfd to end. Returns `false` if it has not within `limit`.
pub(crate) fn within(ended: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).ok();
    loop {
        let mut files = [PollFd::new(ended, PollFlags::IN)];
        match poll(&mut files, limit.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
