use std::process::ExitCode;

use riklet_api::EndedRun;
use riklet_sdn::Config;
use riklet_vmm::runs;

use super::{args::WaitArgs, error::CliError, output::Output};

/// Waits for the end of a run. The exit status is 1 if it ended by itself with a failure.
pub(crate) fn run(config: &Config, args: &WaitArgs, output: Output) -> Result<ExitCode, CliError> {
    let store = runs::store_of(&config.state_dir, &args.name)?;
    let end = runs::wait(&store, &runs::find(&store, &args.name)?)?;
    let end = EndedRun { name: args.name.to_string(), reason: end.reason, failed: end.failed };
    output.print(|| format!("{}\n", end.reason), || &end)?;
    Ok(if end.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
