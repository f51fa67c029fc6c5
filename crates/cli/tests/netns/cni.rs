//! The program as a CNI plugin, called as the specification says, without a runtime between.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::world::{
    Firewall, INTERNET_FAR, NODE_LAN, NODE_UPLINK, Namespace, World,
    command::Output,
    on_every_firewall,
    state::{SystemState, assert_same},
    traffic::{assert_tcp_closed, assert_tcp_refused, tcp_ask, tcp_server, udp_ask, udp_server},
    wait_for,
};

/// Calls the plugin.
#[track_caller]
fn call(world: &World, command: &str, variables: &[(&str, &str)], config: &Value) -> Output {
    let set = |(name, value): &(&str, &str)| format!("{name}={value}");
    let fixed = [("CNI_COMMAND", command), ("CNI_PATH", "/opt/cni/bin")];
    let mut words: Vec<_> = fixed.iter().chain(variables).map(set).collect();
    words.push(env!("CARGO_BIN_EXE_riklet-sdn").to_owned());
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    world.program("env", &words, &config.to_string())
}

/// A container as its runtime sees it.
struct Container<'a> {
    world: &'a World,
    id: &'static str,
    namespace: Namespace,
}

impl<'a> Container<'a> {
    fn new(world: &'a World, id: &'static str) -> Self {
        Self { world, id, namespace: Namespace::new() }
    }

    #[track_caller]
    fn call(&self, command: &str, config: &Value) -> Output {
        let path = self.namespace.path();
        let variables =
            [("CNI_CONTAINERID", self.id), ("CNI_NETNS", &path), ("CNI_IFNAME", "eth0")];
        call(self.world, command, &variables, config)
    }

    /// Attaches the container, and returns the result.
    #[track_caller]
    fn add(&self, config: &Value) -> Value {
        let output = self.call("ADD", config);
        assert_eq!(output.code, Some(0), "{output}");
        serde_json::from_str(&output.stdout).expect("a result")
    }

    fn interfaces(&self) -> String {
        self.namespace.tool(&["ip", "-br", "link", "show", "type", "veth"])
    }
}

fn network(version: &str, runtime: &Value) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "riklet",
        "capabilities": { "portMappings": true, "bandwidth": true },
        "runtimeConfig": runtime,
    })
}

fn plain() -> Value {
    network("1.1.0", &json!({}))
}

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.trim_end_matches("/30").parse().expect("an address of IPv4")
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

#[track_caller]
fn error(output: &Output) -> (u64, String) {
    assert_eq!(output.code, Some(1), "{output}");
    let document: Value = serde_json::from_str(&output.stdout).expect("an error");
    let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    (document["code"].as_u64().expect("a code"), format!("{}: {}", text("msg"), text("details")))
}

fn nothing_recorded(world: &World) {
    let listed = world.riklet(&["--output", "json", "list"], "").success();
    assert_eq!(listed.trim(), "[]");
}

