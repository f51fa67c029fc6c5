//! Measures the time from `riklet-sdn run` to a port that answers: the network, the start of the VMM, the boot of the
//! guest, and the first answer.
//!
//! The real guest is `target/guest`, made by `scripts/guest target/guest`, under QEMU's TCG.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::common::{
    command::run_with_input, daemon, enclosure, namespace::Namespace, report::Markdown,
};

const PARTS: [&str; 5] = ["network", "vmm", "boot", "answer", "total"];
const BUILTIN_ROUNDS: usize = 50;
const QEMU_ROUNDS: usize = 5;

pub(crate) fn measure(report: &mut Markdown) {
    let guest = guest();
    let (kernel, initrd) = (guest.join("vmlinuz"), guest.join("initrd"));
    let builtin = json!({ "vmm": "builtin" });
    let qemu = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": kernel, "initrd": initrd, "memory": 256,
        "bootArgs": "riklet.http=3000 quiet",
    });
    report.heading("From `run` to a port that answers");
    report.paragraph(&format!(
        "The median of {BUILTIN_ROUNDS} runs of the builtin guest, and of {QEMU_ROUNDS} of a real kernel under \
         software emulation; each includes what the first function of a node needs besides (the firewall's base ruleset, \
         forwarding), since `run` leaves nothing behind."
    ));
    report.table(
        ["guest", "network", "VMM start", "guest boot", "first answer", "in all"],
        &[
            row("builtin, nftables", "nftables", BUILTIN_ROUNDS, &builtin),
            row("builtin, iptables", "iptables", BUILTIN_ROUNDS, &builtin),
            row("Debian's kernel, QEMU with TCG, nftables", "nftables", QEMU_ROUNDS, &qemu),
        ],
    );
}

/// Returns the directory of the real guest.
fn guest() -> PathBuf {
    let guest = enclosure::repository().join("target/guest");
    assert!(guest.is_dir(), "`scripts/guest target/guest` makes what is booted here");
    guest.canonicalize().unwrap()
}

/// Runs the function this many times, and returns the median of each part.
fn row(what: &str, backend: &str, rounds: usize, execution: &Value) -> [String; 6] {
    let node = Namespace::new();
    let directory = enclosure::directory("ready");
    let definition = json!({
        "apiVersion": "v1", "kind": "Function", "name": "ready",
        "spec": { "function": {
            "execution": execution,
            "exposure": { "port": 8080, "targetPort": 3000 },
        } },
    });
    let file = directory.join("ready.json");
    fs::write(&file, definition.to_string()).unwrap();
    let riklet = |arguments: &[&str]| {
        let mut command = daemon::program(&directory.join("state"), backend);
        command.args(["--output", "json"]).args(arguments);
        node.run(|| run_with_input(&mut command, "").1.stdout)
    };
    let mut times: [Vec<f64>; PARTS.len()] = Default::default();
    let (guest, file) = (guest(), file.to_str().unwrap());
    let images = ["--image-roots", guest.to_str().unwrap()];
    for _ in 0..rounds {
        let run = [&["run", "--detach", "--ready-timeout", "120"], &images[..], &[file]].concat();
        let ready: Value = serde_json::from_slice(&riklet(&run)).unwrap();
        for (samples, part) in times.iter_mut().zip(PARTS) {
            samples.push(ready[0]["readyMs"][part].as_f64().unwrap());
        }
        riklet(&["stop", "ready"]);
    }
    fs::remove_dir_all(&directory).unwrap();
    let [network, vmm, boot, answer, total] = times.map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        format!("{:.1} ms", samples[samples.len() / 2])
    });
    [what.to_owned(), network, vmm, boot, answer, total]
}
