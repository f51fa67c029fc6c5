use std::{process::ExitCode, time::Duration};

use riklet_sdn::{
    kernel::Kernel,
    model::InstanceName,
    sdn::Sdn,
    store::Store,
    vmm::{
        handle::Patience,
        runs::{self, RunError},
    },
};
use serde_json::json;

use super::{args::StopArgs, error::CliError, input, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &StopArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    let state_dir = sdn.config().state_dir.clone();
    let store = Store::open_existing(&state_dir)?;
    let names: Vec<InstanceName> = match &store {
        Some(store) if args.all => {
            store.runs_under_way()?.into_iter().map(|run| run.name).collect()
        }
        _ => args.names.clone(),
    };
    // Where there are no records, none shall be begun.
    if let (None, Some(name)) = (&store, names.first()) {
        return Err(RunError::Unknown { name: name.clone(), nearest: None }.into());
    }
    drop(store);
    let patience =
        Patience { guest: Duration::from_secs(args.timeout.into()), ..Patience::default() };
    let mut stopped = Vec::new();
    for name in &names {
        let how = stop(sdn, name, patience)?;
        output.remark(&format!("{name}: {how}"));
        stopped.push(json!({ "name": name.as_str(), "how": how }));
    }
    if names.is_empty() {
        output.remark("nothing to do");
    }
    output.print(String::new, || json!(stopped))?;
    Ok(ExitCode::SUCCESS)
}

/// Stops one run, and waits until nothing of it is left.
fn stop<K: Kernel>(
    sdn: &mut Sdn<K>,
    name: &InstanceName,
    patience: Patience,
) -> Result<&'static str, CliError> {
    let state_dir = sdn.config().state_dir.clone();
    let mut store = Store::open(&state_dir)?;
    let stopped = runs::stop(&mut store, &state_dir, name, patience)?;
    match runs::wait(&store, name) {
        Err(RunError::Lost { .. }) => {
            runs::clear_lost(sdn, super::run::epoch_millis())?;
        }
        ended => drop(ended?),
    }
    Ok(stopped.as_str())
}
