//! What is found, in Markdown.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use super::samples::milliseconds;

/// Sections, and before them which targets were reached.
#[derive(Debug, Default)]
pub(crate) struct Report {
    targets: Vec<[String; 4]>,
    body: String,
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// With its unit.
    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}{unit}"),
            Self::AtLeast(limit) => format!("≥ {limit}{unit}"),
        }
    }
}

impl Report {
    pub(crate) fn heading(&mut self, text: &str) {
        self.body.extend(["## ", text, "\n\n"]);
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        self.body.extend([text, "\n\n"]);
    }

    pub(crate) fn table<const N: usize>(&mut self, header: [&str; N], rows: &[[String; N]]) {
        let rule = ["---"; N];
        self.body += &(row(&header) + &row(&rule));
        self.body.extend(rows.iter().map(|cells| row(cells)));
        self.body += "\n";
    }

    /// A picture that lies in docs/benchmarks/.
    pub(crate) fn picture(&mut self, file: &str, says: &str) {
        self.body.extend(["![", says, "](benchmarks/", file, ")\n\n"]);
    }

    /// A time that has a limit, in milliseconds.
    pub(crate) fn limit(&mut self, figure: &str, limit_ms: f64, measured: Duration) {
        let goal = Goal::AtMost(limit_ms);
        let reached = goal.is_reached(measured.as_secs_f64() * 1e3);
        self.note(figure, goal.text(" ms"), milliseconds(measured), reached);
    }

    /// A number that has a goal, with its unit.
    pub(crate) fn goal(&mut self, figure: &str, goal: Goal, measured: f64, unit: &str) {
        let reached = goal.is_reached(measured);
        self.note(figure, goal.text(unit), format!("{measured:.2}{unit}"), reached);
    }

    fn note(&mut self, figure: &str, goal: String, measured: String, reached: bool) {
        let verdict = if reached { "yes" } else { "**no**" };
        self.targets.push([figure.to_owned(), goal, measured, verdict.to_owned()]);
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.targets.is_empty() {
            write!(f, "## What must be reached\n\n")?;
            f.write_str(&row(&["figure", "must be", "is", "reached"]))?;
            f.write_str(&row(&["---"; 4]))?;
            self.targets.iter().try_for_each(|target| f.write_str(&row(target)))?;
            writeln!(f)?;
        }
        f.write_str(self.body.trim_end())
    }
}

fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}
