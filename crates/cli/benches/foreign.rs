//! `up` without a daemon beside thousands of rules of others.

use std::{
    fs, net::Ipv4Addr, os::unix::fs::symlink, path::PathBuf, process::Command, time::Duration,
};

use crate::common::{
    command::{PATH, run_with_input, timed},
    daemon, definition, enclosure,
    namespace::Namespace,
    report::{Bound, Markdown},
    samples::{Samples, milliseconds, ratio},
};

const RULES: u32 = 20_000;
/// The number of first `up`s, and of further ones after each.
const ROUNDS: usize = 9;
const FURTHER: usize = 5;
/// The rows: our backend, and the program of iptables on the host.
const HOSTS: [(&str, &str, &str); 3] = [
    ("nftables", "nftables", "xtables-nft-multi"),
    ("iptables-nft", "iptables", "xtables-nft-multi"),
    ("iptables-legacy", "iptables", "xtables-legacy-multi"),
];

pub(crate) fn measure(report: &mut Markdown) {
    report.heading("Beside thousands of rules of others");
    report.paragraph(&format!(
        "`up` without a daemon on a host with {RULES} bans in `filter FORWARD`, in turns with another host that has none. The \
         *first* `up` of a node looks at all rules that forwarded packets pass; a *further* one does not, as long as the \
         number of the ruleset shows that nobody has changed any."
    ));
    let mut rows = Vec::new();
    for (name, backend, program) in HOSTS {
        let none = Host::new(&format!("none-{name}"), backend, program);
        let many = Host::new(&format!("many-{name}"), backend, program);
        many.ban();
        let mut samples: [Samples; 4] = Default::default();
        for round in 0..=ROUNDS {
            // The first round follows other work, so it is not counted.
            let (alone, beside) = (none.round(), many.round());
            if round > 0 {
                samples[0].push(alone.0);
                samples[1].push(beside.0);
                alone.1.into_iter().for_each(|further| samples[2].push(further));
                beside.1.into_iter().for_each(|further| samples[3].push(further));
            }
        }
        let [alone, beside, further_alone, further_beside] = samples.map(|of| of.p50());
        let times = [ratio(beside, alone), ratio(further_beside, further_alone)];
        let text = |ratio: f64| format!("{ratio:.2}");
        rows.push([
            name.to_owned(),
            milliseconds(alone),
            milliseconds(beside),
            text(times[0]),
            milliseconds(further_alone),
            milliseconds(further_beside),
            text(times[1]),
        ]);
        for (which, times) in ["the first", "a further"].into_iter().zip(times) {
            let figure =
                format!("{which} one-shot `up` beside 20,000 rules to that beside none ({name})");
            report.bound(&figure, Bound::AtMost(3.0), times, " times");
        }
    }
    let header = ["host", "first alone", "beside", "ratio", "further alone", "beside", "ratio"];
    report.table(header, &rows);
}

/// A node on which no process of ours runs, with a variant of iptables.
struct Host {
    namespace: Namespace,
    backend: &'static str,
    directory: PathBuf,
    programs: PathBuf,
}

impl Host {
    fn new(name: &str, backend: &'static str, program: &str) -> Self {
        let directory = enclosure::directory(&format!("foreign-{name}"));
        let programs = directory.join("programs");
        fs::create_dir(&programs).unwrap();
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            symlink(format!("/usr/sbin/{program}"), programs.join(name)).unwrap();
        }
        let namespace = Namespace::new();
        namespace.sh(
            "ip link add lan0 type veth peer name far0 && ip address add 192.168.7.1/24 dev lan0 && \
             ip link set lan0 up && ip link set far0 up && ip route add default via 192.168.7.2",
        );
        Self { namespace, backend, directory, programs }
    }

    /// Bans addresses in the chain FORWARD.
    fn ban(&self) {
        let address = |number| Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number);
        let rules = (0..RULES).map(|number| format!("-A FORWARD -s {} -j DROP", address(number)));
        let rules = rules.collect::<Vec<_>>().join("\n");
        let mut command = Command::new(self.programs.join("iptables-restore"));
        command.args(["--noflush", "--wait"]);
        let input = format!("*filter\n{rules}\nCOMMIT\n");
        self.namespace.run(|| run_with_input(&mut command, &input));
    }

    /// Brings a first function up, then further ones one after the other, and takes everything down with `--purge`.
    fn round(&self) -> (Duration, Vec<Duration>) {
        let mut times: Vec<_> = (0..=FURTHER).map(|number| self.up(number)).collect();
        self.riklet(&["down", "--all", "--purge"]);
        (times.remove(0), times)
    }

    fn up(&self, number: usize) -> Duration {
        let path = self.directory.join("function.json");
        fs::write(&path, definition(&format!("f{number}"), 10_000 + number)).unwrap();
        self.riklet(&["up", path.to_str().unwrap()])
    }

    fn riklet(&self, arguments: &[&str]) -> Duration {
        let ours = daemon::program(&self.directory.join("state"), self.backend);
        // The search path of other measurements leads to the host's own variant of iptables.
        let mut command = Command::new("env");
        command.arg(format!("PATH={}:{PATH}", self.programs.display()));
        command.arg(ours.get_program()).args(ours.get_args()).args(arguments);
        self.namespace.run(|| timed(&mut command))
    }
}
