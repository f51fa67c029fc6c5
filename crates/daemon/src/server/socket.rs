//! The socket, created such that at no moment somebody without permission can use it.
#![expect(clippy::disallowed_methods, reason = "the socket and its directory are the server's own")]

use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, chown, flock},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{Gid, geteuid, umask},
};
use tokio::net::{UnixListener as TokioListener, UnixStream};

use super::{Settings, connections::Client};
use riklet_core::model::{Account, AccountName, SlotAccounts};
use riklet_kernel::{AccountKind, HostFacts, KernelError, linux::Linux, process::ProcessId};
use riklet_sdn::store::{Store, StoreError, daemon_lock};
use riklet_vmm::supervisor;

/// The reason why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens on the socket.
    #[error("a daemon is already running: it listens on {}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Another daemon uses the same records, whatever its socket.
    #[error(
        "a daemon is already running for {}{}", state_dir.display(),
        process.as_ref().map(|id| format!(": process {id}")).unwrap_or_default()
    )]
    Running {
        /// The directory of the records.
        state_dir: PathBuf,
        /// The number of its process, if it is known.
        process: Option<String>,
    },
    /// The path exists, and is not a socket of ours.
    #[error("{} is there, and is no socket", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's own words.
        source: io::Error,
    },
    /// The host knows no such group.
    #[error("this host knows no group {name}")]
    UnknownGroup {
        /// The name.
        name: AccountName,
    },
    /// VMMs have the group, so that what escapes from a guest could command the daemon.
    #[error("{group} is a group of VMMs, which must not command the daemon")]
    GroupOfVmms {
        /// The group.
        group: Account,
    },
    /// The host's groups cannot be looked up.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The state directory cannot be created.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The interval at which the path of the socket is checked.
const LOOK: Duration = Duration::from_secs(1);
/// The time that a child of a killed daemon may take from fork(2) to execve(2), which closes the daemon's files.
const LAST_CHILD: Duration = Duration::from_secs(5);

/// Locks the records for one daemon, by a file that has the number of its process, until the returned file is closed or the process ends in any way (flock(2)).
pub(super) fn lock(state_dir: &Path) -> Result<File, SocketError> {
    let path = daemon_lock(state_dir);
    let io = |operation| {
        let path = path.clone();
        move |source| SocketError::Io { operation, path, source }
    };
    Store::open(state_dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(io("open"))?;
    let began = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(io("lock")(errno.into())),
        }
        file.rewind().map_err(io("read"))?;
        let process = io::read_to_string(&file).ok().map(|text| text.trim().to_owned());
        let process = process.filter(|text| !text.is_empty());
        let has_ended = process.as_ref().and_then(|text| text.parse().ok()).is_some_and(has_ended);
        if !has_ended || began.elapsed() > LAST_CHILD {
            return Err(SocketError::Running { state_dir: state_dir.to_owned(), process });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    file.rewind().map_err(io("write"))?;
    let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(io("write"))?;
    Ok(file)
}

/// A listener that creates its socket anew if somebody removes it, since nobody could reach the daemon without it.
pub(super) struct Listener<'a> {
    state_dir: &'a Path,
    settings: &'a Settings,
    current: RefCell<Rc<(TokioListener, Identity)>>,
    /// The reason why the socket could not be created anew, which is said once.
    refused: RefCell<String>,
}

/// The device and the inode of a file.
type Identity = (u64, u64);

impl<'a> Listener<'a> {
    /// Creates the socket of the settings, and listens.
    pub(super) fn create(state_dir: &'a Path, settings: &'a Settings) -> Result<Self, SocketError> {
        let current = RefCell::new(Rc::new(listen(state_dir, settings)?));
        Ok(Self { state_dir, settings, current, refused: RefCell::default() })
    }

    /// Returns the settings of the server.
    pub(super) const fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// Accepts a connection. Creates a new socket if the present one was removed or replaced.
    pub(super) async fn accept(&self) -> io::Result<(UnixStream, Client)> {
        loop {
            let current = Rc::clone(&self.current.borrow());
            tokio::select! {
                accepted = current.0.accept() => {
                    let stream = accepted?.0;
                    let client = client(&stream);
                    return Ok((stream, client));
                }
                () = self.lost(current.1) => self.replace(),
            }
        }
    }

    /// Waits until the path of the socket is free, or another socket has taken it.
    async fn lost(&self, ours: Identity) {
        loop {
            tokio::time::sleep(LOOK).await;
            if identity(&self.settings.socket) != Some(ours) {
                return;
            }
        }
    }

