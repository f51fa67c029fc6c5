//! Shows what a foreground `run` waits for, on one line of the terminal that changes.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{log, output::Output, plain};

/// The interval at which the line is drawn.
const INTERVAL: Duration = Duration::from_millis(250);

/// The line.
pub(super) struct Booting(ProgressBar);

impl Booting {
    /// Begins to show the line, unless standard error is no terminal or programs read the output.
    pub(super) fn begin(output: Output) -> Option<Self> {
        if output.is_json() || !io::stderr().is_terminal() {
            return None;
        }
        // Warnings come before it.
        log::flush();
        let line = ProgressBar::no_length();
        // The template is constant. If it were wrong, the plain bar would be shown.
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {wide_msg}") {
            line.set_style(style);
        }
        line.enable_steady_tick(INTERVAL);
        Some(Self(line))
    }

    /// Shows this text, and the time since the begin.
    pub(super) fn say(&self, text: &str) {
        self.0.set_message(plain::escaped(text));
    }

    /// Removes the line.
    pub(super) fn end(self) {
        self.0.finish_and_clear();
    }
}
