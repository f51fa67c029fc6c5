//! `run --detach`: a supervisor for each function, which outlives the terminal.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic,
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use riklet_core::{definition, model::Workload};
use riklet_kernel::process;
use riklet_sdn::{Config, store::Store};
use riklet_vmm::runs;
use serde_json::Value;

use crate::{
    args::RunArgs,
    error::CliError,
    input,
    output::{self, Output},
};

/// Starts the supervisors, all at once, and returns once each is ready or has failed. The exit status is that of the
/// first that failed, in the order of the definitions.
pub(super) fn run(
    config: &Config,
    workloads: &[Workload],
    args: &RunArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    if let Some(store) = Store::open_existing(&config.state_dir)? {
        // This happens before the log of a running function is emptied, and before any function is started.
        let mut names = workloads.iter().map(Workload::name);
        names.try_for_each(|name| runs::refuse_running(&store, name))?;
    }
    let mut documents = Vec::new();
    let mut failed: Option<u8> = None;
    let supervised = supervise_all(config, workloads, args, output);
    for (workload, detached) in workloads.iter().zip(supervised) {
        let name = workload.name();
        let detached =
            detached.map_err(|source| CliError::Detach { name: name.to_string(), source })?;
        match detached {
            Detached::Ready { text, words } => {
                // These are the supervisor's warnings, and notes about downloads.
                words.lines().for_each(|line| output.remark(line));
                if output.is_json() {
                    documents.extend(serde_json::from_str::<Value>(&text));
                } else {
                    output.raw(text.as_bytes())?;
                }
            }
            Detached::Failed { code, words } => {
                output::note(words.trim_end());
                failed.get_or_insert(code);
            }
        }
    }
    if output.is_json() {
        output.print(String::new, || Value::Array(documents))?;
    }
    Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Starts the supervisors, many of them at once, and returns the outcomes in the order of the workloads.
fn supervise_all(
    config: &Config,
    workloads: &[Workload],
    args: &RunArgs,
    output: Output,
) -> Vec<io::Result<Detached>> {
    /// The most supervisors that start at a time: they wait for each other at the node's lock, and only for so long.
    const AT_ONCE: usize = 64;
    let queue = Mutex::new(workloads.iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((index, workload)) = next() {
            done.push((index, supervise(config, workload, args, output)));
        }
        done
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads = (0..workloads.len().min(AT_ONCE)).map(|_| scope.spawn(work));
        let threads: Vec<_> = threads.collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.flat_map(|done| done.unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, detached)| detached).collect()
}

enum Detached {
    /// The supervisor is ready. These are its announcement and its earlier messages.
    Ready { text: String, words: String },
    /// The supervisor failed, with this exit status and these messages.
    Failed { code: u8, words: String },
}

fn supervise(
    config: &Config,
    workload: &Workload,
    args: &RunArgs,
    output: Output,
) -> io::Result<Detached> {
    let directory = runs::directory(&config.state_dir, workload.name());
    DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir)?;
    // The VMM's directory is inside, and another user may have to reach it.
    DirBuilder::new().recursive(true).mode(0o711).create(&directory)?;
    let log = directory.join("supervisor.log");
    let program = std::env::current_exe()?;
    let definition = definition::to_json(workload);
    let arguments = arguments(config, args, output).map_err(io::Error::other)?;
    let mut child =
        process::spawn_detached(&program, &arguments, definition.as_bytes(), empty(&log)?)?;
    let mut announced = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // The supervisor closes its end once it is ready, and when it ends.
        stdout.read_to_string(&mut announced)?;
    }
    if !announced.is_empty() {
        let words = input::read(&log).unwrap_or_default();
        return Ok(Detached::Ready { text: announced, words });
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let words = input::read(&log).unwrap_or_default();
    forget(&log);
    Ok(Detached::Failed { code, words })
}

/// Deletes the log of a supervisor that failed and whose error was printed, and its directory, unless it has other
/// files.
#[expect(clippy::disallowed_methods, reason = "the log is this module's own")]
fn forget(log: &Path) {
    let directory = || log.parent().map_or(Ok(()), fs::remove_dir);
    if let Err(error) = fs::remove_file(log).and_then(|()| directory()) {
        tracing::debug!(%error, log = %log.display(), "some of the log stays");
    }
}

/// Returns the arguments of the supervisor: the settings of this process, from whatever source. Settings without an
/// option get their defaults, also if a configuration file exists. Relative paths stay valid, since the working
/// directory stays.
fn arguments(config: &Config, args: &RunArgs, output: Output) -> Result<Vec<OsString>, CliError> {
    let mut all: Vec<OsString> = ["--config", "/dev/null"].map(OsString::from).into();
    // `run` works by itself and uses no daemon.
    for (key, value) in config.settings().into_iter().filter(|(key, _)| *key != "api") {
        all.extend([format!("--{}", key.replace('_', "-")).into(), value]);
    }
    let mut option = |name: &str, value: &str| all.extend([name.into(), value.into()]);
    if output.is_json() {
        option("--output", "json");
    }
    let timeout = args.ready_timeout.to_string();
    all.extend(["run", "--supervise", "--ready-timeout", &timeout].map(OsString::from));
    if args.no_wait {
        all.push("--no-wait".into());
    }
    for (key, value) in config.vmm.settings() {
        all.extend([format!("--{}", key.replace('_', "-")).into(), value]);
    }
    for directory in super::beside(args)? {
        all.extend(["--beside".into(), directory.into()]);
    }
    all.push("-".into());
    Ok(all)
}

fn empty(log: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(log)
}

/// Leaves the terminal that `run --detach` was called from.
pub(super) fn leave_terminal() -> Result<(), CliError> {
    let left = rustix::process::setsid();
    left.map(drop).map_err(|errno| CliError::Session { source: errno.into() })
}

/// Tells the waiting process that all is ready, by closing standard output.
pub(super) fn close_output() -> Result<(), CliError> {
    let failed = |source| CliError::Write { source };
    let null = File::options().write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| failed(errno.into()))
}
