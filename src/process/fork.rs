//! What a child of ours does between fork(2) and execve(2).
#![expect(
    unsafe_code,
    reason = "std leaves what is done there to whoever can promise what it needs"
)]

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
    sync::Arc,
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
};

/// Has the kernel kill the program when the thread that starts it ends (prctl(2), `PR_SET_PDEATHSIG`). A change of
/// the user, which comes before this, would make it forget.
pub(super) fn end_with_us(command: &mut Command) {
    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before the kernel was told.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, which are async-signal-safe; it allocates nothing and takes no
    // lock.
    unsafe { command.pre_exec(tie) };
}

/// Lets the program have this file, which no other program that is started meanwhile gets.
pub(super) fn keep_open(command: &mut Command, file: Arc<OwnedFd>) {
    let inherit = move || Ok(fcntl_setfd(&*file, FdFlags::empty())?);
    // SAFETY: the closure makes one system call, which is async-signal-safe; it allocates nothing, takes no lock,
    // and the descriptor is open as long as the command has the closure.
    unsafe { command.pre_exec(inherit) };
}
