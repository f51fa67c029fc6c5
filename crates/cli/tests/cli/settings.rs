//! The order of settings: flags, then the environment, then the configuration file, then the defaults.

use crate::{daemon::Daemon, environment::Environment};

/// Returns the part of `plan`'s output about the pool, the uplinks and the MTU.
fn plan(environment: &Environment, flags: &[&str], variables: &[(&str, &str)]) -> String {
    let arguments = [&["plan", "hello.json"], flags].concat();
    environment.run_with(&arguments, variables, "").success()
}

#[test]
fn flag_precedes_environment_file_and_default() {
    let environment = Environment::new();
    for [one, other] in [["eth1", "eth2"], ["eth3", "eth4"]] {
        environment.tool("ip", &["link", "add", one, "type", "veth", "peer", "name", other]);
    }
    // Each setting has a flag, a variable and a key with the same name, and words of the plan in which `VALUE` is the
    // value.
    let settings = [
        ("pool", "guests VALUE,", ["10.6.0.0/16", "10.7.0.0/16", "10.8.0.0/16", "10.231.0.0/16"]),
        ("uplink", "uplinks VALUE\n", ["eth1", "eth2", "eth3", "none"]),
        ("mtu", "MTU VALUE,", ["1201", "1202", "1203", "1500"]),
    ];
    for (name, words, [flag, variable, file, default]) in settings {
        let shows = |plan: String, value: &str| {
            let words = words.replace("VALUE", value);
            assert!(plan.contains(&words), "{words:?} is not in\n{plan}");
        };
        let key = format!("RIKLET_SDN_{}", name.to_uppercase());
        let option = format!("--{name}={flag}");
        let quote = if name == "mtu" { "" } else { "\"" };
        environment.write("config.toml", format!("{name} = {quote}{file}{quote}\n"));
        shows(plan(&environment, &[&option], &[(&key, variable)]), flag);
        shows(plan(&environment, &[], &[(&key, variable)]), variable);
        shows(plan(&environment, &[], &[]), file);
        environment.write("config.toml", "");
        shows(plan(&environment, &[], &[]), default);
    }
}

#[test]
fn firewall_setting_has_the_same_precedence() {
    let environment = Environment::new();
    // There is no program `iptables`, so choosing it fails.
    let iptables = |flags: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["plan", "hello.json"], flags].concat();
        environment.run_with(&arguments, variables, "").code == Some(3)
    };
    environment.write("config.toml", "firewall = \"iptables\"");
    let (flag, variable) = ("--firewall=iptables", "RIKLET_SDN_FIREWALL");
    assert!(iptables(&[flag], &[(variable, "nftables")]));
    assert!(!iptables(&[], &[(variable, "nftables")]));
    assert!(iptables(&[], &[]));
    environment.write("config.toml", "");
    assert!(!iptables(&[], &[]));
    insta::assert_snapshot!(environment.refused(3, &["plan", "hello.json", flag]), @r"
    error: firewall is configured as iptables, but the program iptables is missing
    hint: install iptables, or set firewall to nftables
    ");
}

#[test]
fn state_directory_setting_has_the_same_precedence() {
    let environment = Environment::new();
    let path = |name: &str| environment.path(name).to_str().unwrap().to_owned();
    environment.write("config.toml", format!("state_dir = \"{}\"", path("file")));
    // The harness sets the variable, so only a shell can run the program without it.
    let looked_in = |script: &str| environment.shell(script).failure(1);
    let flag = format!("$RIKLET inspect x --state-dir {}", path("flag"));
    assert!(looked_in(&flag).contains("what $DIR/flag records"));
    assert!(looked_in("$RIKLET inspect x").contains("what $DIR/state records"));
    let unset = "unset RIKLET_SDN_STATE_DIR; $RIKLET inspect x";
    assert!(looked_in(unset).contains("what $DIR/file records"));
    environment.write("config.toml", "");
    let default = environment.shell_that_mounts(&format!("mount -t tmpfs none /run; {unset}"));
    assert!(default.failure(1).contains("what /run/riklet-sdn records"));
}

#[test]
fn configuration_file_setting_has_the_same_precedence() {
    let environment = Environment::new();
    // Each file contains an unknown key that is named after it, so the error tells which file was read.
    let files = "mount -t tmpfs none /etc; mkdir /etc/riklet-sdn; cd /etc/riklet-sdn; \
                 for file in flag variable config; do echo $file = 1 > $file.toml; done;";
    let run = |script: &str| environment.shell_that_mounts(&format!("{files} {script}"));
    let variable = "export RIKLET_SDN_CONFIG=variable.toml;";
    let flag = run(&format!("{variable} $RIKLET list --config flag.toml"));
    assert!(flag.failure(2).starts_with("error: flag.toml:1:1: flag: unknown key"));
    let variable = run(&format!("{variable} $RIKLET list"));
    assert!(variable.failure(2).starts_with("error: variable.toml:1:1: variable: unknown key"));
    let default = run("unset RIKLET_SDN_CONFIG; $RIKLET list");
    let complaint = "error: /etc/riklet-sdn/config.toml:1:1: config: unknown key";
    assert!(default.failure(2).starts_with(complaint));
    run("unset RIKLET_SDN_CONFIG; rm config.toml; $RIKLET list").success();
}

