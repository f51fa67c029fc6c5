//! Handles invalid arguments and requests for help.

use std::{ffi::OsString, io, process::ExitCode, time::Duration};

use clap::{
    Command, CommandFactory, Parser,
    error::{ContextKind, ContextValue},
};

use super::{
    args::{Args, OutputFormat},
    output, plain,
};

const INVALID: u8 = 2;

/// Returns the arguments. If they are invalid or ask for help, prints that and returns the exit code.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| {
        if error.use_stderr() {
            refuse(error);
            return ExitCode::from(INVALID);
        }
        // The user asked for help or the version.
        match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }
    })
}

/// Prints what the program can do, if no command was given.
pub(crate) fn missing_command(format: OutputFormat) -> ExitCode {
    let hint = "`riklet-sdn --help` lists the commands";
    match format {
        OutputFormat::Json => output::complaint(format, "no command is given", Some(hint), &[]),
        OutputFormat::Text => output::note(Args::command().render_help().to_string().trim_end()),
    }
    ExitCode::from(INVALID)
}

fn refuse(mut error: clap::Error) {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut command = Args::command();
    command.build();
    if let Some(variable) = variable(&command, &error, &arguments) {
        let tip = format!("the value is that of {variable} in the environment");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    if error.get(ContextKind::Usage).is_some() {
        // Clap's own usage would also list arguments that the environment sets.
        let usage = usage(&mut command, &arguments);
        error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    }
    let text = error.render().to_string();
    if !wants_json(&arguments) {
        if plain::escaped(&text) == text {
            // If this cannot be written, there is nowhere to report it.
            let _unwritable = error.print();
        } else {
            output::note(text.trim_end());
        }
        return;
    }
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let message: Vec<_> =
        paragraphs.next().into_iter().flat_map(str::lines).map(str::trim).collect();
    let message = message.join(" ");
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    output::complaint(OutputFormat::Json, message, tip.or(Some("try `--help`")), &[]);
}

/// Returns the environment variable that a refused value comes from, if it comes from one.
fn variable(command: &Command, error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let long = text(ContextKind::InvalidArg)?.split(' ').next()?.strip_prefix("--")?;
    let value = text(ContextKind::InvalidValue)?;
    let given = |argument: &OsString| {
        argument == value || argument.to_str().is_some_and(|a| a == format!("--{long}={value}"))
    };
    let mut known = command.get_arguments();
    let argument = known.find(|known| known.get_long() == Some(long))?;
    let variable = argument.get_env().filter(|_| !arguments.iter().any(given))?;
    Some(variable.to_string_lossy().into_owned())
}

fn usage(command: &mut Command, arguments: &[OsString]) -> clap::builder::StyledStr {
    let is_command = |argument: &&OsString| {
        argument.to_str().is_some_and(|argument| command.find_subcommand(argument).is_some())
    };
    let name = arguments.iter().find(is_command).and_then(|name| name.to_str());
    match name.and_then(|name| command.find_subcommand_mut(name)) {
        Some(subcommand) => subcommand.render_usage(),
        None => command.render_usage(),
    }
}

/// Tells whether the output shall be JSON, from arguments that are invalid in some place.
fn wants_json(arguments: &[OsString]) -> bool {
    let mut arguments = arguments.iter();
    let mut format = std::env::var_os("RIKLET_SDN_OUTPUT");
    while let Some(argument) = arguments.next() {
        if argument == "--output" {
            format = arguments.next().cloned();
        } else if let Some(value) = argument.to_str().and_then(|a| a.strip_prefix("--output=")) {
            format = Some(value.into());
        }
    }
    format.is_some_and(|format| format == "json")
}

/// Parses a length of time, such as `30s`, `10m`, `2h` or `1d`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds).map(Duration::from_secs)
    });
    parsed.ok_or_else(|| "a time is a number with a unit, as in 30s, 10m, 2h or 1d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400)]
        {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "5", "m", "-1s", "1.5h", "1w", "1 m", "99999999999999999999s", "9999999999999999d"]
        {
            time(text).unwrap_err();
        }
    }
}
