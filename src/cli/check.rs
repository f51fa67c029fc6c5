use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Drift, Sdn},
    store::{Run, Store},
    vmm::runs,
};
use serde_json::json;

use super::{error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(sdn: &mut Sdn<K>, output: Output) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    let drift = sdn.check()?;
    let store = Store::open_existing(&sdn.config().state_dir)?;
    let lost = store.map(|store| runs::lost(&store)).transpose()?.unwrap_or_default();
    let none = drift.is_empty() && lost.is_empty();
    if none {
        output.remark("no drift");
    }
    output.print(|| lines(&drift, &lost).concat(), || json(&drift, &lost))?;
    Ok(if none { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(drift: &Drift, lost: &[Run]) -> serde_json::Value {
    let unsettled = drift.unsettled.iter();
    let unsettled = unsettled.map(|(n, p)| json!({ "name": n.as_str(), "phase": p.as_str() }));
    let blocked: Vec<_> = drift.plan.blocked.values().map(ToString::to_string).collect();
    json!({
        "firewall": drift.firewall,
        "steps": output::lines(&drift.plan.steps),
        "blocked": blocked,
        "unsettled": unsettled.collect::<Vec<_>>(),
        "lost": lost.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(),
    })
}

/// Why the firewall must be made anew, what `repair` would do, and what it would finish.
fn lines(drift: &Drift, lost: &[Run]) -> Vec<String> {
    let firewall = drift.firewall.iter().map(|line| format!("! firewall: {line}\n"));
    let unsettled = drift.unsettled.iter();
    let unsettled = unsettled.map(|(name, phase)| format!("! record {name}: still {phase}\n"));
    let lost = lost.iter().map(|run| format!("! run {}: its supervisor died\n", run.name));
    firewall.chain([drift.plan.to_string()]).chain(unsettled).chain(lost).collect()
}
