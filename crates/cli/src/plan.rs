use std::process::ExitCode;

use riklet_api::NodeApi;
use riklet_vmm::supervisor;

use super::{args::PlanArgs, error::CliError, input, output::Output, render};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &PlanArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(args.files.paths())?;
    workloads.iter().try_for_each(supervisor::refuse_sources)?;
    let plan = node.plan(&workloads)?;
    output.warnings(&plan.warnings);
    if plan.is_empty() {
        output.remark("nothing to do");
    }
    output.print(|| render::plan(&plan), || &plan)?;
    Ok(ExitCode::SUCCESS)
}
