//! Feeds a program and reads what it writes, by one thread. The standard library's function for that panics if a read fails.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, Output},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// The bytes that a pipe which poll(2) calls writable takes without a wait: `PIPE_BUF` (pipe(7)).
const ATOMIC: usize = 4096;
const CHUNK: usize = 1 << 13;

/// Writes the input, reads the output to its end, and waits for the program. It may stop reading its input earlier.
///
/// # Errors
/// Fails if a pipe cannot be read or written: the program is killed then.
pub(super) fn talk(mut child: Child, input: &[u8]) -> io::Result<Output> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    match exchange(pipes, input) {
        Ok((stdout, stderr)) => Ok(Output { status: child.wait()?, stdout, stderr }),
        Err(error) => {
            // It may have ended.
            child.kill().ok();
            child.wait()?;
            Err(error)
        }
    }
}

type Pipes<O, E> = (Option<ChildStdin>, Option<O>, Option<E>);

fn exchange<O: Read + AsFd, E: Read + AsFd>(
    (mut stdin, mut stdout, mut stderr): Pipes<O, E>,
    mut input: &[u8],
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    loop {
        // Closing it is the end of input.
        stdin = stdin.filter(|_| !input.is_empty());
        if stdin.is_none() && stdout.is_none() && stderr.is_none() {
            return Ok((output, errors));
        }
        let (write, from_out, from_err) = ready(stdin.as_ref(), stdout.as_ref(), stderr.as_ref())?;
        if write && let Some(pipe) = &mut stdin {
            match pipe.write(input.get(..ATOMIC).unwrap_or(input)) {
                Ok(written) => input = input.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => stdin = None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if from_out {
            stdout = read_some(stdout, &mut output)?;
        }
        if from_err {
            stderr = read_some(stderr, &mut errors)?;
        }
    }
}

/// Waits until at least one of the pipes can be written or read, or was closed. Returns which.
fn ready(
    stdin: Option<&impl AsFd>,
    stdout: Option<&impl AsFd>,
    stderr: Option<&impl AsFd>,
) -> io::Result<(bool, bool, bool)> {
    let stdin = stdin.map(|pipe| PollFd::new(pipe, PollFlags::OUT));
    let stdout = stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN));
    let stderr = stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN));
    let is_there = [stdin.is_some(), stdout.is_some(), stderr.is_some()];
    let mut pipes: Vec<_> = [stdin, stdout, stderr].into_iter().flatten().collect();
    match poll(&mut pipes, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut answers = pipes.iter().map(|pipe| !pipe.revents().is_empty());
    let [write, out, err] = is_there.map(|is_there| is_there && answers.next().unwrap_or_default());
    Ok((write, out, err))
}

/// Reads what is there. Returns the pipe, unless it has ended.
fn read_some<P: Read>(pipe: Option<P>, into: &mut Vec<u8>) -> io::Result<Option<P>> {
    let Some(mut pipe) = pipe else { return Ok(None) };
    let mut chunk = [0; CHUNK];
    match pipe.read(&mut chunk) {
        Ok(0) => Ok(None),
        Ok(length) => {
            into.extend_from_slice(chunk.get(..length).unwrap_or_default());
            Ok(Some(pipe))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(pipe)),
        Err(error) => Err(error),
    }
}
