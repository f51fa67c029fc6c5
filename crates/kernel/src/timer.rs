//! A descriptor that becomes readable from time to time, in the place of one of inotify(7): the kernel has only so many of
//! these for a user.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

/// Reports whether the kernel refused a watch because there are too many: descriptors (`EMFILE`, also at
/// `fs.inotify.max_user_instances`) or watches (`ENOSPC`, at `fs.inotify.max_user_watches`).
#[must_use]
pub fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOSPC)
}

/// Returns a descriptor that is readable once in each interval (`timerfd_create(2)`). Reads do not wait.
///
/// # Errors
/// Fails if the kernel has no more descriptors either.
pub fn every(interval: Duration) -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
    let setting = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    Ok(timer)
}
