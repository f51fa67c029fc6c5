//! Members of the group of the daemon's socket: the limits of what they may do on a node whose daemon is root.

use std::os::unix::fs::{PermissionsExt, chown};

use serde_json::{Value, json};

use crate::{
    pods::pod,
    supervised::{HELLO, assert_answers, hello, second},
    world::{Firewall, Namespace, World, function::function, on_every_firewall},
};

#[test]
fn members_have_a_limited_number_of_runs() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&["--member-runs", "1"]);
    let start = |definitions: Value| daemon.ask("POST", "/v1/runs", &definitions.to_string());
    let refused = start(json!([hello(), second()]));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(daemon.get("/v1/runs"), json!([]));
    assert_eq!(start(hello()).status, 200);
    let refused = start(second());
    assert_eq!(refused.status, 429, "{refused:?}");
    let detail = refused.json();
    assert_eq!(detail["detail"], "clients of the daemon's socket may have 1 runs at a time");
    assert!(detail["hint"].as_str().unwrap().contains("member_runs"), "{detail}");
    // Root's own runs are root's matter.
    world.detach(&[second()]);
    // The next daemon counts them too.
    let api = daemon.clone_api();
    daemon.end(rustix::process::Signal::TERM);
    let daemon = world.daemon(&["--member-runs", "1"]);
    let third = function("third", &[]).to_string();
    assert_eq!(api.ask("POST", "/v1/runs", &third).status, 429);
    assert_answers(world, HELLO, "hello");
    assert_eq!(api.ask("DELETE", "/v1/runs/hello?timeout=1", "").status, 200);
    let started = api.ask("POST", "/v1/runs", &third);
    assert_eq!(started.json()["failed"], json!([]), "{started:?}");
    world.riklet(&["stop", "--all"], "").success();
    drop(daemon);
}

#[test]
fn no_group_of_vmms_commands_the_daemon() {
    let world = &World::new(Firewall::Nftables);
    let users = world.directory.users();
    let state = world.socket().parent().expect("a directory").to_owned();
    let program = env!("CARGO_BIN_EXE_riklet-sdn");
    let of_kvm = format!(
        "mount -t tmpfs none /dev; mkdir /dev/net; mknod -m 666 /dev/net/tun c 10 200; touch /dev/kvm; \
         chgrp 4343 /dev/kvm; chmod 660 /dev/kvm; exec {program} serve --api-group \"$0\""
    );
    for group in [4343, users, users + 1] {
        let group = group.to_string();
        let refused = world.program("unshare", &["--mount", "sh", "-c", &of_kvm, &group], "");
        let expected =
            format!("error: {group} is a group of VMMs, which must not command the daemon\nhint: ");
        assert!(refused.failure(2).starts_with(&expected));
        assert!(state.read_dir().expect("a directory").next().is_none());
    }
}

/// A socket whose group a VMM would have: one that an older daemon serves, or whose definition names that group.
#[test]
fn no_vmm_has_the_group_of_the_socket() {
    let world = &World::new(Firewall::Nftables);
    let _listener = std::os::unix::net::UnixListener::bind(world.socket()).expect("a socket");
    let mut definition = hello();
    let image = world.directory.path().join("vmlinux");
    std::fs::File::create(&image).expect("a file");
    let program = crate::program::Program::install(world, "firecracker", "");
    for (user, group) in [(None, None), (Some(54_321), Some(4_242))] {
        let gid = group.unwrap_or_else(|| world.directory.users());
        chown(world.socket(), None, Some(gid)).expect("root");
        let mode = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(world.socket(), mode).expect("root");
        let mut execution = json!({ "vmm": "firecracker", "kernel": image });
        if let (Some(user), Some(group)) = (user, group) {
            (execution["user"], execution["group"]) = (Value::from(user), Value::from(group));
        }
        definition["spec"]["function"]["execution"] = execution;
        let arguments = ["run", "--no-wait", "-"];
        let refused = world.riklet_with_kvm(&arguments, &definition.to_string()).wait().failure(2);
        let expected = format!("its VMM would have the group {gid}, which may use ");
        assert!(refused.contains(&expected), "{refused}");
    }
    assert!(!program.has_started());
}

