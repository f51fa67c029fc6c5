//! Pods: a network namespace gets what the TAP of a function gets.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    reach::{FIRST, SECOND, TARGET},
    world::{
        INTERNET_FAR, NODE_LAN, NODE_UPLINK, Namespace, World,
        command::Output,
        function::{Function, every_transport, exposure, function, nic},
        guest::Guest,
        on_every_firewall,
        state::{SystemState, assert_same},
        traffic::{
            Ear, SILENCE, assert_silence, assert_tcp_closed, assert_tcp_refused, ping, say,
            tcp_ask, tcp_server,
        },
        transport::Transport::{self, Tcp, Udp},
        wait_for,
    },
};

/// Returns the definition of a pod.
pub(crate) fn pod(name: &str, exposures: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "name": name,
        "spec": { "containers": [{ "name": "one" }], "pod": { "exposure": exposures } },
    })
}

fn up(world: &World, definition: &Value, namespace: &str) -> Output {
    let arguments = ["--output", "json", "up", "-", "--netns", namespace];
    world.riklet(&arguments, &definition.to_string())
}

/// Brings a pod up in this namespace, and returns its address and its gateway.
#[track_caller]
fn started(world: &World, definition: &Value, container: &Namespace) -> (Ipv4Addr, Ipv4Addr) {
    let report = up(world, definition, &container.path()).success();
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let nic = nic(&report["instances"][0]);
    (nic.address, nic.gateway)
}

/// Brings up two pods with the exposures of [`reach::pair`].
#[track_caller]
pub(crate) fn pair(world: &World) -> [Function; 2] {
    [("first", FIRST), ("second", SECOND)].map(|(name, port)| {
        let container = Namespace::new();
        let definition = pod(name, &every_transport(port, TARGET));
        let report = up(world, &definition, &container.path()).success();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let guest = Guest::of_pod(container, nic(&report["instances"][0]));
        Function::serve(guest, &Transport::ALL.map(|transport| (transport, TARGET)))
    })
}

