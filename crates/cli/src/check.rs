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
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
