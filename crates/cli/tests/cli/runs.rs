//! The commands for runs on a host without runs, and the definitions that `run` refuses. `tests/netns` tests runs
//! themselves.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::environment::{Environment, HELLO, transcript};

/// Returns the definition of `hello` with this execution.
fn hello(execution: Value) -> String {
    let mut definition: Value = serde_json::from_str(HELLO).unwrap();
    definition["spec"]["function"]["execution"] = execution;
    definition.to_string()
}

#[test]
fn commands_report_that_nothing_has_run() {
    let environment = Environment::new();
    let commands: [&[&str]; 9] = [
        &["ps"],
        &["ps", "--output", "json"],
        &["stop", "--all"],
        &["stop", "--all", "--output", "json"],
        &["stop", "hello"],
        &["logs", "hello"],
        &["logs", "--follow", "hello"],
        &["wait", "hello"],
        &["wait", "hello", "--output", "json"],
    ];
    let before = environment.snapshot();
    insta::assert_snapshot!(transcript(&environment, commands), @r#"
    $ riklet-sdn ps
    NAME  VMM  STATE  PID  SINCE  READY  HOW IT ENDED
    $ riklet-sdn ps --output json
    []
    $ riklet-sdn stop --all
    ---- stderr ----
    nothing to do
    $ riklet-sdn stop --all --output json
    []
    $ riklet-sdn stop hello
    ---- stderr ----
    error: no run of hello is recorded
    hint: `riklet-sdn ps` shows all
    ---- exit code 1 ----
    $ riklet-sdn logs hello
    ---- stderr ----
    error: no run of hello is recorded
    hint: `riklet-sdn ps` shows all
    ---- exit code 1 ----
    $ riklet-sdn logs --follow hello
    ---- stderr ----
    error: no run of hello is recorded
    hint: `riklet-sdn ps` shows all
    ---- exit code 1 ----
    $ riklet-sdn wait hello
    ---- stderr ----
    error: no run of hello is recorded
    hint: `riklet-sdn ps` shows all
    ---- exit code 1 ----
    $ riklet-sdn wait hello --output json
    ---- stderr ----
    {
      "error": "no run of hello is recorded",
      "hint": "`riklet-sdn ps` shows all"
    }
    ---- exit code 1 ----
    "#);
    environment.assert_unchanged(&before, "looking");
}

#[test]
fn run_with_console_takes_exactly_one_function() {
    let environment = Environment::new();
    environment.write(
        "two.json",
        format!("[{},{}]", HELLO, HELLO.replace("hello", "second").replace("8080", "9090")),
    );
    insta::assert_snapshot!(environment.refused(2, &["run", "--console", "two.json"]), @"error: --console is for one function, but 2 are defined");
    insta::assert_snapshot!(environment.refused(2, &["run", "--console", "--detach", "hello.json"]), @r"
    error: the argument '--console' cannot be used with '--detach'

    Usage: riklet-sdn run [OPTIONS] <FILE>...
           riklet-sdn run [OPTIONS] [--publish <PORT:TARGET>]...

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(environment.refused(2, &["stop", "--all", "hello"]), @r"
    error: the argument '--all' cannot be used with '[NAME]...'

    Usage: riklet-sdn stop [OPTIONS] <NAME>...
           riklet-sdn stop [OPTIONS] --all

    For more information, try '--help'.
    ");
}

#[test]
fn run_refuses_what_is_already_up() {
    let environment = Environment::with_hello();
    insta::assert_snapshot!(environment.refused(1, &["run", "hello.json"]), @r"
    error: hello is already recorded
    hint: `riklet-sdn down hello` first
    ");
}

#[test]
fn named_vmm_must_be_installed() {
    let environment = Environment::new();
    let mut complaints = String::new();
    for (what, execution) in [
        ("firecracker", json!({ "vmm": "firecracker", "kernel": "/srv/vmlinux" })),
        ("qemu", json!({ "vmm": "qemu", "kernel": "/srv/vmlinux", "accelerator": "tcg" })),
        ("cloud-hypervisor", json!({ "vmm": "cloud-hypervisor", "kernel": "/srv/vmlinux" })),
    ] {
        environment.write("f.json", hello(execution));
        write!(complaints, "{what}: {}", environment.refused(3, &["run", "f.json"])).unwrap();
    }
    insta::assert_snapshot!(complaints, @r"
    firecracker: error: hello cannot be run: firecracker cannot run it: firecracker is not on the PATH
    hint: install firecracker, put it on the PATH, or name another vmm
    qemu: error: hello cannot be run: qemu cannot run it: qemu-system-x86_64 is not on the PATH
    hint: install qemu-system-x86_64, put it on the PATH, or name another vmm
    cloud-hypervisor: error: hello cannot be run: cloud-hypervisor cannot run it: cloud-hypervisor is not on the PATH
    hint: install cloud-hypervisor, put it on the PATH, or name another vmm
    ");
}

#[test]
fn named_vmm_must_support_the_definition() {
    let environment = Environment::new();
    let mut complaints = String::new();
    for execution in [
        json!({ "vmm": "qemu" }),
        json!({ "vmm": "firecracker", "kernel": "/srv/vmlinux", "queues": 2 }),
        json!({ "vmm": "firecracker", "kernel": "/srv/vmlinux", "accelerator": "tcg" }),
        json!({ "kernel": "/srv/vmlinux", "memory": 0 }),
        json!({ "kernel": "/srv/vmlinux", "bootArgs": "quiet ip=dhcp" }),
    ] {
        environment.write("f.json", hello(execution));
        complaints += &environment.refused(2, &["run", "f.json"]);
    }
    insta::assert_snapshot!(complaints, @r#"
    error: hello cannot be run: qemu cannot run it: no kernel is named
    hint: name one: spec.function.execution.kernel
    error: f.json:1:132: spec.function.execution.queues: firecracker opens one queue of a TAP, not 2; qemu and cloud-hypervisor open several
    error: f.json:1:113: spec.function.execution.accelerator: firecracker has no choice of accelerators; qemu has
    error: f.json:1:132: spec.function.execution.memory: a guest needs at least 1 MiB of memory
    error: f.json:1:110: spec.function.execution.bootArgs: "ip=dhcp" would give the guest another address than its slot's, which ip= is set to already
    "#);
}

/// Plays systemd-run(1): starts the program with its files, as a leader of a session, and returns once it has begun.
const SYSTEMD_RUN: &str = r#"#!/bin/bash
echo "$@" >> units
[ -e refuse ] && { echo "Failed to start transient service unit: no" >&2; exit 1; }
while [[ "$1" == --* ]]; do
    case "$1" in
        --property=StandardInput=file:*) input=${1#*file:};;
        --property=StandardOutput=file:*) output=${1#*file:};;
        --property=StandardError=truncate:*) errors=${1#*truncate:};;
    esac
    shift
done
setsid "$@" <"$input" >"$output" 2>"$errors" &
exit 0
"#;

/// Process 1 has the network namespace of the program, and its host has systemd, as far as the program can see.
const UNDER_SYSTEMD: &str = "
set -e
mount -t tmpfs none /run && mkdir -p /run/systemd/system
export PATH=$PWD/units-bin:$PATH
$PROGRAM run --detach hello.json | tail -1
$PROGRAM ps | grep -o running
$PROGRAM stop hello 2>&1
touch refuse
$PROGRAM run --detach hello.json 2>&1 | sed -n '1p;$p'
$PROGRAM stop hello 2>&1
";

#[test]
fn supervisor_is_in_a_unit_of_its_own_under_systemd() {
    let environment = Environment::new();
    environment.shell("mkdir units-bin").done();
    environment.write("units-bin/systemd-run", SYSTEMD_RUN);
    environment.write("script", UNDER_SYSTEMD);
    environment.shell("chmod +x units-bin/systemd-run").done();
    let namespaces = "unshare --mount --pid --fork --mount-proc --kill-child";
    let output = environment.shell(&format!("exec {namespaces} sh script"));
    assert_eq!(
        output.success(),
        "`riklet-sdn stop hello` takes it down\nrunning\nhello: SIGTERM\n \
         WARN cannot start a unit for hello: Failed to start transient service unit: no\n\
         `riklet-sdn stop hello` takes it down\nhello: SIGTERM\n"
    );
    let units = environment.shell("cat units").success();
    assert_eq!(units.lines().count(), 2, "{units}");
    assert!(units.contains(" --unit=riklet-sdn-run-hello-"), "{units}");
    assert!(
        units.contains(" --property=KillMode=mixed ") && units.contains(" --in-unit -\n"),
        "{units}"
    );
}
