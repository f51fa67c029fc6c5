//! The driver of Firecracker.

use std::{env, ffi::OsString, path::Path, process::Child};

use riklet_http::{ApiCall, Client};
use riklet_kernel::process::{self, Tied};
use riklet_vmm::{api::VmmApiError, firecracker, machine::Machine, version::Version};
use serde_json::{Value, json};

use crate::{
    directory::Directory,
    machine::{machine, machines},
    played::{Firecracker, Until},
    server::{LONG, Server, answer},
};

const LATEST: &str = "1.17.0-dev";

fn played(version: &'static str) -> Server {
    Server::start(Firecracker::new(version))
}

#[test]
fn configuration_and_start_follow_the_api() {
    let server = played(LATEST);
    let version = firecracker::start(&server.client(), &machine(server.directory())).unwrap();
    assert_eq!(version, Version::new(1, 17, 0));
    assert_eq!(
        server.lines(),
        [
            "GET /",
            "PUT /machine-config",
            "PUT /boot-source",
            "PUT /drives/rootfs",
            "PUT /network-interfaces/eth0",
            "PUT /actions",
        ]
    );
    let interface = server.received()[4].body.clone().unwrap();
    assert_eq!(interface["mtu"], 1400);
    firecracker::press_ctrl_alt_del(&server.client()).unwrap();
    let pressed = server.received()[6].body.clone().unwrap();
    assert_eq!(pressed, json!({ "action_type": "SendCtrlAltDel" }));
}

#[test]
fn every_machine_is_accepted_by_every_supported_version() {
    let directory = Directory::new();
    for machine in machines(&directory) {
        for version in ["1.0.0", "1.15.1", "1.16.0", LATEST] {
            let server = played(version);
            let found = firecracker::start(&server.client(), &machine).unwrap();
            assert_eq!(Ok(found), version.parse());
            let requests = server.received();
            let interface = requests.iter().rev().nth(1).unwrap().body.clone().unwrap();
            let mtu = if found < Version::new(1, 16, 0) { Value::Null } else { json!(1400) };
            assert_eq!(interface["mtu"], mtu, "{version}");
        }
    }
}

#[test]
fn too_old_version_gets_no_further_call() {
    let server = played("0.25.2");
    let error = firecracker::start(&server.client(), &machine(server.directory())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "firecracker 0.25.2 is too old: 1.0.0 is the least version that works"
    );
    assert_eq!(server.lines(), ["GET /"]);
}

#[test]
fn started_guest_is_not_started_again() {
    let server = played(LATEST);
    let machine = machine(server.directory());
    firecracker::start(&server.client(), &machine).unwrap();
    let error = firecracker::start(&server.client(), &machine).unwrap_err();
    assert_eq!(error.to_string(), "firecracker has a guest already: its state is \"Running\"");
    assert_eq!(server.lines().len(), 7);
}

#[test]
fn error_contains_the_vmms_message() {
    let server = played(LATEST);
    let machine = machine(server.directory());
    let missing = Some(server.directory().path("missing"));
    let start = |machine: &Machine| firecracker::start(&server.client(), machine).unwrap_err();
    let kernel = Machine { kernel: missing.clone().unwrap(), ..machine.clone() };
    assert_eq!(
        start(&kernel).to_string(),
        "firecracker refused PUT /boot-source: Boot source error: The kernel file cannot be \
         opened: No such file or directory (os error 2)"
    );
    // No call followed.
    assert_eq!(server.lines().last().unwrap(), "PUT /boot-source");
    let initrd = start(&Machine { initrd: missing.clone(), ..machine.clone() }).to_string();
    assert!(initrd.contains("PUT /boot-source: Boot source error: The initrd file"), "{initrd}");
    let rootfs = start(&Machine { rootfs: missing, ..machine }).to_string();
    assert!(rootfs.starts_with("firecracker refused PUT /drives/rootfs: Drive"), "{rootfs}");
}

#[test]
fn start_stops_at_the_first_refused_call() {
    let directory = Directory::new();
    let machine = machine(&directory);
    for line in [
        "GET /",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/rootfs",
        "PUT /network-interfaces/eth0",
        "PUT /actions",
    ] {
        let reply = answer(400, Some(&json!({ "fault_message": "no: \"why\"" })));
        let server = Server::start(Until { player: Firecracker::new(LATEST), line, reply });
        let error = firecracker::start(&server.client(), &machine).unwrap_err();
        assert_eq!(error.to_string(), format!("firecracker refused {line}: no: \"why\""));
        assert!(matches!(error, VmmApiError::Refused { status: 400, .. }), "{error:?}");
        assert_eq!(server.lines().last().unwrap(), line);
    }
}

