//! The help of the program, and its answers to wrong arguments.

use std::{collections::BTreeSet, fmt::Write};

use crate::environment::Environment;

/// The heading of the options that the help of every command ends with, before its example.
const COMMON: &str = "Options of every command:";

#[test]
fn help_lists_the_commands() {
    let environment = Environment::new();
    let help = environment.run(&["--help"]).success();
    insta::assert_snapshot!(help, @r"
    Connects functions that run as microVMs: gives each a TAP, and publishes its ports on the host

    Usage: riklet-sdn [OPTIONS] <COMMAND>

    Commands:
      up           Bring up the network of every definition in the files
      down         Take functions down
      list         List the recorded functions and the state of their TAPs
      inspect      Show one function, or the settings that a VMM needs to attach to it
      plan         Show what `up` would do, step by step, without changing anything [alias: diff]
      validate     Read definitions and print what they define; needs neither root nor a node
      schema       Print the JSON Schema of definitions, for editors
      explain      Explain what happens to a packet, and why; exit status 1 if nobody gets it
      check        Compare the kernel with the records; exit status 1 if they differ
      repair       Make the kernel match the records: restore what drifted, remove what leaked
      events       Print what the daemon and other processes did; needs a daemon
      top          Show the functions with their traffic, and any drift
      serve        Run the daemon: API, ready TAPs, and repair of drift, until Ctrl-C or SIGTERM
      run          Bring functions up and run their microVMs, until Ctrl-C or SIGTERM
      ps           List running functions, and how earlier runs ended
      logs         Print the console of a function: the output of its guest and VMM
      stop         Stop running functions: power off, then SIGTERM, then SIGKILL
      wait         Wait until a running function ends, and print how; exit status 1 if it failed
      doctor       Check what this host has and lacks, and suggest remedies
      completions  Print completions for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Options of every command:
          --config <FILE>       Configuration file [default: /etc/riklet-sdn/config.toml, if it exists]
                                [env: RIKLET_SDN_CONFIG]
          --state-dir <DIR>     Directory of the records [default: /run/riklet-sdn] [env:
                                RIKLET_SDN_STATE_DIR]
          --firewall <BACKEND>  Firewall backend: auto, iptables or nftables [default: auto, which is
                                iptables if the host has it] [env: RIKLET_SDN_FIREWALL]
          --pool <NETWORK>      Address range for guests [default: 10.231.0.0/16, or the next free one]
                                [env: RIKLET_SDN_POOL]
          --uplink <IFACE>      Interfaces that lead to the Internet, separated by commas [default:
                                those of the default route] [env: RIKLET_SDN_UPLINK]
          --mtu <BYTES>         MTU of the TAPs in bytes [default: that of the uplink] [env:
                                RIKLET_SDN_MTU]
          --mark-mask <MASK>    Bits of packet and connection marks to use [default: 0x7f] [env:
                                RIKLET_SDN_MARK_MASK]
          --egress <REACH>      Reach of guests beyond published ports: internet, all or none [default:
                                internet] [env: RIKLET_SDN_EGRESS]
          --flows <COUNT>       Flows that each guest may begin and have at a time, a number or
                                unlimited [default: 4096] [env: RIKLET_SDN_FLOWS]
          --ipv6 <CHOICE>       IPv6 for guests, with the firewall nftables: on or off [default: off]
                                [env: RIKLET_SDN_IPV6]
          --api <SOCKET>        Socket of the daemon [default: api.sock in the state directory]. Without
                                a daemon, commands work alone [env: RIKLET_SDN_API]
          --no-daemon           Work without the daemon, on the same records and under the same lock
          --output <FORMAT>     Print data as text or as JSON [env: RIKLET_SDN_OUTPUT] [default: text]
                                [possible values: text, json]
      -v, --verbose...          Log each change to standard error; given twice, also each program that
                                is run

    Example:
      riklet-sdn run examples/hello.json

    Exit status: 0 success; 1 failure, or drift found; 2 invalid input or usage; 3 the host lacks
    something, or root is needed.
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
      [FILE]...  Files with definitions in JSON or YAML, and directories of such files; `-` is standard
                 input

    Options:
      -f, --file <FILE>    Another file or directory
          --strict         Refuse a port that a local process or another program has, even with `shadow:
                           true`
          --netns <PATH>   Network namespace of the one pod that is defined, such as /run/netns/web or
                           /proc/PID/ns/net
          --ifname <NAME>  Name of the pod's interface there, in place of that of its definition
      -h, --help           Print help
      riklet-sdn up examples/hello.json

    Take functions down

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --file <FILE>...
           riklet-sdn down [OPTIONS] --all [--purge]

    Arguments:
      [NAME]...  Names of the functions

    Options:
      -f, --file <FILE>  Take the functions down that a file, or the files of a directory, define; `-`
                         is standard input
          --all          Take all recorded functions down
          --purge        Also remove what all functions share, and restore what was changed on the host;
                         with --all, forget ended runs and their logs
      -h, --help         Print help
      riklet-sdn down hello

    List the recorded functions and the state of their TAPs

    Usage: riklet-sdn list [OPTIONS]

    Options:
      -q, --quiet  Print names only
      -h, --help   Print help
      riklet-sdn list --output json

    Show one function, or the settings that a VMM needs to attach to it

    Usage: riklet-sdn inspect [OPTIONS] <NAME>

    Arguments:
      <NAME>  Name of the function

    Options:
          --format <FORMAT>  Settings for a VMM or its guest: firecracker (`network-interfaces`),
                             boot-args (for the guest's kernel), cloud-init (`network-config`), qemu
                             (arguments), or env (shell variables)
      -h, --help             Print help
      riklet-sdn inspect hello --format firecracker

    Show what `up` would do, step by step, without changing anything

    Usage: riklet-sdn plan [OPTIONS] <FILE>...

    Arguments:
      [FILE]...  Files with definitions in JSON or YAML, and directories of such files; `-` is standard
                 input

    Options:
      -f, --file <FILE>  Another file or directory
      -h, --help         Print help
      riklet-sdn plan examples/hello.json

    Read definitions and print what they define; needs neither root nor a node

    Usage: riklet-sdn validate [OPTIONS] <FILE>...

    Arguments:
      [FILE]...  Files with definitions in JSON or YAML, and directories of such files; `-` is standard
                 input

    Options:
      -f, --file <FILE>  Another file or directory
      -h, --help         Print help
      riklet-sdn validate examples/ports.yaml

    Print the JSON Schema of definitions, for editors

    Usage: riklet-sdn schema [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn schema > riklet-sdn.schema.json

    Explain what happens to a packet, and why; exit status 1 if nobody gets it

    Usage: riklet-sdn explain [OPTIONS] <FROM> to <DESTINATION>

    Arguments:
      <FROM to DESTINATION>...  Sender and destination of the packet that begins a connection. The
                                sender is a function, an address, or `host`, the node. The destination
                                is an address or a name, `host`, or `function:NAME`; with a port, and
                                with /udp or /sctp if it is not for TCP

    Options:
      -h, --help  Print help
      riklet-sdn explain hello to 192.0.2.7:443/tcp

    Compare the kernel with the records; exit status 1 if they differ

    Usage: riklet-sdn check [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn check || riklet-sdn repair

    Make the kernel match the records: restore what drifted, remove what leaked

    Usage: riklet-sdn repair [OPTIONS]

    Options:
          --rebuild  Verify the database; if it is damaged, set it aside and recreate the records from
                     the interfaces' aliases
          --force    With --rebuild: set the database aside even if it is sound
          --adopt    Take over the functions of another state directory
      -h, --help     Print help
      riklet-sdn repair

    Print what the daemon and other processes did; needs a daemon

    Usage: riklet-sdn events [OPTIONS]

    Options:
      -f, --follow         Keep printing new events as they come
          --refused        Print what functions tried to reach and were refused, instead of the other
                           events
          --since <TOKEN>  Print only the events after the one with this token (`--output json` shows
                           tokens)
      -h, --help           Print help
      riklet-sdn events -f --refused

    Show the functions with their traffic, and any drift

    Usage: riklet-sdn top [OPTIONS]

    Options:
          --once                Print one table and exit, for scripts; implied by `--output json`
          --interval <SECONDS>  Time between two displays, over which the rates are taken, in seconds
                                [default: 1]
      -h, --help                Print help
      riklet-sdn top --once

    Run the daemon: API, ready TAPs, and repair of drift, until Ctrl-C or SIGTERM

    Usage: riklet-sdn serve [OPTIONS]

    Options:
          --api-group <GROUP>       Group that may use the API besides root, by name or number [env:
                                    RIKLET_SDN_API_GROUP]
          --ready-slots <COUNT>     Number of TAPs to keep ready; 0 for none [default: 64]
          --member-runs <COUNT>     Maximum number of microVMs that clients of the socket run at a time
                                    [default: 100] [env: RIKLET_SDN_MEMBER_RUNS]
          --manifests <DIR>         Directory of definition files to follow: functions come and go with
                                    their files [default: /etc/riklet-sdn/functions.d, if it exists]
                                    [env: RIKLET_SDN_MANIFESTS]
          --metrics <ADDRESS:PORT>  TCP address that also serves /metrics, such as 127.0.0.1:9464, to
                                    anybody who can reach it [env: RIKLET_SDN_METRICS]
          --adopt                   Take over the functions of another state directory first
      -h, --help                    Print help
      riklet-sdn serve --api-group riklet

    Bring functions up and run their microVMs, until Ctrl-C or SIGTERM

    Usage: riklet-sdn run [OPTIONS] <FILE>...
           riklet-sdn run [OPTIONS] [--publish <PORT:TARGET>]...

    Arguments:
      [FILE]...  Files with definitions in JSON or YAML, and directories of such files; `-` is standard
                 input. Without any, options describe one function

    Options:
      -f, --file <FILE>                 Another file or directory
          --ready-timeout <SECONDS>     Time limit for the guests to boot and their published ports to
                                        answer, in seconds [default: 10]
          --no-wait                     Do not wait until the published ports answer
          --console                     Print the guest's console while it runs; allowed for a single
                                        function
          --raw                         Print control characters of the console as they are, also to a
                                        terminal
      -d, --detach                      Return once all functions are ready, and leave a supervisor
                                        behind that outlives the terminal
          --image-roots <DIR>           Directories in which definitions may name images, separated by
                                        commas [default: that of the definition, /srv, /var/lib] [env:
                                        RIKLET_SDN_IMAGE_ROOTS]
          --image-dir <DIR>             Directory for downloads and private copies of images [default:
                                        /var/lib/riklet-sdn/images] [env: RIKLET_SDN_IMAGE_DIR]
          --vmm-uid-base <UID>          First of the user IDs that VMMs run as; the VMM of slot N runs
                                        as UID + N + 1 [default: 1900000000] [env:
                                        RIKLET_SDN_VMM_UID_BASE]
          --private-redirects [<BOOL>]  Allow downloads of images to be redirected to private addresses,
                                        and clients of the socket to name such addresses [env:
                                        RIKLET_SDN_PRIVATE_REDIRECTS]
      -h, --help                        Print help

    A function without a file:
          --name <NAME>            Name of the function [default: hello]
      -p, --publish <PORT:TARGET>  Ports of the host and of the guest: 8080:3000, 127.0.0.1:8080:3000 or
                                   5353:53/udp [default: 8080:3000, if no option describes the function]
          --vmm <VMM>              VMM that runs it, or the guest that is built in [default: the VMM
                                   that the host has, if there is a kernel] [possible values:
                                   firecracker, qemu, cloud-hypervisor, builtin]
          --kernel <IMAGE>         Kernel of the guest, a file or a URL
          --initrd <IMAGE>         First file system of the guest, a file or a URL
          --rootfs <IMAGE>         Root file system of the guest, a file or a URL
      -m, --memory <SIZE>          Memory of the guest, such as 512M or 2G
          --vcpus <COUNT>          Number of processors of the guest
          --boot-args <TEXT>       Additions to the kernel command line
          --allow <DESTINATION>    Destination that it may reach as well, such as 10.0.5.0/24:5432/tcp,
                                   [2001:db8::/32]:443 or host:9000
          --deny <DESTINATION>     Destination that it may not reach
          --via <ADDRESS:PORT>     Proxy that gets its TCP connections to ports 80 and 443, such as
                                   127.0.0.1:3128
      riklet-sdn run examples/hello.json

    List running functions, and how earlier runs ended

    Usage: riklet-sdn ps [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn ps

    Print the console of a function: the output of its guest and VMM

    Usage: riklet-sdn logs [OPTIONS] <NAME>

    Arguments:
      <NAME>  Name of the function

    Options:
      -f, --follow        Keep printing new output until the function ends
          --tail <LINES>  Print only the last LINES lines
          --since <TIME>  Print only what was written in the last seconds, minutes, hours or days: 30s,
                          10m, 2h, 1d
          --previous      Print the log of the run before the latest one
          --vmm           Print the VMM's own log, which Firecracker and Cloud Hypervisor have
          --raw           Print control characters as they are, also to a terminal
      -h, --help          Print help
      riklet-sdn logs hello --follow

    Stop running functions: power off, then SIGTERM, then SIGKILL

    Usage: riklet-sdn stop [OPTIONS] <NAME>...
           riklet-sdn stop [OPTIONS] --all

    Arguments:
      [NAME]...  Names of the functions

    Options:
          --all                Stop all running functions
          --timeout <SECONDS>  Time for the guest to power off before SIGTERM, in seconds [default: 10]
      -h, --help               Print help
      riklet-sdn stop hello

    Wait until a running function ends, and print how; exit status 1 if it failed

    Usage: riklet-sdn wait [OPTIONS] <NAME>

    Arguments:
      <NAME>  Name of the function

    Options:
      -h, --help  Print help
      riklet-sdn wait hello

    Check what this host has and lacks, and suggest remedies

    Usage: riklet-sdn doctor [OPTIONS]

    Options:
      -h, --help  Print help
      riklet-sdn doctor

    Print completions for a shell

    Usage: riklet-sdn completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  Name of the shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help
      riklet-sdn completions bash > /etc/bash_completion.d/riklet-sdn
    ");
}

#[test]
fn errors_about_arguments_suggest_a_correction() {
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
      [possible values: firecracker, boot-args, cloud-init, qemu, env]

    For more information, try '--help'.

    error: the following required arguments were not provided:
      <NAME>...

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --file <FILE>...
           riklet-sdn down [OPTIONS] --all [--purge]

    For more information, try '--help'.

    error: the argument '[NAME]...' cannot be used with '--all'

    Usage: riklet-sdn down [OPTIONS] <NAME>...
           riklet-sdn down [OPTIONS] --file <FILE>...
           riklet-sdn down [OPTIONS] --all [--purge]

    For more information, try '--help'.

    error: invalid value 'Hello' for '[NAME]...': the name has the character 'H' at position 1; allowed are a-z, 0-9, '.' and '-'

    For more information, try '--help'.

    error: invalid value 'soon' for '--ready-timeout <SECONDS>': invalid digit found in string

    For more information, try '--help'.
    ");
}

#[test]
fn errors_about_arguments_are_json_with_output_json() {
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

/// Returns the text after a heading, up to the next empty line.
fn section<'a>(help: &'a str, heading: &str) -> &'a str {
    let (_, text) = help.split_once(&format!("\n{heading}\n")).unwrap();
    text.split("\n\n").next().unwrap()
}

/// Returns the words of the help on the common options, whatever its layout.
fn common_options(help: &str) -> BTreeSet<&str> {
    section(help, COMMON).split_whitespace().collect()
}
