use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Drift, Sdn},
};
use serde_json::json;

use super::{error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(sdn: &mut Sdn<K>, output: Output) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    let drift = sdn.check()?;
    output.print(|| lines(&drift).concat(), || json(&drift))?;
    Ok(if drift.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(drift: &Drift) -> serde_json::Value {
    let unsettled = drift.unsettled.iter();
    let unsettled = unsettled.map(|(n, p)| json!({ "name": n.as_str(), "phase": p.as_str() }));
    let blocked: Vec<_> = drift.plan.blocked.values().map(ToString::to_string).collect();
    json!({
        "firewall": drift.firewall,
        "steps": output::lines(&drift.plan.steps),
        "blocked": blocked,
        "unsettled": unsettled.collect::<Vec<_>>(),
    })
}

/// Why the firewall must be made anew, what `repair` would do, and what it would finish.
fn lines(drift: &Drift) -> Vec<String> {
    let firewall = drift.firewall.iter().map(|line| format!("! firewall: {line}\n"));
    let unsettled = drift.unsettled.iter();
    let unsettled = unsettled.map(|(name, phase)| format!("! record {name}: still {phase}\n"));
    firewall.chain([drift.plan.to_string()]).chain(unsettled).collect()
}
