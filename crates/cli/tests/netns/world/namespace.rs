//! Network namespaces without names.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    panic,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    command::{self, Output, Running},
    machine::Machine,
    system,
};

/// A network namespace, held by an open file (namespaces(7)): it vanishes with the last clone, socket and
/// process in it, also after a panic, and the host never sees anything of it.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(super) file: Arc<File>,
    /// The machine that programs in this namespace run on, if they have one of their own.
    pub(super) machine: Option<Arc<Machine>>,
}

impl Namespace {
    /// Creates a namespace whose only interface is `lo`, up.
    pub(crate) fn new() -> Self {
        let open = || {
            system::unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        };
        let file = thread::scope(|scope| scope.spawn(open).join())
            .expect("the thread does not panic")
            .expect("a network namespace: these tests need root");
        let namespace = Self { file: Arc::new(file), machine: None };
        namespace.tool(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Returns the calling thread's namespace, which tests must not change.
    pub(crate) fn current() -> Self {
        let file = File::open("/proc/thread-self/ns/net").expect("the thread's namespace");
        Self { file: Arc::new(file), machine: None }
    }

    /// Runs a job in the namespace, on a thread of its own: jobs do not wait for each other. Sockets that it creates
    /// stay in the namespace wherever they are used later, programs that it starts inherit the namespace, and
    /// `/proc/sys/net` and `/proc/thread-self/net` belong to it.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("setns");
            job()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(reason) => panic::resume_unwind(reason),
        }
    }

    /// Runs a job that only starts a program: the program sees the machine's files and processes.
    pub(super) fn run_on_machine<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.run(|| {
            if let Some(machine) = &self.machine {
                machine.enter();
            }
            job()
        })
    }

    /// Returns the path that `ip link … netns` accepts.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Runs a program of the system that must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn tool(&self, command: &[&str]) -> String {
        self.feed(command, "").success()
    }

    /// Runs a program of the system with this input.
    #[track_caller]
    pub(crate) fn feed(&self, command: &[&str], stdin: &str) -> Output {
        let (program, arguments) = command.split_first().expect("a program's name");
        command::run(self, program, arguments, &command::environment(), stdin)
    }

    /// Runs a program of the system in the background.
    #[track_caller]
    pub(crate) fn start(&self, command: &[&str]) -> Running {
        let (program, arguments) = command.split_first().expect("a program's name");
        command::start(self, program, arguments, &command::environment(), "")
    }

    /// Makes this namespace a hostile neighbour, which sends to (and from) 127.0.0.0/8 through `eth0` by this gateway.
    #[track_caller]
    pub(crate) fn send_loopback_to(&self, gateway: Ipv4Addr) {
        // Once `lo` has no addresses, only this sysctl sets 127.0.0.0/8 apart from any other network.
        self.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1");
        let commands =
            format!("address flush dev lo\nroute add 127.0.0.0/8 via {gateway} dev eth0\n");
        self.feed(&["ip", "-batch", "-"], &commands).success();
    }

    /// Reads a sysctl by its path under `/proc/sys`, such as `net/ipv4/ip_forward`.
    #[track_caller]
    pub(crate) fn sysctl(&self, path: &str) -> String {
        let read = || read_proc(&Path::new("/proc/sys").join(path));
        self.run(read).unwrap_or_else(|| panic!("cannot read the sysctl {path}"))
    }

    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "the harness writes sysctls here only")]
    pub(crate) fn set_sysctl(&self, path: &str, value: &str) {
        let result = self.run(|| fs::write(Path::new("/proc/sys").join(path), value));
        result.unwrap_or_else(|error| panic!("cannot set the sysctl {path} to {value}: {error}"));
    }
}

/// Returns the paths in a directory of `/proc`, or `None` if it does not exist any more.
pub(super) fn list_proc(path: &Path) -> Option<Vec<PathBuf>> {
    fs::read_dir(path).ok()?.map(|entry| entry.map(|entry| entry.path()).ok()).collect()
}

/// Reads and trims a file of `/proc`, as the calling thread's namespace has it. Returns `None` if it cannot be read:
/// some files can only be written.
#[expect(clippy::disallowed_methods, reason = "the harness reads /proc here only")]
pub(super) fn read_proc(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
