use std::process::ExitCode;

use riklet_api::Report;
use riklet_daemon::documents;
use riklet_sdn::{RebuildOptions, Rebuilt};
use serde_json::json;

use super::{error::CliError, node::AnyNode, output::Output};

pub(crate) fn run(node: &mut AnyNode, output: Output) -> Result<ExitCode, CliError> {
    let mut report = node.repair()?;
    if report.warnings.is_empty() && report.steps.is_empty() && report.failures.is_empty() {
        output.remark("nothing to do");
    }
    output.print(|| text(&report), || &report)?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

pub(crate) fn adopt(node: &mut AnyNode, output: Output) -> Result<ExitCode, CliError> {
    recovered(&node.adopt()?, output)
}

pub(crate) fn rebuild(
    node: &mut AnyNode,
    force: bool,
    output: Output,
) -> Result<ExitCode, CliError> {
    recovered(&node.rebuild(RebuildOptions { force })?, output)
}

fn recovered(rebuilt: &Rebuilt, output: Output) -> Result<ExitCode, CliError> {
    let mut report = documents::report(&rebuilt.report);
    if let Some(path) = &rebuilt.set_aside {
        output.remark(&format!("the former database is now {}", path.display()));
    }
    for name in &rebuilt.incomplete {
        output.remark(&format!(
            "warning: {name} lost exposures that its alias had no room for; bring it up again from its file"
        ));
    }
    output.print(
        || {
            let lines = rebuilt.recovered.iter().map(|name| format!("recorded {name}\n"));
            lines.chain([text(&report)]).collect()
        },
        || {
            json!({
                "setAside": rebuilt.set_aside,
                "recovered": rebuilt.recovered.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "incomplete": rebuilt.incomplete.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "repair": report,
            })
        },
    )?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    report.steps.iter().flat_map(|line| [line, "\n"]).collect()
}
