//! A guest that really boots, from its definition to its end: QEMU without KVM, and the kernel that `scripts/guest`
//! prepares.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use crate::{
    program::Kvm,
    world::{
        CLIENT, Firewall, NODE_LAN, World,
        function::{exposure, function},
        http::http_get,
        runs::{is_alive, pid},
        state::{SystemState, assert_same},
        transport::{Transport::Tcp, assert_refused},
    },
};

const HELLO: (Ipv4Addr, u16) = (NODE_LAN, 8080);

/// Returns the path of a file of the guest.
#[track_caller]
fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(name);
    assert!(path.exists(), "{} is missing: `scripts/guest target/guest` makes it", path.display());
    path.into_os_string().into_string().expect("UTF-8")
}

#[test]
fn a_guest_boots_serves_and_powers_off() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    definition["spec"]["function"]["execution"] = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": guest("vmlinuz"), "initrd": guest("initrd"),
        "memory": "128M", "bootArgs": "quiet riklet.http=3000", "dns": ["192.0.2.53"],
    });
    let arguments = ["--output", "json", "run", "--detach", "--ready-timeout", "50", "-"];
    let printed = world.riklet_with(Kvm::Missing, &arguments, &definition.to_string()).success();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed[0]["instances"][0]["vmm"], "qemu", "{printed}");
    let times = &printed[0]["readyMs"];
    let boot = times["boot"].as_f64().unwrap();
    assert!(boot > 100.0, "a kernel takes its time: {times}");

    let answer = http_get(&world.client, HELLO, "/");
    assert_eq!((&answer["function"], &answer["address"]), (&"hello".into(), &"10.231.0.2".into()));
    assert!(answer["client"].as_str().unwrap().starts_with(&format!("{CLIENT}:")), "{answer}");
    assert_eq!(answer["dns"], json!(["192.0.2.53"]));
    let run = world.ps("hello");
    assert_eq!((&run["vmm"], &run["state"]), (&"qemu".into(), &"running".into()));
    let logs = world.riklet(&["logs", "hello"], "").success();
    assert!(logs.contains("guest: ready at "), "{logs}");

    let stopped = world.riklet(&["stop", "--timeout", "40", "hello"], "");
    assert_eq!(stopped.stderr, "hello: the guest powered off\n", "{stopped}");
    assert_eq!(world.state_of("hello"), ("ended".to_owned(), "stopped".to_owned()));
    assert!(!is_alive(pid(&run["pid"])));
    assert_refused(Tcp, &world.client, HELLO);
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn a_panicked_kernel_is_a_failure() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    // Without an initrd and a rootfs there is no root file system to mount.
    definition["spec"]["function"]["execution"] = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": guest("vmlinuz"), "memory": "128M",
    });
    let arguments = ["run", "--ready-timeout", "50", "-"];
    let complaint = world.riklet_with(Kvm::Missing, &arguments, &definition.to_string()).failure(1);
    let first = "error: hello ended before it was ready: the guest panicked: Kernel panic - not syncing: VFS";
    assert!(complaint.starts_with(first), "{complaint}");
    let run = world.ps("hello");
    assert_eq!((&run["state"], &run["failed"]), (&"ended".into(), &true.into()), "{run}");
    assert_same(&before, &SystemState::take(&world.node));
}

#[test]
fn a_reset_is_told_from_a_power_off() {
    let world = World::new(Firewall::Nftables);
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    // This first program resets at once, and the console says nothing of it.
    definition["spec"]["function"]["execution"] = json!({
        "vmm": "qemu", "accelerator": "tcg", "kernel": guest("vmlinuz"), "initrd": guest("initrd"),
        "memory": "128M", "bootArgs": "quiet rdinit=/bin/reboot -- -f",
    });
    let arguments = ["run", "--no-wait", "--ready-timeout", "50", "-"];
    let output = world.riklet_with(Kvm::Missing, &arguments, &definition.to_string());
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(output.stderr, "hello: the guest reset instead of powering off\n", "{output}");
}
