//! The work of a child process between fork(2) and execve(2).
#![expect(
    unsafe_code,
    reason = "std leaves what is done there to whoever can promise what it needs"
)]

use std::{io, os::fd::OwnedFd, os::unix::process::CommandExt, process::Command};

use nix::unistd::ForkResult;
use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    process::{
        Gid, Resource, Rlimit, Signal, Uid, getpid, getppid, getrlimit,
        set_parent_process_death_signal, setrlimit, setsid,
    },
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::Credentials;

/// The most files that a confined program may have open. A VMM has some dozens.
const FILES: u64 = 4096;
/// The most processes and threads that the user of a confined program may have, if nobody else has this user.
const PROCESSES: u64 = 512;

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

/// Has the program inherit this file, under its number, open at exec like no other (fcntl(2), `FD_CLOEXEC`).
pub(super) fn inherit(command: &mut Command, file: OwnedFd) {
    let inherit = move || Ok(fcntl_setfd(&file, FdFlags::empty())?);
    // SAFETY: the closure makes a system call, which is async-signal-safe; it allocates nothing, frees nothing and takes no
    // lock.
    unsafe { command.pre_exec(inherit) };
}

/// Has the program run as this user, with these groups besides its own, and never gain a privilege by execve(2). It leaves
/// no core file, which would hold its guest's memory.
///
/// # Errors
/// Fails if these are no credentials, or the limits of this process cannot be read.
pub(super) fn confine(
    command: &mut Command,
    credentials: Option<Credentials>,
    groups: &[u32],
    user_is_its_own: bool,
) -> io::Result<()> {
    // setresuid(2) takes this value for "unchanged".
    let valid = |id: u32| if id == u32::MAX { Err(Errno::INVAL) } else { Ok(id) };
    let groups =
        groups.iter().map(|&id| valid(id).map(Gid::from_raw)).collect::<Result<Vec<_>, _>>()?;
    let user = match credentials {
        Some(Credentials { uid, gid }) => {
            Some((Uid::from_raw(valid(uid)?), Gid::from_raw(valid(gid)?)))
        }
        None => None,
    };
    let both = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    let lower = |resource, limit: u64| {
        let most = getrlimit(resource).maximum;
        both(most.map_or(limit, |most| most.min(limit)))
    };
    let (files, processes) = (lower(Resource::Nofile, FILES), lower(Resource::Nproc, PROCESSES));
    let confine = move || {
        keep_standard_files_only();
        setrlimit(Resource::Core, both(0))?;
        setrlimit(Resource::Nofile, files)?;
        if let Some((uid, gid)) = user {
            // The limit counts all processes of the user, whoever started them.
            if user_is_its_own && !uid.is_root() {
                setrlimit(Resource::Nproc, processes)?;
            }
            // The process has this one thread.
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(set_no_new_privs(true)?)
    };
    // SAFETY: the closure makes system calls only, which are async-signal-safe; what it uses was allocated before the
    // fork, it frees nothing, and it takes no lock.
    unsafe { command.pre_exec(confine) };
    Ok(())
}

/// Has execve(2) close all files but the three standard ones. Ours have that set already; whoever started us may have left
/// others open, such as a socket. Without effect before Linux 5.11.
fn keep_standard_files_only() {
    const FIRST: std::ffi::c_uint = 3;
    let (last, flag) = (std::ffi::c_uint::MAX, nix::libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: the system call takes three numbers and sets a flag of files (close_range(2)); it is async-signal-safe.
    let _unsupported = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, FIRST, last, flag) };
}

/// Has the program run in a session of its own, and not as a child of this process: the process that is started forks
/// again and ends, so that process 1, or the nearest subreaper, is the parent of the program.
pub(super) fn leave(command: &mut Command) {
    let leave = || {
        keep_standard_files_only();
        setsid()?;
        // SAFETY: this process has one thread. Both of it and its child only make system calls until the program begins, or
        // until they end.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => Ok(()),
            // SAFETY: it ends at once, without what the parent has set to run at its exit.
            ForkResult::Parent { .. } => unsafe { nix::libc::_exit(0) },
        }
    };
    // SAFETY: the closure makes system calls only, which are async-signal-safe; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(leave) };
}
