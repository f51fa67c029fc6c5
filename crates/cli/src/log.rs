//! The log on standard error, written by a thread of its own.
//!
//! An operation logs under the lock. If nobody reads standard error, a write to it would keep the lock for as long, and stop
//! the whole node. So lines are queued, and the program waits for them only where it holds no lock: before it prints
//! something itself, and at its end.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use super::plain;

/// The time that an ending daemon waits for its log to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most bytes that wait to be written. Further lines are left out, and counted.
const LONGEST: usize = 16 << 20;

static QUEUE: Queue =
    Queue { state: Mutex::new(State::NEW), changed: Condvar::new(), is_written: OnceLock::new() };

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// True if there is a thread that writes: it starts with the first line, since most commands log none.
    is_written: OnceLock<bool>,
}

struct State {
    waiting: Vec<u8>,
    left_out: usize,
    /// True while the thread writes what it has taken from the queue.
    writes: bool,
}

impl State {
    const NEW: Self = Self { waiting: Vec::new(), left_out: 0, writes: false };

    const fn is_unwritten(&self) -> bool {
        self.writes || !self.waiting.is_empty()
    }
}

/// Begins to send the library's log to standard error: with `-v` each change of the system after it is made, with `-vv`
/// also each program that is run.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        // If the reader is gone, reporting the error would panic, and interrupt an operation halfway.
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .with_writer(Lines)
        .init();
}

/// Queues a line for standard error, whatever the level.
pub(crate) fn say(line: &str) {
    // Only where the queue has no thread can this fail, and then there is nowhere to report it.
    let _written = writeln!(Lines.make_writer(), "{line}");
}

/// Waits until everything that was logged is written. Must not be called under the lock.
pub(crate) fn flush() {
    let written = QUEUE.changed.wait_while(QUEUE.state(), |state| state.is_unwritten());
    drop(written);
}

/// Waits as [`flush`] does, but not for long: the service manager waits for the end of the daemon.
pub(crate) fn flush_briefly() {
    let written = QUEUE.changed.wait_timeout_while(QUEUE.state(), LAST_WORDS, |s| s.is_unwritten());
    drop(written);
}

impl Queue {
    /// Starts the thread that writes, unless it is there. Returns whether it is.
    fn has_writer(&self) -> bool {
        let start = || thread::Builder::new().name("log".to_owned()).spawn(|| QUEUE.write());
        *self.is_written.get_or_init(|| start().is_ok())
    }

    /// Writes what is queued, until the process ends.
    fn write(&self) {
        let mut state = self.state();
        loop {
            while state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let mut lines = std::mem::take(&mut state.waiting);
            if let count @ 1.. = std::mem::take(&mut state.left_out) {
                lines.extend(
                    format!("{count} lines of the log were left out: nobody reads it\n").bytes(),
                );
            }
            state.writes = true;
            drop(state);
            // There is nowhere to report a failure.
            let mut errors = io::stderr().lock();
            if errors.is_terminal() {
                lines = plain::escaped(&String::from_utf8_lossy(&lines)).into_bytes();
            }
            let _unwritable = errors.write_all(&lines);
            drop(errors);
            state = self.state();
            state.writes = false;
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to the queue. The subscriber writes each line at once.
#[derive(Debug, Clone, Copy)]
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !QUEUE.has_writer() {
            return io::stderr().write(line);
        }
        let mut state = QUEUE.state();
        if state.waiting.len() + line.len() > LONGEST {
            state.left_out += 1;
        } else {
            state.waiting.extend_from_slice(line);
        }
        QUEUE.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
