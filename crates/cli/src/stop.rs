use std::{path::Path, process::ExitCode, time::Duration};

use riklet_api::StoppedRun;
use riklet_core::model::InstanceName;
use riklet_kernel::{Kernel, threads};
use riklet_sdn::{Node, store::Store};
use riklet_vmm::{
    handle::{Patience, Stopped},
    runs::{self, RunError},
};

use super::{args::StopArgs, error, error::CliError, input, output::Output};

pub(crate) fn run<K: Kernel>(
    node: &mut Node<K>,
    args: &StopArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    let state_dir = node.config().state_dir.clone();
    let names = names(&state_dir, args)?;
    if names.is_empty() {
        output.remark("nothing to do");
    }
    let patience =
        Patience { guest: Duration::from_secs(args.timeout.into()), ..Patience::default() };
    let (mut stopped, mut failed) = (Vec::new(), Ok(()));
    for (name, ended) in names.iter().zip(stop(&state_dir, &names, patience)) {
        match ended {
            Ok(Ended { how, lost }) => {
                if lost {
                    runs::clear_lost(node, super::run::epoch_millis())?;
                }
                let how = how.as_str();
                output.remark(&format!("{name}: {how}"));
                stopped.push(StoppedRun { name: name.to_string(), how: how.to_owned() });
            }
            // The last error becomes the result.
            Err(source) => {
                if let Err(earlier) = std::mem::replace(&mut failed, Err(source)) {
                    output.remark(&error::chain(&earlier));
                }
            }
        }
    }
    output.print(String::new, || &stopped)?;
    failed?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the runs to stop. Refuses all of them if one does not exist. Creates no records if there are none.
fn names(state_dir: &Path, args: &StopArgs) -> Result<Vec<InstanceName>, CliError> {
    let Some(store) = Store::open_existing(state_dir)? else {
        return match args.names.first() {
            Some(name) => Err(RunError::Unknown { name: name.clone(), nearest: None }.into()),
            None => Ok(vec![]),
        };
    };
    if args.all {
        return Ok(store.runs_under_way()?.into_iter().map(|run| run.name).collect());
    }
    args.names.iter().try_for_each(|name| runs::find(&store, name).map(drop))?;
    Ok(args.names.clone())
}

/// The way in which a run was stopped.
struct Ended {
    how: Stopped,
    /// True if its supervisor has died and has cleaned nothing up.
    lost: bool,
}

/// Stops all of them concurrently, and waits until nothing of them remains.
fn stop(
    state_dir: &Path,
    names: &[InstanceName],
    patience: Patience,
) -> Vec<Result<Ended, RunError>> {
    let stop = |name| {
        let mut store = Store::open(state_dir)?;
        let run = runs::find(&store, name)?;
        let how = runs::stop(&mut store, state_dir, &run, patience)?;
        match runs::wait(&store, &run) {
            Err(RunError::Lost { .. }) => Ok(Ended { how, lost: true }),
            Ok(_) | Err(RunError::RunAgain { .. }) => Ok(Ended { how, lost: false }),
            Err(error) => Err(error),
        }
    };
    threads::at_once(names, usize::MAX, stop)
}
