//! What the program says of itself.

use std::{collections::BTreeSet, fmt::Write};

use crate::environment::Environment;

/// What the help of every command ends with, before its example.
const COMMON: &str = "Options of every command:";

#[test]
fn the_program_says_what_it_can_do() {
    let environment = Environment::new();
    let help = environment.run(&["--help"]).success();
    insta::assert_snapshot!(help, @r"
    The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host

    Usage: riklet-sdn [OPTIONS] <COMMAND>

    Commands:
      up           Bring up the network of every definition in the files
      down         Take instances down
      list         List what is recorded, and what the kernel has of it
      inspect      Show one instance, or what a VMM needs to attach to it
      plan         Show what `up` would do, step by step, and change nothing
      check        Compare the kernel with the records: exit status 1 where they differ
      repair       Make the kernel what the records say: what drifted comes back, what leaked goes
      events       Print what the daemon did
      top          Show the functions with what goes in and out of them, and what is wrong
      serve        Serve the API, keep TAPs ready and repair what drifts, until Ctrl-C or SIGTERM
      run          Bring functions up with their microVMs behind them, until Ctrl-C or SIGTERM
      ps           List the functions that run, and how those that ran have ended
      logs         Print what a function's VMM and guest wrote: the console
      stop         End functions that run: power off, then SIGTERM, then SIGKILL
      wait         Wait until a function that runs has ended, and say how: exit status 1 where it failed
      doctor       Say what this host has and lacks, and what to do about it
      completions  Print the completions of a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Options of every command:
          --config <FILE>       The configuration file [default: /etc/riklet-sdn/config.toml, where
                                there is one] [env: RIKLET_SDN_CONFIG]
          --state-dir <DIR>     Where the records are kept [default: /run/riklet-sdn] [env:
                                RIKLET_SDN_STATE_DIR]
          --firewall <BACKEND>  auto, iptables or nftables [default: auto: iptables where the host has
                                it] [env: RIKLET_SDN_FIREWALL]
          --pool <NETWORK>      What the guests' addresses are cut from [default: 10.231.0.0/16, or the
                                next that is free] [env: RIKLET_SDN_POOL]
          --uplink <IFACE>      The interface that leads to the Internet; several with commas [default:
                                the default route's] [env: RIKLET_SDN_UPLINK]
          --mtu <BYTES>         The MTU of the TAPs in bytes [default: the uplink's] [env:
                                RIKLET_SDN_MTU]
          --api <SOCKET>        The daemon's socket [default: api.sock in the state directory]. Commands
                                work alone where nobody listens [env: RIKLET_SDN_API]
          --output <FORMAT>     Print data as text or as JSON [env: RIKLET_SDN_OUTPUT] [default: text]
                                [possible values: text, json]
      -v, --verbose...          Print each change once it is made, to standard error; twice: each
                                program that is run as well

    Example:
      riklet-sdn run examples/hello.json

    Exit status: 0 done; 1 failed, or drift found; 2 invalid input or usage; 3 the host lacks something,
    or root is needed.
    ");
    assert_eq!(environment.run(&["help"]).success(), help);
    assert_eq!(environment.run(&[]).failure(2), help);
    assert_eq!(
        environment.run_with(&[], &[("RIKLET_SDN_POOL", "10.9.0.0/16")], "").failure(2),
        help
    );
    let version = environment.run(&["--version"]).success();
    assert_eq!(version, format!("riklet-sdn {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
#[expect(clippy::too_many_lines, reason = "the help of all commands is a long text")]
fn every_command_has_help_with_one_example() {
    let environment = Environment::new();
    let help = environment.run(&["--help"]).success();
    let commands = section(&help, "Commands:").lines().filter_map(|line| line.split(' ').nth(2));
    let commands: Vec<_> = commands.filter(|name| *name != "help").collect();
    let mut text = String::new();
    for command in commands {
        let help_of_command = environment.run(&[command, "--help"]).success();
        let (own, common) = help_of_command.split_once(COMMON).unwrap();
        let (_, example) = common.split_once("\n\nExample:\n").unwrap();
        assert!(example.starts_with("  riklet-sdn ") && example.lines().count() == 1, "{example}");
        assert!(example.split_whitespace().any(|word| word == command), "{command}: {example}");
        assert_eq!(common_options(&help_of_command), common_options(&help), "{command}");
        writeln!(text, "{}\n{}\n", own.trim_end(), example.trim_end()).unwrap();
    }
    insta::assert_snapshot!(text, @r"
    Bring up the network of every definition in the files

    Usage: riklet-sdn up [OPTIONS] <FILE>...

    Arguments:
      <FILE>...  Files with definitions, JSON or YAML; `-` is standard input

    Options:
          --strict  Refuse an exposure that would shadow a local process, instead of warning
      -h, --help    Print help
      riklet-sdn up examples/hello.json

    Take instances down

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --all [--purge]

    Arguments:
      [NAME]...  The instances' names

    Options:
          --all    All that are recorded
          --purge  Remove what the instances share as well, and restore the sysctls that were changed;
                   with --all, forget the runs that have ended, and their logs
      -h, --help   Print help
      riklet-sdn down hello

    List what is recorded, and what the kernel has of it

    Usage: riklet-sdn list [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn list --output json

    Show one instance, or what a VMM needs to attach to it

    Usage: riklet-sdn inspect [OPTIONS] <NAME>

    Arguments:
      <NAME>  The instance's name

    Options:
          --format <FORMAT>  What a VMM needs, in its own words: firecracker (`network-interfaces`),
                             boot-args (of the guest's kernel), qemu (arguments), or env (variables of a
                             shell)
      -h, --help             Print help
      riklet-sdn inspect hello --format firecracker

    Show what `up` would do, step by step, and change nothing

    Usage: riklet-sdn plan [OPTIONS] <FILE>...

    Arguments:
      <FILE>...  Files with definitions, JSON or YAML; `-` is standard input

    Options:
      -h, --help  Print help
      riklet-sdn plan examples/hello.json

    Compare the kernel with the records: exit status 1 where they differ

    Usage: riklet-sdn check [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn check || riklet-sdn repair

    Make the kernel what the records say: what drifted comes back, what leaked goes

    Usage: riklet-sdn repair [OPTIONS]

    Options:
          --rebuild  Verify the database; if it is not sound, set it aside and record anew what the
                     interfaces' aliases say
          --force    Set the database aside even if it seems sound
          --adopt    Take over the functions of another state directory, and record them here
      -h, --help     Print help
      riklet-sdn repair

    Print what the daemon did

    Usage: riklet-sdn events [OPTIONS]

    Options:
      -f, --follow  Go on with what comes
      -h, --help    Print help
      riklet-sdn events -f

    Show the functions with what goes in and out of them, and what is wrong

    Usage: riklet-sdn top [OPTIONS]

    Options:
          --once                Print one table, for scripts; with `--output json` always
          --interval <SECONDS>  What the rates are over, and how often they are shown anew, in seconds
                                [default: 1]
      -h, --help                Print help
      riklet-sdn top --once

    Serve the API, keep TAPs ready and repair what drifts, until Ctrl-C or SIGTERM

    Usage: riklet-sdn serve [OPTIONS]

    Options:
          --api-group <GROUP>       Who may use the API besides root: the name or the number of a group
                                    [env: RIKLET_SDN_API_GROUP]
          --warm <COUNT>            How many TAPs are made in advance; 0 is none [default: 64]
          --manifests <DIR>         A directory whose definition files are brought up, and taken down as
                                    they go [default: /etc/riklet-sdn/functions.d, where there is one]
                                    [env: RIKLET_SDN_MANIFESTS]
          --metrics <ADDRESS:PORT>  Where /metrics can be read by TCP as well, such as 127.0.0.1:9464:
                                    by whoever reaches that address [env: RIKLET_SDN_METRICS]
          --adopt                   Take over the functions of another state directory first, and record
                                    them here
      -h, --help                    Print help
      riklet-sdn serve --api-group kvm

    Bring functions up with their microVMs behind them, until Ctrl-C or SIGTERM

    Usage: riklet-sdn run [OPTIONS] <FILE>...

    Arguments:
      <FILE>...  Files with definitions, JSON or YAML; `-` is standard input

    Options:
          --ready-timeout <SECONDS>  How long to wait for the published ports to answer, in seconds
                                     [default: 10]
          --console                  Print the guest's console as it comes; for one function
          --detach                   Return once all is ready, and leave a supervisor behind that
                                     outlives the terminal
      -h, --help                     Print help
      riklet-sdn run examples/hello.json

    List the functions that run, and how those that ran have ended

    Usage: riklet-sdn ps [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn ps

    Print what a function's VMM and guest wrote: the console

    Usage: riklet-sdn logs [OPTIONS] <NAME>

    Arguments:
      <NAME>  The function's name

    Options:
      -f, --follow  Go on with what comes, until the function has ended
      -h, --help    Print help
      riklet-sdn logs hello --follow

    End functions that run: power off, then SIGTERM, then SIGKILL

    Usage: riklet-sdn stop [OPTIONS] <NAME>...
           riklet-sdn stop [OPTIONS] --all

    Arguments:
      [NAME]...  The functions' names

    Options:
          --all                All that run
          --timeout <SECONDS>  How long the guest may take to power off before SIGTERM, in seconds
                               [default: 10]
      -h, --help               Print help
      riklet-sdn stop hello

    Wait until a function that runs has ended, and say how: exit status 1 where it failed

    Usage: riklet-sdn wait [OPTIONS] <NAME>

    Arguments:
      <NAME>  The function's name

    Options:
      -h, --help  Print help
      riklet-sdn wait hello

    Say what this host has and lacks, and what to do about it

    Usage: riklet-sdn doctor [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn doctor

    Print the completions of a shell

    Usage: riklet-sdn completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help
      riklet-sdn completions bash > /etc/bash_completion.d/riklet-sdn
    ");
}

#[test]
fn wrong_arguments_are_answered_with_what_is_right() {
    let environment = Environment::new();
    let wrong: [&[&str]; 10] = [
        &["lst"],
        &["up"],
        &["up", "hello.json", "--strct"],
        &["list", "hello"],
        &["list", "--output", "yaml"],
        &["inspect", "hello", "--format", "xml"],
        &["down"],
        &["down", "hello", "--all"],
        &["down", "Hello"],
        &["run", "hello.json", "--ready-timeout", "soon"],
    ];
    let complaints = wrong.map(|arguments| environment.refused(2, arguments));
    insta::assert_snapshot!(complaints.join("\n"), @r"
    error: unrecognized subcommand 'lst'

      tip: some similar subcommands exist: 'stop', 'list'

    Usage: riklet-sdn [OPTIONS] <COMMAND>

    For more information, try '--help'.

    error: the following required arguments were not provided:
      <FILE>...

    Usage: riklet-sdn up [OPTIONS] <FILE>...

    For more information, try '--help'.

    error: unexpected argument '--strct' found

      tip: a similar argument exists: '--strict'

    Usage: riklet-sdn up [OPTIONS] <FILE>...

    For more information, try '--help'.

    error: unexpected argument 'hello' found

    Usage: riklet-sdn list [OPTIONS]

    For more information, try '--help'.

    error: invalid value 'yaml' for '--output <FORMAT>'
      [possible values: text, json]

    For more information, try '--help'.

    error: invalid value 'xml' for '--format <FORMAT>'
      [possible values: firecracker, boot-args, qemu, env]

    For more information, try '--help'.

    error: the following required arguments were not provided:
      <NAME>...

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --all [--purge]

    For more information, try '--help'.

    error: the argument '[NAME]...' cannot be used with '--all'

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --all [--purge]

    For more information, try '--help'.

    error: invalid value 'Hello' for '[NAME]...': the name has the character 'H' at position 1; allowed are a-z, 0-9, '.' and '-'

    For more information, try '--help'.

    error: invalid value 'soon' for '--ready-timeout <SECONDS>': invalid digit found in string

    For more information, try '--help'.
    ");
}

#[test]
fn wrong_arguments_are_answered_in_json_where_json_is_wanted() {
    let environment = Environment::new();
    let json = |complaint: String| serde_json::from_str::<serde_json::Value>(&complaint).unwrap();
    let complaints = [
        json(environment.refused(2, &["--output", "json"])),
        json(environment.refused(2, &["up", "--output=json"])),
        json(environment.refused(2, &["--output", "json", "up", "--strct", "hello.json"])),
        json(environment.refused_with(2, &["lst"], &[("RIKLET_SDN_OUTPUT", "json")])),
    ];
    insta::assert_snapshot!(format!("{:#}", serde_json::Value::from_iter(complaints)), @r#"
    [
      {
        "error": "no command is given",
        "hint": "`riklet-sdn --help` lists the commands"
      },
      {
        "error": "the following required arguments were not provided: <FILE>...",
        "hint": "try `--help`"
      },
      {
        "error": "unexpected argument '--strct' found",
        "hint": "a similar argument exists: '--strict'"
      },
      {
        "error": "unrecognized subcommand 'lst'",
        "hint": "some similar subcommands exist: 'stop', 'list'"
      }
    ]
    "#);
}

/// What follows a heading, up to the next empty line.
fn section<'a>(help: &'a str, heading: &str) -> &'a str {
    let (_, text) = help.split_once(&format!("\n{heading}\n")).unwrap();
    text.split("\n\n").next().unwrap()
}

/// What is said of the options of every command, word by word, however it is laid out.
fn common_options(help: &str) -> BTreeSet<&str> {
    section(help, COMMON).split_whitespace().collect()
}
