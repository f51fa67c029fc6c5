//! Ends everything that runs as a user, whatever it did to its environment, its group and its session.
#![expect(
    unsafe_code,
    reason = "a process that has become a user makes system calls only, and ends"
)]

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use nix::unistd::ForkResult;
use rustix::{
    io::Errno,
    process::{
        Gid, Pid, Resource, Rlimit, Signal, Uid, WaitOptions, geteuid, kill_process_group,
        setrlimit, waitpid,
    },
    thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::{
    ProcessId,
    id::start_of,
    rest::{children, number},
};
use crate::procfs;

/// The time in which killed processes have to end.
const LIMIT: Duration = Duration::from_secs(5);
/// The time after which `/proc` is read for who is left: a process that ended, and that nobody has waited for, is counted too.
const LOOK: Duration = Duration::from_millis(50);

/// The exit statuses of the process that kills; an error of the kernel has its own number.
const NOBODY_LEFT: i32 = 0;
const SOMEBODY_LEFT: i32 = 255;

/// Kills all processes of a user (kill(2), -1), and returns once none is left. A process of the user cannot escape, and cannot
/// make another meanwhile: the kernel signals all of them in one stroke. Succeeds if there is none. The time does not depend
/// on their number, nor on what they do.
///
/// A process of its own does this. Without the capabilities to become the user, but with that to signal its processes, these are
/// killed one by one, for as long as there are some: one that multiplies fast enough may escape for longer than this waits.
/// `apart` is a user that no process has: by its real user this process is that one, so
/// that no process of `uid` may signal or trace it.
///
/// # Errors
/// Fails if `uid` or `apart` is root's or our own, the kernel refuses, or a process does not end; the error names it.
pub fn end_all_of(uid: u32, apart: u32) -> io::Result<()> {
    let ours = geteuid().as_raw();
    if [uid, apart].iter().any(|&id| id == 0 || id == ours || id == u32::MAX) || uid == apart {
        return Err(Errno::INVAL.into());
    }
    let begun = now();
    loop {
        match kill_all(uid, apart)? {
            NOBODY_LEFT => return Ok(()),
            SOMEBODY_LEFT => {}
            number if number == Errno::PERM.raw_os_error() => kill_each(uid)?,
            number => return Err(io::Error::from_raw_os_error(number)),
        }
        // What this process has adopted is waited for by nobody else.
        for child in children().unwrap_or_else(|_unlisted| procfs::processes()) {
            if is_of(child, uid) {
                let _no_child_of_ours = waitpid(number(child), WaitOptions::NOHANG);
            }
        }
        if begun.elapsed() >= LOOK {
            let alive = procfs::processes().into_iter().find(|&id| is_of(id, uid) && runs(id));
            let Some(alive) = alive else { return Ok(()) };
            if begun.elapsed() >= LIMIT {
                let words = format!("process {alive} of user {uid} does not end");
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
        }
        pause();
    }
}

/// Kills the processes of a user that are found now, after all of them were stopped.
fn kill_each(uid: u32) -> io::Result<()> {
    for signal in [Signal::STOP, Signal::KILL] {
        for process in procfs::processes().into_iter().filter(|&id| is_of(id, uid)) {
            // Another process may get the number, but not the start time.
            let Some(found) = ProcessId::of(process)? else { continue };
            if is_of(process, uid) {
                found.signal(signal)?;
            }
        }
    }
    Ok(())
}

/// Kills the processes of a user once, and returns [`NOBODY_LEFT`], [`SOMEBODY_LEFT`] or the number of an error.
fn kill_all(uid: u32, apart: u32) -> io::Result<i32> {
    // SAFETY: the child makes system calls only, which are async-signal-safe, allocates nothing, takes no lock, and ends
    // without what this process has set to run at its exit.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let status = killed(uid, apart).unwrap_or_else(Errno::raw_os_error);
            // SAFETY: as above.
            unsafe { nix::libc::_exit(status) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(Pid::from_raw(child.as_raw()), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                ended => {
                    let ended = ended?.and_then(|(_, status)| status.exit_status());
                    return ended.ok_or_else(|| io::Error::other("the process that kills ended"));
                }
            }
        },
    }
}

fn killed(uid: u32, apart: u32) -> Result<i32, Errno> {
    let (user, group, apart) = (Uid::from_raw(uid), Gid::from_raw(uid), Uid::from_raw(apart));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    // kill(2) compares our real and effective user with the real and saved ones of others.
    set_thread_res_uid(apart, user, apart)?;
    // With CAP_KILL this would end everybody. A change from root drops all capabilities, unless securebits keep them.
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Group 1 stands for -1: everybody whom this process may signal, except itself and process 1.
    match kill_process_group(Pid::INIT, Signal::KILL) {
        // Nobody else exists.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno),
    }
    // None of them acts any more. The kernel counts the processes of a real user (getrlimit(2), RLIMIT_NPROC).
    set_thread_res_uid(user, user, user)?;
    let two = Some(2);
    setrlimit(Resource::Nproc, Rlimit { current: two, maximum: two })?;
    // SAFETY: this process has one thread, and its child ends at once.
    match unsafe { nix::unistd::fork() } {
        // SAFETY: as above.
        Ok(ForkResult::Child) => unsafe { nix::libc::_exit(0) },
        Ok(ForkResult::Parent { child }) => {
            waitpid(Pid::from_raw(child.as_raw()), WaitOptions::empty())?;
            Ok(NOBODY_LEFT)
        }
        Err(nix::errno::Errno::EAGAIN) => Ok(SOMEBODY_LEFT),
        Err(errno) => Err(Errno::from_io_error(&errno.into()).unwrap_or(Errno::INVAL)),
    }
}

/// Tells whether a process has this user as its effective one, also if it has ended and was not waited for.
fn is_of(process: u32, uid: u32) -> bool {
    fs::metadata(format!("/proc/{process}")).is_ok_and(|found| found.uid() == uid)
}

/// Tells whether a thread of a process has not ended: the first one may end before the others.
fn runs(process: u32) -> bool {
    let threads = procfs::numbers(&format!("/proc/{process}/task")).unwrap_or_default();
    threads.into_iter().any(|thread| {
        let stat = procfs::text(&format!("/proc/{process}/task/{thread}/stat"));
        stat.is_ok_and(|stat| start_of(&stat).is_some())
    })
}

#[expect(clippy::disallowed_methods, reason = "a time limit needs a clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the kernel tells nobody that a user has no process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_ends_root_or_itself() {
        for (uid, apart) in [(0, 7), (7, 0), (7, 7), (u32::MAX, 7), (geteuid().as_raw(), 7)] {
            assert_eq!(end_all_of(uid, apart).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    /// Users that nobody else has, as long as no other test of this file takes them.
    #[cfg(privileged)]
    fn users() -> [u32; 3] {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = 4_000_000_000 + std::process::id() % 3_000_000 * 64;
        let first = own + NEXT.fetch_add(3, Ordering::Relaxed);
        [first, first + 1, first + 2]
    }

    /// Starts a script as a user, and returns once it has printed a line.
    #[cfg(privileged)]
    fn started(uid: u32, script: &str) -> std::process::Child {
        use std::{ffi::OsStr, io::Read, path::Path};

        use crate::process::{Credentials, Tied, spawn_tied};
        let mut child = spawn_tied(&Tied {
            program: OsStr::new("bash"),
            arguments: vec!["-c".into(), script.into()],
            credentials: Some(Credentials { uid, gid: uid }),
            groups: &[],
            user_is_its_own: true,
            directory: Path::new("/"),
            errors_apart: false,
            mark: "test",
        })
        .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    }

    #[cfg(privileged)]
    fn alive(uid: u32) -> usize {
        procfs::processes().into_iter().filter(|&id| is_of(id, uid) && runs(id)).count()
    }

    #[cfg(privileged)]
    #[test]
    fn all_processes_of_a_user_end_and_no_others() {
        let [uid, other, apart] = users();
        // None of them has a mark; each has a session of its own; some hang on to no parent.
        let escape = "for i in 1 2 3; do env -i setsid -f sleep 600; done; echo; exec sleep 600";
        let mut escaped = started(uid, escape);
        let mut another = started(other, "echo; exec sleep 600");
        assert!(alive(uid) > 1);
        escaped.kill().unwrap();
        escaped.wait().unwrap();
        assert!(alive(uid) > 0, "they outlive their parent");
        end_all_of(uid, apart).unwrap();
        assert_eq!((alive(uid), alive(other)), (0, 1));
        end_all_of(uid, apart).unwrap();
        another.kill().unwrap();
        another.wait().unwrap();
    }

    #[cfg(privileged)]
    #[test]
    fn processes_end_one_by_one_without_becoming_the_user() {
        let [uid, other, _] = users();
        let script = "for i in 1 2 3; do env -i setsid -f sleep 600; done; echo; exec sleep 600";
        let mut first = started(uid, script);
        let mut another = started(other, "echo; exec sleep 600");
        kill_each(uid).unwrap();
        first.wait().unwrap();
        let begun = now();
        while alive(uid) > 0 && begun.elapsed() < LIMIT {
            pause();
        }
        assert_eq!((alive(uid), alive(other)), (0, 1));
        another.kill().unwrap();
        another.wait().unwrap();
    }

    #[cfg(privileged)]
    #[test]
    fn processes_that_multiply_and_fight_end() {
        let [uid, _, apart] = users();
        // Each starts others without end, and signals everybody whom it may.
        let fight = "trap '' TERM; echo; f() { (kill -STOP -1; f) & (f) & sleep 0.01; f; }; f";
        let mut first = started(uid, fight);
        let begun = now();
        while alive(uid) < 9 && begun.elapsed() < LIMIT {
            pause();
        }
        // Whoever comes first waits for it: this thread or `end_all_of`.
        let reaper = std::thread::spawn(move || first.wait().ok());
        end_all_of(uid, apart).unwrap();
        reaper.join().unwrap();
        assert_eq!(alive(uid), 0);
    }
}
