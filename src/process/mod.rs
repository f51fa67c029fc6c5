//! The one place that starts programs, and how a process is known to others.

mod detached;
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
    sync::{Arc, Weak},
};

use rustix::io::{FdFlags, fcntl_setfd};

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
            keep_open(&mut command, lock);
        }
        run_command(command, args, input)
    }
}

/// Lets the program have this file, which no other program that is started meanwhile gets.
#[expect(unsafe_code, reason = "std hands on no files but the standard ones by itself")]
fn keep_open(command: &mut Command, file: Arc<OwnedFd>) {
    let inherit = move || Ok(fcntl_setfd(&*file, FdFlags::empty())?);
    // SAFETY: between fork and exec the closure makes one system call, fcntl(2), which is async-signal-safe;
    // it allocates nothing, takes no lock, and the descriptor is open as long as the command has the closure.
    unsafe { command.pre_exec(inherit) };
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
