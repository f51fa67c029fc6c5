//! Writes the files of network managers, and has the managers read them.

#![expect(clippy::disallowed_methods, reason = "the files of other programs, which only we write")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::Linux;
use crate::{KernelError, NetworkManagers, process::Launcher};
use riklet_core::manager::Manager;

/// The mode of our files, which the managers read as users of their own.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

impl NetworkManagers for Linux {
    fn manager_files(&mut self) -> Result<BTreeMap<Manager, Option<String>>, KernelError> {
        if !is_of_first_process() {
            return Ok(BTreeMap::new());
        }
        let present = Manager::ALL.into_iter().filter(|manager| is_writable(*manager));
        present.map(|manager| Ok((manager, read(manager)?))).collect()
    }

    fn write_manager_file(&mut self, manager: Manager, text: &str) -> Result<(), KernelError> {
        write(manager, text).map_err(|error| refused(manager, error))?;
        tell(&self.launcher, manager);
        Ok(())
    }

    fn remove_manager_file(&mut self, manager: Manager) -> Result<(), KernelError> {
        match fs::remove_file(manager.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(manager, error)),
            _ => {
                tell(&self.launcher, manager);
                Ok(())
            }
        }
    }
}

/// Reports whether this thread is in the network namespace of the process that starts the host's services.
fn is_of_first_process() -> bool {
    let namespaces = ["/proc/1/ns/net", "/proc/thread-self/ns/net"].map(fs::read_link);
    matches!(namespaces, [Ok(first), Ok(own)] if first == own)
}

/// Reports whether there is such a manager, and our file can be written.
fn is_writable(manager: Manager) -> bool {
    let directory = Path::new(manager.directory());
    let below = directory.join(manager.file().0);
    let place = if below.exists() { &below } else { directory };
    access(place, Access::WRITE_OK).is_ok()
}

fn read(manager: Manager) -> Result<Option<String>, KernelError> {
    match fs::read(manager.path()) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(manager, error)),
    }
}

/// Writes a temporary file, and renames it: no program reads half of it.
fn write(manager: Manager, text: &str) -> io::Result<()> {
    let (directory, name) = manager.file();
    let directory = Path::new(manager.directory()).join(directory);
    if !directory.exists() {
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    let new: PathBuf = directory.join(format!(".{name}.new"));
    fs::write(&new, text)?;
    fs::set_permissions(&new, Permissions::from_mode(FILE_MODE))?;
    fs::rename(new, directory.join(name))
}

/// Has the manager read its files again, if it runs. systemd-networkd 252 does so by D-Bus only, and a signal ends it.
fn tell(launcher: &Launcher, manager: Manager) {
    let (running, program, arguments) = match manager {
        Manager::Networkd => ("/run/systemd/netif", "networkctl", &["reload"][..]),
        Manager::NetworkManager => {
            (manager.directory(), "nmcli", &["general", "reload", "conf"][..])
        }
    };
    if !Path::new(running).exists() {
        return;
    }
    let words = match launcher.run(OsStr::new(program), arguments, b"") {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => error.to_string(),
    };
    tracing::warn!("`{program} {}` failed: {words}", arguments.join(" "));
}

fn refused(manager: Manager, error: io::Error) -> KernelError {
    KernelError::ManagerFile { manager, source: error.into() }
}
