use std::process::ExitCode;

use riklet_sdn::Which;

use super::{args::DownArgs, error::CliError, node::Node, output::Output};

pub(crate) fn run(node: &mut Node, args: &DownArgs, output: Output) -> Result<ExitCode, CliError> {
    let which =
        if args.all { Which::All } else { Which::Named(args.names.iter().cloned().collect()) };
    let mut report = node.down(&which, args.purge)?;
    if report.steps.is_empty() {
        output.remark("nothing to do");
    }
    output.print(String::new, || &report)?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}
