//! A VMM that runs, as anybody can reach it: the process that started it, or another.

use std::{io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::Signal,
};

use super::driver;
use riklet_core::model::Vmm;
use riklet_kernel::process::ProcessId;

/// A handle with which a VMM can be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// The VMM.
    pub vmm: Vmm,
    /// Its process.
    pub process: ProcessId,
    /// The socket of its API.
    pub socket: PathBuf,
}

/// The time that each way to end a VMM has before the next is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After the guest was asked to power off.
    pub guest: Duration,
    /// After SIGTERM, and again after SIGKILL.
    pub process: Duration,
}

impl Default for Patience {
    /// 10 s for the guest, 3 s for the process.
    fn default() -> Self {
        Self { guest: Duration::from_secs(10), process: Duration::from_secs(3) }
    }
}

/// The way in which a VMM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had ended already.
    Before,
    /// The guest, which was asked to power off.
    ByGuest,
    /// SIGTERM.
    Terminated,
    /// SIGKILL.
    Killed,
}

impl Stopped {
    /// As a reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "had ended already",
            Self::ByGuest => "the guest powered off",
            Self::Terminated => "SIGTERM",
            Self::Killed => "SIGKILL",
        }
    }
}

impl Handle {
    /// Ends the VMM: asks the guest to power off (Ctrl+Alt+Del for Firecracker, the power button for the
    /// others), then SIGTERM, then SIGKILL, each after the patience of the one before. A VMM that cannot ask
    /// its guest is sent SIGTERM at once.
    ///
    /// # Errors
    /// Where the process cannot be signalled, or SIGKILL does not end it in time.
    pub fn stop(&self, patience: Patience) -> io::Result<Stopped> {
        let Some(ended) = self.process.open()? else { return Ok(Stopped::Before) };
        match driver::ask_to_power_off(self.vmm, &self.socket) {
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

    /// The same without asking the guest.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn end(&self, patience: Patience) -> io::Result<Stopped> {
        let Some(ended) = self.process.open()? else { return Ok(Stopped::Before) };
        for (signal, stopped) in
            [(Signal::TERM, Stopped::Terminated), (Signal::KILL, Stopped::Killed)]
        {
            self.process.signal(signal)?;
            if within(&ended, patience.process)? {
                return Ok(stopped);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} does not end", self.process)))
    }
}

/// Waits for the end of the process of this pidfd; `false` once the time is over.
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
