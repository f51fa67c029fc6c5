use std::process::ExitCode;

use super::{args::UpArgs, error::CliError, input, node::AnyNode, output, output::Output};

pub(crate) fn run(node: &mut AnyNode, args: &UpArgs, output: Output) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    let mut report = node.up(&workloads, args.strict)?;
    output.print(
        || match &*report.instances {
            [] => String::new(),
            up => output::instances(&[], up.iter().map(|instance| (instance, vec![]))),
        },
        || &report,
    )?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}
