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
    process::{Command, Output, Stdio},
};

/// Runs a program to its end, with this standard input, and collects what it wrote.
///
/// # Errors
/// Where it cannot be started or fed. A program that reads no more of its input is none: its exit status says.
pub fn run(program: &OsStr, args: &[&str], input: &[u8]) -> io::Result<Output> {
    let words = String::from_utf8_lossy(input);
    tracing::debug!("run {} {}\n{words}", program.display(), args.join(" "));
    let mut child = command(program)
        .args(args)
        .env("LC_ALL", "C")
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
