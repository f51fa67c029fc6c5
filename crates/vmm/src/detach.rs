//! Starts a supervisor that outlives whoever asks for it: a daemon, or a command at a terminal.
//!
//! The supervisor is a program of its own, which runs `riklet-sdn run --supervise`. Its parent is never this process. It must
//! not end with the unit or the session of this process either (`KillMode=` of systemd.kill(5), logind.conf(5)):
//!
//! | the host has | the supervisor is in |
//! | --- | --- |
//! | systemd as process 1, in our network namespace | a transient service of its own (systemd-run(1)) |
//! | cgroups of version 2, writable | a cgroup of its own ([`crate::cgroup`]) |
//! | neither | a session of its own (setsid(2)) |

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use riklet_core::{
    definition,
    model::{InstanceName, Workload},
};
use riklet_kernel::{
    process::{self, ProcessId},
    threads,
};
use riklet_sdn::Config;
use rustix::{
    fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat},
    io::Errno,
};
use serde_json::json;

use crate::runs;

/// The first byte of what a supervisor announces if it has failed; its exit status follows.
pub const FAILED: char = '\0';

/// The way to start supervisors.
#[derive(Debug, Clone)]
pub struct Detach {
    /// The configuration that they work with.
    pub config: Config,
    /// The time that a guest has to be ready, in seconds.
    pub ready_timeout: u16,
    /// Does not wait for that.
    pub no_wait: bool,
    /// Announces in JSON.
    pub json: bool,
    /// The directories of the definitions, whose images they may name.
    pub beside: Vec<PathBuf>,
    /// A member of the group of the daemon's socket asked for it.
    pub for_member: bool,
}

/// The outcome of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detached {
    /// The supervisor is ready. These are its announcement and its earlier messages.
    Ready {
        /// The announcement.
        text: String,
        /// The messages.
        words: String,
    },
    /// The supervisor failed, with this exit status and these messages.
    Failed {
        /// The exit status.
        code: u8,
        /// The messages.
        words: String,
    },
}

impl Detach {
    /// Starts the supervisors, many of them at once, and returns the outcomes in the order of the workloads.
    #[must_use]
    pub fn start_all(&self, workloads: &[Workload]) -> Vec<io::Result<Detached>> {
        /// The most supervisors that start at a time: they wait for each other at the node's lock, and only for so long.
        const AT_ONCE: usize = 64;
        threads::at_once(workloads, AT_ONCE, |workload| self.start(workload))
    }

    /// Starts the supervisor of a function, and waits until it is ready or has failed.
    ///
    /// # Errors
    /// Fails if the supervisor cannot be started, its files cannot be made, or another process is starting one.
    pub fn start(&self, workload: &Workload) -> io::Result<Detached> {
        let state_dir = &self.config.state_dir;
        let directory = runs::directory(state_dir, workload.name());
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        // The VMM's directory is inside, and another user may have to reach it.
        DirBuilder::new().recursive(true).mode(0o711).create(&directory)?;
        let _only_one = only_starter(&directory)?;
        let program = std::env::current_exe()?;
        let log = directory.join("supervisor.log");
        let definition = definition::to_json(workload);
        let errors = empty(&log)?;
        let mut announced = String::new();
        let in_unit = is_systemd_ours()
            .then(|| self.start_unit(workload.name(), &program, &directory, definition.as_bytes()));
        match in_unit {
            Some(Ok(mut announcement)) => drop(announcement.read_to_string(&mut announced)?),
            failed => {
                if let Some(Err(error)) = failed {
                    tracing::warn!("cannot start a unit for {}: {error}", workload.name());
                }
                let arguments = self.arguments(&["-".as_ref()]);
                let definition = definition.as_bytes();
                let mut announcement =
                    process::spawn_detached(&program, &arguments, definition, errors)?;
                // The supervisor closes its end once it is ready, and when it ends.
                announcement.read_to_string(&mut announced)?;
            }
        }
        let words = read(&log).unwrap_or_default();
        match announced.strip_prefix(FAILED) {
            None if !announced.is_empty() => Ok(Detached::Ready { text: announced, words }),
            failed => {
                forget(&log);
                let code = failed.and_then(|code| code.lines().next()?.parse().ok()).unwrap_or(1);
                Ok(Detached::Failed { code, words: complaint(words, workload.name(), self.json) })
            }
        }
    }

