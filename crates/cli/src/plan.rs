use std::process::ExitCode;

use super::{args::PlanArgs, error::CliError, input, node::AnyNode, output::Output};

pub(crate) fn run(
    node: &mut AnyNode,
    args: &PlanArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    let plan = node.plan(&workloads)?;
    output.warnings(&plan.warnings);
    if plan.is_empty() {
        output.remark("nothing to do");
    }
    output.print(|| plan.text(), || &plan)?;
    Ok(ExitCode::SUCCESS)
}
