use std::{io, process::ExitCode};

use riklet_api::Event;
use riklet_http::{Client, ServerEvent};
use serde_json::{Value, json};

use super::{
    args::{EventsArgs, NodeArgs},
    config,
    error::CliError,
    node,
    output::Output,
};

/// What is remembered, and no more.
const RECENT: &str = "/v1/events?recent=true";

/// Prints what is remembered and, where that is asked for, what comes: a line each, as JSON a document each.
pub(crate) fn run(
    node: &NodeArgs,
    args: &EventsArgs,
    output: Output,
) -> Result<ExitCode, CliError> {
    let path = config::load(node)?.socket();
    let client = match node::client(&path) {
        Ok(client) => client,
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(CliError::Daemon { path, source });
        }
        Err(_nobody_listens) => return Err(CliError::NoDaemon { path }),
    };
    let path = if args.follow { "/v1/events" } else { RECENT };
    for event in client.events(path)? {
        let event = event?;
        let line = match missed(&event) {
            Some(count) if output.is_json() => format!("{}\n", json!({ "missed": count })),
            Some(count) => format!("! {count} events came too fast to be told\n"),
            None if output.is_json() => format!("{}\n", event.data),
            None => line(&parsed(&event.data)?),
        };
        if !output.stream(line.as_bytes())? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.follow { Err(CliError::DaemonEnded) } else { Ok(ExitCode::SUCCESS) }
}

/// What the daemon remembers, oldest first.
pub(crate) fn recent(client: &Client) -> Result<Vec<Event>, CliError> {
    client.events(RECENT)?.map(|event| parsed(&event?.data)).collect()
}

fn parsed(data: &str) -> Result<Event, CliError> {
    serde_json::from_str(data)
        .map_err(|source| CliError::Answer { call: "GET /v1/events".to_owned(), source })
}

/// How many events were passed over, where that is what this one says: the reader was too slow.
fn missed(event: &ServerEvent) -> Option<u64> {
    let said = serde_json::from_str::<Value>(&event.data).ok();
    (event.name == "lost").then(|| said.and_then(|said| said["count"].as_u64()).unwrap_or_default())
}

/// The time, what kind of thing, whose, and what; further lines of it indented.
pub(crate) fn line(event: &Event) -> String {
    let name = event.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    let text = event.text.replace('\n', "\n    ");
    format!("{} {:11}{name} {text}\n", time(event.at_ms), event.kind)
}

/// RFC 3339, in UTC.
fn time(at_ms: u64) -> String {
    let (seconds, millis) = (at_ms / 1000, at_ms % 1000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date, so many days after 1970-01-01, in the Gregorian calendar: years that begin in March have their leap day
/// at the end.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, month, day) = (era * 400 + year, month + 3, day - (153 * month + 2) / 5 + 1);
    if month > 12 { (year + 1, month - 12, day) } else { (year, month, day) }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_594_161_847), "2026-11-25T08:09:21.847Z");
        assert_eq!(time(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