    /// Starts the supervisor in a transient unit, and returns its announcement, as a pipe.
    fn start_unit(
        &self,
        name: &InstanceName,
        program: &Path,
        directory: &Path,
        definition: &[u8],
    ) -> io::Result<File> {
        let [input, output, log] =
            ["definition.json", "announcement", "supervisor.log"].map(|file| directory.join(file));
        empty(&input)?.write_all(definition)?;
        remove(&output)?;
        mknodat(CWD, &output, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Opening it does not wait for the supervisor, and reading does: until it has closed its end.
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking()).open(&output)?;
        let unit = unit(name, ProcessId::current()?);
        let current = std::env::current_dir()?;
        let files = [("StandardInput=file:", &input), ("StandardOutput=file:", &output)];
        let mut all = {
            let search = std::env::var_os("PATH");
            words_for_unit(&unit, &current, &files, &log, search.as_deref())
        };
        all.push(literal(program.as_os_str()));
        let arguments = self.arguments(&["--in-unit".as_ref(), "-".as_ref()]);
        all.extend(arguments.iter().map(|argument| literal(argument)));
        let all: Vec<_> = all.iter().map(|word| word.to_string_lossy()).collect();
        let all: Vec<_> = all.iter().map(|word| &**word).collect();
        let started = process::run(OsStr::new("systemd-run"), &all, b"")?;
        remove(&output)?;
        if !started.status.success() {
            let words = String::from_utf8_lossy(&started.stderr).trim().to_owned();
            return Err(io::Error::other(words));
        }
        let mut flags = rustix::fs::fcntl_getfl(&reader)?;
        flags.remove(OFlags::NONBLOCK);
        rustix::fs::fcntl_setfl(&reader, flags)?;
        Ok(reader)
    }

    /// Returns the arguments of the supervisor: the settings of this process, from whatever source. Settings without an
    /// option get their defaults, also if a configuration file exists. Relative paths stay valid, since the working
    /// directory stays.
    fn arguments(&self, last: &[&OsStr]) -> Vec<OsString> {
        let mut all = node_arguments(&self.config);
        if self.json {
            all.extend(["--output", "json"].map(OsString::from));
        }
        let timeout = self.ready_timeout.to_string();
        all.extend(["run", "--supervise", "--ready-timeout", &timeout].map(OsString::from));
        if self.no_wait {
            all.push("--no-wait".into());
        }
        for (key, value) in self.config.vmm.settings() {
            all.extend([format!("--{}", key.replace('_', "-")).into(), value]);
        }
        if self.for_member {
            all.push("--for-member".into());
        }
        for directory in &self.beside {
            all.extend(["--beside".into(), directory.into()]);
        }
        all.extend(last.iter().map(|&word| word.to_owned()));
        all
    }
}

/// Returns the settings of a node as options, for a process that works by itself and uses no daemon.
fn node_arguments(config: &Config) -> Vec<OsString> {
    let mut all: Vec<OsString> = ["--config", "/dev/null"].map(OsString::from).into();
    for (key, value) in config.settings().into_iter().filter(|(key, _)| *key != "api") {
        all.extend([format!("--{}", key.replace('_', "-")).into(), value]);
    }
    all
}

/// Locks the directory of a run for one that starts it, until the returned file is closed: two would mix up their files.
fn only_starter(directory: &Path) -> io::Result<File> {
    let lock = File::open(directory)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another process is starting it"))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Returns the name of the unit of a run, which no earlier run has.
fn unit(name: &InstanceName, by: ProcessId) -> String {
    let process = by.to_string().replace('@', "-");
    format!("riklet-sdn-run-{name}-{process}-{}", number())
}

/// Returns a number that this process has not had yet.
fn number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Returns the words before the program: the options of systemd-run(1), and properties of systemd.exec(5) and
/// systemd.kill(5). It returns once the program has begun, and has its files open then.
fn words_for_unit(
    unit: &str,
    current: &Path,
    files: &[(&str, &PathBuf)],
    log: &Path,
    search: Option<&OsStr>,
) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["--quiet", "--collect", "--no-ask-password", "--service-type=exec"]
            .map(OsString::from)
            .into();
    let mut option = |name: &str, value: &Path| {
        let mut word = OsString::from(name);
        word.push(value);
        words.push(word);
    };
    option("--unit=", Path::new(unit));
    option("--working-directory=", current);
    for (name, file) in files {
        option(&format!("--property={name}"), file);
    }
    option("--property=StandardError=truncate:", log);
    // VMMs are looked for where this process finds them. The manager has a PATH of its own.
    if let Some(path) = search {
        option("--setenv=PATH=", Path::new(path));
    }
    // SIGTERM goes to the supervisor alone, which asks the guest to power off.
    words.extend(
        ["KillMode=mixed", "LimitNOFILE=65536", "TasksMax=infinity", "UMask=0077"]
            .map(|property| format!("--property={property}").into()),
    );
    words
}

