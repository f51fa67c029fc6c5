//! Network namespaces without names.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::{AsFd, AsRawFd},
    panic,
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command;

/// A network namespace, held by an open file (namespaces(7)).
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Creates a namespace whose only interface is `lo`, up.
    pub(crate) fn new() -> Self {
        // A program creates it, since unshare(2) has no safe wrapper.
        let mut maker = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up && echo made && read _"])
            .env("PATH", command::PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(maker.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "made\n");
        let file = File::open(format!("/proc/{}/ns/net", maker.id())).unwrap();
        drop(maker.stdin.take());
        // `read` fails at the end of its input, so the exit status means nothing.
        maker.wait().unwrap();
        Self { file: Arc::new(file) }
    }

    /// Runs a job in the namespace, in a thread of its own. Sockets that it makes stay in the namespace, and
    /// programs that it starts inherit it.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            job()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(reason) => panic::resume_unwind(reason),
        }
    }

    /// Returns a path of the namespace that other programs can open.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Runs a script in the namespace. The script must succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> Duration {
        self.run(|| command::sh(script))
    }
}
