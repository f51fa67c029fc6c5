//! `riklet-sdn serve`.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{command::PATH, http::Client, namespace::Namespace, wait_for};

/// Limits the wait for any operation.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A running daemon. Dropping this kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    state: PathBuf,
    ready_slots: usize,
    /// The time from exec to READY.
    pub(crate) start_took: Duration,
}

impl Daemon {
    /// Starts a daemon in a namespace, with its state in a directory, and waits until it is ready (`sd_notify(3)`).
    pub(crate) fn start(node: &Namespace, state: &Path, backend: &str, ready_slots: usize) -> Self {
        fs::create_dir_all(state).unwrap();
        let notifications = state.join("notify");
        fs::remove_file(&notifications).ok();
        let socket = UnixDatagram::bind(&notifications).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut command = program(state, backend);
        command
            .args(["serve", "--ready-slots", &ready_slots.to_string()])
            .env("NOTIFY_SOCKET", &notifications)
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(state.join("log")).unwrap());
        let (started, child) = node.run(|| (Instant::now(), command.spawn().unwrap()));
        let mut daemon =
            Self { child, state: state.to_owned(), ready_slots, start_took: Duration::ZERO };
        let mut buffer = [0; 4096];
        wait_for("the daemon to be ready", PATIENCE, || {
            let length = socket.recv(&mut buffer).unwrap_or_default();
            let ready = String::from_utf8_lossy(&buffer[..length]).lines().any(|l| l == "READY=1");
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            ready.then_some(())
        });
        daemon.start_took = started.elapsed();
        daemon
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.state.join("api.sock")).unwrap()
    }

    /// Returns the daemon's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all ready slots exist.
    pub(crate) fn wait_for_ready_slots(&self, client: &mut Client) {
        wait_for("the ready slots", PATIENCE, || {
            let health = client.json("GET", "/v1/health", "");
            (health["readySlots"] == self.ready_slots).then_some(())
        });
    }

    /// Stops the daemon as systemd does, and waits until it has ended.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        wait_for("the daemon's end", PATIENCE, || self.child.try_wait().unwrap().map(drop));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Does nothing if the daemon has already ended.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            let log = fs::read_to_string(self.state.join("log")).unwrap_or_default();
            eprintln!("the daemon's last words:");
            log.lines().rev().take(20).for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Returns a command that runs the program with its state in a directory.
pub(crate) fn program(state: &Path, backend: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riklet-sdn"));
    command.arg("--state-dir").arg(state).args(["--firewall", backend]);
    command
}
