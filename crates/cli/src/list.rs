use std::process::ExitCode;

use riklet_api::{ListEntry, NodeApi};

use super::{args::ListArgs, error::CliError, output::Output, render};

pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &ListArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let listed = match node.list() {
        Ok(listed) => listed,
        Err(error) => {
            // `jq -e` succeeds if it reads nothing: a script would take the refusal for a match.
            output.print(String::new, Vec::<ListEntry>::new)?;
            return Err(error.into());
        }
    };
    if args.quiet {
        let names = || listed.iter().map(|line| line.instance.name.as_str());
        let text = || names().flat_map(|name| [name, "\n"]).collect();
        output.print(text, || names().collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    output.print(
        || {
            let rows = listed.iter().map(|line| (&line.instance, vec![render::state(line)]));
            render::instances(&["STATE"], rows)
        },
        || &listed,
    )?;
    Ok(ExitCode::SUCCESS)
}
