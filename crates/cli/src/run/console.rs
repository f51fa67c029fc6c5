//! Copies the guest's console to standard output as it is written.

use std::{
    io::{self, PipeWriter},
    os::fd::AsFd,
    path::Path,
    thread::JoinHandle,
};

use riklet_kernel::threads;
use riklet_vmm::console::Follower;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{error::CliError, output::GuestText};

/// A thread that copies the log until this is ended.
pub(super) struct Console {
    /// Closing it ends the thread.
    stop: PipeWriter,
    thread: JoinHandle<Result<(), CliError>>,
}

impl Console {
    /// Starts to copy, from the beginning of the log.
    pub(super) fn show(log: &Path, mut text: GuestText) -> Result<Self, CliError> {
        let path = log.to_owned();
        let failed = move |source| CliError::Log { path: path.clone(), source };
        let mut follower = Follower::open(log).map_err(&failed)?;
        let (stopped, stop) = io::pipe().map_err(&failed)?;
        let refused = failed.clone();
        let copy = move || loop {
            let files = [follower.as_fd(), stopped.as_fd()];
            let mut files = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
            match poll(&mut files, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            let last = files.last().is_some_and(|stop| !stop.revents().is_empty());
            text.print(&follower.read_new().map_err(&failed)?)?;
            if last {
                return text.finish();
            }
        };
        Ok(Self { stop, thread: threads::start("console", copy).map_err(refused)? })
    }

    /// Copies the rest of the log, and ends the thread.
    pub(super) fn end(self) -> Result<(), CliError> {
        drop(self.stop);
        // A thread that panicked has reported it on standard error.
        self.thread.join().unwrap_or(Ok(()))
    }
}