on_every_firewall!(a_container_is_attached_and_detached, |world| {
    let before = SystemState::take(&world.node);
    let [web, other] = ["web", "Other_1"].map(|id| Container::new(world, id));
    let empty = SystemState::take(&web.namespace);
    let ports = json!({ "portMappings": [
        { "hostPort": 8080, "containerPort": 3000, "protocol": "tcp" },
        { "hostPort": 8080, "containerPort": 3000, "protocol": "udp" },
        { "hostPort": 8081, "containerPort": 3000, "protocol": "tcp", "hostIP": "127.0.0.1" },
    ] });
    let published = network("1.1.0", &ports);
    let result = web.add(&published);
    let own = address(&result);
    let second = address(&other.add(&plain()));
    let by_tcp = tcp_server(&web.namespace, at(own, 3000));
    let by_udp = udp_server(&web.namespace, at(own, 3000));
    let neighbour = tcp_server(&other.namespace, at(second, 3000));

    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("a published port answers");
    let asked = udp_ask(&world.client, (NODE_LAN, 8080), std::time::Duration::from_secs(10));
    assert!(asked.is_some(), "a published port of UDP answers");
    tcp_ask(&world.node, (Ipv4Addr::LOCALHOST, 8081)).expect("a port of the node answers the node");
    assert_tcp_refused(&world.client, (NODE_LAN, 8081));
    tcp_ask(&other.namespace, (NODE_LAN, 8080)).expect("a published port answers a pod");
    assert_tcp_closed(&web.namespace, at(second, 3000));
    let far = tcp_server(&world.internet, at(INTERNET_FAR, 443));
    let seen = tcp_ask(&web.namespace, far.address).expect("the Internet answers");
    assert_eq!(seen.client.ip(), NODE_UPLINK);

    let mut checked = published.clone();
    checked["prevResult"] = result.clone();
    assert_eq!(web.call("CHECK", &checked).success(), "");
    let again = error(&web.call("ADD", &published));
    assert_eq!(again, (100, "the interface exists: web has eth0 already".to_owned()));
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("it is attached as before");
    world.node.tool(&["ip", "link", "set", "rik0", "down"]);
    let (code, words) = error(&web.call("CHECK", &checked));
    assert_eq!((code, words.contains("rik0 is down")), (100, true), "{words}");
    world.riklet(&["repair"], "").success();

    drop((by_tcp, by_udp, neighbour));
    assert_eq!(web.call("DEL", &published).success(), "");
    assert_same(&empty, &SystemState::take(&web.namespace));
    assert_tcp_refused(&world.client, (NODE_LAN, 8080));
    // Twice, without the namespace, and what was never attached.
    assert_eq!(web.call("DEL", &published).success(), "");
    let unnamed = [("CNI_CONTAINERID", "Other_1"), ("CNI_IFNAME", "eth0")];
    assert_eq!(call(world, "DEL", &unnamed, &plain()).success(), "");
    assert_eq!(other.interfaces(), "");
    nothing_recorded(world);
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
});

on_every_firewall!(a_daemon_attaches_as_well, |world| {
    let daemon = world.daemon(&[]);
    let web = Container::new(world, "web");
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 3000 }],
        "bandwidth": { "egressRate": 100_000_000, "egressBurst": 1 } });
    let published = network("1.0.0", &ports);
    for _turn in 0..3 {
        let own = address(&web.add(&published));
        assert_eq!(daemon.get("/v1/pods").as_array().map(Vec::len), Some(1));
        let server = tcp_server(&web.namespace, at(own, 3000));
        tcp_ask(&world.client, (NODE_LAN, 8080)).expect("a published port answers");
        drop(server);
        assert_eq!(web.call("DEL", &published).success(), "");
        assert_eq!(web.interfaces(), "", "it is gone at once");
        assert_tcp_refused(&world.client, (NODE_LAN, 8080));
    }
    assert_eq!(daemon.get("/v1/instances"), json!([]));
});

