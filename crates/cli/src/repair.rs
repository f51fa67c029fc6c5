use std::process::ExitCode;

use riklet_api::{NodeApi, RebuiltDocument};

use super::{error::CliError, output::Output, render};

pub(crate) fn run(node: &mut dyn NodeApi, output: Output) -> Result<ExitCode, CliError> {
    let mut report = node.repair()?;
    if report.warnings.is_empty() && report.steps.is_empty() && report.failures.is_empty() {
        output.remark("nothing to do");
    }
    output.print(|| render::steps(&report), || &report)?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

/// Prints what was recorded anew, by `repair --rebuild` or `repair --adopt`. If there is nothing to print, says this
/// instead.
pub(crate) fn recovered(
    mut rebuilt: RebuiltDocument,
    nothing: &str,
    output: Output,
) -> Result<ExitCode, CliError> {
    if is_empty(&rebuilt) {
        output.remark(nothing);
    }
    if let Some(path) = &rebuilt.set_aside {
        output.remark(&format!("the former database is now {}", path.display()));
    }
    for name in &rebuilt.incomplete {
        output.remark(&format!(
            "warning: {name} lost exposures that its alias had no room for, or its policy, without which it reaches nothing; bring it up again from its file"
        ));
    }
    for name in &rebuilt.lost {
        output.remark(&format!(
            "warning: {name} is lost: its record could not be read, and it has no interface; bring it up again from its file"
        ));
    }
    output.print(
        || {
            let lines = rebuilt.recovered.iter().map(|name| format!("recorded {name}\n"));
            lines.chain([render::steps(&rebuilt.repair)]).collect()
        },
        || &rebuilt,
    )?;
    output.complaints(&mut rebuilt.repair).map(|()| ExitCode::SUCCESS)
}

fn is_empty(rebuilt: &RebuiltDocument) -> bool {
    let RebuiltDocument { set_aside, recovered, incomplete, lost, repair } = rebuilt;
    let repaired =
        !repair.steps.is_empty() || !repair.failures.is_empty() || !repair.warnings.is_empty();
    let recorded = [recovered, incomplete, lost].into_iter().any(|names| !names.is_empty());
    set_aside.is_none() && !recorded && !repaired
}
