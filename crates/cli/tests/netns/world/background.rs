//! Threads that end with their owner.

use std::{
    fmt,
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd},
    panic,
    thread::{self, JoinHandle},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A background thread. Dropping this tells the thread to stop, and waits until it has stopped.
pub(crate) struct Background {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's means to find out whether its owner still exists.
pub(crate) struct Stop(PipeReader);

impl Background {
    pub(crate) fn start(work: impl FnOnce(&Stop) + Send + 'static) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        let thread = thread::spawn(move || work(&Stop(reader)));
        Self { stop: Some(writer), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if let Err(reason) = ended
            && !thread::panicking()
        {
            panic::resume_unwind(reason);
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Stop {
    /// Tells whether the owner still exists.
    pub(crate) fn goes_on(&self) -> bool {
        let mut stop = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        poll(&mut stop, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 0
    }

    /// Waits until one of these files can be read or has failed, and returns which. Returns `None` once the owner is
    /// gone.
    pub(crate) fn readable<const N: usize>(&self, files: [BorrowedFd<'_>; N]) -> Option<[bool; N]> {
        let ready = |entry: &PollFd<'_>| !entry.revents().is_empty();
        let mut stop = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let mut entries: Vec<PollFd<'_>> = files
            .iter()
            .map(|file| PollFd::from_borrowed_fd(*file, PollFlags::IN))
            .chain(stop.iter().cloned())
            .collect();
        poll(&mut entries, None).expect("poll");
        stop.clone_from_slice(&entries[N..]);
        let [stop] = &stop;
        (!ready(stop)).then(|| std::array::from_fn(|index| ready(&entries[index])))
    }
}
