//! `up` without a daemon beside thousands of rules of others.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

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
         number of the ruleset shows that nobody has changed any. Of what the first takes \
         more beside them, the kernel needs a part for handing over the rules of the chain (*dump*), once and whatever the reader does with \
         them."
    ));
    let mut rows = Vec::new();
    for (name, backend, program) in HOSTS {
        let none = Host::new(&format!("none-{name}"), backend, program);
        let many = Host::new(&format!("many-{name}"), backend, program);
        many.ban();
        let mut samples: [Samples; 5] = Default::default();
        for round in 0..=ROUNDS {
            // The first round follows other work, so it is not counted.
            let (alone, beside) = (none.round(), many.round());
            let dump = many.dump();
            if round > 0 {
                samples[0].push(alone.0);
                samples[1].push(beside.0);
                alone.1.into_iter().for_each(|further| samples[2].push(further));
                beside.1.into_iter().for_each(|further| samples[3].push(further));
                samples[4].push(dump);
            }
        }
        let [alone, beside, further_alone, further_beside, dump] = samples.map(|of| of.p50());
        let in_nftables = program == "xtables-nft-multi";
        rows.push([
            name.to_owned(),
            milliseconds(alone),
            milliseconds(beside),
            if in_nftables { milliseconds(dump) } else { "-".to_owned() },
            milliseconds(further_alone),
            milliseconds(further_beside),
        ]);
        let (first, further) = (ratio(beside, alone), ratio(further_beside, further_alone));
        let figure = |which| {
            format!("{which} one-shot `up` beside 20,000 rules to that beside none ({name})")
        };
        report.bound(&figure("the first"), Bound::AtMost(3.0), first, " times");
        report.bound(&figure("a further"), Bound::AtMost(3.0), further, " times");
        if in_nftables {
            let more = ratio(beside.saturating_sub(alone), dump);
            let figure = format!(
                "what 20,000 rules add to the first one-shot `up`, to the kernel's own dump of them ({name})"
            );
            report.bound(&figure, Bound::AtMost(1.5), more, " times");
        }
    }
    let header = ["host", "first alone", "beside", "dump", "further alone", "beside"];
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

    /// Has the kernel hand over the rules of the chain FORWARD of nf_tables, and returns the time (`NFT_MSG_GETRULE` of
    /// `<linux/netfilter/nf_tables.h>`).
    fn dump(&self) -> Duration {
        const DUMP: u16 = 0x300;
        const REQUEST: u16 = 1;
        const GET_RULE: u16 = 10 << 8 | 7;
        const DONE: u16 = 3;
        let attribute = |kind: u16, name: &[u8; 8]| {
            [&12_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), name].concat()
        };
        let header = [&44_u32.to_ne_bytes()[..], &GET_RULE.to_ne_bytes()].concat();
        let rest = [&(DUMP | REQUEST).to_ne_bytes()[..], &[0; 8], &[2, 0, 0, 0]].concat();
        let names = [attribute(1, b"filter\0\0"), attribute(2, b"FORWARD\0")].concat();
        let request = [header, rest, names].concat();
        self.namespace.run(|| {
            let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
            socket.bind_auto().unwrap();
            let start = Instant::now();
            socket.send(&request, 0).unwrap();
            let mut messages = Vec::with_capacity(1 << 16);
            loop {
                messages.clear();
                socket.recv(&mut messages, 0).unwrap();
                if messages.get(4..6) == Some(&DONE.to_ne_bytes()) {
                    return start.elapsed();
                }
            }
        })
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
