//! Files, directories of files, and no file at all.

use crate::environment::{Environment, HELLO, TWO, transcript};

/// Returns an environment with a directory of definitions, among files that are none.
fn with_directory() -> Environment {
    let environment = Environment::new();
    environment.tool("mkdir", &["-p", "functions/more.json"]);
    environment.tool("cp", &["hello.json", "functions/b.json"]);
    environment.write("functions/a.yaml", TWO);
    environment.write("functions/notes.txt", "kind: [");
    environment.write("functions/.hidden.json", "kind: [");
    environment.tool("mkdir", &["empty"]);
    environment
}

#[test]
fn a_directory_stands_for_its_definitions() {
    let environment = with_directory();
    let commands: [&[&str]; 9] = [
        &["validate", "functions"],
        &["validate", "empty"],
        &["up", "functions/a.yaml", "--file", "functions/b.json"],
        &["list", "--quiet"],
        &["list", "-q", "--output", "json"],
        &["diff", "-f", "functions"],
        &["down", "-f", "functions/a.yaml", "hello"],
        &["list", "-q"],
        &["down", "-f", "functions", "--all"],
    ];
    insta::assert_snapshot!(transcript(&environment, commands), @r#"
    $ riklet-sdn validate functions
    Function resolver: udp 127.0.0.1:53 -> 53, tcp 8000-8002 -> 80-82
    Function worker: no exposure
    Function hello: tcp 8080 -> 3000
    $ riklet-sdn validate empty
    ---- stderr ----
    error: empty has no file that ends in .json, .yaml, .yml
    ---- exit code 2 ----
    $ riklet-sdn up functions/a.yaml --file functions/b.json
    NAME      INTERFACE  GUEST        HOST ADDRESS  EXPOSURES
    hello     rik2       10.231.0.10  10.231.0.9    tcp 8080 -> 3000
    resolver  rik0       10.231.0.2   10.231.0.1    udp 127.0.0.1:53 -> 53
                                                    tcp 8000-8002 -> 80-82
    worker    rik1       10.231.0.6   10.231.0.5    -
    $ riklet-sdn list --quiet
    hello
    resolver
    worker
    $ riklet-sdn list -q --output json
    [
      "hello",
      "resolver",
      "worker"
    ]
    $ riklet-sdn diff -f functions
    ---- stderr ----
    nothing to do
    $ riklet-sdn down -f functions/a.yaml hello
    $ riklet-sdn list -q
    $ riklet-sdn down -f functions --all
    ---- stderr ----
    error: the argument '--file <FILE>' cannot be used with '--all'

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --file <FILE>...
           riklet-sdn down [OPTIONS] --all [--purge]

    For more information, try '--help'.
    ---- exit code 2 ----
    "#);
}

#[test]
fn definitions_are_validated_by_anybody_anywhere() {
    let environment = Environment::new();
    environment.write("two.yaml", TWO);
    let before = environment.snapshot();
    // An ordinary user, in a directory of which nothing can be written.
    let validated = environment.shell(
        "setpriv --reuid=65534 --clear-groups --inh-caps=-all $PROGRAM validate --output json - < two.yaml",
    );
    let validated = validated.success();
    let documents: Vec<serde_json::Value> = serde_json::from_str(&validated).unwrap();
    assert_eq!(
        documents.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["resolver", "worker"]
    );
    // What is printed is a definition again.
    let again = environment.run_with(&["validate", "--output", "json", "-"], &[], &validated);
    assert_eq!(again.success(), validated);
    environment.assert_unchanged(&before, "validate");
}

#[test]
fn options_that_describe_no_function_are_refused() {
    let environment = Environment::new();
    let wrong: [&[&str]; 12] = [
        &["--publish", "3000"],
        &["-p", "80:80", "-p", "81:81", "-p", "80-90:80-90"],
        &["-p", "127.0.0.53:80:80"],
        &["--name", "Web"],
        &["--memory", "5"],
        &["--vcpus", "0"],
        &["--vmm", "qemo"],
        &["--kernel", ""],
        &["--boot-args", "a\nb"],
        &["--allow", "example.org:443"],
        &["--name", "web", "hello.json"],
        &["-p", "80:80", "-f", "hello.json"],
    ];
    let refused = wrong.map(|options| environment.refused(2, &[&["run"], options].concat()));
    insta::assert_snapshot!(refused.concat(), @r#"
    error: invalid value '3000' for '--publish <PORT:TARGET>': it names one port: the host's comes first, as in 8080:3000

    For more information, try '--help'.
    error: --publish: tcp 80-90 -> 80-90 clashes with tcp 80 -> 80
    error: invalid value '127.0.0.53:80:80' for '--publish <PORT:TARGET>': hostAddress 127.0.0.53 is not published: of 127.0.0.0/8, only 127.0.0.1 is

    For more information, try '--help'.
    error: invalid value 'Web' for '--name <NAME>': the name has the character 'W' at position 1; allowed are a-z, 0-9, '.' and '-'

    For more information, try '--help'.
    error: invalid value '5' for '--memory <SIZE>': "5" is not an amount of memory; write MiB as a number, or 524288K, 512M, 2G

    For more information, try '--help'.
    error: invalid value '0' for '--vcpus <COUNT>': 0 is out of range: 1 to 32

    For more information, try '--help'.
    error: invalid value 'qemo' for '--vmm <VMM>'
      [possible values: firecracker, qemu, cloud-hypervisor, builtin]

      tip: a similar value exists: 'qemu'

    For more information, try '--help'.
    error: invalid value '' for '--kernel <IMAGE>': the path or URL is empty

    For more information, try '--help'.
    error: invalid value 'a
    b' for '--boot-args <TEXT>': there is '\n' at position 2; a kernel's command line is one line of text

    For more information, try '--help'.
    error: invalid value 'example.org:443' for '--allow <DESTINATION>': "example.org" is a name, which only `allow` of a definition takes: here, write addresses, networks or "host"

    For more information, try '--help'.
    error: the argument '--name <NAME>' cannot be used with '[FILE]...'

    Usage: riklet-sdn run [OPTIONS] <FILE>...
           riklet-sdn run [OPTIONS] [--publish <PORT:TARGET>]...

    For more information, try '--help'.
    error: the argument '--publish <PORT:TARGET>' cannot be used with '--file <FILE>'

    Usage: riklet-sdn run [OPTIONS] <FILE>...
           riklet-sdn run [OPTIONS] [--publish <PORT:TARGET>]...

    For more information, try '--help'.
    "#);
}

#[test]
fn the_schema_takes_definitions_and_refuses_others() {
    let environment = Environment::new();
    let schema = environment.run(&["schema"]).success();
    assert_eq!(environment.run(&["schema", "--output", "json"]).success(), schema);
    environment.write("schema.json", schema);
    environment.write("two.yaml", TWO);
    let two = environment.run(&["validate", "--output", "json", "two.yaml"]).success();
    environment.write("two.json", two);
    let valid = |file: &str| {
        // jsonschema(1) tells whether a document satisfies a schema.
        let check = format!("python3 -W ignore -m jsonschema --instance {file} schema.json");
        environment.shell(&check).code == Some(0)
    };
    assert!(valid("hello.json") && valid("two.json"));
    let hello: serde_json::Value = serde_json::from_str(HELLO).unwrap();
    let wrong: [(&str, serde_json::Value); 6] = [
        ("/kind", "Deployment".into()),
        ("/name", "-hello".into()),
        ("/replicas", 2.into()),
        ("/spec/function/exposure/port", 0.into()),
        ("/spec/function/exposure/type", "ClusterIP".into()),
        ("/spec/function", serde_json::json!({ "exposures": [] })),
    ];
    for (field, value) in wrong {
        let mut definition = hello.clone();
        *definition.pointer_mut(field).unwrap() = value;
        environment.write("wrong.json", definition.to_string());
        assert!(!valid("wrong.json"), "{field}");
        environment.refused(2, &["validate", "wrong.json"]);
    }
}
