//! QMP, the protocol to control a running QEMU: one JSON text a line over its socket (docs/interop/qmp-spec.rst of
//! QEMU; the commands are in its QMP reference).

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::socket_peercred,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use riklet_http::owned_socket;

/// The longest line that is read. QEMU's answers to these commands have some hundred bytes.
const MAX_LINE: usize = 1 << 20;

/// A connection to a running QEMU. QEMU serves one connection at a time; another waits for the greeting.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    /// The bytes received and not read yet.
    received: Vec<u8>,
    events: VecDeque<Event>,
    version: Version,
    /// The time limit for an answer.
    patience: Duration,
    /// The number of the last command.
    last: u64,
}

/// The version of QEMU: major, minor, micro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "each field is its name")]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

/// An event that QEMU sends without being asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The guest ends, and with `-no-reboot` QEMU ends too.
    Shutdown {
        /// True if the guest caused it.
        guest: bool,
        /// The cause, such as `guest-shutdown`, `guest-reset`, `host-qmp-quit`, `host-signal` (`ShutdownCause`).
        reason: String,
    },
    /// Any other event.
    Other {
        /// The name, such as `POWERDOWN`.
        name: String,
        /// The data that it carries; null if there is none.
        data: Value,
    },
}

/// The state of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// True while its processors run.
    pub running: bool,
    /// The state as one word: `running`, `paused`, `shutdown`, `internal-error`, … (`RunState`).
    pub status: String,
}

/// The reason why QEMU could not be reached, or did not do what was requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nobody listens on the socket.
    #[error("cannot connect to QEMU at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// Another user listens on the socket.
    #[error("user {peer} listens at {}, and not user {user}", path.display())]
    Peer {
        /// The socket.
        path: PathBuf,
        /// The user that QEMU runs as.
        user: u32,
        /// The user that listens.
        peer: u32,
    },
    /// Nothing came in time. If the greeting is missing, another client may be connected.
    #[error("QEMU has not sent its {what} within {} ms", patience.as_millis())]
    Timeout {
        /// `greeting`, or `answer to` a command.
        what: String,
        /// The time waited.
        patience: Duration,
    },
    /// QEMU has ended.
    #[error("QEMU closed the connection before its {what}")]
    Closed {
        /// The missing message: `greeting`, `answer to` a command, or `next event`.
        what: String,
    },
    /// The socket failed.
    #[error("the connection to QEMU failed before its {what}")]
    Connection {
        /// The missing message, as in [`QmpError::Closed`].
        what: String,
        /// The kernel's own words.
        source: io::Error,
    },
    /// QEMU sent something that is not QMP.
    #[error("what came instead of QEMU's {what} is no QMP")]
    Malformed {
        /// The missing message, as in [`QmpError::Closed`].
        what: String,
        /// The place and the reason.
        source: serde_json::Error,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The class of the error, such as `CommandNotFound`, `GenericError`.
        class: String,
        /// QEMU's message.
        desc: String,
    },
}

/// One line from QEMU. Its fields tell which message it is.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Greeting {
        #[serde(rename = "QMP")]
        qmp: Greeting,
    },
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Error {
        error: Refusal,
        id: Option<u64>,
    },
    Return {
        r#return: Value,
        id: Option<u64>,
    },
}

#[derive(Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Version,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

#[derive(Deserialize)]
struct ShutdownData {
    guest: bool,
    reason: String,
}

