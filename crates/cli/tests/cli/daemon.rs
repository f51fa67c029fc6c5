//! A daemon in an environment: the same program, run as `serve`.

use std::{os::unix::net::UnixStream, path::PathBuf, process::Child, time::Duration};

use riklet_http::{ApiCall, Client, HttpError};
use rustix::process::{Pid, Signal, kill_process};

use crate::environment::Environment;

/// Limits the wait for a daemon to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon. Dropping this ends it.
#[derive(Debug)]
#[must_use = "it ends with this"]
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts a daemon with these arguments, and waits until it serves. It creates no TAPs in advance unless the
    /// arguments ask for it, so its steps are those of a program without a daemon.
    pub(crate) fn start(environment: &Environment, arguments: &[&str]) -> Self {
        Self::start_at(environment, "state/api.sock", arguments)
    }

    /// Starts a daemon that listens on another socket, which its configuration names.
    pub(crate) fn start_at(environment: &Environment, socket: &str, arguments: &[&str]) -> Self {
        let slots: &[_] =
            if arguments.contains(&"--ready-slots") { &[] } else { &["--ready-slots", "0"] };
        let all = [&["serve"], slots, arguments].concat();
        let mut child = environment.spawn(&all);
        let socket = environment.path(socket);
        let client = Client::new(&socket, PATIENCE);
        let listens = client.wait(|| matches!(child.try_wait(), Ok(None)));
        assert!(listens.is_ok(), "{}", words(listens));
        let answer = client.exchange(&ApiCall::get("/v1/health"));
        assert!(answer.is_ok(), "{answer:?}");
        Self { child, socket }
    }

    /// Returns the number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the daemon to end, and waits until it has ended.
    pub(crate) fn end(mut self) {
        self.terminate();
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}");
        assert!(UnixStream::connect(&self.socket).is_err());
    }

    /// Kills the daemon, and waits until it has ended.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a process");
        self.child.wait().expect("its end");
    }

    fn terminate(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process"), Signal::TERM).ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.terminate();
        self.child.wait().ok();
    }
}

fn words(result: Result<(), HttpError>) -> String {
    result.map_or_else(|error| error.to_string(), |()| String::new())
}
