use std::{io, os::fd::AsFd, path::Path, process::ExitCode};

use riklet_sdn::Config;
use riklet_vmm::{
    console::{Follower, aside},
    runs,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{args::LogsArgs, error::CliError, output::Output};

/// The interval of checking whether the run has ended: 100 ms.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Prints the log and, with `--follow`, new output until the run has ended.
pub(crate) fn run(config: &Config, args: &LogsArgs, output: Output) -> Result<ExitCode, CliError> {
    let store = runs::store_of(&config.state_dir, &args.name)?;
    let run = runs::find(&store, &args.name)?;
    let path = runs::log(&config.state_dir, &args.name);
    let failed = |source| CliError::Log { path: path.clone(), source };
    if let Some(mut older) = open(&aside(&path)).map_err(failed)? {
        output.raw(&older.read_new().map_err(failed)?)?;
    }
    let mut log = None;
    loop {
        // This is read before the log, so that the log has everything written before the end.
        let supervisor = run.supervisor.open().map_err(failed)?;
        let ended = supervisor.is_none() || runs::find(&store, &args.name)?.end.is_some();
        if log.is_none() {
            log = open(&path).map_err(failed)?;
        }
        if let Some(log) = &mut log {
            output.raw(&log.read_new().map_err(failed)?)?;
        }
        let Some(supervisor) = supervisor.filter(|_| args.follow && !ended) else {
            return Ok(ExitCode::SUCCESS);
        };
        let files = log.iter().map(AsFd::as_fd).chain([supervisor.as_fd()]);
        let files = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
        let mut files: Vec<_> = files.collect();
        // A supervisor of several runs outlives the end of one, and records it.
        match poll(&mut files, Some(&AGAIN)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Opens the log. Returns `None` if it does not exist yet: it is created when the VMM starts.
fn open(log: &Path) -> io::Result<Option<Follower>> {
    match Follower::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}
