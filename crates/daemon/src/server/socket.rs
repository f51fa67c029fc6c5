//! The socket: made so that nobody can use it who may not, at any moment.
#![expect(clippy::disallowed_methods, reason = "the socket and its directory are the server's own")]

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, chown},
    process::{Gid, umask},
};

use super::Settings;
use riklet_core::model::{Account, AccountName};
use riklet_kernel::{AccountKind, HostFacts, KernelError, linux::Linux};
use riklet_sdn::store::{Store, StoreError};

/// The reason why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens there.
    #[error("a daemon is already running: it listens on {}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("{} is there, and is no socket", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// Upon which file.
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
    /// The host does not say which groups it knows.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The state directory cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the socket and listens. It gets its name once it is its group's; where a dead daemon left one, that goes.
pub(super) fn listen(state_dir: &Path, settings: &Settings) -> Result<UnixListener, SocketError> {
    let path = &settings.socket;
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io { operation, path, source }
    };
    let group = settings.group.as_ref().map(group).transpose()?;
    Store::open(state_dir)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(io("make", parent))?;
    }
    refuse_live(path)?;
    // A name of its own, so that two daemons that begin at once do not take each other's.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _left_by_another_of_this_number = fs::remove_file(&new);
    // Nobody else may connect before it is its group's, wherever it is made.
    let usual = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&new);
    umask(usual);
    let listener = listener.map_err(io("listen on", &new))?;
    let made = || -> Result<(), SocketError> {
        if let Some(group) = group {
            chown(&new, None, Some(group)).map_err(|errno| io("give away", &new)(errno.into()))?;
            if path.parent() == Some(state_dir) {
                // Its members come through, and see nothing: what is in there is its owner's.
                let searchable = Permissions::from_mode(0o711);
                fs::set_permissions(state_dir, searchable).map_err(io("open", state_dir))?;
            }
        }
        fs::set_permissions(&new, Permissions::from_mode(0o660)).map_err(io("protect", &new))?;
        refuse_live(path)?;
        fs::rename(&new, path).map_err(io("make", path))
    };
    if let Err(error) = made() {
        let _gone = fs::remove_file(&new);
        return Err(error);
    }
    listener.set_nonblocking(true).map_err(io("listen on", path))?;
    Ok(listener)
}

/// Refuses where somebody listens, or what is there is not ours to replace.
fn refuse_live(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(SocketError::Foreign { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(SocketError::Taken { path: path.to_owned() }),
    }
}

fn group(account: &Account) -> Result<Gid, SocketError> {
    let id = match account {
        Account::Id(id) => *id,
        Account::Name(name) => {
            let found = Linux::new().account(AccountKind::Group, name)?;
            found.ok_or_else(|| SocketError::UnknownGroup { name: name.clone() })?
        }
    };
    Ok(Gid::from_raw(id))
}

/// Removes it.
pub(super) fn remove(settings: &Settings) {
    if let Err(error) = fs::remove_file(&settings.socket) {
        tracing::warn!("cannot remove {}: {error}", settings.socket.display());
    }
}
