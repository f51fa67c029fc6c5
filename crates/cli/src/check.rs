use std::process::ExitCode;

use super::{error::CliError, node::AnyNode, output::Output};

pub(crate) fn run(node: &mut AnyNode, output: Output) -> Result<ExitCode, CliError> {
    let found = node.check()?;
    let sound = found.is_empty();
    if sound {
        output.remark("no drift");
    }
    output.print(|| found.text(), || &found)?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