    fn replace(&self) {
        let path = &self.settings.socket;
        match listen(self.state_dir, self.settings) {
            Ok(made) => {
                tracing::warn!("{} was removed: it is there again", path.display());
                self.current.replace(Rc::new(made));
                self.refused.take();
            }
            Err(error) => {
                let words = error.to_string();
                if *self.refused.borrow() != words {
                    tracing::warn!("{} was removed: {words}", path.display());
                }
                self.refused.replace(words);
            }
        }
    }

    /// Removes the socket, if it is this one.
    pub(super) fn remove(&self) {
        let path = &self.settings.socket;
        if identity(path) == Some(self.current.borrow().1)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Refuses settings with which no socket can be created. Creates nothing.
pub(super) fn refuse(settings: &Settings, users: SlotAccounts) -> Result<(), SocketError> {
    if let Some(account) = &settings.group {
        let gid = group(account)?.as_raw();
        let of_kvm = supervisor::kvm_group() == Some(gid);
        if of_kvm || users.contains(gid) || matches!(account, Account::OfSlot(_)) {
            return Err(SocketError::GroupOfVmms { group: account.clone() });
        }
    }
    refuse_live(&settings.socket)
}

/// Creates the socket and listens. The socket gets its name after its group is set. Replaces a socket of a dead
/// daemon. Must be called within the runtime.
fn listen(state_dir: &Path, settings: &Settings) -> Result<(TokioListener, Identity), SocketError> {
    let path = &settings.socket;
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io { operation, path, source }
    };
    let group = settings.group.as_ref().map(group).transpose()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(io("make", parent))?;
    }
    refuse_live(path)?;
    // The temporary name is unique, so that two daemons that start at once do not replace each other's socket.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _left_by_another_of_this_number = fs::remove_file(&new);
    // The umask keeps others from connecting before the group is set.
    let usual = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&new);
    umask(usual);
    let listener = listener.map_err(io("listen on", &new))?;
    let made = || -> Result<(), SocketError> {
        if let Some(group) = group {
            chown(&new, None, Some(group)).map_err(|errno| io("give away", &new)(errno.into()))?;
            if path.parent() == Some(state_dir) {
                // The group's members can search the directory, and not list it. Its files stay their owner's.
                let searchable = Permissions::from_mode(0o711);
                fs::set_permissions(state_dir, searchable).map_err(io("open", state_dir))?;
            }
        }
        fs::set_permissions(&new, Permissions::from_mode(0o660)).map_err(io("protect", &new))?;
        refuse_live(path)?;
        fs::rename(&new, path).map_err(io("make", path))
    };
    let ready = listener.set_nonblocking(true).and_then(|()| TokioListener::from_std(listener));
    let ready = ready.map_err(io("listen on", &new));
    match ready.and_then(|listener| made().map(|()| listener)) {
        Ok(listener) => Ok((listener, identity(path).unwrap_or_default())),
        Err(error) => {
            let _gone = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// Returns who connected (unix(7), `SO_PEERCRED`).
fn client(stream: &UnixStream) -> Client {
    let is_operator = |user: u32| user == 0 || user == geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if is_operator(peer.uid()) => Client::Operator,
        _ => Client::Other,
    }
}

/// Reports whether the process that listened at the other end (unix(7), `SO_PEERCRED`) has ended.
fn is_orphan(taken: &std::os::unix::net::UnixStream) -> bool {
    let listener = socket_peercred(taken).map(|peer| peer.pid.as_raw_pid());
    // Zero is a process outside of this PID namespace.
    listener
        .ok()
        .and_then(|pid| u32::try_from(pid).ok())
        .is_some_and(|pid| pid != 0 && has_ended(pid))
}

/// Reports whether no process has this number any more.
fn has_ended(pid: u32) -> bool {
    ProcessId::of(pid).is_ok_and(|found| found.is_none())
}

/// Refuses if somebody listens on the path, or if the file there is not ours to replace. A socket of a killed daemon may
/// take connections until its last child begins its own program: nobody listens there.
fn refuse_live(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(SocketError::Foreign { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(taken) if is_orphan(&taken) => Ok(()),
        _ => Err(SocketError::Taken { path: path.to_owned() }),
    }
}

fn group(account: &Account) -> Result<Gid, SocketError> {
    let id = match account {
        Account::Id(id) => *id,
        // The socket has no slot; this is what all microVMs share.
        Account::OfSlot(accounts) => accounts.shared(),
        Account::Name(name) => {
            let found = Linux::new().account(AccountKind::Group, name)?;
            found.ok_or_else(|| SocketError::UnknownGroup { name: name.clone() })?
        }
    };
    Ok(Gid::from_raw(id))
}
