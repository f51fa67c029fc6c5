//! Programs, and how long they take.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Debian's, of root: whoever builds this has more directories before those of the programs that are called.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn sh(script: &str) -> Duration {
    timed(Command::new("sh").args(["-c", script]))
}

/// How long a program takes, which must succeed.
#[track_caller]
pub(crate) fn timed(command: &mut Command) -> Duration {
    fed(command, "").0
}

/// The same with an input, and what it printed.
#[track_caller]
pub(crate) fn fed(command: &mut Command, input: &str) -> (Duration, Output) {
    command.env("PATH", PATH);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    // A program need not read its input.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed();
    let text = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
    (took, output)
}
