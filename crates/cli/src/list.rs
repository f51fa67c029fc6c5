use std::process::ExitCode;

use riklet_api::Listed;
use riklet_sdn::store::Phase;

use super::{error::CliError, node::AnyNode, output, output::Output};

pub(crate) fn run(node: &mut AnyNode, output: Output) -> Result<ExitCode, CliError> {
    let listed = node.list()?;
    output.print(
        || {
            let rows = listed.iter().map(|line| (&line.instance, vec![state(line)]));
            output::instances(&["STATE"], rows)
        },
        || &listed,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What the kernel has, unless the last operation did not come to its end.
pub(crate) fn state(line: &Listed) -> String {
    let phase = &line.instance.phase;
    if phase == Phase::Up.as_str() { line.link.clone() } else { phase.clone() }
}
