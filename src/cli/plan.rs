use std::process::ExitCode;

use riklet_sdn::{kernel::Kernel, sdn::Sdn};
use serde_json::json;

use super::{args::PlanArgs, error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &PlanArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    input::require_privilege()?;
    let (plan, warnings) = sdn.plan(&workloads)?;
    output.warnings(&warnings);
    if plan.is_empty() {
        output.remark("nothing to do");
    }
    output.print(
        || plan.to_string(),
        || {
            let blocked: Vec<_> = plan.blocked.values().map(ToString::to_string).collect();
            json!({
                "steps": output::lines(&plan.steps),
                "blocked": blocked,
                "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        },
    )?;
    Ok(ExitCode::SUCCESS)
}