impl Qmp {
    /// Connects to the socket that `-chardev socket,server=on` created, and negotiates the protocol. `patience` limits
    /// the wait for each answer, of this call and of later ones.
    ///
    /// # Errors
    /// Fails if nobody listens there (yet), another client is connected, or the answer is not QMP.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Connect { path: path.to_owned(), source };
        let stream = open(path).map_err(|errno| failed(errno.into()))?;
        Self::begin(stream, patience)
    }

    /// Connects as [`Self::connect`] does, if the path leads to a socket on which this user listens.
    ///
    /// # Errors
    /// Fails as [`Self::connect`] does, and if another user listens or the path leads to something else than a socket.
    pub fn connect_to(path: &Path, user: u32, patience: Duration) -> Result<Self, QmpError> {
        let failed = |source| QmpError::Connect { path: path.to_owned(), source };
        let file = owned_socket(path).map_err(failed)?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let stream = open(Path::new(&name)).map_err(|errno| failed(errno.into()))?;
        let peer = socket_peercred(&stream).map_err(|errno| failed(errno.into()))?.uid.as_raw();
        if peer != user {
            return Err(QmpError::Peer { path: path.to_owned(), user, peer });
        }
        Self::begin(stream, patience)
    }

    fn begin(stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let version = Version { major: 0, minor: 0, micro: 0 };
        let (received, events) = (Vec::new(), VecDeque::new());
        let mut qmp = Self { stream, received, events, version, patience, last: 0 };
        qmp.version = qmp.greeting()?;
        // QEMU accepts no other command before this one.
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Returns the version of QEMU.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Presses the guest's power button. The guest decides what to do. If it ends, [`Event::Shutdown`] follows, and
    /// QEMU ends.
    ///
    /// # Errors
    /// Fails if QEMU refuses or does not answer.
    pub fn system_powerdown(&mut self) -> Result<(), QmpError> {
        self.execute("system_powerdown").map(drop)
    }

    /// Ends QEMU and the guest at once, as unplugging the machine would.
    ///
    /// # Errors
    /// Fails if QEMU refuses or does not answer.
    pub fn quit(&mut self) -> Result<(), QmpError> {
        self.execute("quit").map(drop)
    }

    /// Returns the state of the guest.
    ///
    /// # Errors
    /// Fails if QEMU refuses or does not answer.
    pub fn query_status(&mut self) -> Result<Status, QmpError> {
        let command = "query-status";
        let answer = self.execute(command)?;
        let what = answer_to(command);
        Status::deserialize(answer).map_err(|source| QmpError::Malformed { what, source })
    }

    /// Returns the next event, including those that came during the wait for an answer. Returns `None` if none comes
    /// within `limit`.
    ///
    /// # Errors
    /// Fails if QEMU has ended, or sends something that is not QMP.
    pub fn next_event(&mut self, limit: Duration) -> Result<Option<Event>, QmpError> {
        let until = now() + limit;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.message("next event", until)? {
                None => return Ok(None),
                Some(Message::Event { event, data }) => self.events.push_back(known(event, data)),
                // This answers a command that timed out.
                Some(_) => {}
            }
        }
    }

    fn greeting(&mut self) -> Result<Version, QmpError> {
        let until = now() + self.patience;
        loop {
            match self.message("greeting", until)? {
                None => return Err(self.timeout("greeting")),
                Some(Message::Greeting { qmp }) => return Ok(qmp.version.qemu),
                Some(_) => {}
            }
        }
    }

    fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let until = now() + self.patience;
        let what = answer_to(command);
        self.last += 1;
        let line = format!("{}\n", json!({ "execute": command, "id": self.last }));
        self.stream.write_all(line.as_bytes()).map_err(|source| broken(&what, source))?;
        loop {
            match self.message(&what, until)? {
                None => return Err(self.timeout(&what)),
                Some(Message::Event { event, data }) => self.events.push_back(known(event, data)),
                Some(Message::Return { r#return, id }) if id == Some(self.last) => {
                    return Ok(r#return);
                }
                // An error without an id answers a command that QEMU could not parse.
                Some(Message::Error { error, id }) if id.is_none_or(|id| id == self.last) => {
                    let Refusal { class, desc } = error;
                    return Err(QmpError::Refused { command, class, desc });
                }
                Some(_) => {}
            }
        }
    }

    /// Returns the next message; `None` if there is none in time.
    fn message(&mut self, what: &str, until: Instant) -> Result<Option<Message>, QmpError> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let message = serde_json::from_slice(&line);
                return message
                    .map(Some)
                    .map_err(|source| QmpError::Malformed { what: what.to_owned(), source });
            }
            if self.received.len() > MAX_LINE {
                return Err(broken(what, io::Error::other("a line has no end")));
            }
            let ready = readable(self.stream.as_fd(), until);
            if !ready.map_err(|errno| broken(what, errno.into()))? {
                return Ok(None);
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more).map_err(|source| broken(what, source))? {
                0 => return Err(QmpError::Closed { what: what.to_owned() }),
                length => self.received.extend(more.iter().take(length)),
            }
        }
    }

    fn timeout(&self, what: &str) -> QmpError {
        QmpError::Timeout { what: what.to_owned(), patience: self.patience }
    }
}

impl AsFd for Qmp {
    /// The descriptor is readable when an event may have come. Call [`Qmp::next_event`] then, until it returns `None`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Classifies a failure of the connection. A command that cannot be delivered, and a peer that closes with data
/// unread, mean that the connection has ended.
fn broken(what: &str, source: io::Error) -> QmpError {
    let what = what.to_owned();
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => QmpError::Closed { what },
        _ => QmpError::Connection { what, source },
    }
}

fn answer_to(command: &str) -> String {
    format!("answer to {command}")
}

fn known(name: String, data: Value) -> Event {
    match ShutdownData::deserialize(&data) {
        Ok(ShutdownData { guest, reason }) if name == "SHUTDOWN" => {
            Event::Shutdown { guest, reason }
        }
        _ => Event::Other { name, data },
    }
}

/// Connects without waiting: fails if too many connections wait already (`EAGAIN`).
fn open(path: &Path) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

/// Waits for data or the end of the connection. Returns `false` at the time limit.
fn readable(stream: BorrowedFd<'_>, until: Instant) -> Result<bool, Errno> {
    loop {
        let left = until.saturating_duration_since(now());
        let left = Timespec::try_from(left).map_err(|_long| Errno::INVAL)?;
        match poll(&mut [PollFd::from_borrowed_fd(stream, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long QEMU takes is measured here")]
fn now() -> Instant {
    Instant::now()
}

/// Reads the output of a QEMU that sends everything at once.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(stream: UnixStream) {
    let patience = Duration::from_secs(10);
    if let Ok(mut qmp) = Qmp::begin(stream, patience) {
        let _status = qmp.query_status();
        while let Ok(Some(_)) = qmp.next_event(patience) {}
    }
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
