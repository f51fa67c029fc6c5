//! Starts programs that outlive this process, and are not its children.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    path::Path,
    process::{ChildStdout, Stdio},
};

use super::fork;

/// Starts a program with this standard input and this file as its standard error, and returns its standard output, which
/// is a pipe. It has a session of its own, and its parent is process 1 or the nearest subreaper (prctl(2)).
///
/// # Errors
/// Fails if it cannot be started or fed.
pub fn spawn_detached(
    program: &Path,
    arguments: &[OsString],
    input: &[u8],
    errors: File,
) -> io::Result<ChildStdout> {
    let mut command = super::command(program.as_os_str());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
    fork::leave(&mut command);
    let mut starter = command.spawn()?;
    let fed = match starter.stdin.take().map(|mut stdin| stdin.write_all(input)) {
        // If the program stops reading, it reports the reason itself.
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    };
    starter.wait()?;
    fed?;
    starter.stdout.take().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}
