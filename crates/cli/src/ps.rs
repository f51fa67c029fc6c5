use std::process::ExitCode;

use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    Config,
    store::{Run, Store},
};
use riklet_vmm::runs::{self, RunState};
use serde_json::{Value, json};

use super::{error::CliError, output::Output, render};

pub(crate) fn run(config: &Config, output: Output) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&config.state_dir)?;
    let mut all = Vec::new();
    for run in store.map(|store| store.runs()).transpose()?.unwrap_or_default() {
        let state = runs::state(&run)?;
        all.push((run, state));
    }
    let now = super::run::epoch_millis();
    output.print(
        || {
            let row = |(run, state): &(Run, RunState)| render::run(run, *state, now);
            render::table(&render::RUN_HEADER, &all.iter().map(row).collect::<Vec<_>>())
        },
        || all.iter().map(|(run, state)| described(run, *state)).collect::<Vec<_>>(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn described(run: &Run, state: RunState) -> Value {
    json!({
        "name": run.name.as_str(),
        "vmm": run.vmm,
        "state": state.as_str(),
        "pid": run.process.map(ProcessId::pid),
        "supervisorPid": run.supervisor.pid(),
        "startedMs": run.started,
        "readyAfterMs": run.ready,
        "endedMs": run.end.as_ref().map(|end| end.at),
        "reason": run.end.as_ref().map(|end| &end.reason),
        "failed": run.end.as_ref().map(|end| end.failed),
    })
}
