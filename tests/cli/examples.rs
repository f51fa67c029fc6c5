//! The definitions of `examples/`, which run as they stand.

use std::{fs, path::Path};

use crate::environment::Environment;

#[test]
fn every_example_is_a_definition() {
    let environment = Environment::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().unwrap() != "rs").collect();
    files.sort();
    let names: Vec<_> =
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["hello.json", "ports.yaml", "two-functions.yaml"]);
    let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
    for file in &files {
        let plan = environment.run(&["plan", file]).success();
        assert!(plan.starts_with("+ TAP rik0: "), "{file}:\n{plan}");
    }
    // They get on with each other.
    let all = environment.run(&[&["up"], &files[..]].concat()).success();
    insta::assert_snapshot!(all, @r"
    NAME   TAP   GUEST        HOST ADDRESS  EXPOSURES
    api    rik2  10.231.0.10  10.231.0.9    tcp 8081 -> 3000
    front  rik3  10.231.0.14  10.231.0.13   tcp 8082 -> 3000
    hello  rik0  10.231.0.2   10.231.0.1    tcp 8080 -> 3000
    ports  rik1  10.231.0.6   10.231.0.5    tcp 8090 -> 80
                                            udp 5300 -> 5300
                                            tcp 127.0.0.1:9090 -> 9090
                                            tcp 7000-7010 -> 4000-4010
    ");
}
