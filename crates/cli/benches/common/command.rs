//! Runs programs, and measures the time they take.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Debian's PATH for root. The caller's own PATH may lead to other programs of the same names.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn sh(script: &str) -> Duration {
    timed(Command::new("sh").args(["-c", script]))
}

/// Runs a program that must succeed, and returns the time it took.
#[track_caller]
pub(crate) fn timed(command: &mut Command) -> Duration {
    run_with_input(command, "").0
}

/// Runs a program that must succeed with this input. Returns the time it took and its output.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> (Duration, Output) {
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