// What is inside is the container's: nothing repairs it, and CHECK names it, whether or not a daemon runs.
on_every_firewall!(a_check_looks_into_the_namespace, |world| {
    let web = Container::new(world, "web");
    let result = web.add(&plain());
    let mut checked = plain();
    checked["prevResult"] = result.clone();
    let gateway = result["ips"][0]["gateway"].as_str().expect("a gateway").to_owned();
    let mac = result["interfaces"][1]["mac"].as_str().expect("an address").to_owned();
    let elsewhere = Namespace::new();
    let restore = format!(
        "link set eth0 address {mac} mtu 1500 up\naddress replace {}/30 dev eth0\nroute replace default via {gateway}\n",
        address(&result)
    );
    let ip = |lines: &str| web.namespace.feed(&["ip", "-batch", "-"], lines).success();
    let lacks = |words: &str| {
        let (code, said) = error(&web.call("CHECK", &checked));
        assert!(code == 100 && said.contains(words), "{words}: {code} {said}");
        let inspected = world.riklet(&["list", "-q"], "").success();
        let inspected = world.riklet(&["inspect", inspected.trim()], "").success();
        assert!(inspected.contains(words), "{words}: {inspected}");
    };
    let tamper = || {
        for (lines, words) in [
            ("address flush dev eth0", "address 10.231."),
            ("route delete default", "default route via 10.231."),
            ("link set eth0 down", ": up"),
            ("link set eth0 address 02:00:00:00:00:01", ": MAC 06:52:49:4b:"),
            ("link set eth0 mtu 9000", ": MTU 1500"),
        ] {
            assert_eq!(web.call("CHECK", &checked).success(), "", "before: {lines}");
            ip(lines);
            lacks(words);
            ip(&restore);
        }
        // An end of another name, with another interface under the old one, and one that was moved away.
        ip("link set eth0 down\nlink set eth0 name eth1\nlink add eth0 type veth peer name eth2");
        lacks("the namespace lacks: eth0 in net:[".trim_start_matches("the namespace lacks: "));
        ip("link delete eth0\nlink set eth1 name eth0");
        ip(&restore);
        // Any default route will do.
        ip(
            "link add eth3 type veth peer name eth4\nlink set eth3 up\nlink set eth4 up\nroute replace default dev eth3",
        );
        assert_eq!(web.call("CHECK", &checked).success(), "");
        ip("link delete eth3");
        ip(&restore);
    };
    tamper();
    let daemon = world.daemon(&[]);
    tamper();
    drop(daemon);
    ip(&format!("link set eth0 netns {}", elsewhere.path()));
    lacks("eth0 in net:[");
    assert_eq!(web.call("DEL", &plain()).success(), "");
    assert_eq!(elsewhere.tool(&["ip", "-br", "link", "show", "type", "veth"]), "");
});

// The capabilities of the unit, without that to enter namespaces.
on_every_firewall!(a_daemon_that_may_enter_no_namespace_leaves_that_to_the_plugin, |world| {
    let capabilities = crate::vmms::confined::capabilities(&[]);
    let capabilities: Vec<_> = capabilities.iter().map(String::as_str).collect();
    let daemon = world.daemon_with(&capabilities);
    let web = Container::new(world, "web");
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 3000 }] });
    let published = network("1.1.0", &ports);
    for _turn in 0..2 {
        let result = web.add(&published);
        assert_eq!(daemon.get("/v1/pods").as_array().map(Vec::len), Some(1));
        let server = tcp_server(&web.namespace, at(address(&result), 3000));
        tcp_ask(&world.client, (NODE_LAN, 8080)).expect("a published port answers");
        let interface = result["interfaces"][0]["name"].as_str().expect("a name").to_owned();
        let mut checked = published.clone();
        checked["prevResult"] = result;
        assert_eq!(web.call("CHECK", &checked).success(), "");
        assert_eq!(world.riklet(&["check"], "").success(), "");
        // The node's end is the daemon's to heal.
        world.node.tool(&["ip", "link", "set", &interface, "down"]);
        wait_for("the daemon to heal", std::time::Duration::from_secs(20), || {
            let link = world.node.tool(&["ip", "-br", "link", "show", &interface]);
            link.contains(" UP ").then_some(())
        });
        drop(server);
        // The other is root's to repair.
        web.namespace.tool(&["ip", "link", "delete", "eth0"]);
        let refused = world.riklet(&["repair"], "");
        assert!(refused.stderr.contains("hint: network namespaces are entered with"), "{refused}");
        world.riklet(&["repair", "--no-daemon"], "").success();
        assert!(web.interfaces().contains("eth0"));
        assert_eq!(web.call("CHECK", &checked).success(), "");
        assert_eq!(web.call("DEL", &published).success(), "");
        assert_eq!(web.interfaces(), "", "it is gone at once");
        nothing_recorded(world);
    }
    let definition = crate::pods::pod("web", &[]);
    let refused = daemon.ask("PUT", "/v1/pods/web", &definition.to_string());
    assert_eq!(refused.status, 501, "{refused:?}");
    nothing_recorded(world);
});

