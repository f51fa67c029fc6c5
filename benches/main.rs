//! The figures of docs/benchmarks.md, in one run: `cargo bench --bench figures`, as root, prints them in Markdown
//! and draws the curves to docs/benchmarks/. `scripts/bench` installs what is compared, and writes the document.
//!
//! `cargo bench --bench figures -- peers` measures one section. All of it happens in namespaces of its own.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement ends where it panics"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it is for")]

mod common;
mod one_shot;
mod peers;
mod ready;

use std::env;

use common::{enclosure, report::Report};

type Section = fn(&mut Report);

/// In the order of the document.
const SECTIONS: [(&str, Section); 3] =
    [("peers", peers::measure), ("one_shot", one_shot::measure), ("ready", ready::measure)];

fn main() {
    if !enclosure::is_inside() {
        enclosure::enter();
        return;
    }
    enclosure::furnish();
    // cargo adds `--bench`.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let unknown = wanted.iter().find(|name| SECTIONS.iter().all(|(known, _)| known != name));
    assert!(unknown.is_none(), "there is no section {unknown:?}");
    let mut report = Report::default();
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("measuring: {name}");
            measure(&mut report);
        }
    }
    println!("{report}");
}