#[test]
fn calls_out_of_order_are_refused() {
    let server = played(LATEST);
    let machine = machine(server.directory());
    let client = server.client();
    let calls = firecracker::calls(&machine, Version::new(1, 17, 0)).unwrap();
    let words = |call: &ApiCall| {
        let answer = client.exchange(call).unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status, body["fault_message"].as_str().unwrap_or_default().to_owned())
    };
    let (start, configuration) = calls.split_last().unwrap();
    let (status, fault) = words(start);
    assert_eq!((status, &*fault), (400, "Cannot start microvm without kernel configuration."));
    let error = firecracker::press_ctrl_alt_del(&client).unwrap_err().to_string();
    assert!(error.contains("refused PUT /actions: The requested operation is not"), "{error}");
    for call in &calls {
        assert_eq!(words(call), (204, String::new()), "{call}");
    }
    for call in configuration {
        let (status, fault) = words(call);
        let expected = "The requested operation is not supported after starting the microVM.";
        assert_eq!((status, &*fault), (400, expected), "{call}");
    }
    // The id is part of both path and body.
    let mut call = calls[3].clone();
    call.path = "/network-interfaces/eth1".to_owned();
    assert_eq!(words(&call).0, 400);
}

/// The Firecracker to test with: the real one if `FIRECRACKER_BIN` names it, otherwise the simulated one.
enum AtHand {
    Played(Server),
    Real { child: Child, directory: Directory },
}

impl AtHand {
    fn new() -> Self {
        let Some(program) = env::var_os("FIRECRACKER_BIN") else {
            return Self::Played(played(LATEST));
        };
        let directory = Directory::new();
        let socket = directory.path("api.sock");
        // The real one runs in a network namespace of its own, since it creates the TAP that it shall open.
        let mut arguments = vec![OsString::from("-n"), "--".into(), program];
        arguments.extend(firecracker::arguments(&socket, &"hello.v2".parse().unwrap()));
        let child = process::spawn_tied(&Tied {
            program: "unshare".as_ref(),
            arguments,
            credentials: None,
            groups: &[],
            user_is_its_own: false,
            directory: Path::new("/"),
            errors_apart: false,
            mark: "",
        });
        let child = child.unwrap();
        Self::Real { child, directory }
    }

    /// Returns a client, once Firecracker listens.
    fn client(&mut self) -> Client {
        match self {
            Self::Played(server) => {
                server.client().wait(|| true).unwrap();
                server.client()
            }
            Self::Real { child, directory } => {
                let client = Client::new(directory.path("api.sock"), LONG);
                client.wait(|| child.try_wait().unwrap().is_none()).unwrap();
                client
            }
        }
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        if let Self::Real { child, .. } = self {
            child.kill().expect("a process to end");
            child.wait().expect("its end");
        }
    }
}

#[test]
fn available_firecracker_accepts_the_configuration() {
    let mut firecracker = AtHand::new();
    let client = firecracker.client();
    let answer = client.exchange(&ApiCall::get("/version")).unwrap();
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let version = answer["firecracker_version"].as_str().unwrap();
    println!("this is firecracker {version}");

    let files = Directory::new();
    let machine = machine(&files);
    let kernel = files.path("missing");
    let error = firecracker::start(&client, &Machine { kernel, ..machine.clone() }).unwrap_err();
    match error {
        VmmApiError::Refused { call, words, .. } => {
            assert_eq!(call, "PUT /boot-source");
            assert!(words.contains("kernel") && words.contains("os error 2"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    // These are all calls before the start, which needs a real kernel and KVM.
    let calls = firecracker::calls(&machine, version.parse().unwrap()).unwrap();
    let (start, configuration) = calls.split_last().unwrap();
    assert_eq!(start.path, "/actions");
    for call in configuration {
        let answer = client.exchange(call).unwrap();
        assert_eq!(answer.status, 204, "{call}: {}", String::from_utf8_lossy(&answer.body));
    }
}
