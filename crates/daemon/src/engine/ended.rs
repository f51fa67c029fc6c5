//! Threads that wait for the kernel until the engine ends.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// A thread, which ends after this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    _end: UnixStream,
}

/// The thread's own end of that.
#[derive(Debug)]
pub(super) struct Ended(UnixStream);

impl Thread {
    /// Starts a thread, in the network namespace of the calling one.
    pub(super) fn start(name: &str, run: impl FnOnce(&Ended) + Send + 'static) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let ended = Ended(ended);
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&ended))?;
        Ok(Self { _end: end })
    }
}

impl Ended {
    /// Waits for a time. Returns whether the thread is to end: at once if it is, and also if waiting fails.
    pub(super) fn within(&self, time: Timespec) -> bool {
        !matches!(
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time)),
            Ok(0) | Err(Errno::INTR)
        )
    }

    /// Waits until a file can be read, or for a time; `None` is for ever. Returns whether the thread is to end, as
    /// [`Self::within`] does.
    pub(super) fn before(&self, file: impl AsFd, time: Option<Timespec>) -> bool {
        let files = [file.as_fd(), self.0.as_fd()];
        let mut files = files.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut files, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return true,
        }
        let [_, end] = &files;
        !end.revents().is_empty()
    }
}
