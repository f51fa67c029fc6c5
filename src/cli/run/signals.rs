use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use signal_hook::consts::{SIGINT, SIGTERM};

/// SIGINT and SIGTERM as a file that is readable once one of them came.
pub(super) struct Signals(UnixStream);

impl Signals {
    /// From now on the two do not end the process.
    pub(super) fn watch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
