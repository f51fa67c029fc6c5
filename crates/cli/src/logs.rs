use std::{io, os::fd::AsFd, process::ExitCode};

use riklet_sdn::{
    Config,
    store::{Run, Store},
};
use riklet_vmm::{
    console::{self, Follower, Selection},
    runs::{self, RunState},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    args::LogsArgs,
    error::CliError,
    output::{GuestText, Output},
};

/// The interval of checking whether the run has ended: 100 ms.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Prints the log and, with `--follow`, new output until the run has ended.
pub(crate) fn run(config: &Config, args: &LogsArgs, output: Output) -> Result<ExitCode, CliError> {
    let store = runs::store_of(&config.state_dir, &args.name)?;
    let run = runs::find(&store, &args.name)?;
    let log = if args.vmm { runs::vmm_log } else { runs::log };
    let path = log(&config.state_dir, &args.name);
    let path = if args.previous { console::previous(&path) } else { path };
    let failed = |source| CliError::Log { path: path.clone(), source };
    let now = super::run::epoch_millis();
    let since = args
        .since
        .map(|ago| now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    let mut text = GuestText::new(output, args.raw);
    // This is read before the log, so that the log has everything written before the end.
    let mut ended = has_ended(&store, &run)?;
    let selection = Selection { since, tail: args.tail };
    let (recorded, mut log) = console::read(&path, selection).map_err(failed)?;
    text.print(&recorded)?;
    while args.follow && !args.previous && !ended {
        wait(&run, log.as_ref()).map_err(failed)?;
        ended = has_ended(&store, &run)?;
        if let Some(log) = &mut log {
            text.print(&log.read_new().map_err(failed)?)?;
        } else {
            let (recorded, opened) = console::read(&path, selection).map_err(failed)?;
            text.print(&recorded)?;
            log = opened;
        }
    }
    text.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Tells whether the run has ended. A supervisor of several runs outlives the end of one, and records it.
fn has_ended(store: &Store, run: &Run) -> Result<bool, CliError> {
    Ok(runs::state(run)? == RunState::Lost || runs::find(store, &run.name)?.end.is_some())
}

/// Waits for new output, or the end of the supervisor, but not for long.
fn wait(run: &Run, log: Option<&Follower>) -> io::Result<()> {
    let Some(supervisor) = run.supervisor.open()? else { return Ok(()) };
    let files = log.into_iter().map(AsFd::as_fd).chain([supervisor.as_fd()]);
    let mut files: Vec<_> =
        files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)).collect();
    match poll(&mut files, Some(&AGAIN)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
