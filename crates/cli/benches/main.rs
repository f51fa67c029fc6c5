//! Measures the figures of docs/benchmarks.md in one run: `cargo bench --profile dist --bench figures`, as root,
//! prints them in Markdown and draws the curves to docs/benchmarks/. `scripts/bench` installs the programs to compare
//! with, and writes the document.
//!
//! The run fails if a figure misses the bound that is stated for it.
//!
//! `cargo bench --bench figures -- peers scale/flush` measures these two sections; `scale` measures all sections whose
//! names begin with it. Everything happens in namespaces of its own.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement ends where it panics"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it is for")]

mod common;
mod foreign;
mod one_shot;
mod peers;
mod ready;
mod scale;

use std::{env, process::ExitCode, time::Instant};

use common::{enclosure, report::Markdown};

type Section = fn(&mut Markdown);

/// The sections, in the order of the document.
const SECTIONS: [(&str, Section); 11] = [
    ("peers", peers::measure),
    ("scale/single", scale::single::measure),
    ("scale/thousands", scale::thousands::measure),
    ("scale/growth", scale::growth::measure),
    ("scale/runs", scale::runs::measure),
    ("scale/tracked", scale::tracked::measure),
    ("scale/throughput", scale::throughput::measure),
    ("scale/flush", scale::flush::measure),
    ("one_shot", one_shot::measure),
    ("foreign", foreign::measure),
    ("ready", ready::measure),
];

/// Succeeds if every bound is kept.
fn main() -> ExitCode {
    if !enclosure::is_inside() {
        return enclosure::enter();
    }
    enclosure::set_up();
    // cargo adds `--bench` to the arguments.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str, wanted: &String| {
        name.strip_prefix(wanted.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for wanted in &wanted {
        let known = SECTIONS.iter().any(|(name, _)| is_wanted(name, wanted));
        assert!(known, "there is no section {wanted}");
    }
    let mut report = Markdown::default();
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| is_wanted(name, wanted)) {
            let started = Instant::now();
            measure(&mut report);
            eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    println!("{report}");
    for missed in report.missed() {
        eprintln!("a bound is missed: {missed}");
    }
    if report.missed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
