//! From `riklet-sdn run` to a port that answers: the network, the VMM's start, the guest's boot, the first answer.
//!
//! `cargo bench --bench ready` (as root) prints a table in Markdown. It runs itself in a network namespace of its own,
//! by unshare(1). The real guest is `target/guest`, of `scripts/guest target/guest`, under QEMU's TCG.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement ends where it panics"
)]
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

const INSIDE: &str = "RIKLET_SDN_BENCH_INSIDE";
const PARTS: [&str; 5] = ["network", "vmm", "boot", "answer", "total"];

fn main() {
    if env::var_os(INSIDE).is_none() {
        let itself = env::current_exe().unwrap();
        let status = Command::new("unshare").arg("-n").arg(itself).env(INSIDE, "1").status();
        assert!(status.unwrap().success());
        return;
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let guest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/guest");
    assert!(
        guest.join("initrd").exists(),
        "`scripts/guest target/guest` makes what is booted here"
    );
    println!("| guest | network | VMM start | guest boot | first answer | in all |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let (kernel, initrd) = (guest.join("vmlinuz"), guest.join("initrd"));
    measure("builtin, nftables", "nftables", 50, &json!({ "vmm": "builtin" }));
    measure("builtin, iptables", "iptables", 50, &json!({ "vmm": "builtin" }));
    let qemu = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": kernel, "initrd": initrd, "memory": 256,
        "bootArgs": "riklet.http=3000 quiet",
    });
    measure("Debian's kernel, QEMU with TCG, nftables", "nftables", 5, &qemu);
}

/// Runs the function so many times, and prints the median of each part.
fn measure(what: &str, backend: &str, rounds: usize, execution: &Value) {
    let directory = env::temp_dir().join(format!("riklet-sdn-ready-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let definition = json!({
        "apiVersion": "v1", "kind": "Function", "name": "ready",
        "spec": { "function": {
            "execution": execution,
            "exposure": { "port": 8080, "targetPort": 3000 },
        } },
    });
    let file = directory.join("ready.json");
    fs::write(&file, definition.to_string()).unwrap();
    let state = directory.join("state");
    let riklet = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_riklet-sdn"))
            .args(["--output", "json", "--firewall", backend, "--state-dir"])
            .arg(&state)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); PARTS.len()];
    for _ in 0..rounds {
        let run = ["run", "--detach", "--ready-timeout", "120", file.to_str().unwrap()];
        let ready: Value = serde_json::from_str(&riklet(&run)).unwrap();
        for (samples, part) in times.iter_mut().zip(PARTS) {
            samples.push(ready[0]["readyMs"][part].as_f64().unwrap());
        }
        riklet(&["stop", "ready"]);
    }
    let cells = times.iter_mut().map(|samples| {
        samples.sort_by(f64::total_cmp);
        format!("{:.1} ms", samples[samples.len() / 2])
    });
    println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
    fs::remove_dir_all(&directory).unwrap();
}
