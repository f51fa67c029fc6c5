//! Starts programs that outlive this process.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    path::Path,
    process::{Child, Stdio},
};

/// Starts a program with this standard input and this file as its standard error; its standard output is a
/// pipe. It stays in our session, and in our terminal's group, until it leaves them itself (setsid(2)).
///
/// # Errors
/// Fails if it cannot be started or fed.
pub fn spawn_detached(
    program: &Path,
    arguments: &[OsString],
    input: &[u8],
    errors: File,
) -> io::Result<Child> {
    let mut child = super::command(program.as_os_str())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // If the program stops reading, it reports the reason itself.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    Ok(child)
}