#[test]
fn output_setting_has_the_same_precedence() {
    let environment = Environment::new();
    let list = |flags: &[&str], variable: &str| {
        let arguments = [&["list"], flags].concat();
        environment.run_with(&arguments, &[("RIKLET_SDN_OUTPUT", variable)], "").success()
    };
    assert_eq!(list(&[], "json"), "[]\n");
    assert!(list(&["--output", "text"], "json").starts_with("NAME"));
    assert!(environment.run(&["list"]).success().starts_with("NAME"));
}

#[test]
fn invalid_values_are_reported_with_file_and_line() {
    let environment = Environment::new();
    let files = [
        "colour = \"blue\"",
        "# the node\nfirewal = \"auto\"",
        "firewall = \"ufw\"",
        "pool = \"10.0.0.0/8\"",
        "pool = \"10.231.4.1/16\"",
        "mtu = 67",
        "mtu = \"1500\"",
        "uplink = [\"eth0\", \"a/b\"]",
        "state_dir = \"state\"",
        "mtu = ",
    ];
    let refused = files.map(|text| {
        environment.write("config.toml", text);
        environment.refused(2, &["list"])
    });
    insta::assert_snapshot!(refused.concat(), @r#"
    error: $DIR/config.toml:1:1: colour: unknown key; expected one of firewall, pool, uplink, mtu, mark_mask, egress, flows, ipv6, state_dir, api, image_dir, image_roots, vmm_uid_base, private_redirects, member_runs
    error: $DIR/config.toml:2:1: firewal: unknown key; did you mean "firewall"?
    error: $DIR/config.toml:1:12: firewall: "ufw" is not auto, iptables or nftables
    error: $DIR/config.toml:1:8: pool: a pool's prefix length must be 14 to 30, not 8
    error: $DIR/config.toml:1:8: pool: 10.231.4.1/16 has bits set after its prefix; the network is 10.231.0.0/16
    error: $DIR/config.toml:1:7: mtu: 67 is not an MTU; these are 68 to 65521 bytes
    error: $DIR/config.toml:1:7: mtu: expected a number, found a string
    error: $DIR/config.toml:1:10: uplink: "a/b" is not an interface name; these have 1 to 15 bytes, without '/', ':', '%' and white space, and are neither all nor default
    error: $DIR/config.toml:1:13: state_dir: "state" is not an absolute path
    error: $DIR/config.toml:1:7: not valid TOML: string values must be quoted, expected literal string
    "#);
    environment.write("config.toml", "mtu = 67");
    insta::assert_snapshot!(environment.refused(2, &["list", "--output", "json"]), @r#"
    {
      "details": [
        {
          "column": 7,
          "field": "mtu",
          "file": "$DIR/config.toml",
          "hint": null,
          "line": 1,
          "reason": "67 is not an MTU; these are 68 to 65521 bytes"
        }
      ],
      "error": "$DIR/config.toml:1:7: mtu: 67 is not an MTU; these are 68 to 65521 bytes",
      "hint": null
    }
    "#);
}

#[test]
fn invalid_flags_and_variables_are_named() {
    let environment = Environment::new();
    let flags = [
        "--pool=10.0.0.0",
        "--mtu=67",
        "--mtu=big",
        "--mark-mask=1",
        "--flows=0",
        "--firewall=ufw",
        "--uplink=a/b",
    ];
    let refused = flags.map(|flag| environment.refused(2, &["list", flag]));
    insta::assert_snapshot!(refused.concat(), @r#"
    error: invalid value '10.0.0.0' for '--pool <NETWORK>': "10.0.0.0" is not an IPv4 network such as 10.231.0.0/16

    For more information, try '--help'.
    error: invalid value '67' for '--mtu <BYTES>': 67 is not an MTU; these are 68 to 65521 bytes

    For more information, try '--help'.
    error: invalid value 'big' for '--mtu <BYTES>': "big" is not an MTU; these are 68 to 65521 bytes

    For more information, try '--help'.
    error: invalid value '1' for '--mark-mask <MASK>': "1" has 1 of the 7 bits that marks take, as 0x7f has: no room for uplinks, policies, packets of guests to the host

    For more information, try '--help'.
    error: invalid value '0' for '--flows <COUNT>': "0" is not a limit of flows; these are 1 to 65536, or unlimited

    For more information, try '--help'.
    error: invalid value 'ufw' for '--firewall <BACKEND>': "ufw" is not auto, iptables or nftables

    For more information, try '--help'.
    error: invalid value 'a/b' for '--uplink <IFACE>': "a/b" is not an interface name; these have 1 to 15 bytes, without '/', ':', '%' and white space, and are neither all nor default

    For more information, try '--help'.
    "#);
    let variables =
        [("RIKLET_SDN_POOL", "10.0.0.0"), ("RIKLET_SDN_MTU", ""), ("RIKLET_SDN_OUTPUT", "xml")];
    let refused = variables.map(|variable| environment.refused_with(2, &["list"], &[variable]));
    insta::assert_snapshot!(refused.concat(), @r#"
    error: invalid value '10.0.0.0' for '--pool <NETWORK>': "10.0.0.0" is not an IPv4 network such as 10.231.0.0/16

      tip: the value is that of RIKLET_SDN_POOL in the environment

    For more information, try '--help'.
    error: invalid value '' for '--mtu <BYTES>': "" is not an MTU; these are 68 to 65521 bytes

      tip: the value is that of RIKLET_SDN_MTU in the environment

    For more information, try '--help'.
    error: invalid value 'xml' for '--output <FORMAT>'
      [possible values: text, json]

      tip: the value is that of RIKLET_SDN_OUTPUT in the environment

    For more information, try '--help'.
    "#);
}

#[test]
fn named_configuration_file_must_exist() {
    let environment = Environment::new();
    insta::assert_snapshot!(environment.refused(2, &["list", "--config", "missing.toml"]), @"error: cannot read missing.toml: No such file or directory (os error 2)");
    let variable = [("RIKLET_SDN_CONFIG", "missing.toml")];
    insta::assert_snapshot!(environment.refused_with(2, &["list"], &variable), @"error: cannot read missing.toml: No such file or directory (os error 2)");
    environment.write("latin1.toml", b"# caf\xe9\n");
    insta::assert_snapshot!(environment.refused(2, &["list", "--config", "latin1.toml"]), @"error: latin1.toml:1:6: not UTF-8 text");
}

#[test]
fn a_flag_that_the_daemon_cannot_honour_is_refused() {
    let environment = Environment::with_hello();
    environment.run(&["down", "--all", "--purge"]).success();
    let daemon = Daemon::start(&environment, &["--mtu", "1400"]);
    environment.run(&["up", "hello.json"]).success();
    let settings = environment.run(&["inspect", "hello", "--output", "json"]).json();
    assert_eq!(settings["mtu"], 1400, "{settings}");
    let refused: Vec<_> =
        ["--mtu 1300 list", "--uplink lo up hello.json", "--pool 10.9.0.0/16 check"]
            .into_iter()
            .map(|line| environment.run(&line.split(' ').collect::<Vec<_>>()).failure(2))
            .collect();
    insta::assert_snapshot!(refused.join("\n"), @r"
    error: --mtu is 1300, but the daemon works with 1400
    hint: leave it out, or start the daemon anew with `--mtu 1300`

    error: --uplink is lo, but the daemon works with what the host has
    hint: leave it out, or start the daemon anew with `--uplink lo`

    error: --pool is 10.9.0.0/16, but the daemon works with 10.231.0.0/16
    hint: leave it out, or start the daemon anew with `--pool 10.9.0.0/16`
    ");
    // What the daemon does anyway is no conflict.
    environment.run(&["--mtu", "1400", "--firewall", "auto", "list"]).success();
    environment.run(&["--no-daemon", "--mtu", "1400", "list"]).success();
    daemon.end();
}

#[test]
fn uplink_and_mtu_stay_as_they_were_set() {
    let environment = Environment::with_hello();
    environment.run(&["down", "--all", "--purge"]).success();
    let mtu = |environment: &Environment| {
        environment.run(&["inspect", "hello", "--output", "json"]).json()["mtu"].clone()
    };
    insta::assert_snapshot!(environment.refused(2, &["--uplink", "nope0", "up", "hello.json"]), @r"
    error: the uplink nope0 does not exist
    hint: `ip link` lists the interfaces of this host
    ");
    environment.run(&["--uplink", "lo", "--mtu", "1400", "up", "hello.json"]).success();
    // Without the flags, they stay.
    environment.run(&["up", "hello.json"]).success();
    environment.run(&["check"]).done();
    assert_eq!(mtu(&environment), 1400);
    insta::assert_snapshot!(environment.refused(2, &["--mtu", "1300", "up", "hello.json"]), @r"
    error: mtu is configured as 1300, and this node has used 1400 since its first instance
    hint: `riklet-sdn repair --mtu 1300` changes it for all functions
    ");
    environment.run(&["repair", "--mtu", "1300"]).success();
    assert_eq!(mtu(&environment), 1300);
    environment.run(&["check"]).done();
    insta::assert_snapshot!(environment.refused(2, &["--uplink", "nope0", "repair"]), @r"
    error: the uplink nope0 does not exist
    hint: `ip link` lists the interfaces of this host
    ");
    environment.run(&["down", "--all", "--purge"]).success();
    environment.run(&["up", "hello.json"]).success();
    assert_ne!(mtu(&environment), 1300, "a purge forgets it");
}
