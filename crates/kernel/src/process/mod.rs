//! Processes: starts programs (nothing else does), and identifies processes for records.

mod detached;
mod fork;
mod holder;
mod id;
mod of_user;
mod rest;
mod talk;
mod tied;

pub use detached::spawn_detached;
pub use holder::LockHolder;
#[cfg(any(test, fuzzing))]
pub(crate) use id::fuzz;
pub use id::{ProcessId, ProcessIdError};
pub use of_user::end_all_of;
pub use rest::{
    Marked, adopt_orphans, end_marked, end_orphans, kill_rest_of_group, marked_with, signal_group,
};
pub use tied::{Credentials, Tied, spawn_tied};

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Output, Stdio},
    sync::Weak,
};

/// Starts programs that share a lock of ours while they run. If this process is killed meanwhile, the kernel kills them as
/// well. The lock is free when they have ended, and not before: the lock of flock(2) belongs to the open file, in
/// whichever process it is open.
///
/// A program inherits the lock's file under some number from 3 up.
#[derive(Debug, Clone, Default)]
pub struct Launcher {
    lock: Weak<OwnedFd>,
}

impl Launcher {
    /// Returns a launcher whose programs share this lock, while somebody holds it.
    #[must_use]
    pub const fn keeping(lock: Weak<OwnedFd>) -> Self {
        Self { lock }
    }

    /// Runs a program as [`run`] does.
    ///
    /// # Errors
    /// Fails as [`run`] does, and if the process can open no more files.
    pub fn run(&self, program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Output> {
        let mut command = prepared(program, args, input);
        if let Some(lock) = self.lock.upgrade() {
            fork::inherit(&mut command, lock.try_clone()?);
        }
        fed(command, input)
    }
}

/// Runs a program to its end, with this standard input, and collects its output. If this process is killed meanwhile, so is
/// the program: nobody waits for it any more. The input takes a pipe, and no room on a file system.
///
/// # Errors
/// Fails if it cannot be started or fed. A program that stops reading its input is no error: its exit status
/// tells.
pub fn run(program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Output> {
    fed(prepared(program, args, input), input)
}

fn fed(mut command: Command, input: &[u8]) -> io::Result<Output> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    talk::talk(child, input)
}

fn prepared(program: &OsStr, args: &[&str], input: &[u8]) -> Command {
    let words = String::from_utf8_lossy(input);
    tracing::debug!("run {} {}\n{words}", program.display(), args.join(" "));
    let mut command = command(program);
    // Ctrl-C must not reach the program: a terminal sends it to all processes of the group.
    command.args(args).env("LC_ALL", "C").process_group(0);
    // The calling thread waits for the program, so it ends before the program only if this process is killed.
    fork::end_with_us(&mut command);
    command
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn command(program: &OsStr) -> Command {
    Command::new(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_write_more_than_a_pipe_holds_while_it_reads() {
        let input = vec![b'x'; 1 << 20];
        let output = run(OsStr::new("cat"), &[], &input).unwrap();
        assert!(output.status.success() && output.stdout == input);
        // It writes to both, more than either holds, before it reads anything.
        let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; cat";
        let output = run(OsStr::new("sh"), &["-c", script], &input).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000 + input.len(), 300_000));
        // One that closes its output first is waited for.
        let script = "exec >&- 2>&-; test $(wc -c) = 1048576 && exit 3";
        let output = run(OsStr::new("sh"), &["-c", script], &input).unwrap();
        assert_eq!(output.status.code(), Some(3));
        // One that reads nothing is no error.
        assert!(run(OsStr::new("true"), &[], &input).unwrap().status.success());
    }
}
