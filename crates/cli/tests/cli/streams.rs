//! Data goes to standard output, everything else to standard error; readers may go away.

use crate::environment::{Environment, HELLO};

/// Makes descriptor 3 of a script a pipe whose reader has gone.
const GONE: &str = "mkfifo gone; : < gone & exec 3> gone; wait; rm gone;";

#[test]
fn reader_that_stops_early_is_no_error() {
    let environment = Environment::with_hello();
    environment.write("other.json", HELLO.replace("hello", "other").replace("8080", "81"));
    for command in [
        "list",
        "--output json list",
        "inspect hello --format env",
        "plan other.json",
        "doctor",
        "completions bash",
        "--help",
    ] {
        environment.shell(&format!("{GONE} $RIKLET {command} >&3")).success();
    }
}

#[test]
fn operation_completes_although_nobody_reads_its_output() {
    let environment = Environment::with_hello();
    environment.shell(&format!("{GONE} $RIKLET -vv down --all >&3 2>&3")).success();
    assert_eq!(environment.run(&["list", "--output", "json"]).success(), "[]\n");
    environment.shell(&format!("{GONE} $RIKLET -v up hello.json >&3 2>&3")).success();
    environment.run(&["inspect", "hello"]).success();
    environment.shell(&format!("{GONE} $RIKLET up missing.json 2>&3")).failure(2);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let environment = Environment::new();
    insta::assert_snapshot!(environment.shell("$RIKLET list > /dev/full").failure(1), @"error: cannot write the output: No space left on device (os error 28)");
    environment.shell("$RIKLET --help > /dev/full").failure(1);
}

#[test]
fn completions_work_in_each_shell() {
    let environment = Environment::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = environment.run(&["completions", shell]).success();
        for word in ["inspect", "completions", "state-dir"] {
            assert!(text.contains(word), "{shell} completes no {word}");
        }
        assert!(!text.contains("Play the guest"), "{shell} completes what is no command");
    }
    environment.shell("$RIKLET completions bash > bash && bash -n bash").success();
    // Bash completes a command with it.
    let script = ". ./bash; COMP_WORDS=(riklet-sdn insp); COMP_CWORD=1; \
                  _riklet__sdn riklet-sdn insp riklet-sdn; echo ${COMPREPLY[@]}";
    environment.write("complete", script);
    assert_eq!(environment.shell("bash complete").success(), "inspect\n");
}
