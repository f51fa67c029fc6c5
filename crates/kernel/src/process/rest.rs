//! Ends the processes that a program leaves behind: a wrapper script may end before the program that it started.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process_group, set_child_subreaper, waitpid},
};

use super::{ProcessId, id::parent_of};
use crate::procfs;

/// The variable in the environment of a program that has a mark. Its children inherit it.
pub(super) const MARK: &str = "RIKLET_SDN_RUN";

/// The time in which killed processes have to end.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest wait for one of them, after which all are looked for again.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Makes this process the parent of what its children leave behind, instead of process 1 (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`). [`end_orphans`] finds them then without a look at every process.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Sends a signal to every process of the group that this process leads (kill(2)). Returns `false` if it has ended: its
/// number may be another's by now.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn signal_group(leader: ProcessId, signal: Signal) -> io::Result<bool> {
    if leader.open()?.is_none() {
        return Ok(false);
    }
    kill_group(leader.pid(), signal)
}

/// Kills the rest of the group of a child that has ended. It must not have been waited for: until then it keeps its number.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn kill_rest_of_group(child: &std::process::Child) -> io::Result<()> {
    kill_group(child.id(), Signal::KILL).map(drop)
}

fn kill_group(leader: u32, signal: Signal) -> io::Result<bool> {
    let Some(leader) = number(leader) else { return Ok(false) };
    match kill_process_group(leader, signal) {
        Err(Errno::SRCH) => Ok(false),
        sent => Ok(sent.map(|()| true)?),
    }
}

/// Kills the children of this process whose mark begins with this one, and what they leave behind, and waits for their ends.
/// Costs as much as this process has children.
///
/// # Errors
/// Fails if one of them does not end, or `/proc` cannot be read.
pub fn end_orphans(mark: &str) -> io::Result<()> {
    match children() {
        Ok(_) => end_all(mark, || children().unwrap_or_default()),
        // The kernel does not list children (`CONFIG_PROC_CHILDREN`).
        Err(_unlisted) => end_marked(mark),
    }
}

/// Kills all processes whose mark begins with this one, whoever is their parent, and waits until they have ended. Looks at
/// every process.
///
/// # Errors
/// Fails if one of them does not end, or `/proc` cannot be read.
pub fn end_marked(mark: &str) -> io::Result<()> {
    end_all(mark, procfs::processes)
}

fn end_all(mark: &str, candidates: impl Fn() -> Vec<u32>) -> io::Result<()> {
    let deadline = now() + LIMIT;
    loop {
        let found: Vec<_> =
            candidates().into_iter().filter_map(|process| marked(process, mark)).collect();
        let Some(first) = found.first() else { return Ok(()) };
        if now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{first} does not end")));
        }
        let mut ends = Vec::new();
        for process in &found {
            process.signal(Signal::KILL)?;
            ends.extend(process.open()?);
        }
        for end in &ends {
            let mut files = [PollFd::new(end, PollFlags::IN)];
            match poll(&mut files, Some(&ROUND)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for process in found {
            // Others are waited for by their parent.
            let _no_child_of_ours = waitpid(number(process.pid()), WaitOptions::NOHANG);
        }
    }
}

pub(super) fn number(process: u32) -> Option<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw)
}

/// A process with a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Marked {
    /// The process.
    pub process: ProcessId,
    /// The number of its parent, or of the process that has adopted it.
    pub parent: u32,
    /// The whole mark.
    pub mark: String,
}

/// Returns all processes whose mark begins with this one. Looks at every process; one that may not be looked at is left out.
#[must_use]
pub fn marked_with(mark: &str) -> Vec<Marked> {
    let found = |process| {
        let mark = mark_of(process, mark)?;
        let parent = parent_of(&procfs::text(&format!("/proc/{process}/stat")).ok()?)?;
        let process = ProcessId::of(process).ok().flatten()?;
        Some(Marked { process, parent, mark })
    };
    procfs::processes().into_iter().filter_map(found).collect()
}

/// Returns the process of this number, if its mark begins with this one and it has not ended.
fn marked(process: u32, mark: &str) -> Option<ProcessId> {
    mark_of(process, mark)?;
    ProcessId::of(process).ok().flatten().filter(|_| process != std::process::id())
}

/// Returns the mark of the process of this number, if it begins with this one.
fn mark_of(process: u32, mark: &str) -> Option<String> {
    let variable = format!("{MARK}={mark}").into_bytes();
    let environment = procfs::read(&format!("/proc/{process}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let found = variables.find(|found| found.starts_with(&variable))?;
    String::from_utf8(found.get(MARK.len() + 1..)?.to_vec()).ok()
}

/// Returns the children of all threads of this process (`proc_pid_task(5)`).
pub(super) fn children() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for thread in procfs::numbers("/proc/self/task")? {
        match procfs::text(&format!("/proc/self/task/{thread}/children")) {
            Ok(text) => {
                all.extend(text.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            // A thread that has ended.
            Err(_) if !procfs::numbers("/proc/self/task")?.contains(&thread) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[expect(clippy::disallowed_methods, reason = "a time limit needs a clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, path::Path};

    use super::*;
    use crate::process::{Tied, spawn_tied};

    /// The mark ends each process that a wrapper leaves behind, in whichever group or session (setsid(2)).
    #[test]
    fn marked_processes_end_however_they_were_started() {
        let mark = format!("test-{}", std::process::id());
        // Each says when it is where it shall be.
        let script = "elsewhere='echo; exec sleep 600'; sleep 600 & \
             setsid sh -c \"$elsewhere\" & setsid -f sh -c \"$elsewhere\"; echo; exec sleep 600";
        let mut child = spawn_tied(&Tied {
            program: OsStr::new("sh"),
            arguments: vec!["-c".into(), script.into()],
            credentials: None,
            groups: &[],
            user_is_its_own: false,
            directory: Path::new("/"),
            errors_apart: false,
            mark: &mark,
        })
        .unwrap();
        let mut line = [0; 3];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let alive =
            || procfs::processes().into_iter().filter(|&id| marked(id, &mark).is_some()).count();
        // While one replaces its program, it has no environment (execve(2)).
        let reach = |count| {
            let deadline = now() + LIMIT;
            loop {
                let found = alive();
                if found == count || now() > deadline {
                    return found;
                }
                std::thread::yield_now();
            }
        };
        assert_eq!(reach(4), 4, "after {LIMIT:?}");
        let leader = ProcessId::of_child(&child).unwrap();
        assert!(signal_group(leader, Signal::TERM).unwrap());
        child.wait().unwrap();
        assert!(!signal_group(leader, Signal::TERM).unwrap());
        // The rest of the group ends at a moment of its own.
        assert_eq!(reach(2), 2, "those in other groups, after {LIMIT:?}");
        end_marked("another").unwrap();
        assert_eq!(reach(2), 2, "they have another mark");
        end_marked(&mark).unwrap();
        assert_eq!(alive(), 0);
    }
}