on_every_firewall!(each_version_has_its_own_result, |world| {
    let web = Container::new(world, "web");
    let mut config = plain();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        config["cniVersion"] = json!(version);
        config["prevResult"] = json!({
            "cniVersion": version, "interfaces": [{ "name": "lo", "sandbox": "/x" }],
            "ips": [], "dns": { "nameservers": ["192.0.2.53"] }, "more": 1,
        });
        let result = web.add(&config);
        let path = web.namespace.path();
        assert_eq!(result["cniVersion"], version);
        let [first, outside, inside] = &result["interfaces"].as_array().expect("a list")[..] else {
            panic!("{result}")
        };
        assert_eq!((&first["name"], &outside["name"]), (&json!("lo"), &json!("rik0")));
        assert_eq!((&inside["name"], &inside["sandbox"]), (&json!("eth0"), &json!(path)));
        assert!(
            web.namespace.tool(&["ip", "link"]).contains(inside["mac"].as_str().expect("text"))
        );
        let ip = &result["ips"][0];
        assert_eq!((&ip["interface"], &ip["gateway"]), (&json!(2), &json!("10.231.0.1")));
        assert_eq!(ip["version"] == "4", version.starts_with("0."), "{result}");
        assert_eq!(inside["mtu"] == 1500, version == "1.1.0", "{result}");
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.231.0.1" }]));
        // What the plugins before said is passed on.
        assert_eq!(
            (&result["dns"]["nameservers"][0], &result["more"]),
            (&json!("192.0.2.53"), &json!(1))
        );
        web.call("DEL", &config).success();
    }
    let versions = call(world, "VERSION", &[], &json!({ "cniVersion": "1.0.0" })).success();
    let versions: Value = serde_json::from_str(&versions).expect("JSON");
    assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
});

on_every_firewall!(garbage_is_what_the_runtime_does_not_name, |world| {
    let [one, two, three] = ["one", "two", "three"].map(|id| Container::new(world, id));
    let [mut net, mut second] = [plain(), plain()];
    second["name"] = json!("next");
    one.add(&net);
    two.add(&net);
    three.add(&second);
    let names = || {
        let listed = world.riklet(&["--output", "json", "list"], "").success();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let names = listed.as_array().expect("a list").iter();
        names.map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 3);
    call(world, "GC", &[], &net).success();
    assert_eq!(names().len(), 3, "a runtime that names none removes none");
    net["cni.dev/valid-attachments"] = json!([{ "containerID": "one", "ifname": "eth0" }]);
    call(world, "GC", &[], &net).success();
    assert!(one.interfaces().contains("eth0") && three.interfaces().contains("eth0"));
    assert_eq!((two.interfaces(), names().len()), (String::new(), 2));
    second["cni.dev/valid-attachments"] = json!([]);
    call(world, "GC", &[], &second).success();
    assert_eq!((three.interfaces(), names().len()), (String::new(), 1));
    call(world, "STATUS", &[], &plain()).success();
});

