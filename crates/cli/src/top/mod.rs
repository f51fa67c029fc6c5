//! `top`: shows the functions with their rates, once or continuously.

mod sample;
mod screen;
mod terminal;
mod view;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    thread,
    time::Duration,
};

use self::{sample::Sampler, view::View};
use super::{
    args::{NodeArgs, TopArgs},
    error::CliError,
    output::Output,
    render,
};

pub(crate) fn run(node: NodeArgs, args: &TopArgs, output: Output) -> Result<ExitCode, CliError> {
    if args.once || output.is_json() {
        return once(node, args.interval, output);
    }
    if !io::stdout().is_terminal() {
        return Err(CliError::NoTerminal);
    }
    terminal::run(node, args.interval)
}

/// Prints one table, with rates over the interval.
fn once(node: NodeArgs, interval: Duration, output: Output) -> Result<ExitCode, CliError> {
    let mut sampler = Sampler::new(node);
    // An error that affects every sample shows here at once.
    let before = sampler.take(false)?.counted;
    pause(interval);
    let sample = sampler.take(true)?;
    let view = View::new(Some(&before), &sample);
    if let count @ 1.. = view.drift.len() {
        output.remark(&format!("drift: {count} differences; `riklet-sdn check` shows them"));
    }
    output.print(|| render::table(&view::HEADER, &view.rows()), || &view)?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "a rate is over a time, and this is that time")]
fn pause(interval: Duration) {
    thread::sleep(interval);
}

/// Parses `--interval`: seconds, from 0.1 to 3600.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_no_number| "not a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0.1 to 3600 seconds are taken".to_owned())
    }
}
