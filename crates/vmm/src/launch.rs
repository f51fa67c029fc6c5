//! Starts the process that runs an instance's guest, and prepares what is needed to watch it.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, chown},
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, getegid, geteuid, pidfd_open};

use super::{
    api::VmmApiError,
    console::{Console, KernelPanic},
    driver::{self, DriverError},
    handle::{Handle, within},
    image::{self, ImageError},
    machine::{Machine, MachineError},
    reset::Reset,
    runs,
    slot_user::{HeldUser, SlotUser},
};
use riklet_core::model::{InstanceName, Vmm};
use riklet_http::HttpError;
use riklet_kernel::process::{self, Credentials, ProcessId, Tied};

/// The time after the end of a VMM in which its last output reaches the log.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest path of a unix socket (`sun_path` of unix(7)), without the final NUL.
const SOCKET_PATH: usize = 107;

/// The decided way to start a guest.
#[derive(Debug, Clone)]
pub enum Launch {
    /// A program that acts as the guest itself, with its arguments.
    Builtin {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
    /// A VMM.
    Vmm {
        /// The VMM.
        vmm: Vmm,
        /// Its program.
        program: PathBuf,
        /// The machine.
        machine: Box<Machine>,
        /// The user that it runs as; `None` for the user of this process.
        credentials: Option<Credentials>,
        /// The groups that this user has besides its own.
        groups: Vec<u32>,
        /// The user, if it is that of a slot: then all that runs as it ends with the VMM.
        slot_user: Option<SlotUser>,
    },
}

impl Launch {
    /// Returns the VMM.
    #[must_use]
    pub const fn vmm(&self) -> Vmm {
        match self {
            Self::Builtin { .. } => Vmm::Builtin,
            Self::Vmm { vmm, .. } => *vmm,
        }
    }

    /// Returns the user and its further groups; none for the user of this process.
    fn user(&self) -> (Option<Credentials>, &[u32]) {
        match self {
            Self::Builtin { .. } => (None, &[]),
            Self::Vmm { credentials, groups, .. } => (*credentials, groups),
        }
    }

    const fn slot_user(&self) -> Option<SlotUser> {
        match self {
            Self::Builtin { .. } => None,
            Self::Vmm { slot_user, .. } => *slot_user,
        }
    }
}

/// The reason why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The directories of the run cannot be created.
    #[error("cannot {operation} {}", path.display())]
    Directory {
        /// The operation.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The state directory's path leaves no room for a socket's name.
    #[error("{} is too long for the path of a socket: {SOCKET_PATH} bytes are allowed", path.display())]
    SocketPath {
        /// The socket.
        path: PathBuf,
    },
    /// A private copy of an image cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The VMM cannot run this machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The user of the slot is not free: something still runs as it.
    #[error("user {uid} of its slot is not free")]
    User {
        /// The user.
        uid: u32,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The process cannot be watched.
    #[error("cannot watch the process of {name}")]
    Watch {
        /// The instance.
        name: InstanceName,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// The VMM does not boot the machine.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl LaunchError {
    /// Tells whether the host's VMM is the reason, so that another version of it would help.
    #[must_use]
    pub const fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Driver(DriverError::Api(VmmApiError::TooOld { .. })))
    }
}

/// A guest that a process of ours runs. The process ends with the thread that started it.
#[derive(Debug)]
pub struct Running {
    name: InstanceName,
    handle: Handle,
    child: Child,
    /// True once the child was waited for.
    waited: bool,
    ended: OwnedFd,
    /// The threads that write the logs.
    logs: Vec<JoinHandle<()>>,
    reset: Reset,
    /// The user of the slot, if the VMM runs as it.
    user: Option<HeldUser>,
}

impl Running {
    /// Starts the process. A VMM does not run the guest before [`Self::boot`] tells it to.
    ///
    /// # Errors
    /// Fails if the process cannot be started. Its directory may exist then.
    pub fn start(
        state_dir: &Path,
        name: &InstanceName,
        launch: &Launch,
    ) -> Result<Self, LaunchError> {
        let hold = |user: SlotUser| {
            user.hold().map_err(|source| LaunchError::User { uid: user.uid(), source })
        };
        let user = launch.slot_user().map(hold).transpose()?;
        let directory = runs::directory(state_dir, name);
        let socket = runs::socket(state_dir, name);
        let home = runs::home(state_dir, name);
        make_directories(state_dir, name, &directory, &home, launch)?;
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(LaunchError::SocketPath { path: socket });
        }
        let console = log(runs::log(state_dir, name))?;
        let own = log(runs::vmm_log(state_dir, name))?;
        let (program, arguments) = command(launch, &socket)?;
        let (credentials, groups) = launch.user();
        let errors_apart = matches!(launch.vmm(), Vmm::Firecracker | Vmm::CloudHypervisor);
        let supervisor = ProcessId::current();
        let supervisor =
            supervisor.map_err(|source| LaunchError::Watch { name: name.clone(), source })?;
        let mark = format!("{}{}", runs::mark(state_dir, name, supervisor), launch.vmm());
        let tied = Tied {
            mark: &mark,
            program: program.as_os_str(),
            arguments,
            credentials,
            groups,
            user_is_its_own: launch.slot_user().is_some(),
            directory: &home,
            errors_apart,
        };
        let child = process::spawn_tied(&tied);
        let mut child = child.map_err(|source| LaunchError::Start { program, source })?;
        let watched = watch(&child).and_then(|(process, ended)| {
            let reset = Reset::watch(launch.vmm(), process, &socket)?;
            let output = child.stdout.take().map(|from| console.follow(from)).transpose()?;
            let seen = reset.reader(launch.vmm(), process);
            let errors =
                child.stderr.take().map(|from| own.follow_lines(from, seen)).transpose()?;
            Ok((process, ended, reset, output.into_iter().chain(errors).collect()))
        });
        let (process, ended, reset, logs) = match watched {
            Ok(watched) => watched,
            Err(source) => {
                end(&mut child);
                return Err(LaunchError::Watch { name: name.clone(), source });
            }
        };
        let handle = Handle { vmm: launch.vmm(), process, socket, mark };
        let (name, waited) = (name.clone(), false);
        Ok(Self { name, handle, child, waited, ended, logs, reset, user })
    }