fn interfaces(container: &Namespace) -> String {
    container.tool(&["ip", "-br", "link", "show", "type", "veth"])
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

on_every_firewall!(a_pod_has_the_network_of_a_function, |world| {
    let before = SystemState::take(&world.node);
    let [container, other] = [Namespace::new(), Namespace::new()];
    let empty = SystemState::take(&container);
    let web = pod("web", &[exposure(Tcp, 8080, 3000), exposure(Udp, 8080, 3000)]);
    let (address, gateway) = started(world, &web, &container);
    let (second, _) = started(world, &pod("second", &[exposure(Tcp, 9090, 3000)]), &other);
    let played = world.start([(function("vm", &[exposure(Tcp, 7070, 3000)]), &[(Tcp, 3000)][..])]);
    let servers = [tcp_server(&container, at(address, 3000)), tcp_server(&other, at(second, 3000))];

    // Published, by itself, and to the Internet as the node.
    let asked = tcp_ask(&world.client, (NODE_LAN, 8080)).expect("a published port answers");
    assert_eq!(asked.server, at(address, 3000));
    let far = tcp_server(&world.internet, at(INTERNET_FAR, 443));
    let seen = tcp_ask(&container, far.address).expect("the Internet answers").client;
    assert_eq!(seen.ip(), NODE_UPLINK);
    assert!(ping(&container, gateway, SILENCE));
    // Each reaches the others by what they publish, and not by their addresses.
    for (from, port) in [(&container, 9090), (&other, 8080), (&container, 7070), (&container, 8080)]
    {
        tcp_ask(from, (NODE_LAN, port)).expect("a published port answers a guest");
    }
    tcp_ask(&played[0].guest.namespace, (NODE_LAN, 8080)).expect("a VM reaches a pod");
    assert_tcp_closed(&container, at(second, 3000));
    assert_tcp_closed(&container, at(played[0].address(), 3000));
    assert_tcp_closed(&container, at(NODE_LAN, 22));
    assert_tcp_closed(&world.client, at(address, 3000));
    // A forged source reaches nobody.
    container.tool(&["ip", "address", "add", "203.0.113.77/32", "dev", "eth0"]);
    let ear = Ear::new(&world.internet, at(INTERNET_FAR, 5353));
    say(&container, Ipv4Addr::new(203, 0, 113, 77), at(INTERNET_FAR, 5353), "forged");
    assert_silence(&[(ear, "a forged source")]);

    assert_eq!(world.riklet(&["check"], "").success(), "");
    // What is lost on the node is repaired, and the guest notices nothing.
    world.node.tool(&["ip", "address", "flush", "dev", "rik0"]);
    world.riklet(&["repair"], "").success();
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("it answers again");
    tcp_ask(&container, far.address).expect("it reaches the Internet again");
    drop((servers, played));

    world.riklet(&["down", "web"], "").success();
    assert_same(&empty, &SystemState::take(&container));
    assert_tcp_refused(&world.client, (NODE_LAN, 8080));
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(what_is_wrong_with_a_namespace_is_said_and_nothing_is_left, |world| {
    let container = Namespace::new();
    container.tool(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9"]);
    let neighbour = Namespace::new();
    started(world, &pod("neighbour", &[]), &neighbour);
    let before = (SystemState::take(&world.node), SystemState::take(&container));
    let web = pod("web", &[exposure(Tcp, 8080, 3000)]);
    let (path, own) = (container.path(), world.node.path());
    for (path, code, words) in [
        ("/dev/null", 2, "it leads to no network namespace"),
        ("/no/such/file", 2, "No such file or directory"),
        ("/proc/self/ns/mnt", 2, "it leads to no network namespace"),
        (&own, 2, "it is the node's own"),
        (&path, 1, "eth0 in net:["),
    ] {
        let output = up(world, &web, path);
        assert_eq!(output.code, Some(code), "{path}: {output}");
        assert!(output.stderr.contains(words), "{path}: {output}");
        // What failed at the kernel is recorded, and nothing else.
        let _unrecorded = world.riklet(&["down", "web"], "");
        assert_same(&before.0, &SystemState::take(&world.node));
        assert_same(&before.1, &SystemState::take(&container));
    }
    let without = world.riklet(&["up", "-"], &web.to_string());
    assert!(without.stderr.contains("hint: give one by `--netns PATH`"), "{without}");
    let of_vm = up(world, &function("vm", &[]), &path);
    assert!(of_vm.stderr.contains("vm is a Function, and only a Pod is in a namespace"), "{of_vm}");
    let run = world.riklet(&["inspect", "neighbour", "--format", "qemu"], "");
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("neighbour is a Pod, which has no TAP for a VMM"), "{run}");
    let run = world.riklet(&["run", "-"], &web.to_string());
    assert!(run.stderr.contains("web cannot be run: it is a Pod"), "{run}");
    assert_same(&before.0, &SystemState::take(&world.node));
});

// The namespace of a container goes with its last process, and takes its interface with it.
on_every_firewall!(a_namespace_that_is_gone_takes_only_its_own_pod_along, |world| {
    let path = world.directory.path().join("netns");
    let path = path.to_str().expect("UTF-8");
    let mount = |namespace: &Namespace| {
        let script = format!("touch {path} && mount --bind {} {path}", namespace.path());
        world.node.tool(&["sh", "-c", &script]);
    };
    let mut container = Namespace::new();
    mount(&container);
    let web = pod("web", &[exposure(Tcp, 8080, 3000)]);
    up(world, &web, path).success();
    // Another container's namespace is at the path now, while the first one lives.
    world.node.tool(&["umount", path]);
    let next = Namespace::new();
    mount(&next);
    assert_eq!(world.riklet(&["check"], "").success(), "", "the interface is where it was");
    up(world, &web, path).success();
    assert_eq!(interfaces(&container), "");
    assert!(interfaces(&next).starts_with("eth0@"));

    world.node.tool(&["umount", path]);
    container = next;
    drop(container);
    wait_for("the kernel to take the interface away", SILENCE * 10, || {
        let links = world.node.tool(&["ip", "-br", "link"]);
        (!links.contains("rik0")).then_some(())
    });
    let other = world.start([(function("vm", &[exposure(Tcp, 7070, 3000)]), &[(Tcp, 3000)][..])]);
    let repaired = world.riklet(&["repair"], "");
    assert_eq!(repaired.code, Some(1), "{repaired}");
    assert!(repaired.stderr.contains("web is not up"), "{repaired}");
    assert!(
        repaired.stderr.contains("hint: bring it up in the namespace where it is now"),
        "{repaired}"
    );
    tcp_ask(&world.client, (NODE_LAN, 7070)).expect("the other one is up");
    world.riklet(&["down", "web"], "").success();
    assert_eq!(world.riklet(&["check"], "").success(), "");
    drop(other);
});

// Law 2 on the real kernel: whichever system call a kill comes at, a repair completes the work or removes it.
on_every_firewall!(a_killed_pod_is_repaired, |world| {
    let container = Namespace::new();
    let neighbour = Namespace::new();
    started(world, &pod("neighbour", &[]), &neighbour);
    let before = (SystemState::take(&world.node), SystemState::take(&container));
    let definition = pod("web", &[exposure(Tcp, 8080, 3000)]).to_string();
    let path = container.path();
    let (mut completed, mut killed) = (0, Vec::new());
    // The calls by which it speaks to the kernel. The thread that enters the namespace begins with setns(2) when both ends
    // exist, and ends with exit(2) when the pod's is complete.
    for (call, most) in [("sendto", 60), ("setns", 3), ("exit", 3), ("fdatasync", 8)] {
        let mut number = 0;
        loop {
            number += 1;
            assert!(number < most, "{call}: the program makes no end of calls");
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let trace = format!("trace={call}");
            let arguments = ["-qq", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let program = [env!("CARGO_BIN_EXE_riklet-sdn"), "up", "-", "--netns", &path];
            let output = world.program("strace", &[&arguments[..], &program].concat(), &definition);
            let is_over = output.code == Some(0);
            killed.extend((!is_over).then_some(call));
            world.riklet(&["repair"], "").success();
            assert_eq!(world.riklet(&["check"], "").success(), "", "{call} {number}");
            let listed = world.riklet(&["list", "--output", "json"], "").success();
            if listed.contains("\"web\"") {
                let found = interfaces(&container);
                assert!(
                    found.starts_with("eth0@") && found.contains(" UP "),
                    "{call} {number}: {found}"
                );
                let routes = container.tool(&["ip", "route"]);
                assert!(routes.contains("default via "), "{call} {number}: {routes}");
                completed += 1;
                world.riklet(&["down", "web"], "").success();
            }
            assert_same(&before.0, &SystemState::take(&world.node));
            assert_same(&before.1, &SystemState::take(&container));
            if is_over {
                break;
            }
        }
    }
    assert!(completed > 4, "only {completed} were completed");
    for call in ["sendto", "setns", "exit"] {
        assert!(killed.contains(&call), "none was killed at {call}: {killed:?}");
    }
});
