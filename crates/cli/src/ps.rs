use std::process::ExitCode;

use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    Config,
    store::{Run, Store},
};
use riklet_vmm::runs::{self, RunState};
use serde_json::{Value, json};

use super::{
    error::CliError,
    output::{self, Output},
};

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
            let rows: Vec<_> = all.iter().map(|(run, state)| row(run, *state, now)).collect();
            output::table(&["NAME", "VMM", "STATE", "PID", "SINCE", "READY", "HOW IT ENDED"], &rows)
        },
        || all.iter().map(|(run, state)| described(run, *state)).collect::<Vec<_>>(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn row(run: &Run, state: RunState, now: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let since = run.end.as_ref().map_or(run.started, |end| end.at);
    let pid = run.process.filter(|_| run.end.is_none());
    vec![
        run.name.to_string(),
        run.vmm.clone(),
        state.as_str().to_owned(),
        pid.map_or_else(none, |process| process.pid().to_string()),
        ago(now.saturating_sub(since)),
        run.ready.map_or_else(none, |after| format!("{after} ms")),
        run.end.as_ref().map_or_else(none, |end| end.reason.clone()),
    ]
}

/// A time in its largest whole unit.
fn ago(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
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

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn times_are_in_their_largest_whole_unit() {
        let times = [0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000];
        assert_eq!(times.map(ago), ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