    /// Makes the VMM run the guest, within this time.
    ///
    /// # Errors
    /// Fails if the VMM refuses or does not answer.
    pub fn boot(&self, launch: &Launch, limit: Duration) -> Result<(), LaunchError> {
        let Launch::Vmm { vmm, machine, .. } = launch else { return Ok(()) };
        let Some(user) = self
            .handle
            .process
            .user()
            .map_err(|source| LaunchError::Watch { name: self.name.clone(), source })?
        else {
            let socket = self.handle.socket.clone();
            let source = HttpError::NoProcess { socket };
            return Err(DriverError::Listen { vmm: *vmm, source }.into());
        };
        // It is not waited for here: `finish` signals the group by the child's number, which must stay its own.
        let process = self.handle.process;
        let runs = || process.is_alive().unwrap_or(false);
        Ok(driver::boot(*vmm, machine, &self.handle.socket, user, limit, runs)?)
    }

    /// Waits for the end of the process. Returns `false` if it has not ended in time.
    ///
    /// # Errors
    /// Fails if the process cannot be waited for.
    pub fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        within(&self.ended, limit)
    }

    /// Returns the name of the instance.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Returns the handle that ends it.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the process has ended, and ends what it left behind: nothing runs as the user of its slot then. Can be
    /// repeated.
    ///
    /// # Errors
    /// Fails if the process cannot be waited for, or something that it started does not end. The slot must not be given
    /// away then.
    pub fn end_rest(&mut self) -> io::Result<ExitStatus> {
        within(&self.ended, Duration::MAX)?;
        // Its number is its own until it is waited for.
        if !self.waited {
            process::kill_rest_of_group(&self.child)?;
            self.waited = true;
        }
        let status = self.child.wait()?;
        process::end_orphans(&self.handle.mark)?;
        if let Some(user) = self.user.take() {
            user.end()?;
            user.release();
        }
        Ok(status)
    }

    /// Does as [`Self::end_rest`] does, and waits for a moment until the output is in the log. Also tells whether the VMM
    /// reported that its guest reset.
    ///
    /// # Errors
    /// Fails as [`Self::end_rest`] does.
    pub fn finish(mut self) -> io::Result<(ExitStatus, bool)> {
        let status = self.end_rest()?;
        let deadline = now() + LAST_WORDS;
        // Whoever else has the pipe open may never close it. A thread that still reads it ends with this process.
        while self.logs.iter().any(|thread| !thread.is_finished()) && now() < deadline {
            pause();
        }
        Ok((status, self.reset.was_reported()))
    }
}

impl AsFd for Running {
    /// The descriptor is readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

fn log(path: PathBuf) -> Result<Arc<Console>, LaunchError> {
    Console::create(path.clone()).map_err(|source| LaunchError::Directory {
        operation: "make",
        path,
        source,
    })
}

fn command(launch: &Launch, socket: &Path) -> Result<(PathBuf, Vec<OsString>), LaunchError> {
    match launch {
        Launch::Builtin { program, arguments } => Ok((program.clone(), arguments.clone())),
        Launch::Vmm { vmm, program, machine, .. } => {
            Ok((program.clone(), driver::arguments(*vmm, machine, socket)?))
        }
    }
}

fn watch(child: &Child) -> io::Result<(ProcessId, OwnedFd)> {
    Ok((ProcessId::of_child(child)?, pidfd_open(Pid::from_child(child), PidfdFlags::empty())?))
}

/// Ends a process that nobody else knows of yet.
fn end(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(%error, pid = child.id(), "cannot end the process");
    }
}

