//! The daemon on the node, and a client of its API.

use std::{
    io::{Read, Write},
    ops::Deref,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{World, command::Running, wait_for};

/// The longest time that a daemon may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    running: Running,
    api: Api,
}

/// A client of the daemon's socket.
#[derive(Debug, Clone)]
pub(crate) struct Api(PathBuf);

impl Deref for Daemon {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// A response of the daemon.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl World {
    /// Returns the socket that the daemon listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("state/api.sock")
    }

    /// Starts the daemon with few ready slots, and waits until it answers.
    #[track_caller]
    pub(crate) fn daemon(&self, arguments: &[&str]) -> Daemon {
        let arguments = [&["serve", "--ready-slots", "4"], arguments].concat();
        let running = self.riklet_in_background(&arguments, "");
        self.serving(running)
    }

    /// Starts the daemon with these capabilities (capabilities(7)) and no others, and waits until it answers.
    #[track_caller]
    pub(crate) fn daemon_with(&self, capabilities: &[&str]) -> Daemon {
        let mut bounds = "--bounding-set=-all".to_owned();
        for name in capabilities {
            bounds.push_str(",+");
            bounds.push_str(&name.trim_start_matches("CAP_").to_lowercase());
        }
        let program = env!("CARGO_BIN_EXE_riklet-sdn");
        let words =
            [&*bounds, "--inh-caps=-all", "--no-new-privs", program, "serve", "--ready-slots", "4"];
        self.serving(self.program_in_background("setpriv", &words, ""))
    }

    /// Starts the daemon with this limit of open files (`RLIMIT_NOFILE`, getrlimit(2)), and waits until it answers.
    #[track_caller]
    pub(crate) fn daemon_with_descriptors(&self, count: u32, arguments: &[&str]) -> Daemon {
        let limit = format!("--nofile={count}:{count}");
        let program = env!("CARGO_BIN_EXE_riklet-sdn");
        let words = [&*limit, program, "serve", "--ready-slots", "4"];
        self.serving(self.program_in_background("prlimit", &[&words, arguments].concat(), ""))
    }

    #[track_caller]
    fn serving(&self, running: Running) -> Daemon {
        let mut daemon = Daemon { running, api: Api(self.socket()) };
        wait_for("the daemon to answer", PATIENCE, || {
            assert!(daemon.running.is_running(), "the daemon has ended");
            // A killed one's socket may take connections for a moment, and answers none.
            daemon.try_ask("GET", "/v1/health", "").ok().filter(|reply| reply.status != 0)
        });
        daemon
    }
}

impl Api {
    pub(crate) fn try_ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.say(request.as_bytes())
    }

    /// Sends these bytes, and reads until the daemon closes the connection.
    pub(crate) fn say(&self, request: &[u8]) -> std::io::Result<Reply> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The daemon may answer and close before it has read everything.
        stream.write_all(request).ok();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).ok();
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let reply = self.try_ask(method, path, body);
        reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Returns the document of an answer with status 200.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, "");
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// Returns the events that the daemon remembers.
    #[track_caller]
    pub(crate) fn events(&self) -> String {
        self.ask("GET", "/v1/events?recent=true", "").body
    }

    /// Waits until the kernel matches the records, no work is in progress, and the ready slots are filled.
    #[track_caller]
    pub(crate) fn wait_until_idle(&self) {
        let mut seen = OnPanic(String::new());
        wait_for("the daemon to come to rest", PATIENCE, || {
            let health = self.get("/v1/health");
            let at_rest = health["creatingSlots"] == 0
                && health["drainingSlots"] == 0
                && health["readySlots"] == 4;
            let check = self.get("/v1/check");
            let empty = |field: &str| check[field].as_array().is_some_and(Vec::is_empty);
            seen.0 = format!("{health}\n{check}");
            (at_rest && empty("steps") && empty("unsettled")).then_some(())
        });
    }
}

/// Tells something if a test fails here.
struct OnPanic(String);

impl Drop for OnPanic {
    #[expect(clippy::print_stderr, reason = "what a failed test has seen is worth knowing")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl Daemon {
    /// Returns a client of its socket, which reaches the next daemon once this one is gone.
    pub(crate) fn clone_api(&self) -> Api {
        self.api.clone()
    }

    /// Returns the number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.running.id()
    }

    /// Tells whether the daemon is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Returns the resident memory in KiB (`VmRSS` of `/proc/PID/status`).
    pub(crate) fn resident_kib(&self) -> u64 {
        self.running.resident_kib()
    }

    /// Returns its processor time in seconds (`utime` and `stime` of proc(5), in ticks of 10 ms).
    pub(crate) fn processor_time(&self) -> f64 {
        self.running.processor_time()
    }

    /// Returns its process.
    pub(crate) fn into_running(self) -> Running {
        self.running
    }

    /// Sends the daemon this signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Sends the daemon this signal, and waits until it has ended.
    #[track_caller]
    pub(crate) fn end(self, signal: Signal) {
        self.running.signal(signal);
        let output = self.running.wait();
        if signal == Signal::TERM {
            output.success();
        }
    }
}
