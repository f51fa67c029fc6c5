use std::process::ExitCode;

use riklet_api::NodeApi;

use super::{error::CliError, output::Output, render};

pub(crate) fn run(node: &mut dyn NodeApi, output: Output) -> Result<ExitCode, CliError> {
    let listed = node.list()?;
    output.print(
        || {
            let rows = listed.iter().map(|line| (&line.instance, vec![render::state(line)]));
            render::instances(&["STATE"], rows)
        },
        || &listed,
    )?;
    Ok(ExitCode::SUCCESS)
}
