//! The commands behave the same with and without a daemon: the same output, byte for byte, and the same exit code.

use std::{fmt::Write, thread};

use serde_json::Value;

use crate::{
    daemon::Daemon,
    environment::{Environment, Output, TWO},
};

const CONFLICT: &str = "
apiVersion: v1
kind: Function
name: other
spec: { function: { exposure: { port: 8080 } } }
";
const BAD: &str = "apiVersion: v1
kind: Function
name: bad
spec: { function: { exposure: [{ port: 0 }, { port: 80, targetport: 8080 }] } }
";

/// Gives a foreign interface the name of a TAP, then tries to repair it. A daemon may recreate the TAP once or twice
/// before the name is taken.
const TAKEN: &str = "!ip link add strange type veth peer name peer
    until ip link delete rik2 && ip link set strange name rik2; do :; done 2>failed
    $RIKLET repair >failed 2>&1 || true";

/// Waits until the TAPs that a daemon deletes later are gone.
const GONE: &str = "!while ip link show rik0 || ip link show rik2; do :; done >gone 2>&1";

/// The commands, in order. A shell runs the ones that begin with `!`.
const SCRIPT: [&str; 47] = [
    "list",
    "check",
    "down --all",
    "down hello",
    "inspect hello",
    "plan hello.json",
    "up hello.json",
    "up hello.json",
    "plan hello.json",
    "plan others.yaml",
    "up others.yaml hello.json",
    "up conflict.yaml",
    "plan conflict.yaml",
    "up bad.yaml",
    "plan bad.yaml hello.json",
    "up missing.json",
    "up hello.json hello.json",
    "list",
    "inspect hello",
    "inspect resolver",
    "inspect resolver --format firecracker",
    "inspect resolver --format boot-args",
    "inspect resolver --format cloud-init",
    "inspect resolver --format qemu",
    "inspect resolver --format env",
    "inspect resolvr",
    "check",
    "repair",
    "down resolvr",
    "down hello resolvr",
    "down hello --purge",
    "down resolver",
    // A foreign interface in the place of a TAP: neither a daemon nor a command can repair that.
    TAKEN,
    "list",
    "inspect worker",
    "check",
    "repair",
    "up others.yaml",
    "check",
    "!ip link delete rik2; $RIKLET repair >repaired 2>&1",
    "list",
    "repair",
    "check",
    "down hello worker",
    GONE,
    "down --all --purge",
    "list",
];

/// Runs the script in a new namespace, through a daemon if asked to. Returns the output of each command.
fn run_script(format: &'static str, with_daemon: bool) -> Vec<Output> {
    let play = move || {
        let environment = Environment::new();
        environment.write("others.yaml", TWO);
        environment.write("conflict.yaml", CONFLICT);
        environment.write("bad.yaml", BAD);
        let daemon = with_daemon.then(|| Daemon::start(&environment, &[]));
        let run = |line: &str| {
            if let Some(script) = line.strip_prefix('!') {
                return environment.shell(script);
            }
            let words = ["--output", format].into_iter().chain(line.split(' '));
            environment.run(&words.collect::<Vec<_>>())
        };
        let outputs = SCRIPT.map(run).to_vec();
        if let Some(daemon) = daemon {
            // The daemon did the work: no command bypassed it.
            let events = environment.run(&["events"]).success();
            assert!(events.contains(" up          hello rik0:"), "{events}");
            assert!(events.contains(" down        resolver taken down"), "{events}");
            daemon.end();
        }
        outputs
    };
    // Each run has its own namespace, and so its own thread.
    thread::spawn(play).join().unwrap_or_else(|reason| std::panic::resume_unwind(reason))
}

fn compare(format: &'static str) {
    let (alone, through) = (run_script(format, false), run_script(format, true));
    let mut differences = String::new();
    for ((line, alone), through) in SCRIPT.iter().zip(&alone).zip(&through) {
        let purged = line.contains("--purge");
        let taken_down = format == "json" && line.starts_with("down") && !purged;
        let facts = |output: &Output| {
            let stdout = if taken_down { answered(&output.stdout) } else { output.stdout.clone() };
            (output.code, stdout, output.stderr.clone())
        };
        if facts(alone) != facts(through) {
            write!(differences, "$ {line}\nalone:\n{alone}\nthe daemon:\n{through}\n").unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Removes from the document of `down` the steps that a daemon performs after it has answered: it deletes the TAPs of
/// several functions, and their flows, together.
fn answered(stdout: &str) -> String {
    let mut document: Value = serde_json::from_str(stdout).unwrap_or_default();
    if let Some(steps) = document["steps"].as_array_mut() {
        let later = |step: &Value| {
            let step = step.as_str().unwrap();
            step.starts_with("- flows: of guest")
                || step == "- interfaces of draining slots: deleted"
        };
        steps.retain(|step| !later(step));
    }
    format!("{document:#}")
}

#[test]
fn text_is_the_same_with_and_without_a_daemon() {
    compare("text");
}

#[test]
fn json_is_the_same_with_and_without_a_daemon() {
    compare("json");
}
