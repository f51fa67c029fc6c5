//! The definitions in `examples/`, which must work unchanged.

use std::{fs, path::Path};

use riklet_sdn::{Config, FirewallChoice};

use crate::environment::Environment;

#[test]
fn every_example_is_a_valid_definition() {
    let environment = Environment::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.is_file()).collect();
    files.sort();
    let names: Vec<_> =
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    let expected =
        ["firecracker.yaml", "hello.json", "ports.yaml", "qemu.yaml", "two-functions.yaml"];
    assert_eq!(names, expected);
    let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
    for file in &files {
        let plan = environment.run(&["plan", file]).success();
        assert!(plan.starts_with("+ TAP rik0: "), "{file}:\n{plan}");
    }
    // They do not conflict with each other.
    let all = environment.run(&[&["up"], &files[..]].concat()).success();
    insta::assert_snapshot!(all, @r"
    NAME   INTERFACE  GUEST        HOST ADDRESS  EXPOSURES
    api    rik4       10.231.0.18  10.231.0.17   tcp 8081 -> 3000
    fc     rik0       10.231.0.2   10.231.0.1    tcp 8070 -> 80
    front  rik5       10.231.0.22  10.231.0.21   tcp 8082 -> 3000
    hello  rik1       10.231.0.6   10.231.0.5    tcp 8080 -> 3000
    ports  rik2       10.231.0.10  10.231.0.9    tcp 8090 -> 80
                                                 udp 5300 -> 5300
                                                 tcp 127.0.0.1:9090 -> 9090
                                                 tcp 7000-7010 -> 4000-4010
    vm     rik3       10.231.0.14  10.231.0.13   tcp 8060 -> 3000
    ");
}

#[expect(dead_code, reason = "its `main` is for who runs it")]
#[path = "../../../../examples/embed/src/main.rs"]
mod embed;

#[test]
fn embedding_agent_exposes_its_function_while_the_vmm_runs() {
    let environment = Environment::new();
    let state_dir = environment.path("state");
    let mut config = Config::in_directory(state_dir);
    config.firewall = FirewallChoice::Nftables;
    let before = environment.snapshot();
    embed::serve(config, |instance| {
        assert_eq!(instance.interface().to_string(), "rik0");
        assert_eq!(instance.addresses.v4.guest.to_string(), "10.231.0.2");
        let hello = environment.run(&["inspect", "hello"]).success();
        assert!(hello.contains("rik0 (ready)") && hello.contains("(in the firewall)"), "{hello}");
        environment.run(&["check"]).done();
    })
    .unwrap();
    assert_eq!(environment.run(&["list", "--output", "json"]).success(), "[]\n");
    environment.run(&["down", "--all", "--purge"]).success();
    environment.tool("rm", &["-r", "state"]);
    environment.assert_unchanged(&before, "the agent");
}
