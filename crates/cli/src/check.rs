use std::process::ExitCode;

use riklet_api::NodeApi;

use super::{error::CliError, output::Output, render};

pub(crate) fn run(node: &mut dyn NodeApi, output: Output) -> Result<ExitCode, CliError> {
    let found = node.check()?;
    let sound = found.is_empty();
    output.warnings(&found.warnings);
    if sound {
        output.remark("no drift");
    }
    output.print(|| render::check(&found), || &found)?;
    if !found.steps.is_empty() || !found.unsettled.is_empty() || !found.lost.is_empty() {
        output.remark("hint: `riklet-sdn repair` makes the kernel match the records");
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
