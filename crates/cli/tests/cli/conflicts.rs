//! Valid definitions that conflict with the state of the host.

use std::net::{TcpListener, UdpSocket};

use crate::environment::{Environment, HELLO};

/// Returns the definition of `hello` under another name and on another port.
fn other(name: &str, port: &str) -> String {
    HELLO.replace("\"hello\"", &format!("{name:?}")).replace("8080", port)
}

#[test]
fn port_of_another_function_is_refused() {
    let environment = Environment::with_hello();
    environment.write("other.json", other("other", "8080"));
    environment.write("range.json", other("range", "\"8079-8081\"").replace("3000", "\"1-3\""));
    let refused = ["up", "plan"].map(|command| environment.refused(1, &[command, "other.json"]));
    insta::assert_snapshot!(refused[0], @r"
    error: cannot expose tcp 8080 -> 3000 for other: hello has tcp 8080 -> 3000
    hint: choose another port, or run `riklet-sdn down hello` first
    ");
    assert_eq!(refused[0], refused[1]);
    insta::assert_snapshot!(environment.refused(1, &["up", "range.json"]), @r"
    error: cannot expose tcp 8079-8081 -> 1-3 for range: hello has tcp 8080 -> 3000
    hint: choose another port, or run `riklet-sdn down hello` first
    ");
    // The holder can give the port up in the same call.
    environment.write("hello.json", other("hello", "9000"));
    environment.run(&["up", "hello.json", "other.json"]).success();
}

#[test]
fn port_of_a_local_process_is_refused() {
    let environment = Environment::with_hello();
    environment.write("other.json", other("other", "9000"));
    let _process = TcpListener::bind("0.0.0.0:9000").unwrap();
    let _another_protocol = UdpSocket::bind("127.0.0.1:9000").unwrap();
    insta::with_settings!({ filters => vec![(r"\S+ \(pid \d+\)", "PROCESS (pid N)")] }, {
        let refused = ["up", "plan"].map(|command| environment.refused(1, &[command, "other.json"]));
        insta::assert_snapshot!(refused[0], @r"
        error: cannot expose tcp 9000 -> 3000 for other: it would shadow PROCESS (pid N), which listens on tcp port 9000
        hint: choose another port, end that process, or write `shadow: true` in the exposure to take its packets
        ");
        assert_eq!(refused[0], refused[1]);
        let insists = other("other", "9000, \"shadow\": true");
        environment.write("other.json", insists);
        insta::assert_snapshot!(environment.refused(1, &["up", "--strict", "other.json"]), @r"
        error: cannot expose tcp 9000 -> 3000 for other: it would shadow PROCESS (pid N), which listens on tcp port 9000
        hint: choose another port, end that process, or leave --strict out
        ");
        insta::assert_snapshot!(environment.run(&["plan", "other.json"]), @r"
        + TAP rik1: address 10.231.0.5/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.6 at 06:52:49:4b:00:01
        + firewall: tcp 9000 -> 10.231.0.6:3000
        + firewall: hairpin 10.231.0.6
        ---- stderr ----
        warning: other: tcp 9000 -> 3000 shadows PROCESS (pid N), which listens on tcp port 9000
        ");
        insta::assert_snapshot!(environment.run(&["up", "other.json"]), @r"
        NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
        other  rik1       10.231.0.6  10.231.0.5    tcp 9000 -> 3000
        ---- stderr ----
        warning: other: tcp 9000 -> 3000 shadows PROCESS (pid N), which listens on tcp port 9000
        ");
    });
    // A function that is already up is not refused.
    environment.run(&["up", "--strict", "other.json"]).success();
}

#[test]
fn json_output_contains_warnings() {
    let environment = Environment::new();
    let process = TcpListener::bind("127.0.0.1:8080").unwrap();
    environment.write("hello.json", other("hello", "8080, \"shadow\": true"));
    for command in ["plan", "up"] {
        let report = environment.run(&[command, "hello.json", "--output", "json"]).json();
        let warning = report["warnings"][0].as_str().unwrap();
        assert!(warning.contains("which listens on tcp port 8080"), "{warning}");
    }
    drop(process);
}

#[test]
fn mark_mask_is_remembered() {
    let environment = Environment::new();
    environment.run(&["up", "--mark-mask", "0x7f00", "hello.json"]).success();
    assert_eq!(environment.run(&["check"]).code, Some(0));
    insta::assert_snapshot!(
        environment.refused(2, &["up", "--mark-mask", "0x7f", "hello.json"]),
        @r"
    error: mark-mask is configured as 0x7f, and this node has used 0x7f00 since its first instance
    hint: `riklet-sdn repair --mark-mask 0x7f` changes it for all functions
    "
    );
    environment.run(&["repair", "--mark-mask", "0x7f"]).success();
    assert_eq!(environment.run(&["check"]).code, Some(0));
}

#[test]
fn run_refuses_a_function_that_is_already_up() {
    let environment = Environment::with_hello();
    insta::assert_snapshot!(environment.refused(1, &["run", "hello.json"]), @r"
    error: hello is already recorded
    hint: `riklet-sdn down hello` first
    ");
}

#[test]
fn exhausted_pool_is_refused() {
    let environment = Environment::new();
    environment.write("config.toml", "pool = \"10.9.0.0/29\"");
    environment.write("two.json", format!("[{}, {}]", other("a", "81"), other("b", "82")));
    environment.run(&["up", "two.json"]).success();
    insta::assert_snapshot!(environment.refused(1, &["up", "hello.json"]), @r"
    error: no free slot for hello: the pool has 2, and all are taken
    hint: take an instance down; or all with `riklet-sdn down --all --purge`, and set pool to a larger network
    ");
    environment.run(&["down", "a"]).success();
    environment.run(&["up", "hello.json"]).success();
}

#[test]
fn default_pool_avoids_routes_and_an_explicit_one_warns() {
    let environment = Environment::new();
    environment.tool("ip", &["route", "add", "10.231.7.0/24", "dev", "lo"]);
    let up = environment.run(&["up", "hello.json"]).success();
    assert!(up.contains("10.232.0.2"), "{up}");
    environment.run(&["down", "--all", "--purge"]).success();
    // An explicit range is used, with a warning.
    let up = environment.run(&["up", "hello.json", "--pool", "10.231.0.0/16"]);
    let warning = "the pool 10.231.0.0/16 overlaps the host's route to 10.231.7.0/24 by lo";
    assert!(up.stderr.contains(warning), "{up}");
    assert!(up.code == Some(0) && up.stdout.contains("10.231.0.2"), "{up}");
    environment.run(&["down", "--all", "--purge"]).success();
    environment.tool("ip", &["route", "add", "10.224.0.0/12", "dev", "lo"]);
    insta::assert_snapshot!(environment.refused(2, &["up", "hello.json"]), @r"
    error: the pool 10.231.0.0/16 overlaps the host's route to 10.224.0.0/12 by lo
    hint: set pool to a range that no route covers
    ");
}

#[test]
fn settings_of_the_first_use_cannot_be_changed() {
    let environment = Environment::with_hello();
    insta::assert_snapshot!(environment.refused(2, &["list", "--pool", "10.9.0.0/16"]), @r"
    error: pool is configured as 10.9.0.0/16, and this node has used 10.231.0.0/16 since its first instance
    hint: take all instances down with `riklet-sdn down --all --purge`; the next `up` decides anew
    ");
    insta::assert_snapshot!(environment.refused(2, &["up", "hello.json", "--firewall", "iptables"]), @r"
    error: firewall is configured as iptables, and this node has used nftables since its first instance
    hint: take all instances down with `riklet-sdn down --all --purge`; the next `up` decides anew
    ");
    environment.run(&["down", "--all", "--purge"]).success();
    environment.run(&["up", "hello.json", "--pool", "10.9.0.0/16"]).success();
}

#[test]
fn unknown_names_are_refused() {
    let environment = Environment::new();
    // Nothing is created for the search.
    insta::assert_snapshot!(environment.refused(1, &["down", "hello"]), @r"
    error: no instance named hello is recorded
    hint: `riklet-sdn list` shows what $DIR/state records
    ");
    environment.refused(1, &["down", "hello", "--purge"]);
    environment.refused(1, &["inspect", "hello"]);
    environment.run(&["up", "hello.json"]).success();
    for command in ["down", "inspect"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(environment.refused(1, &[command, "helo"]), @r"
            error: no instance named helo is recorded
            hint: did you mean hello?
            ");
        }
    }
    insta::assert_snapshot!(environment.refused(1, &["down", "hello", "world"]), @r"
    error: no instance named world is recorded
    hint: `riklet-sdn list` shows what $DIR/state records
    ");
    insta::assert_snapshot!(environment.refused(1, &["inspect", "helo", "--output", "json"]), @r#"
    {
      "error": "no instance named helo is recorded",
      "hint": "did you mean hello?"
    }
    "#);
}

#[test]
fn purge_is_refused_while_other_functions_remain() {
    let environment = Environment::with_hello();
    environment.write("other.json", other("other", "81"));
    environment.run(&["up", "other.json"]).success();
    insta::assert_snapshot!(environment.refused(1, &["down", "hello", "--purge"]), @r"
    error: --purge removes what all instances share, but these remain: other
    hint: use `riklet-sdn down --all --purge`
    ");
}

#[test]
fn foreign_interface_with_a_taps_name_is_kept() {
    let environment = Environment::new();
    environment.tool("ip", &["tuntap", "add", "rik0", "mode", "tap"]);
    environment.write("other.json", other("other", "81"));
    // They need both slots, including the one whose name is taken.
    let output = environment.run(&["--pool", "10.231.0.0/29", "up", "hello.json", "other.json"]);
    insta::assert_snapshot!(output, @r"
    NAME   INTERFACE  GUEST       HOST ADDRESS  EXPOSURES
    other  rik1       10.231.0.6  10.231.0.5    tcp 81 -> 3000
    ---- stderr ----
    error: hello is not up: the interface rik0 exists and is not ours: its alias is empty
    hint: rename or delete rik0 (`ip link delete rik0`), then `riklet-sdn repair`
    ---- exit code 1 ----
    ");
    let output = environment.run(&["up", "hello.json", "--output", "json"]);
    assert_eq!(output.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let complaint: serde_json::Value = serde_json::from_str(&output.stderr).unwrap();
    assert_eq!(report["failures"][0]["name"], "hello");
    assert_eq!(report["failures"][0]["error"], complaint["error"]);
    assert_eq!(report["failures"][0]["hint"], complaint["hint"]);

    environment.tool("ip", &["link", "delete", "rik0"]);
    environment.run(&["repair"]).success();
    environment.run(&["inspect", "hello"]).success();
}
