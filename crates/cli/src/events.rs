use std::process::ExitCode;

use riklet_api::{NodeApi, Notification, Topic};
use serde_json::json;

use super::{args::EventsArgs, error::CliError, output::Output, render};

/// Prints the remembered events and, with `--follow`, new ones as they come: each as a line, or as a JSON document.
pub(crate) fn run(
    node: &mut dyn NodeApi,
    args: &EventsArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let topic = if args.refused { Topic::Refusals } else { Topic::Changes };
    for notification in node.events(topic, args.follow, args.since)? {
        let line = match notification? {
            Notification::Missed(count) if output.is_json() => {
                format!("{}\n", json!({ "missed": count }))
            }
            Notification::Missed(count) => {
                let count = count.map_or_else(|| "some".to_owned(), |count| count.to_string());
                format!("! {count} events were missed\n")
            }
            Notification::Event(event) if output.is_json() => {
                let line = serde_json::to_string(&event);
                line.map_err(|source| CliError::Render { source })? + "\n"
            }
            Notification::Event(event) => render::event(&event),
        };
        if !output.text(&line)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.follow { Err(CliError::DaemonEnded) } else { Ok(ExitCode::SUCCESS) }
}
