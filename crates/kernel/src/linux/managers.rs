//! Writes the files of network managers and firewalld, and has network managers read them.

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
use riklet_core::manager::{Manager, ManagerFile};

/// The mode of our files, which the managers read as users of their own.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// The empty file by which we know a directory that we have made. Managers ignore files whose names begin with a dot.
const MADE: &str = ".riklet-sdn";

impl NetworkManagers for Linux {
    fn manager_files(&mut self) -> Result<BTreeMap<ManagerFile, Option<String>>, KernelError> {
        if !is_of_first_process() {
            return Ok(BTreeMap::new());
        }
        let present = ManagerFile::ALL.into_iter().filter(|file| is_writable(*file));
        present.map(|file| Ok((file, read(file)?))).collect()
    }

    fn write_manager_file(&mut self, file: ManagerFile, text: &str) -> Result<(), KernelError> {
        write(file, text).map_err(|error| refused(file, error))?;
        tell(&self.launcher, file.manager());
        Ok(())
    }

    fn remove_manager_file(&mut self, file: ManagerFile) -> Result<(), KernelError> {
        let removed = fs::remove_file(file.path());
        remove_made_directory(file);
        match removed {
            Ok(()) if file == ManagerFile::FirewalldZone => {
                tracing::warn!("firewalld has the zone of functions until `firewall-cmd --reload`");
                Ok(())
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(file, error)),
            _ => {
                tell(&self.launcher, file.manager());
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
fn is_writable(file: ManagerFile) -> bool {
    let directory = Path::new(file.manager().directory());
    let below = directory.join(file.place().0);
    let place = if below.exists() { &below } else { directory };
    access(place, Access::WRITE_OK).is_ok()
}

fn read(file: ManagerFile) -> Result<Option<String>, KernelError> {
    match fs::read(file.path()) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(file, error)),
    }
}

/// Writes a temporary file, and renames it: no program reads half of it.
fn write(file: ManagerFile, text: &str) -> io::Result<()> {
    let (directory, name) = file.place();
    let directory = Path::new(file.manager().directory()).join(directory);
    if !directory.exists() {
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(DIRECTORY_MODE))?;
        fs::File::create(directory.join(MADE))?;
    }
    let new: PathBuf = directory.join(format!(".{name}.new"));
    fs::write(&new, text)?;
    fs::set_permissions(&new, Permissions::from_mode(FILE_MODE))?;
    fs::rename(new, directory.join(name))
}

/// Removes the directory of the file, if we have made it and nothing is in it. One that others use by now is theirs.
fn remove_made_directory(file: ManagerFile) {
    let (directory, _) = file.place();
    let beside = ManagerFile::ALL
        .into_iter()
        .filter(|other| other.manager() == file.manager() && other.place().0 == directory);
    if beside.into_iter().any(|other| Path::new(&other.path()).exists()) {
        return;
    }
    let directory = Path::new(file.manager().directory()).join(directory);
    if fs::remove_file(directory.join(MADE)).is_ok() {
        // It is not empty.
        let _stays = fs::remove_dir(&directory);
    }
}

/// Has the manager read its files again, if it runs and nothing is lost by it. systemd-networkd 252 does so by D-Bus only,
/// and a signal ends it.
fn tell(launcher: &Launcher, manager: Manager) {
    let (running, program, arguments) = match manager {
        // Its directory is there on every host with systemd (tmpfiles.d of systemd-network).
        Manager::Networkd => ("/run/systemd/netif/state", "networkctl", &["reload"][..]),
        Manager::NetworkManager => {
            (manager.directory(), "nmcli", &["general", "reload", "conf"][..])
        }
        Manager::Firewalld => return,
    };
    if !Path::new(running).exists() {
        return;
    }
    let words = match launcher.run(OsStr::new(program), arguments, b"") {
        Ok(output) if output.status.success() => return,
        // What is below /run stays when it ends. It reads our file when it starts.
        Ok(_) if manager == Manager::NetworkManager && !network_manager_runs(launcher) => return,
        Ok(_) if manager == Manager::Networkd && networkd_is_stopped(launcher) => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => error.to_string(),
    };
    tracing::warn!("`{program} {}` failed: {words}", arguments.join(" "));
}

fn network_manager_runs(launcher: &Launcher) -> bool {
    let asked = ["LC_ALL=C", "nmcli", "--terse", "--get-values", "RUNNING", "general"];
    let answer = launcher.run(OsStr::new("env"), &asked, b"");
    answer.is_ok_and(|output| output.stdout.trim_ascii() == b"running")
}

fn refused(file: ManagerFile, error: io::Error) -> KernelError {
    KernelError::ManagerFile { file, source: error.into() }
}

/// Reports whether systemd, if it is the host's first process, says that systemd-networkd is not active.
fn networkd_is_stopped(launcher: &Launcher) -> bool {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let asked = ["is-active", "systemd-networkd.service"];
    launcher
        .run(OsStr::new("systemctl"), &asked, b"")
        .is_ok_and(|output| output.stdout.trim_ascii() != b"active")
}