on_every_firewall!(what_a_runtime_asks_wrong_is_said_and_nothing_is_left, |world| {
    let web = Container::new(world, "web");
    web.add(&network(
        "1.1.0",
        &json!({ "portMappings": [{ "hostPort": 80, "containerPort": 80 }] }),
    ));
    let next = Container::new(world, "next");
    let before = (SystemState::take(&world.node), SystemState::take(&next.namespace));
    let mut unknown = plain();
    unknown["polcy"] = json!("none");
    let taken =
        network("1.1.0", &json!({ "portMappings": [{ "hostPort": 80, "containerPort": 1 }] }));
    let mac = network("1.1.0", &json!({ "mac": "02:00:00:00:00:01" }));
    for (config, code, words) in [
        (&unknown, 7, "did you mean \"policy\"?"),
        (&taken, 102, "tcp 80"),
        (&mac, 2, "runtimeConfig.mac is not supported"),
        (&json!({ "cniVersion": "0.2.0" }), 1, "supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (&json!([]), 1, "supported are"),
    ] {
        let (found, said) = error(&next.call("ADD", config));
        assert!(found == code && said.contains(words), "{config}: {found} {said}");
    }
    for (variables, code, words) in [
        (&[][..], 4, "missing: CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"),
        (
            &[("CNI_CONTAINERID", "x"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/dev/null")],
            7,
            "it leads to no network namespace",
        ),
    ] {
        let (found, said) = error(&call(world, "ADD", variables, &plain()));
        assert!(found == code && said.contains(words), "{variables:?}: {found} {said}");
    }
    assert_eq!(error(&call(world, "ADDD", &[], &plain())).0, 4);
    let path = next.namespace.path();
    let named = |interface: &'static str| {
        [("CNI_CONTAINERID", "next"), ("CNI_NETNS", &*path), ("CNI_IFNAME", interface)]
    };
    // The kernel would choose another name for the first.
    for interface in ["eth%d", "all", "sixteen_letters_"] {
        let (code, said) = error(&call(world, "ADD", &named(interface), &plain()));
        assert!(code == 4 && said.contains("CNI_IFNAME is wrong"), "{interface}: {code} {said}");
    }
    for (arguments, words) in [
        ("IgnoreUnknown=1;IP=10.231.0.77", "IP is not supported"),
        ("K8S_POD_NAME=next", "unknown: K8S_POD_NAME"),
    ] {
        let variables = [&named("eth0")[..], &[("CNI_ARGS", arguments)]].concat();
        let (code, said) = error(&call(world, "ADD", &variables, &plain()));
        assert!(code == 4 && said.contains(words), "{arguments}: {code} {said}");
    }
    // An interface of that name exists.
    next.namespace.tool(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9"]);
    let (code, said) = error(&next.call("ADD", &plain()));
    assert!(code == 100 && said.contains("eth0 in net:["), "{code} {said}");
    next.namespace.tool(&["ip", "link", "delete", "eth0"]);
    assert_same(&before.0, &SystemState::take(&world.node));
    assert_same(&before.1, &SystemState::take(&next.namespace));
    let listed = world.riklet(&["list", "-q"], "").success();
    assert_eq!(listed.lines().count(), 1, "{listed}");
});

// A container whose namespace went with its last process leaves a record, which its deletion removes.
on_every_firewall!(a_deletion_needs_nothing_that_is_left, |world| {
    let web = Container::new(world, "web");
    web.add(&plain());
    drop(web);
    wait_for("the interface to go with its namespace", std::time::Duration::from_secs(20), || {
        let links = world.node.tool(&["ip", "-br", "link"]);
        (!links.contains("rik0")).then_some(())
    });
    let gone =
        [("CNI_CONTAINERID", "web"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/gone")];
    // Nor does it need what an earlier version knew, or what was wrong all along.
    let mut config = plain();
    config["formerly"] = json!(true);
    config["limits"] = json!(7);
    call(world, "DEL", &gone, &config).success();
    nothing_recorded(world);
    assert_eq!(world.riklet(&["check"], "").success(), "");
});

#[test]
fn a_node_that_cannot_attach_anything_says_so() {
    let world = &World::new(Firewall::Nftables);
    let unprivileged = || {
        let drop = ["--bounding-set", "-net_admin", "env", "CNI_COMMAND=STATUS"];
        let arguments = [&drop[..], &[env!("CARGO_BIN_EXE_riklet-sdn")]].concat();
        world.program("setpriv", &arguments, &plain().to_string())
    };
    assert_eq!(error(&unprivileged()).0, 50);
    call(world, "STATUS", &[], &plain()).success();
    let web = Container::new(world, "web");
    web.add(&plain());
    let (code, said) = error(&unprivileged());
    assert!(code == 51 && said.contains("CAP_NET_ADMIN"), "{code} {said}");
    call(world, "STATUS", &[], &plain()).success();
    // A daemon that does not answer may do so later.
    let daemon = world.daemon(&[]);
    daemon.signal(rustix::process::Signal::STOP);
    let next = Container::new(world, "next");
    let (code, said) = error(&next.call("ADD", &plain()));
    assert_eq!(code, 11, "{said}");
    let (code, said) = error(&call(world, "STATUS", &[], &plain()));
    assert_eq!(code, 50, "{said}");
    assert_eq!(next.interfaces(), "");
    daemon.signal(rustix::process::Signal::CONT);
    next.add(&plain());
}
