//! Starts programs that end with this process, however it ends.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, PipeReader, PipeWriter},
    os::{
        fd::OwnedFd,
        unix::{fs::fchown, process::CommandExt},
    },
    path::Path,
    process::{Child, Stdio},
};

use super::{fork, rest::MARK};

/// The directories of the system's programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The numbers of the user and the group that a program runs as (credentials(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, gid } = self;
        write!(f, "user {uid} of group {gid}")
    }
}

/// A program to start, with its arguments, user and directory.
#[derive(Debug)]
pub struct Tied<'a> {
    /// The program: a path, or a name that is looked for on the `PATH`.
    pub program: &'a OsStr,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The user and group that it runs as; `None` stands for our own.
    pub credentials: Option<Credentials>,
    /// The groups of that user besides the group; none by default, not those that the host gives it (group(5)).
    pub groups: &'a [u32],
    /// True if nobody else runs programs as this user: then it has a limit of processes.
    pub user_is_its_own: bool,
    /// Its working directory.
    pub directory: &'a Path,
    /// Gives standard error a pipe of its own, which these credentials can open anew as `/proc/self/fd/2`.
    pub errors_apart: bool,
    /// A mark in its environment, by which it and what it starts are found again ([`super::end_marked`]).
    pub mark: &'a str,
}

/// Starts a program that the kernel kills (SIGKILL) when the calling thread ends: it must be started by a
/// thread that lives as long as the program shall, such as the main thread. Its standard input is empty. What it
/// writes to standard output and error comes from one pipe, the child's `stdout`, in the order in which it was
/// written; with [`Tied::errors_apart`], what it writes to standard error comes from the child's `stderr` instead.
///
/// Its environment is a `PATH` of the system's directories, and its mark. It inherits no other files. It cannot gain privileges (prctl(2),
/// `PR_SET_NO_NEW_PRIVS`), dumps no core, and has limits of open files and, with [`Tied::user_is_its_own`], of
/// processes (getrlimit(2)).
///
/// The order matters: a change of the user forgets the signal (prctl(2), `PR_SET_PDEATHSIG`), so the user
/// is changed first; and a parent that has ended in between is looked for after.
///
/// # Errors
/// Fails if it cannot be started: the program is missing or may not be executed with these credentials, or they
/// or the directory cannot be taken.
pub fn spawn_tied(tied: &Tied<'_>) -> io::Result<Child> {
    let (reader, writer) = io::pipe()?;
    let errors = tied.errors_apart.then(|| pipe_of(tied.credentials)).transpose()?;
    let (errors_from, errors_to) = errors.unzip();
    let mut command = super::command(tied.program);
    command
        .args(&tied.arguments)
        .current_dir(tied.directory)
        .env_clear()
        .env("PATH", PATH)
        .env(MARK, tied.mark)
        // Ctrl-C in a terminal must not reach the program: this process decides how it ends.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(errors_to.unwrap_or(writer));
    fork::confine(&mut command, tied.credentials, tied.groups, tied.user_is_its_own)?;
    fork::end_with_us(&mut command);
    let mut child = command.spawn()?;
    child.stdout = Some(OwnedFd::from(reader).into());
    child.stderr = errors_from.map(|from| OwnedFd::from(from).into());
    Ok(child)
}

