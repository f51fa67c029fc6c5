//! `up` and `down` without a daemon, as a user runs them: each is a process of its own.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::common::{
    command::timed, daemon, definition, enclosure, namespace::Namespace, report::Markdown,
    samples::Cycles,
};

const ROUNDS: usize = 100;
/// The numbers of functions that are already up.
const PRESENT: [usize; 2] = [1, 1000];

pub(crate) fn measure(report: &mut Markdown) {
    report.heading("One shot: `up` and `down` as whole processes");
    report.paragraph(&format!(
        "A function with one TCP port, brought up and taken down {ROUNDS} times without a daemon, with so many \
         others up. A `down` spends its time where the kernel deletes a TAP, about 14 to 22 ms in which RCU grace \
         periods pass (`strace -T riklet-sdn down NAME` shows it in one `RTM_DELLINK`); the port is refused before \
         that begins."
    ));
    let mut rows = Vec::new();
    for backend in ["nftables", "iptables"] {
        for present in PRESENT {
            let node = CommandLineNode::new(&format!("one-shot-{backend}-{present}"), backend);
            node.up(0..present);
            let mut cycles = Cycles::default();
            for round in 0..=ROUNDS {
                let (up, down) = node.cycle(present);
                // The first round follows other work, so it is not counted.
                if round > 0 {
                    cycles.push(up, down);
                }
            }
            let [up, up99, down, down99] = cycles.cells();
            rows.push([backend.to_owned(), present.to_string(), up, up99, down, down99]);
        }
    }
    let header = ["backend", "functions present", "up p50", "up p99", "down p50", "down p99"];
    report.table(header, &rows);
}

/// A node on which no process of ours runs, except while a command is running.
#[derive(Debug)]
pub(crate) struct CommandLineNode {
    namespace: Namespace,
    backend: &'static str,
    directory: PathBuf,
}

impl CommandLineNode {
    pub(crate) fn new(name: &str, backend: &'static str) -> Self {
        Self { namespace: Namespace::new(), backend, directory: enclosure::directory(name) }
    }

    /// Brings up the functions of these numbers, with one port each.
    pub(crate) fn up(&self, numbers: std::ops::Range<usize>) -> Duration {
        let definitions: Vec<_> =
            numbers.map(|number| definition(&format!("f{number}"), 10_000 + number)).collect();
        let path = self.directory.join("functions.json");
        fs::write(&path, format!("[{}]", definitions.join(","))).unwrap();
        self.riklet(&["up", path.to_str().unwrap()])
    }

    /// Brings a function up and down, and returns the time of each.
    pub(crate) fn cycle(&self, number: usize) -> (Duration, Duration) {
        (self.up(number..number + 1), self.riklet(&["down", &format!("f{number}")]))
    }

    fn riklet(&self, arguments: &[&str]) -> Duration {
        let state = self.directory.join("state");
        let mut command: Command = daemon::program(&state, self.backend);
        command.args(arguments);
        self.namespace.run(|| timed(&mut command))
    }
}
