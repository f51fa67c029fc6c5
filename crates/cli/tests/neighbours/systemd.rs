//! systemd as process 1, with the unit of our package: runs do not end with it, and have units of their own.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::world::{
    Firewall, NODE_LAN, World,
    command::Output,
    function::{exposure, function},
    http::http_get,
    state::{SystemState, assert_same},
    transport::{Transport::Tcp, assert_refused},
    wait_for,
};

const PATIENCE: Duration = Duration::from_secs(30);
const UNIT: &str = "riklet-sdn.service";
/// The pattern of the units of runs.
const RUNS: &str = "riklet-sdn-run-*";

/// The files of the guest that `scripts/guest` prepares.
#[track_caller]
fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(name);
    assert!(path.exists(), "{} is missing: `scripts/guest target/guest` makes it", path.display());
    path.into_os_string().into_string().expect("UTF-8")
}

/// Runs our program as it is installed, with nothing but its defaults.
#[track_caller]
fn riklet(world: &World, arguments: &[&str], input: &str) -> Output {
    let first = ["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "riklet-sdn"];
    world.program("env", &[&first[..], arguments].concat(), input)
}

#[track_caller]
fn systemctl(world: &World, arguments: &[&str]) -> String {
    world.program("systemctl", arguments, "").success()
}

/// Returns a property of a unit.
#[track_caller]
fn property(world: &World, unit: &str, name: &str) -> String {
    systemctl(world, &["show", "--value", "--property", name, unit]).trim().to_owned()
}

/// Returns the units of runs.
#[track_caller]
fn units(world: &World) -> Vec<String> {
    let listed = systemctl(world, &["list-units", "--all", "--plain", "--no-legend", RUNS]);
    listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// Returns the entry of the run in the output of `ps`.
#[track_caller]
fn run(world: &World) -> Value {
    let listed = riklet(world, &["--output", "json", "ps"], "").success();
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
    listed.into_iter().find(|run| run["name"] == "hello").expect("hello is among the runs")
}

/// Installs our program and its unit as the package does, and starts the unit.
#[track_caller]
fn install(world: &World) {
    let script = "cp \"$0\" /etc/systemd/system/ && systemctl daemon-reload && \
         mount -t tmpfs tmpfs /srv && cp \"$1\" \"$2\" /srv/ && chmod 644 /srv/*";
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/systemd").join(UNIT);
    let unit = unit.to_str().expect("UTF-8");
    world.program("sh", &["-ec", script, unit, &guest("vmlinuz"), &guest("initrd")], "").success();
    systemctl(world, &["start", UNIT]);
}

/// Asserts that the run has a unit of its own, which has what the daemon's has not.
#[track_caller]
fn assert_unit(world: &World, unit: &str, run: &Value) {
    assert!(unit.starts_with("riklet-sdn-run-hello-"), "{unit}");
    for (name, expected) in [
        ("ActiveState", "active"),
        ("Type", "exec"),
        ("KillMode", "mixed"),
        ("CollectMode", "inactive-or-failed"),
        ("LimitNOFILE", "65536"),
        ("MainPID", &*run["supervisorPid"].to_string()),
        ("ControlGroup", &*format!("/system.slice/{unit}")),
    ] {
        assert_eq!(property(world, unit, name), expected, "{name}");
    }
    for capability in ["cap_setuid", "cap_setgid", "cap_sys_admin"] {
        let may = |unit| property(world, unit, "CapabilityBoundingSet").contains(capability);
        assert!(may(unit) && !may(UNIT), "{capability}");
    }
    let of_guest = |file: &str| {
        world.program("cat", &[&*format!("/proc/{}/{file}", run["pid"])], "").success()
    };
    assert!(of_guest("cgroup").trim_end().ends_with(unit), "{}", of_guest("cgroup"));
    let status = of_guest("status");
    assert!(status.contains("\nUid:\t1900000001\t"), "the user of its slot: {status}");
}

#[test]
fn runs_outlive_the_unit_of_the_daemon() {
    let world = &World::new(Firewall::Nftables).on_a_machine_with_systemd();
    let before = SystemState::take(&world.node);
    install(world);
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    definition["spec"]["function"]["execution"] = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": "/srv/vmlinuz", "initrd": "/srv/initrd",
        "memory": "128M", "bootArgs": "quiet riklet.http=3000", "dns": ["192.0.2.53"],
    });
    let arguments = ["run", "--detach", "--ready-timeout", "55", "-"];
    let printed = riklet(world, &arguments, &definition.to_string()).success();
    assert!(printed.contains("ready in "), "{printed}");
    let answers = || {
        let answer = http_get(&world.client, (NODE_LAN, 8080), "/");
        assert_eq!(answer["function"], "hello", "{answer}");
    };
    answers();
    let begun = run(world);
    let listed = units(world);
    let [unit] = &listed[..] else { panic!("one run has one unit: {listed:?}") };
    assert_unit(world, unit, &begun);

    // Neither a restart ends it, nor an end of the daemon with everything in its cgroup.
    for mode in ["mixed", "control-group"] {
        let script = format!(
            "mkdir -p /run/systemd/system/{UNIT}.d && \
             printf '[Service]\\nKillMode={mode}\\n' >/run/systemd/system/{UNIT}.d/mode.conf && systemctl daemon-reload"
        );
        world.program("sh", &["-ec", &script], "").success();
        assert_eq!(property(world, UNIT, "KillMode"), mode);
        let first = property(world, UNIT, "MainPID");
        systemctl(world, &["restart", UNIT]);
        assert_ne!(property(world, UNIT, "MainPID"), first);
        assert_eq!(run(world), begun, "after a restart, {mode}");
        answers();
        systemctl(world, &["stop", UNIT]);
        answers();
        assert_eq!(run(world), begun, "without the daemon, {mode}");
        systemctl(world, &["start", UNIT]);
        assert_eq!(run(world), begun, "after a start, {mode}");
    }
    systemctl(world, &["kill", "--signal", "KILL", UNIT]);
    wait_for("systemd to start the daemon again", PATIENCE, || {
        (property(world, UNIT, "NRestarts") == "1"
            && property(world, UNIT, "SubState") == "running")
            .then_some(())
    });
    answers();
    assert_eq!(run(world), begun, "after SIGKILL");
    assert_eq!(units(world), listed);

    let logs = riklet(world, &["logs", "hello"], "").success();
    assert!(logs.contains("guest: ready at "), "{logs}");
    let stopped = riklet(world, &["stop", "--timeout", "40", "hello"], "");
    assert_eq!(stopped.stderr, "hello: the guest powered off\n", "{stopped}");
    assert_refused(Tcp, &world.client, (NODE_LAN, 8080));
    wait_for("the unit of the run to go", PATIENCE, || units(world).is_empty().then_some(()));

    // What a lost run leaves belongs to the user of its VMM. The daemon removes it all the same.
    world.program("sh", &["-ec", "echo disk >/srv/disk"], "").success();
    definition["spec"]["function"]["execution"]["rootfs"] = "/srv/disk".into();
    let arguments = ["run", "--detach", "--no-wait", "-"];
    riklet(world, &arguments, &definition.to_string()).success();
    let copies = ["-e", "/var/lib/riklet-sdn/images/private/hello"];
    assert_eq!(world.program("test", &copies, "").code, Some(0), "the guest has a private copy");
    let lost = run(world);
    let supervisor = lost["supervisorPid"].to_string();
    world.program("kill", &["-KILL", &supervisor], "").success();
    wait_for("the daemon to clear the run away", PATIENCE, || {
        (run(world)["reason"] == "its supervisor died").then_some(())
    });
    wait_for("the copies to go", PATIENCE, || {
        (world.program("test", &copies, "").code == Some(1)).then_some(())
    });
    let guest = world.program("test", &["-e", &*format!("/proc/{}", lost["pid"])], "");
    assert_eq!(guest.code, Some(1), "the guest of a lost run ends");
    riklet(world, &["down", "--all", "--purge"], "").success();
    systemctl(world, &["stop", UNIT]);
    assert_same(&before, &SystemState::take(&world.node));
}
