use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Sdn, UpOptions},
};

use super::{args::UpArgs, error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    args: &UpArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let workloads = input::definitions(&args.files)?;
    input::require_taps()?;
    let mut report = sdn.up(&workloads, UpOptions { strict: args.strict })?;
    output.print(
        || match &*report.instances {
            [] => String::new(),
            up => output::instances(&[], up.iter().map(|instance| (instance, vec![]))),
        },
        || output::report(&report),
    )?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}
