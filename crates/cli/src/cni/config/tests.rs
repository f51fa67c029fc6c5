use riklet_core::model::{Kind, Limits, NamespacePath};

use super::*;

fn attachment() -> Attachment {
    let namespace: NamespacePath = "/run/netns/web".parse().unwrap();
    let interface = "eth0".parse().unwrap();
    Attachment { container: "web".to_owned(), interface, namespace: Some(namespace) }
}

fn network(more: &Value) -> Value {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "riklet" });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

#[expect(clippy::needless_pass_by_value, reason = "the tests give literals")]
fn read_add(more: Value) -> Result<Config, Error> {
    Config::read(&network(&more).to_string(), Command::Add).map_err(|(_, error)| error)
}

fn pod_of(more: Value) -> Workload {
    read_add(more).unwrap().pod(&attachment()).unwrap()
}

#[test]
fn a_runtime_publishes_ports_and_limits_rates() {
    let pod = pod_of(json!({
        "capabilities": { "portMappings": true, "bandwidth": true },
        "runtimeConfig": {
            "portMappings": [
                { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
                { "hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1" },
                { "hostPort": 81, "containerPort": 81, "hostIP": "0.0.0.0" },
                { "hostPort": 0, "containerPort": 82 },
            ],
            "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": 1, "egressRate": 0 },
            "ips": [],
        },
    }));
    assert_eq!(pod.kind(), Kind::Pod);
    let exposures: Vec<_> = pod.exposures().iter().map(ToString::to_string).collect();
    assert_eq!(exposures.len(), 3);
    assert!(exposures[1].contains("192.0.2.1"), "{exposures:?}");
    let limits = Limits { egress: None, ingress: "1Mbit".parse().ok() };
    assert_eq!(pod.limits(), limits);
    assert_eq!(pod.namespace().unwrap().path, attachment().namespace);
}

#[test]
fn the_policy_is_that_of_a_definition() {
    let policy = |more| pod_of(more).egress().cloned().unwrap();
    let named = policy(json!({ "policy": "none" }));
    assert_eq!(named, policy(json!({ "policy": { "default": "none" } })));
    assert_eq!(named, policy(json!({ "policy": "all", "args": { "cni": { "policy": "none" } } })));
    assert_ne!(
        named,
        policy(json!({ "policy": { "default": "none", "allow": ["192.0.2.0/24"] } }))
    );
    let limits = pod_of(json!({ "limits": { "egress": "10Mbit" } })).limits();
    assert!(limits.egress.is_some());
}

#[test]
fn what_is_wrong_is_named() {
    let said = |more| match read_add(more).and_then(|config| config.pod(&attachment())) {
        Ok(pod) => panic!("{pod:?}"),
        Err(error) => (error.code, format!("{}: {}", error.message, error.details)),
    };
    let wrong =
        |words: &str| (Code::Config, format!("the network configuration is wrong: {words}"));
    assert_eq!(
        said(json!({ "polcy": {} })),
        wrong("unknown key \"polcy\"; did you mean \"policy\"?")
    );
    assert!(said(json!({ "ipam": {} })).1.contains("unknown key \"ipam\"; known are "));
    assert_eq!(
        said(json!({ "policy": { "alow": [] } })),
        wrong("policy.alow: unknown field; did you mean \"allow\"?")
    );
    assert!(said(json!({ "policy": "interne" })).1.contains("did you mean \"internet\"?"));
    assert!(said(json!({ "limits": { "egress": "1bit" } })).1.contains("limits.egress: "));
    assert_eq!(said(json!({ "stateDir": "here" })), wrong("stateDir: expected an absolute path"));
    assert_eq!(said(json!({ "name": "" })).1, "the network configuration is wrong: name: missing");
    assert!(said(json!({ "name": "a/b" })).1.contains("name: it has letters, digits"));
    assert_eq!(said(json!({ "name": 7 })), wrong("name: expected text"));
    let names = json!({ "allow": ["*.example.org:443"] });
    assert!(
        said(json!({ "policy": names })).1.contains("policy.allow: *.example.org:443 is a name")
    );
    let ports = |mapping: Value| said(json!({ "runtimeConfig": { "portMappings": [mapping] } })).1;
    assert!(ports(json!({ "hostport": 1 })).contains("did you mean \"hostPort\"?"));
    assert!(ports(json!({ "hostPort": 1, "containerPort": 70_000 })).contains("portMappings[0]"));
    for (mapping, words) in [
        (json!({ "hostPort": -1, "containerPort": 1 }), "[0].hostPort: port -1 is out of range"),
        (json!({ "hostPort": 1 }), "[0].containerPort: expected a port"),
        (json!({ "hostPort": 1, "containerPort": 1, "hostIP": 7 }), "[0].hostIP: expected text"),
        (
            json!({ "hostPort": 1, "containerPort": 1, "hostIP": "x" }),
            "[0].hostIP: \"x\" is no address",
        ),
        (
            json!({ "hostPort": 1, "containerPort": 1, "protocol": 7 }),
            "[0].protocol: expected text",
        ),
    ] {
        let found = ports(mapping.clone());
        assert!(
            found.contains(&format!("runtimeConfig.portMappings{words}")),
            "{mapping}: {found}"
        );
    }
    let twice = json!({ "hostPort": 1, "containerPort": 1 });
    let (_, clash) = said(json!({ "runtimeConfig": { "portMappings": [twice.clone(), twice] } }));
    assert!(
        clash.ends_with("runtimeConfig.portMappings[1]: tcp 1 -> 1 clashes with tcp 1 -> 1"),
        "{clash}"
    );
    // Whatever stands there, a limit of the runtime is no way in.
    for limits in [json!(7), json!("x"), json!([])] {
        let bandwidth = json!({ "bandwidth": { "ingressRate": 1_000_000 } });
        assert_eq!(
            said(json!({ "limits": limits, "runtimeConfig": bandwidth })),
            wrong("limits: expected an object")
        );
    }
    let v6 = json!({ "hostPort": 1, "containerPort": 1, "hostIP": "2001:db8::1" });
    assert!(ports(v6).contains("IPv6"));
    let (code, text) = said(json!({ "runtimeConfig": { "mac": "02:00:00:00:00:01" } }));
    assert_eq!((code, text.starts_with("runtimeConfig.mac is not supported")), (Code::Field, true));
}

