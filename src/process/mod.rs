//! The one place that starts programs, and how a process is known to others.

mod detached;
mod fork;
mod id;
mod tied;

pub use detached::spawn_detached;
pub use id::{ProcessId, ProcessIdError};
pub use tied::{Credentials, Tied, spawn_tied};

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Output, Stdio},
    sync::Weak,
};

/// Starts programs that keep a lock of ours as long as they run (flock(2) is of the open file, whoever has
/// it): where this process is killed meanwhile, the lock is free when they have ended, not before.
#[derive(Debug, Clone, Default)]
pub struct Launcher {
    lock: Weak<OwnedFd>,
}

impl Launcher {
    /// One whose programs keep this lock; none where nobody holds it any more.
    #[must_use]
    pub const fn keeping(lock: Weak<OwnedFd>) -> Self {
        Self { lock }
    }

    /// As [`run`].
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Output> {
        let mut command = command(program);
        if let Some(lock) = self.lock.upgrade() {
            fork::keep_open(&mut command, lock);
        }
        run_command(command, args, input)
    }
}

/// Runs a program to its end, with this standard input, and collects what it wrote.
///
/// # Errors
/// Where it cannot be started or fed. A program that reads no more of its input is none: its exit status says.
pub fn run(program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Output> {
    run_command(command(program), args, input)
}

fn run_command(mut command: Command, args: &[&str], input: &[u8]) -> io::Result<Output> {
    let words = String::from_utf8_lossy(input);
    let program = command.get_program().display().to_string();
    tracing::debug!("run {program} {}\n{words}", args.join(" "));
    let mut child = command
        .args(args)
        .env("LC_ALL", "C")
        // Ctrl-C is for us: a terminal sends it to all processes of the group.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn command(program: &OsStr) -> Command {
    Command::new(program)
}
