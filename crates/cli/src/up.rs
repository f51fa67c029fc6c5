use std::process::ExitCode;

use riklet_api::NodeApi;

use super::{args::UpArgs, error::CliError, input, output::Output, render};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &UpArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(args.files.paths())?;
    let mut report = node.up(&workloads, args.strict)?;
    output.print(
        || match &*report.instances {
            [] => String::new(),
            up => render::instances(&[], up.iter().map(|instance| (instance, vec![]))),
        },
        || &report,
    )?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}