#[test]
fn a_command_needs_its_version() {
    let read = |version: Value, command| {
        let mut config = network(&json!({ "prevResult": {} }));
        config["cniVersion"] = version;
        Config::read(&config.to_string(), command).map(|config| config.version)
    };
    for version in Version::ALL {
        assert_eq!(read(json!(version.as_str()), Command::Add), Ok(version));
    }
    for (version, command) in [
        (Value::Null, Command::Add),
        (json!("0.2.0"), Command::Add),
        (json!("2.0.0"), Command::Del),
        (json!("0.3.1"), Command::Check),
        (json!("1.0.0"), Command::Gc),
        (json!("1.0.0"), Command::Status),
    ] {
        let (_, error) = read(version, command).unwrap_err();
        assert_eq!(error.code, Code::Version);
    }
    let (_, error) = Config::read("{", Command::Add).unwrap_err();
    assert_eq!(error.code, Code::Decoding);
    let without = network(&json!({})).to_string();
    let (version, error) = Config::read(&without, Command::Check).unwrap_err();
    assert_eq!((version.as_deref(), error.code), (Some("1.1.0"), Code::Config));
}

#[test]
fn a_runtime_that_names_no_attachments_is_told_apart_from_one_that_has_none() {
    let valid = |more| read_add(more).unwrap().valid;
    assert_eq!(valid(json!({})), None);
    assert_eq!(valid(json!({ "cni.dev/valid-attachments": [] })), Some(vec![]));
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let one = json!([{ "containerID": "web", "ifname": "eth0" }]);
        assert_eq!(valid(json!({ key: one })).unwrap()[0].name("net"), attachment().name("net"));
    }
}

#[test]
fn a_result_has_the_name_servers_under_its_own_names() {
    let dns = |more| read_add(more).unwrap().dns;
    let asked =
        json!({ "servers": ["192.0.2.53"], "searches": ["a.example"], "options": ["ndots:1"] });
    let result =
        json!({ "nameservers": ["192.0.2.53"], "search": ["a.example"], "options": ["ndots:1"] });
    let configured = json!({ "nameservers": ["192.0.2.54"], "domain": "b.example" });
    assert_eq!(dns(json!({ "runtimeConfig": { "dns": asked } })), Some(result.clone()));
    assert_eq!(dns(json!({ "dns": configured, "runtimeConfig": { "dns": asked } })), Some(result));
    let empty = json!({ "dns": { "servers": [] } });
    assert_eq!(dns(json!({ "dns": configured, "runtimeConfig": empty })), Some(configured));
    assert_eq!(dns(json!({ "dns": {} })), None);
    let wrong = |more| read_add(more).unwrap_err().details;
    assert_eq!(wrong(json!({ "dns": 7 })), "dns: expected an object");
    assert_eq!(
        wrong(json!({ "dns": { "nameservers": ["x"] } })),
        "dns.nameservers: expected a list of addresses"
    );
    assert_eq!(wrong(json!({ "dns": { "domain": [] } })), "dns.domain: expected text");
    let unknown = json!({ "runtimeConfig": { "dns": { "nameservers": [] } } });
    assert!(wrong(unknown).starts_with("runtimeConfig.dns: unknown key \"nameservers\""));
}

#[test]
fn what_removes_reads_no_more_than_what_it_needs() {
    let odd =
        network(&json!({ "polcy": 7, "runtimeConfig": 7, "limits": 7, "dns": 7 })).to_string();
    for command in [Command::Del, Command::Gc] {
        assert_eq!(Config::read(&odd, command).unwrap().name, "net");
    }
    for command in [Command::Add, Command::Status] {
        assert_eq!(Config::read(&odd, command).unwrap_err().1.code, Code::Config);
    }
}