/// Returns a word of a command line that the manager leaves as it is: it replaces `$NAME` by variables of its own, and
/// `$$` by `$` (systemd.service(5)).
fn literal(word: &OsStr) -> OsString {
    let mut bytes = Vec::new();
    for &byte in word.as_bytes() {
        bytes.extend(if byte == b'$' { &b"$$"[..] } else { std::slice::from_ref(&byte) });
    }
    OsString::from_vec(bytes)
}

/// Tells whether systemd is process 1 (`sd_booted(3)`) and has our network namespace, so that a unit finds our interfaces.
fn is_systemd_ours() -> bool {
    let is_running = fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir());
    let namespace = |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).ok();
    let same = || {
        let identities = [namespace("1")?, namespace("self")?].map(|n| (n.dev(), n.ino()));
        Some(identities.first() == identities.last())
    };
    is_running && same().unwrap_or(false)
}

fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default()
}

/// Returns the messages of a supervisor that failed, with an error. One that was stopped or killed has said none.
fn complaint(words: String, name: &InstanceName, json: bool) -> String {
    let is_error = |line: &str| ["error:", "\"error\":"].iter().any(|it| line.starts_with(it));
    if words.lines().any(|line| is_error(line.trim_start())) {
        return words;
    }
    let text = format!("the supervisor of {name} has ended: it was stopped or killed");
    let error = json!({ "error": text, "hint": null });
    let error = if json { error.to_string() } else { format!("error: {text}") };
    format!("{words}{error}\n")
}

/// Deletes the log of a supervisor that failed and whose error is reported, and its directory, unless it has other files.
#[expect(clippy::disallowed_methods, reason = "the log is this module's own")]
fn forget(log: &Path) {
    let directory = || log.parent().map_or(Ok(()), fs::remove_dir);
    let definition = log.with_file_name("definition.json");
    let gone = remove(&definition).and_then(|()| fs::remove_file(log)).and_then(|()| directory());
    if let Err(error) = gone {
        tracing::debug!(%error, log = %log.display(), "some of the log stays");
    }
}

#[expect(clippy::disallowed_methods, reason = "the files are this module's own")]
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the log is this module's own")]
fn read(log: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

fn empty(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisor_that_says_nothing_was_ended() {
        let name = "web".parse().unwrap();
        let said = |words: &str, json| complaint(words.to_owned(), &name, json);
        let text = "the supervisor of web has ended: it was stopped or killed";
        assert_eq!(said("a note\n", false), format!("a note\nerror: {text}\n"));
        assert_eq!(said("", true), format!("{{\"error\":\"{text}\",\"hint\":null}}\n"));
        for words in ["a note\nerror: no\n", "{\n  \"error\": \"no\"\n}\n"] {
            assert_eq!(said(words, true), words);
        }
    }

    #[test]
    fn unit_ends_its_supervisor_first_and_has_its_files() {
        let (input, output) =
            (PathBuf::from("/s/definition.json"), PathBuf::from("/s/announcement"));
        let files = [("StandardInput=file:", &input), ("StandardOutput=file:", &output)];
        let words = words_for_unit(
            "u",
            Path::new("/"),
            &files,
            Path::new("/s/supervisor.log"),
            Some("/opt/vmm/bin:/bin".as_ref()),
        );
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        for expected in [
            "--unit=u",
            "--service-type=exec",
            "--property=StandardInput=file:/s/definition.json",
            "--property=StandardOutput=file:/s/announcement",
            "--property=StandardError=truncate:/s/supervisor.log",
            "--property=KillMode=mixed",
            "--setenv=PATH=/opt/vmm/bin:/bin",
        ] {
            assert!(words.contains(&expected), "{expected}: {words:?}");
        }
        assert_eq!(literal("/srv/$HOME/${x}$$".as_ref()), "/srv/$$HOME/$${x}$$$$");
        let (name, by) = ("web.v2".parse().unwrap(), "77@123".parse().unwrap());
        let [one, other] = [(), ()].map(|()| unit(&name, by));
        assert!(one.starts_with("riklet-sdn-run-web.v2-77-123-"), "{one}");
        assert_ne!(one, other);
    }
}
