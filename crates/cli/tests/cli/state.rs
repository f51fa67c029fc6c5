//! State directories that cannot be used.

use std::{fs::OpenOptions, os::unix::fs::FileExt};

use crate::environment::{Environment, HELLO, transcript};

const DATABASE: &str = "state/riklet-sdn.db";
const ALL: [&[&str]; 7] = [
    &["up", "hello.json"],
    &["plan", "hello.json"],
    &["down", "--all", "--purge"],
    &["list"],
    &["inspect", "hello"],
    &["check"],
    &["repair"],
];

/// Overwrites some bytes of the database.
fn damage(environment: &Environment, offset: u64, bytes: &[u8]) {
    let database = OpenOptions::new().write(true).open(environment.path(DATABASE)).unwrap();
    database.write_all_at(bytes, offset).unwrap();
}

#[test]
fn database_of_a_newer_version_is_left_alone() {
    // The offset of `user_version` in the header (https://sqlite.org/fileformat2.html).
    const FORMAT: u64 = 60;
    let environment = Environment::with_hello();
    damage(&environment, FORMAT, &[0, 0, 0, 9]);
    for arguments in ALL.into_iter().chain([&["repair", "--rebuild"][..]]) {
        insta::allow_duplicates! {
            insta::assert_snapshot!(environment.refused(1, arguments), @r"
            error: $DIR/state/riklet-sdn.db has format 9; this version knows formats up to 4
            hint: use the version of riklet-sdn that wrote it, or a later one; `riklet-sdn repair --rebuild --force` sets the database aside
            ");
        }
    }
}

#[test]
fn corrupt_database_is_left_alone_until_it_is_rebuilt() {
    let environment = Environment::with_hello();
    let listed = environment.run(&["list"]).success();
    damage(&environment, 0, &[b'x'; 4096]);
    for arguments in ALL {
        insta::allow_duplicates! {
            insta::assert_snapshot!(environment.refused(1, arguments), @r"
            error: cannot open the database: $DIR/state/riklet-sdn.db is corrupt: file is not a database
            hint: run `riklet-sdn repair --rebuild`: it sets the database aside and records anew what runs, as the interfaces' aliases have it
            ");
        }
    }
    let commands: [&[&str]; 3] =
        [&["repair", "--rebuild"], &["check"], &["down", "--all", "--purge"]];
    let rebuilt = environment.run(commands[0]);
    insta::assert_snapshot!(rebuilt, @r"
    recorded hello
    ---- stderr ----
    the former database is now $DIR/state/riklet-sdn.db.corrupt-1
    ");
    assert_eq!(environment.run(&["list"]).success(), listed);
    insta::assert_snapshot!(transcript(&environment, [commands[1], commands[2]]), @r"
    $ riklet-sdn check
    ---- stderr ----
    no drift
    $ riklet-sdn down --all --purge
    ");
}

#[test]
fn a_rebuild_is_reported_in_json() {
    let environment = Environment::with_hello();
    damage(&environment, 0, &[b'x'; 4096]);
    let rebuilt = environment.run(&["repair", "--rebuild", "--output", "json"]).json();
    insta::assert_snapshot!(format!("{rebuilt:#}"), @r#"
    {
      "incomplete": [],
      "lost": [],
      "recovered": [
        "hello"
      ],
      "repair": {
        "failures": [],
        "instances": [],
        "others": [],
        "steps": [],
        "warnings": []
      },
      "setAside": "$DIR/state/riklet-sdn.db.corrupt-1"
    }
    "#);
}

#[test]
fn a_rebuild_of_sound_records_says_so() {
    let environment = Environment::with_hello();
    let commands: [&[&str]; 2] = [&["repair", "--rebuild"], &["repair", "--adopt"]];
    insta::assert_snapshot!(transcript(&environment, commands), @r"
    $ riklet-sdn repair --rebuild
    ---- stderr ----
    nothing to do: the database is sound, and has every interface
    $ riklet-sdn repair --adopt
    ---- stderr ----
    nothing to take over
    ");
}

#[test]
fn a_list_without_the_records_of_what_is_up_is_an_error() {
    let environment = Environment::with_hello();
    for (arguments, printed) in
        [(&["list"][..], ""), (&["inspect", "hello"], ""), (&["list", "--output", "json"], "[]\n")]
    {
        let other = [&["--state-dir", "other"], arguments].concat();
        let refused = environment.run(&other);
        assert_eq!((refused.code, &*refused.stdout), (Some(1), printed), "{refused}");
        let belongs = "rik0 belongs to the records in $DIR/state";
        assert!(refused.stderr.contains(belongs), "{refused}");
        assert!(!environment.path("other").exists(), "nothing is created");
    }
    environment.tool("rm", &[environment.path(DATABASE).to_str().unwrap()]);
    insta::assert_snapshot!(environment.refused(1, &["list"]), @r"
    error: the interface rik0 is in use, and its records are missing
    hint: `riklet-sdn repair --rebuild` records it anew
    ");
}

#[test]
fn corrupt_page_is_found_when_it_is_read() {
    let environment = Environment::with_hello();
    // The header is intact, but a page of the records' table is not.
    damage(&environment, 4096, &[b'x'; 4096]);
    let refused = environment.refused(1, &["list"]);
    assert!(refused.contains("repair --rebuild"), "{refused}");
    environment.run(&["repair", "--rebuild"]).done();
    environment.run(&["inspect", "hello"]).success();
}

#[test]
fn pages_without_records_are_verified_as_well() {
    let environment = Environment::with_hello();
    let root = |table: &str| {
        let query = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
        let database = rusqlite::Connection::open(environment.path(DATABASE)).unwrap();
        database.query_row(query, [table], |row| row.get::<_, u64>(0)).unwrap()
    };
    damage(&environment, (root("runs") - 1) * 4096, &[0xff; 4096]);
    let purge: &[&str] = &["down", "--all", "--purge"];
    let refused = environment.refused(1, purge);
    assert!(refused.contains("hint: run `riklet-sdn repair --rebuild`"), "{refused}");
    environment.run(&["repair", "--rebuild"]).done();
    environment.run(&["inspect", "hello"]).success();
    environment.run(purge).success();
}

#[test]
fn unreadable_record_affects_only_its_function() {
    let environment = Environment::with_hello();
    let other = HELLO.replace("\"hello\"", "\"other\"").replace("8080", "8081");
    environment.write("other.json", &other);
    environment.run(&["up", "other.json"]).success();
    let database = rusqlite::Connection::open(environment.path(DATABASE)).unwrap();
    let damage = "UPDATE slots SET definition = '{}' WHERE workload = 'hello'";
    database.execute(damage, []).unwrap();
    let commands: [&[&str]; 8] = [
        &["list"],
        &["check"],
        &["repair"],
        &["inspect", "hello"],
        &["up", "hello.json"],
        &["down", "other"],
        &["repair", "--rebuild"],
        &["list"],
    ];
    insta::assert_snapshot!(transcript(&environment, commands), @r"
    $ riklet-sdn list
    NAME   INTERFACE  GUEST       HOST ADDRESS  STATE  EXPOSURES
    other  rik1       10.231.0.6  10.231.0.5    ready  tcp 8081 -> 3000
    ---- stderr ----
     WARN the record of hello cannot be read: record:1:1: apiVersion: missing
    $ riklet-sdn check
    ! the record of hello cannot be read: record:1:1: apiVersion: missing
    ---- exit code 1 ----
    $ riklet-sdn repair
    ---- stderr ----
    error: hello is not up: the record of hello cannot be read: record:1:1: apiVersion: missing
    hint: run `riklet-sdn repair --rebuild`: it records hello anew, as its interface's alias has it; or `riklet-sdn down hello`, and bring it up again from its file
    ---- exit code 1 ----
    $ riklet-sdn inspect hello
    ---- stderr ----
    error: the record of hello cannot be read: record:1:1: apiVersion: missing
    hint: run `riklet-sdn repair --rebuild`: it records hello anew, as its interface's alias has it; or `riklet-sdn down hello`, and bring it up again from its file
    ---- exit code 1 ----
    $ riklet-sdn up hello.json
    ---- stderr ----
    error: the record of hello cannot be read: record:1:1: apiVersion: missing
    hint: run `riklet-sdn repair --rebuild`: it records hello anew, as its interface's alias has it; or `riklet-sdn down hello`, and bring it up again from its file
    ---- exit code 1 ----
    $ riklet-sdn down other
    $ riklet-sdn repair --rebuild
    recorded hello
    $ riklet-sdn list
    NAME   INTERFACE  GUEST       HOST ADDRESS  STATE  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    ready  tcp 8080 -> 3000
    ");
}

#[test]
fn intact_database_is_set_aside_only_with_force() {
    const APPLICATION: u64 = 68;
    let environment = Environment::with_hello();
    let rebuild: &[&str] = &["repair", "--rebuild"];
    let insist: &[&str] = &["repair", "--rebuild", "--force"];
    let commands = [rebuild, insist, &["list"]];
    insta::assert_snapshot!(transcript(&environment, commands), @r"
    $ riklet-sdn repair --rebuild
    ---- stderr ----
    nothing to do: the database is sound, and has every interface
    $ riklet-sdn repair --rebuild --force
    recorded hello
    ---- stderr ----
    the former database is now $DIR/state/riklet-sdn.db.corrupt-1
    $ riklet-sdn list
    NAME   INTERFACE  GUEST       HOST ADDRESS  STATE  EXPOSURES
    hello  rik0       10.231.0.2  10.231.0.1    ready  tcp 8080 -> 3000
    ");
    damage(&environment, APPLICATION, &[0, 0, 0, 9]);
    insta::assert_snapshot!(transcript(&environment, [rebuild, insist]), @r"
    $ riklet-sdn repair --rebuild
    ---- stderr ----
    error: $DIR/state/riklet-sdn.db is a database of another program
    hint: it belongs to another program, or is damaged: `riklet-sdn repair --rebuild --force` sets it aside
    ---- exit code 1 ----
    $ riklet-sdn repair --rebuild --force
    recorded hello
    ---- stderr ----
    the former database is now $DIR/state/riklet-sdn.db.corrupt-2
    ");
    let alone = environment.refused(2, &["repair", "--force"]);
    assert!(alone.contains("not provided:\n  --rebuild"), "{alone}");
}

#[test]
fn error_names_a_path_that_is_no_state_directory() {
    let environment = Environment::new();
    environment.write("state", "a file\n");
    insta::assert_snapshot!(transcript(&environment, [&["up", "hello.json"][..], &["list"]]), @r"
    $ riklet-sdn up hello.json
    ---- stderr ----
    error: cannot make $DIR/state: File exists (os error 17)
    hint: the state directory must be on a local file system that can be written
    ---- exit code 1 ----
    $ riklet-sdn list
    ---- stderr ----
    error: cannot lock $DIR/state/lock: Not a directory (os error 20)
    hint: the state directory must be on a local file system that can be written
    ---- exit code 1 ----
    ");
    environment.tool("rm", &["state"]);
    environment.tool("mkdir", &["-p", DATABASE]);
    insta::assert_snapshot!(transcript(&environment, [&["up", "hello.json"][..], &["list"]]), @r"
    $ riklet-sdn up hello.json
    ---- stderr ----
    error: cannot open the database in $DIR/state/riklet-sdn.db: unable to open database file: $DIR/state/riklet-sdn.db
    hint: the state directory must be on a local file system that can be written
    ---- exit code 1 ----
    $ riklet-sdn list
    ---- stderr ----
    error: cannot open the database in $DIR/state/riklet-sdn.db: unable to open database file: $DIR/state/riklet-sdn.db
    hint: the state directory must be on a local file system that can be written
    ---- exit code 1 ----
    ");
}
