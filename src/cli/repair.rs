use std::process::ExitCode;

use riklet_sdn::{
    kernel::Kernel,
    sdn::{Report, Sdn},
    vmm::runs,
};
use serde_json::json;

use super::{error::CliError, input, output, output::Output};

pub(crate) fn run<K: Kernel>(
    sdn: &mut Sdn<K>,
    rebuild: bool,
    output: Output,
) -> Result<ExitCode, CliError> {
    input::require_privilege()?;
    if rebuild {
        return run_rebuild(sdn, output);
    }
    let mut done = Vec::new();
    let cleared = runs::clear_lost(sdn, super::run::epoch_millis())?;
    let nothing = cleared.is_empty();
    for (run, cleared) in cleared {
        output.remark(&format!("{}: its supervisor died; cleared away what it left", run.name));
        done.extend(cleared.done);
    }
    let mut report = sdn.repair()?;
    report.done.splice(0..0, done);
    if nothing && report.done.is_empty() && report.failures.is_empty() {
        output.remark("nothing to do");
    }
    output.print(|| text(&report), || output::report(&report))?;
    output.complaints(&mut report).map(|()| ExitCode::SUCCESS)
}

fn run_rebuild<K: Kernel>(sdn: &mut Sdn<K>, output: Output) -> Result<ExitCode, CliError> {
    let mut rebuilt = sdn.rebuild()?;
    if let Some(path) = &rebuilt.set_aside {
        output.remark(&format!("the corrupt database is now {}", path.display()));
    }
    for name in &rebuilt.incomplete {
        output.remark(&format!(
            "warning: {name} lost exposures that its alias had no room for; bring it up again from its file"
        ));
    }
    output.print(
        || {
            let lines = rebuilt.recovered.iter().map(|name| format!("recorded {name}\n"));
            lines.chain([text(&rebuilt.report)]).collect()
        },
        || {
            json!({
                "setAside": rebuilt.set_aside,
                "recovered": rebuilt.recovered.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "incomplete": rebuilt.incomplete.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "repair": output::report(&rebuilt.report),
            })
        },
    )?;
    output.complaints(&mut rebuilt.report).map(|()| ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    output::lines(&report.done).into_iter().map(|line| line + "\n").collect()
}
