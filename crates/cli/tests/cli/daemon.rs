//! A daemon in an environment: the same program, `serve`.

use std::{os::unix::net::UnixStream, path::PathBuf, process::Child, time::Duration};

use riklet_http::{Client, HttpError};
use rustix::process::{Pid, Signal, kill_process};

use crate::environment::Environment;

/// The longest wait for a daemon to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon, until this is dropped.
#[derive(Debug)]
#[must_use = "it ends with this"]
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts one with these arguments, and waits until it serves. It makes no TAPs in advance unless they say
    /// so: its steps are those that a program takes alone.
    pub(crate) fn start(environment: &Environment, arguments: &[&str]) -> Self {
        Self::start_at(environment, "state/api.sock", arguments)
    }

    /// The same, where it listens on another socket, by its configuration.
    pub(crate) fn start_at(environment: &Environment, socket: &str, arguments: &[&str]) -> Self {
        let slots: &[_] =
            if arguments.contains(&"--ready-slots") { &[] } else { &["--ready-slots", "0"] };
        let all = [&["serve"], slots, arguments].concat();
        let mut child = environment.spawn(&all);
        let socket = environment.path(socket);
        let client = Client::new(&socket, PATIENCE);
        let listens = client.wait(|| matches!(child.try_wait(), Ok(None)));
        assert!(listens.is_ok(), "{}", words(listens));
        Self { child, socket }
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) {
        self.terminate();
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}");
        assert!(UnixStream::connect(&self.socket).is_err());
    }

    /// Kills it, and waits until it is gone.
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