/// Creates the directory of the run, which is ours, and in it the directory of the VMM, which creates its socket
/// there. We neither write nor read files in the latter: its owner could replace any of them by a link to another file
/// of the host.
fn make_directories(
    state_dir: &Path,
    name: &InstanceName,
    directory: &Path,
    home: &Path,
    launch: &Launch,
) -> Result<(), LaunchError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::Directory { operation, path, source }
    };
    // Other users may pass through, to the directory of their VMM.
    let made = DirBuilder::new().recursive(true).mode(0o711).create(directory);
    made.map_err(failed("make", directory))?;
    // What an earlier VMM left could be a trap for this one, or a socket, which it would not replace.
    remove(home).map_err(failed("remove", home))?;
    runs::grace::forget(state_dir, name).map_err(failed("clean", directory))?;
    let made = DirBuilder::new().mode(0o700).create(home);
    made.map_err(failed("make", home))?;
    let (user, _groups) = launch.user();
    // This includes the state directory. umask(2) may have removed the permission from those just created.
    for passed in directory.ancestors().take_while(|passed| passed.starts_with(state_dir)) {
        image::grant_search(passed, user).map_err(failed("change the permissions of", passed))?;
    }
    let uid = user.map_or(geteuid().as_raw(), |user| user.uid);
    let gid = user.map_or(getegid().as_raw(), |user| user.gid);
    chown(home, Some(uid), Some(gid)).map_err(failed("change the owner of", home))
}

/// Removes the directory of the VMM of an earlier run. No symbolic link in it is followed.
fn remove(home: &Path) -> io::Result<()> {
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The signs of how a VMM ended, besides its exit status.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// True if somebody asked for the end.
    pub stopping: bool,
    /// True if the VMM reported that its guest reset.
    pub reset: bool,
    /// The panic at the end of the guest's console.
    pub panic: Option<KernelPanic>,
    /// The last line of the VMM's output.
    pub said: Option<String>,
}

/// Returns the reason why a run ended, and whether it is a failure. Pure.
///
/// A guest that powers off has done its work. One that resets has not: a kernel resets after a panic (`panic=1`). QEMU and
/// Cloud Hypervisor tell the two apart. Firecracker does not, so the end of the console decides.
#[must_use]
pub fn reason(vmm: Vmm, status: ExitStatus, signs: &Signs) -> (String, bool) {
    use std::os::unix::process::ExitStatusExt;
    let Signs { stopping, reset, panic, said } = signs;
    let said = said.as_ref().map(|line| format!("; its last words: {line}")).unwrap_or_default();
    let panicked = |panic: &KernelPanic| (format!("the guest panicked: {}", panic.line), true);
    match (status.code(), status.signal(), panic) {
        _ if *stopping => ("stopped".to_owned(), false),
        (_, _, Some(panic)) if *reset => panicked(panic),
        _ if *reset => ("the guest reset instead of powering off".to_owned(), true),
        (Some(0), _, Some(panic)) if panic.is_last => panicked(panic),
        (Some(0), ..) => ("the guest powered off".to_owned(), false),
        (Some(code), ..) => (format!("{vmm} ended with status {code}{said}"), true),
        (None, Some(signal), _) => (format!("{vmm} was killed by signal {signal}"), true),
        (None, None, _) => (format!("{vmm} ended: {status}"), true),
    }
}

#[expect(clippy::disallowed_methods, reason = "a time limit needs a clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a thread cannot be waited for with a limit")]
fn pause() {
    thread::sleep(Duration::from_millis(1));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_panic_is_no_power_off() {
        let line = "Kernel panic - not syncing: x".to_owned();
        let panic = |is_last| Some(KernelPanic { line: line.clone(), is_last });
        let told = |signs: &Signs, status| reason(Vmm::Qemu, ExitStatus::from_raw(status), signs);
        let off = ("the guest powered off".to_owned(), false);
        let panicked = ("the guest panicked: Kernel panic - not syncing: x".to_owned(), true);
        let reset = ("the guest reset instead of powering off".to_owned(), true);
        assert_eq!(told(&Signs::default(), 0), off);
        assert_eq!(told(&Signs { panic: panic(true), ..Signs::default() }, 0), panicked);
        assert_eq!(told(&Signs { panic: panic(false), ..Signs::default() }, 0), off);
        let of_reset = |panic| Signs { reset: true, panic, ..Signs::default() };
        // Cloud Hypervisor is killed, since it would boot its guest again.
        for status in [0, 9] {
            assert_eq!(told(&of_reset(panic(false)), status), panicked);
            assert_eq!(told(&of_reset(None), status), reset);
        }
        let stopped = Signs { stopping: true, ..of_reset(panic(true)) };
        assert_eq!(told(&stopped, 0), ("stopped".to_owned(), false));
    }
}
