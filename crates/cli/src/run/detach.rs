//! `run --detach`: a supervisor for each function, which outlives the terminal.

use std::{fs::File, process::ExitCode};

use riklet_core::model::Workload;
use riklet_sdn::{Config, store::Store};
use riklet_vmm::{
    detach::{Detach, Detached, FAILED},
    runs,
};
use serde_json::Value;

use crate::{
    args::RunArgs,
    error::CliError,
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
    let detach = Detach {
        config: config.clone(),
        ready_timeout: args.ready_timeout,
        no_wait: args.no_wait,
        json: output.is_json(),
        beside: super::beside(args)?,
        for_member: false,
    };
    let supervised = detach.start_all(workloads);
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
                    output.print(|| text, || Value::Null)?;
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

/// Leaves the terminal that `run --detach` was called from. The process of a unit of systemd leads a session already, and
/// cannot make another (setsid(2)).
pub(super) fn leave_terminal() -> Result<(), CliError> {
    let failed = |errno: rustix::io::Errno| CliError::Session { source: errno.into() };
    if rustix::process::getsid(None).map_err(failed)? == rustix::process::getpid() {
        return Ok(());
    }
    rustix::process::setsid().map(drop).map_err(failed)
}

/// Tells the waiting process that this supervisor fails, and with which exit status. After it was ready, nobody waits.
pub(super) fn announce_failure(error: &CliError, output: Output) -> Result<(), CliError> {
    output.raw(format!("{FAILED}{}\n", error.exit_status()).as_bytes())
}

/// Tells the waiting process that all is ready, by closing standard output.
pub(super) fn close_output() -> Result<(), CliError> {
    let failed = |source| CliError::Write { source };
    let null = File::options().write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| failed(errno.into()))
}