/// Returns a pipe that these credentials can open by its name in `/proc`.
fn pipe_of(credentials: Option<Credentials>) -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    if let Some(Credentials { uid, gid }) = credentials {
        fchown(&writer, Some(uid), Some(gid))?;
    }
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsRawFd, thread};

    use super::*;
    use crate::process::ProcessId;

    fn tied<'a>(program: &'a str, arguments: &[&str]) -> Tied<'a> {
        Tied {
            program: OsStr::new(program),
            arguments: arguments.iter().map(OsString::from).collect(),
            credentials: None,
            groups: &[],
            user_is_its_own: false,
            directory: Path::new("/"),
            errors_apart: false,
            mark: "",
        }
    }

    #[test]
    fn a_tied_program_ends_with_its_thread() {
        let started = thread::spawn(|| {
            let child = spawn_tied(&tied("sleep", &["600"])).unwrap();
            let id = ProcessId::of(child.id()).unwrap().unwrap();
            assert!(id.is_alive().unwrap());
            (child, id)
        });
        let (mut child, id) = started.join().unwrap();
        // `wait` returns because the kernel kills the program: nothing else does.
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert!(!id.is_alive().unwrap());
    }

    #[test]
    fn a_tied_program_inherits_standard_files_only() {
        // Without FD_CLOEXEC, as a file that our own parent left open.
        let inherited = rustix::io::dup(io::pipe().unwrap().0).unwrap();
        let name = format!("/proc/self/fd/{}", inherited.as_raw_fd());
        let script = format!("test -e /proc/self/fd/2 && ! test -e {name}");
        let mut child = spawn_tied(&tied("sh", &["-c", &script])).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[cfg(privileged)]
    #[test]
    fn a_tied_program_runs_with_its_credentials_in_its_directory() {
        let credentials = Some(Credentials { uid: 65_534, gid: 65_533 });
        let program = tied("sh", &["-c", "id -u; id -g; id -G; pwd"]);
        let mut child = spawn_tied(&Tied { credentials, groups: &[107, 9], ..program }).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(text, "65534\n65533\n65533 9 107\n/\n");
    }

    #[cfg(privileged)]
    #[test]
    fn a_tied_program_is_confined() {
        let script = "env; grep NoNewPrivs /proc/self/status; ulimit -c; ulimit -n; ulimit -u";
        let confined = |credentials, user_is_its_own| {
            let program = tied("bash", &["-c", script]);
            let mut child = spawn_tied(&Tied { credentials, user_is_its_own, ..program }).unwrap();
            let mut text = String::new();
            child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(child.wait().unwrap().success());
            text
        };
        let nobody = Some(Credentials { uid: 65_534, gid: 65_534 });
        let text = confined(nobody, true);
        assert!(text.contains(&format!("PATH={PATH}\n")), "{text}");
        // Ours, and the shell's own.
        let own = ["PATH=", "RIKLET_SDN_RUN=", "PWD=", "SHLVL=", "_="];
        let (variables, rest) = text.split_once("NoNewPrivs:").unwrap();
        assert!(variables.lines().all(|line| own.iter().any(|o| line.starts_with(o))), "{text}");
        assert_eq!(rest, "\t1\n0\n4096\n512\n");
        // Others run programs as this user too, and root's processes are all of the system.
        for (credentials, user_is_its_own) in [(nobody, false), (None, true), (None, false)] {
            assert!(!confined(credentials, user_is_its_own).ends_with("\n512\n"));
        }
    }

    #[cfg(privileged)]
    #[test]
    fn errors_apart_can_be_opened_by_name() {
        for credentials in [None, Some(Credentials { uid: 65_534, gid: 65_533 })] {
            let script = "echo out; echo err >&2; exec 3<>/proc/self/fd/2; echo anew >&3";
            let tied = Tied { credentials, errors_apart: true, ..tied("sh", &["-c", script]) };
            let mut child = spawn_tied(&tied).unwrap();
            let text = |mut from: Box<dyn Read>| {
                let mut text = String::new();
                from.read_to_string(&mut text).unwrap();
                text
            };
            assert_eq!(text(Box::new(child.stdout.take().unwrap())), "out\n");
            assert_eq!(text(Box::new(child.stderr.take().unwrap())), "err\nanew\n");
            assert!(child.wait().unwrap().success());
        }
    }

    #[test]
    fn output_and_errors_keep_their_order() {
        let script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done";
        let mut child = spawn_tied(&tied("sh", &["-c", script])).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(text, "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_an_error() {
        let missing = spawn_tied(&tied("/nonexistent/program", &[])).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
