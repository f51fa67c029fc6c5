use std::process::ExitCode;

use riklet_api::NodeApi;
use riklet_core::model::{Selector, Workload};

use super::{args::DownArgs, error::CliError, input, output::Output};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &DownArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let selector = if args.all {
        Selector::All
    } else {
        let defined = match &*args.file {
            [] => vec![],
            files => input::definitions(files)?,
        };
        let defined = defined.iter().map(Workload::name);
        Selector::Named(args.names.iter().chain(defined).cloned().collect())
    };
    let mut report = node.down(&selector, args.purge)?;
    if report.steps.is_empty() {
        output.remark("nothing to do");
    }
    output.print(String::new, || &report)?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}
