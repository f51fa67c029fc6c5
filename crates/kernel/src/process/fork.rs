//! The work of a child process between fork(2) and execve(2).
#![expect(
    unsafe_code,
    reason = "std leaves what is done there to whoever can promise what it needs"
)]

use std::{os::unix::process::CommandExt, process::Command};

use rustix::{
    io::Errno,
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
};

/// Has the kernel kill the program when the thread that starts it ends (prctl(2), `PR_SET_PDEATHSIG`). A change
/// of the user clears this setting, so it comes before.
pub(super) fn end_with_us(command: &mut Command) {
    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the signal was set.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, which are async-signal-safe; it allocates nothing and takes no
    // lock.
    unsafe { command.pre_exec(tie) };
}