#[test]
fn members_reach_no_internal_server() {
    let world = &World::new(Firewall::Nftables);
    let daemon = world.daemon(&[]);
    let program = crate::program::Program::install(world, "qemu-system-x86_64", "");
    let server = world.node.run(|| std::net::TcpListener::bind("127.0.0.1:8099")).expect("a port");
    server.set_nonblocking(true).expect("a socket");
    let mut definition = hello();
    definition["spec"]["function"]["execution"] =
        json!({ "vmm": "qemu", "accelerator": "tcg", "kernel": "http://127.0.0.1:8099/secret" });
    let answer = daemon.ask("POST", "/v1/runs", &definition.to_string());
    let answer = answer.json();
    let detail = answer["failed"][0]["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("its host is at 127.0.0.1, which is not a public address"), "{answer}");
    assert!(server.accept().is_err(), "somebody connected");
    assert!(!program.has_started());
}

on_every_firewall!(members_bring_up_no_pods, |world| {
    let daemon = world.daemon(&["--api-group", "4242"]);
    let socket = world.socket().display().to_string();
    let container = Namespace::new();
    let mut web = pod("web", &[]);
    web["spec"]["pod"]["namespace"] = json!(container.path());
    let web = web.to_string();
    let member = "--reuid 54321 --regid 4242 --clear-groups curl -sS --max-time 20 -X PUT -H content-type:application/json";
    let rest = ["--unix-socket", &*socket, "--data", &*web, "http://localhost/v1/pods/web"];
    let words: Vec<_> = member.split(' ').chain(rest).collect();
    let answer = world.program("setpriv", &words, "").success();
    assert!(answer.contains("web: only root may bring up a Pod"), "{answer}");
    assert_eq!(container.tool(&["ip", "-br", "link", "show", "type", "veth"]), "");
    // Root may, by the same socket.
    let reply = daemon.ask("PUT", "/v1/pods/web", &web);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(container.tool(&["ip", "route"]).contains("default via "));
    assert_eq!(daemon.ask("DELETE", "/v1/pods/web", "").status, 200);
    assert_eq!(container.tool(&["ip", "-br", "link", "show", "type", "veth"]), "");
});

on_every_firewall!(a_members_policy_reaches_no_further_than_the_nodes_guests, |world| {
    let _daemon = world.daemon(&["--api-group", "4242"]);
    let socket = world.socket().display().to_string();
    let ask = |egress: &Value| {
        let mut definition = function("f", &[]);
        definition["spec"]["function"]["network"] = json!({ "egress": egress });
        let member = "--reuid 54321 --regid 4242 --clear-groups curl -sS --max-time 20 -X PUT -H content-type:application/json";
        let (definition, url) = (definition.to_string(), "http://localhost/v1/functions/f");
        let rest = ["--unix-socket", &*socket, "--data", &*definition, url];
        let words: Vec<_> = member.split(' ').chain(rest).collect();
        (world.program("setpriv", &words, "").success(), definition)
    };
    for (egress, said) in [
        (json!({ "default": "all" }), "default all"),
        (json!({ "allow": ["169.254.169.254:80"] }), "allow 169.254.169.254:80"),
        (
            json!({ "default": "none", "allow": ["1.1.1.1:443", "host:22/tcp"] }),
            "allow host:22/tcp",
        ),
        (json!({ "via": "203.0.113.2:22" }), "via 203.0.113.2:22"),
    ] {
        let (answer, _) = ask(&egress);
        let said = format!("f: egress {said} reaches more than the node's guests do (internet)");
        assert!(answer.contains(&said), "{answer}");
        let listed = world.riklet(&["--output", "json", "list"], "").success();
        assert_eq!(listed.trim(), "[]", "nothing is recorded");
    }
    let (answer, _) = ask(&json!({ "default": "none", "allow": ["1.1.1.1:443", "host:53/udp"] }));
    assert!(answer.contains("\"instances\""), "{answer}");
    let (_, wider) = ask(&json!({ "default": "all" }));
    world.riklet(&["up", "-"], &wider).success();
});
