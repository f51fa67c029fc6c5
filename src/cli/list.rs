use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Listed, Sdn},
    store::Phase,
};

use super::{error::CliError, output, output::Output};

pub(crate) fn run<K: Kernel>(sdn: &mut Sdn<K>, output: Output) -> Result<ExitCode, CliError> {
    let listed = sdn.list()?;
    output.print(
        || {
            let rows = listed.iter().map(|line| (&line.instance, vec![state(line)]));
            output::instances(&["STATE"], rows)
        },
        || listed.iter().map(output::listed).collect(),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What the kernel has, unless the last operation did not come to its end.
fn state(line: &Listed) -> String {
    match line.instance.phase {
        Phase::Up => line.link.as_str().to_owned(),
        phase @ (Phase::Pending | Phase::Removing) => phase.to_string(),
    }
}
