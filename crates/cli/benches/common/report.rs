//! The results, in Markdown.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use super::samples::milliseconds;

/// The sections of the report, after a table of the bounds with the measured figures.
#[derive(Debug, Default)]
pub(crate) struct Markdown {
    bounds: Vec<[String; 4]>,
    missed: Vec<String>,
    body: String,
}

/// A bound that a figure must keep.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn is_kept(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// Returns the bound as text, with its unit.
    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}{unit}"),
            Self::AtLeast(limit) => format!("≥ {limit}{unit}"),
        }
    }
}

impl Markdown {
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

    /// Adds a picture from docs/benchmarks/.
    pub(crate) fn picture(&mut self, file: &str, says: &str) {
        self.body.extend(["![", says, "](benchmarks/", file, ")\n\n"]);
    }

    /// States an upper bound on a time, in milliseconds.
    pub(crate) fn limit(&mut self, figure: &str, limit_ms: f64, measured: Duration) {
        let bound = Bound::AtMost(limit_ms);
        let kept = bound.is_kept(measured.as_secs_f64() * 1e3);
        self.note(figure, bound.text(" ms"), milliseconds(measured), kept);
    }

    /// States a bound on a number, with its unit.
    pub(crate) fn bound(&mut self, figure: &str, bound: Bound, measured: f64, unit: &str) {
        let kept = bound.is_kept(measured);
        self.note(figure, bound.text(unit), format!("{measured:.2}{unit}"), kept);
    }

    /// Returns each figure that misses its bound, with both.
    pub(crate) fn missed(&self) -> &[String] {
        &self.missed
    }

    fn note(&mut self, figure: &str, bound: String, measured: String, kept: bool) {
        if !kept {
            self.missed.push(format!("{figure}: {measured}, must be {bound}"));
        }
        let verdict = if kept { "yes" } else { "**no**" };
        self.bounds.push([figure.to_owned(), bound, measured, verdict.to_owned()]);
    }
}

impl Display for Markdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.bounds.is_empty() {
            write!(f, "## Bounds\n\n")?;
            f.write_str(&row(&["figure", "must be", "is", "kept"]))?;
            f.write_str(&row(&["---"; 4]))?;
            self.bounds.iter().try_for_each(|bound| f.write_str(&row(bound)))?;
            writeln!(f)?;
        }
        f.write_str(self.body.trim_end())
    }
}

fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}
