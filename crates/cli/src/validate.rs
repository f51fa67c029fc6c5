use std::process::ExitCode;

use riklet_core::{definition, model::Workload};
use riklet_vmm::supervisor;

use super::{args::ValidateArgs, error::CliError, input, output::Output};

pub(crate) fn run(args: &ValidateArgs, output: Output) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(args.files.paths())?;
    workloads.iter().try_for_each(supervisor::refuse_sources)?;
    let text = || workloads.iter().map(line).collect();
    output.print(text, || workloads.iter().map(definition::to_value).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the schema, which is JSON as text, too.
pub(crate) fn schema(output: Output) -> Result<ExitCode, CliError> {
    let schema = definition::schema();
    output.print(|| format!("{schema:#}\n"), || &schema)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the line of a workload: its kind, its name, and its exposures.
fn line(workload: &Workload) -> String {
    let exposures = workload.exposures().iter().map(ToString::to_string);
    let parts = [workload.kind().to_string(), workload.name().to_string()];
    let exposures = exposures.collect::<Vec<_>>().join(", ");
    let exposures = if exposures.is_empty() { "no exposure".to_owned() } else { exposures };
    format!("{}: {exposures}\n", parts.join(" "))
}
