//! `riklet-sdn serve`.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{command::PATH, http::Client, namespace::Namespace, wait_for};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running daemon. Dropping this kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    state: PathBuf,
    warm: usize,
}

impl Daemon {
    /// Starts one in a namespace, with its state in a directory, and waits until it is ready (`sd_notify(3)`).
    pub(crate) fn start(node: &Namespace, state: &Path, backend: &str, warm: usize) -> Self {
        fs::create_dir_all(state).unwrap();
        let notifications = state.join("notify");
        fs::remove_file(&notifications).ok();
        let socket = UnixDatagram::bind(&notifications).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = program(state, backend);
        command
            .args(["serve", "--warm", &warm.to_string()])
            .env("NOTIFY_SOCKET", &notifications)
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(state.join("log")).unwrap());
        let child = node.run(|| command.spawn().unwrap());
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        Self { child, state: state.to_owned(), warm }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.state.join("api.sock")).unwrap()
    }

    /// Waits until all warm slots are there.
    pub(crate) fn wait_for_warm(&self, client: &mut Client) {
        wait_for("the warm slots", PATIENCE, || {
            let health = client.json("GET", "/v1/health", "");
            (health["warmSlots"] == self.warm).then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, and then this does nothing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program, with its state in a directory.
pub(crate) fn program(state: &Path, backend: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riklet-sdn"));
    command.arg("--state-dir").arg(state).args(["--firewall", backend]);
    command
}
