//! `up` and `down` as a user meets them: a whole process each, beside the shell recipe, in one run.
//!
//! `cargo bench --bench one_shot` (as root) prints a table in Markdown. It runs itself in a network namespace of
//! its own, by unshare(1). The program and the recipe take turns of ten, so that what else the machine does
//! falls on both alike.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement ends where it panics"
)]
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const INSIDE: &str = "RIKLET_SDN_BENCH_INSIDE";
const ROUNDS: usize = 100;
/// How many of them come in turn.
const TURN: usize = 10;
/// How many functions are there already.
const PRESENT: [usize; 2] = [1, 1000];

fn main() {
    if env::var_os(INSIDE).is_none() {
        let itself = env::current_exe().unwrap();
        let status = Command::new("unshare").arg("-n").arg(itself).env(INSIDE, "1").status();
        assert!(status.unwrap().success());
        return;
    }
    sh("ip link set lo up");
    println!("| backend | functions present | up p50 | up p99 | down p50 | down p99 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut recipe = Samples::default();
    for backend in ["nftables", "iptables"] {
        for present in PRESENT {
            let node = Node::new(backend);
            node.riklet(&["up", &node.definitions(0..present)]);
            let mut ours = Samples::default();
            let file = node.definitions(present..present + 1);
            let name = format!("f{present}");
            for _ in 0..ROUNDS / TURN {
                // The first of a turn finds the kernel at work on what the others have deleted.
                for round in 0..=TURN {
                    let (up, down) = (node.riklet(&["up", &file]), node.riklet(&["down", &name]));
                    ours.push_after(round, up, down);
                }
                for round in 0..=TURN {
                    recipe.push_after(round, sh(RECIPE_UP), sh(RECIPE_DOWN));
                }
            }
            ours.print(backend, &present.to_string());
            node.riklet(&["down", "--all", "--purge"]);
        }
    }
    recipe.print("shell recipe", "-");
    let mut nothing = Samples::default();
    for _ in 0..ROUNDS {
        nothing.push(sh("true"), sh("true"));
    }
    nothing.print("an empty shell script", "-");
}

/// What people do by hand: six programs.
const RECIPE_UP: &str = "ip tuntap add shell0 mode tap && ip addr add 10.99.0.1/30 dev shell0 && \
     ip link set shell0 up && \
     iptables -t nat -A PREROUTING -p tcp --dport 9999 -j DNAT --to-destination 10.99.0.2:3000 && \
     iptables -t nat -A POSTROUTING -s 10.99.0.2 -j MASQUERADE && \
     iptables -A FORWARD -i shell0 -j ACCEPT";
const RECIPE_DOWN: &str = "iptables -D FORWARD -i shell0 -j ACCEPT && \
     iptables -t nat -D POSTROUTING -s 10.99.0.2 -j MASQUERADE && \
     iptables -t nat -D PREROUTING -p tcp --dport 9999 -j DNAT --to-destination 10.99.0.2:3000 && \
     ip link delete shell0";

fn sh(script: &str) -> Duration {
    timed(Command::new("sh").args(["-c", script]))
}

fn timed(command: &mut Command) -> Duration {
    // Debian's, of root: whoever builds this has more directories before those of the programs that are called.
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let took = started.elapsed();
    let output = output.unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}

/// A state directory with a backend.
struct Node {
    backend: &'static str,
    directory: PathBuf,
}

impl Node {
    fn new(backend: &'static str) -> Self {
        let name = format!("riklet-sdn-bench-{}-{backend}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self { backend, directory }
    }

    fn riklet(&self, arguments: &[&str]) -> Duration {
        let state = self.directory.join("state");
        timed(
            Command::new(env!("CARGO_BIN_EXE_riklet-sdn"))
                .arg("--state-dir")
                .arg(state)
                .args(["--firewall", self.backend])
                .args(arguments),
        )
    }

    /// A file with the functions of these numbers, with a port each.
    fn definitions(&self, numbers: std::ops::Range<usize>) -> String {
        let definition = |number| {
            let port = 10_000 + number;
            format!(
                "---\napiVersion: v1\nkind: Function\nname: f{number}\nspec:\n  function:\n    \
                 exposure: {{port: {port}, targetPort: 3000}}\n"
            )
        };
        let path = self.directory.join(format!("{}.yaml", numbers.start));
        fs::write(&path, numbers.map(definition).collect::<String>()).unwrap();
        path_text(&path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn path_text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[derive(Default)]
struct Samples {
    up: Vec<Duration>,
    down: Vec<Duration>,
}

impl Samples {
    /// All but the first of a turn.
    fn push_after(&mut self, round: usize, up: Duration, down: Duration) {
        if round > 0 {
            self.push(up, down);
        }
    }

    fn push(&mut self, up: Duration, down: Duration) {
        self.up.push(up);
        self.down.push(down);
    }

    fn print(&mut self, who: &str, present: &str) {
        self.up.sort();
        self.down.sort();
        let cell = |samples: &[Duration], percent: usize| {
            let index = (samples.len() * percent / 100).min(samples.len() - 1);
            format!("{:.2} ms", samples[index].as_secs_f64() * 1e3)
        };
        println!(
            "| {who} | {present} | {} | {} | {} | {} |",
            cell(&self.up, 50),
            cell(&self.up, 99),
            cell(&self.down, 50),
            cell(&self.down, 99)
        );
    }
}
