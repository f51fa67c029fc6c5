//! Definitions that are refused: exit code 2, an error with the file, the line and the field, and no changes.

use serde_json::{Value, json};

use crate::environment::Environment;

/// Returns the definition of a function with this name and these exposures, one line but for the last two fields.
fn function(name: &str, exposures: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Function\nname: {name}\nspec:\n  function:\n    exposure: {exposures}\n"
    )
}

/// Returns the errors that `up` prints for each of these texts.
fn complaints<'a>(texts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let environment = Environment::with_hello();
    let refused = texts.into_iter().map(|(file, text)| {
        environment.write(file, text);
        environment.refused(2, &["up", file])
    });
    refused.collect()
}

#[test]
fn malformed_definitions_are_refused() {
    insta::assert_snapshot!(complaints([
        ("brace.json", "{\n  \"apiVersion\": \"v1\",\n  \"kind\" \"Function\"\n}".to_owned()),
        ("cut.json", "{ \"apiVersion\": \"v1\"".to_owned()),
        ("bracket.yaml", "apiVersion: v1\nkind: [Function\n".to_owned()),
        ("tab.yaml", "apiVersion: v1\nspec:\n\tfunction: {}\n".to_owned()),
        ("empty.yaml", String::new()),
        ("list.json", "[]".to_owned()),
        ("number.yaml", "7\n".to_owned()),
    ]), @r"
    error: brace.json:3:10: not valid JSON: expected `:`
    error: cut.json:1:20: not valid JSON: EOF while parsing an object
    error: bracket.yaml:2:7: not valid YAML: unclosed bracket '['
    error: tab.yaml:3:2: not valid YAML: tabs disallowed within this context (block indentation)
    error: empty.yaml:1:1: the text contains no definition
    error: list.json:1:1: the text contains no definition
    error: number.yaml:1:1: expected an object, found a number
    ");
}

#[test]
fn unknown_fields_and_kinds_are_refused() {
    let hello = || function("a", "{ port: 80 }");
    insta::assert_snapshot!(complaints([
        ("near.yaml", function("a", "{ port: 80, targetport: 81 }")),
        ("far.yaml", hello() + "colour: blue\n"),
        ("kind.yaml", hello().replace("Function", "Functoin")),
        ("far-kind.yaml", hello().replace("Function", "Deployment")),
        ("pod.json", include_str!("../../../core/tests/definitions/rik-workload-1.json").to_owned()),
        ("version.yaml", hello().replace("v1", "v2")),
        ("replicas.yaml", hello() + "replicas: 3\n"),
    ]), @r#"
    error: near.yaml:6:27: spec.function.exposure.targetport: unknown field; did you mean "targetPort"?
    error: far.yaml:7:1: colour: unknown field; expected one of apiVersion, kind, name, replicas, spec
    error: kind.yaml:2:7: kind: unknown kind "Functoin"; did you mean "Function"?
    error: far-kind.yaml:2:7: kind: unknown kind "Deployment"; expected Function or Pod
    error: alpine: a Pod needs a network namespace
    hint: give one by `--netns PATH`, or as `spec.pod.namespace` in the definition
    error: version.yaml:1:13: apiVersion: unknown version "v2"; expected "v1"
    error: replicas.yaml:7:11: replicas: a definition is one instance, not 3; set it to 1, and write a definition with a name of its own for each
    "#);
}

#[test]
fn names() {
    let named = |name: &str| function(name, "{ port: 80 }");
    insta::assert_snapshot!(complaints([
        ("empty.yaml", named("''")),
        ("long.yaml", named(&"n".repeat(64))),
        ("upper.yaml", named("Hello")),
        ("underscore.yaml", named("a_b")),
        ("option.yaml", named("-all")),
        ("twice.yaml", format!("{}---\n{}", named("a"), function("a", "{ port: 81 }"))),
    ]), @r#"
    error: empty.yaml:3:7: name: the name is empty
    error: long.yaml:3:7: name: the name is 64 characters long; at most 63 are allowed
    error: upper.yaml:3:7: name: the name has the character 'H' at position 1; allowed are a-z, 0-9, '.' and '-'
    error: underscore.yaml:3:7: name: the name has the character '_' at position 2; allowed are a-z, 0-9, '.' and '-'
    error: option.yaml:3:7: name: the name "-all" starts or ends with '.' or '-'; both ends must be a letter or a digit
    error: twice.yaml:10:7: name: a is already defined at twice.yaml:3:7
    "#);
}

#[test]
fn ports() {
    let exposed = |exposures: &str| function("a", exposures);
    insta::assert_snapshot!(complaints([
        ("zero.yaml", exposed("{ port: 0 }")),
        ("high.yaml", exposed("{ port: 65536 }")),
        ("target.yaml", exposed("{ port: 80, targetPort: 0 }")),
        ("reversed.yaml", exposed("{ port: 8010-8000 }")),
        ("lengths.yaml", exposed("{ port: 8000-8010, targetPort: 3000-3001 }")),
        ("protocol.yaml", exposed("{ port: 80, protocol: ICMP }")),
        ("address.yaml", exposed("{ port: 80, hostAddress: localhost }")),
        ("clash.yaml", exposed("[{ port: 80 }, { port: 79-81, targetPort: 1-3 }]")),
        ("others.yaml", format!("{}---\n{}", exposed("{ port: 80 }"), function("b", "{ port: 80 }"))),
    ]), @r#"
    error: zero.yaml:6:23: spec.function.exposure.port: port 0 is out of range; ports are 1 to 65535
    error: high.yaml:6:23: spec.function.exposure.port: port 65536 is out of range; ports are 1 to 65535
    error: target.yaml:6:39: spec.function.exposure.targetPort: port 0 is out of range; ports are 1 to 65535
    error: reversed.yaml:6:23: spec.function.exposure.port: the range 8010-8000 is reversed: write 8000-8010
    error: lengths.yaml:6:15: spec.function.exposure: port 8000-8010 has 11 ports, targetPort 3000-3001 has 2: the lengths must be the same
    error: protocol.yaml:6:37: spec.function.exposure.protocol: unknown protocol "ICMP"; TCP, UDP and SCTP are known
    error: address.yaml:6:40: spec.function.exposure.hostAddress: "localhost" is not an IPv4 address
    error: clash.yaml:6:30: spec.function.exposure[1]: tcp 79-81 -> 1-3 clashes with tcp 80 -> 80 at clash.yaml:6:16
    error: others.yaml:13:15: spec.function.exposure: tcp 80 -> 80 clashes with tcp 80 -> 80 at others.yaml:6:15
    "#);
}

#[test]
fn unreadable_files_are_refused() {
    let environment = Environment::with_hello();
    environment.write("latin1.yaml", b"apiVersion: v1\nname: caf\xe9\n");
    environment.write("long.json", "x".repeat(2 << 20));
    environment.tool("mkdir", &["directory"]);
    let files = ["missing.json", "directory", "latin1.yaml", "long.json", "/dev/zero"];
    let refused = files.map(|file| environment.refused(2, &["up", file]));
    insta::assert_snapshot!(refused.concat(), @r"
    error: cannot read missing.json: No such file or directory (os error 2)
    error: directory has no file that ends in .json, .yaml, .yml
    error: latin1.yaml:2:10: not UTF-8 text
    error: long.json: longer than 1048576 bytes, the most that is read
    error: /dev/zero: longer than 1048576 bytes, the most that is read
    ");
}

#[test]
fn one_invalid_definition_prevents_all_changes() {
    let environment = Environment::with_hello();
    environment.write("good.yaml", function("good", "{ port: 81 }"));
    environment.write("bad.yaml", function("bad", "{ port: 0 }"));
    for command in ["up", "plan", "run"] {
        let complaint = environment.refused(2, &[command, "good.yaml", "bad.yaml", "hello.json"]);
        assert_eq!(
            complaint,
            "error: bad.yaml:6:23: spec.function.exposure.port: port 0 is out of range; ports are 1 to 65535\n"
        );
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let environment = Environment::new();
    environment.write("bad.yaml", function("Bad", "{ prot: 80 }"));
    let complaint = environment.refused(2, &["up", "hello.json", "bad.yaml", "hello.json"]);
    insta::assert_snapshot!(complaint, @r#"
    error:
    bad.yaml:3:7: name: the name has the character 'B' at position 1; allowed are a-z, 0-9, '.' and '-'
    bad.yaml:6:15: spec.function.exposure.port: missing
    bad.yaml:6:17: spec.function.exposure.prot: unknown field; did you mean "port"?
    hello.json:4:11: name: hello is already defined at hello.json:4:11
    hello.json:8:19: spec.function.exposure: tcp 8080 -> 3000 clashes with tcp 8080 -> 3000 at hello.json:8:19
    "#);
    let complaint = environment.refused(2, &["--output", "json", "up", "bad.yaml"]);
    let complaint: Value = serde_json::from_str(&complaint).unwrap();
    assert_eq!(
        complaint["details"][2],
        json!({
            "file": "bad.yaml", "line": 6, "column": 17, "field": "spec.function.exposure.prot",
            "reason": "unknown field", "hint": "did you mean \"port\"?",
        })
    );
    let lines = complaint["error"].as_str().unwrap().lines();
    assert_eq!(lines.count(), complaint["details"].as_array().unwrap().len());
}

#[test]
fn definitions_are_read_from_standard_input() {
    let environment = Environment::new();
    let bad = environment.run_with(&["up", "-"], &[], "kind: [");
    insta::assert_snapshot!(bad.failure(2), @"error: -:1:7: not valid YAML: unclosed bracket '['");
    let good = environment.run_with(&["up", "-"], &[], &function("a", "{ port: 80 }"));
    assert!(good.success().contains("tcp 80 -> 80"));
}
