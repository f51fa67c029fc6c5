//! The logs of a guest and of its VMM, and what reaches the terminal of them.

use super::*;

/// Runs `riklet-sdn` in a terminal of script(1), and returns all output.
#[track_caller]
fn in_terminal(world: &World, arguments: &str) -> String {
    let command = format!("{} {arguments}", env!("CARGO_BIN_EXE_riklet-sdn"));
    world.program("script", &["--quiet", "--command", &command, "/dev/null"], "").stdout
}

#[test]
fn a_guest_cannot_control_the_terminal() {
    let world = World::new(Firewall::Nftables);
    let first =
        r"printf 'hi \033]0;owned\007\377\r\n'; printf 'bad \033[2J\302\233 luck\n' >&2; exit 7";
    Program::install(&world, "firecracker", first);
    let daemon = world.daemon(&[]);
    detach(&world, &hello(&world, "firecracker")).wait().failure(1);
    let json = in_terminal(&world, "ps --output json");
    assert!(json.contains(r"bad \u001b[2J\u009b luck"), "{json:?}");
    daemon.wait_until_idle();
    let escaped = r"bad \x1b[2J\u{9b} luck";
    for arguments in ["ps", "wait hello", "logs hello --vmm", "events"] {
        let shown = in_terminal(&world, arguments);
        assert!(shown.contains(escaped) && !shown.contains('\u{1b}'), "{arguments}: {shown:?}");
    }
    assert_eq!(in_terminal(&world, "logs hello"), "hi \\x1b]0;owned\\x07\\xff\r\n");
    // A refusal that repeats what it was given: by a definition, and on the command line.
    let odd = world.directory.path().join("odd.yaml");
    fs::File::create(&odd).unwrap().write_all(b"apiVersion: \"v\\e[2J\"\n").unwrap();
    for arguments in [format!("plan {}", odd.display()), "logs $(printf 'a\\033[2J')".to_owned()] {
        let shown = in_terminal(&world, &arguments);
        assert!(shown.starts_with("error:") && !shown.contains('\u{1b}'), "{arguments}: {shown:?}");
    }
    // Whoever asks for them gets the bytes, and so does a file.
    let raw = in_terminal(&world, "logs hello --vmm --raw");
    assert_eq!(raw, "bad \u{1b}[2J\u{9b} luck\r\n");
    assert!(world.riklet(&["ps"], "").success().contains("bad \u{1b}[2J\u{9b} luck"));
}

#[test]
fn logs_of_two_runs_are_kept_apart_from_firecrackers_own() {
    let world = World::new(Firewall::Nftables);
    let logs = |more: &[&str]| world.riklet(&[&["logs", "hello"], more].concat(), "").success();
    let mut runs = Vec::new();
    for run in ["first", "second", "third"] {
        drop(runs.pop());
        let hello = Hello::start(&world);
        let mut following = world.riklet_in_background(&["logs", "-f", "hello"], "");
        hello.program.order(&format!("echo the VMM of {run} >&2; echo {run}; echo of three"));
        following.wait_for_line("of three");
        assert_eq!(logs(&[]), format!("firecracker begins\n{run}\nof three\n"));
        // This comes by a pipe of its own.
        wait_for("the log of the VMM", START_TIMEOUT, || {
            (logs(&["--vmm"]) == format!("the VMM of {run}\n")).then_some(())
        });
        world.riklet(&["stop", "hello"], "").success();
        drop(following.wait());
        hello.program.forget_start();
        fs::remove_dir_all(world.directory.path().join("played-firecracker")).unwrap();
        runs.push(hello);
    }
    assert_eq!(logs(&["--previous"]), "firecracker begins\nsecond\nof three\n");
    assert_eq!(logs(&["--previous", "--tail", "2"]), "second\nof three\n");
    assert_eq!(logs(&["--previous", "--vmm"]), "the VMM of second\n");
    assert_eq!(logs(&["--tail", "1", "--since", "1h"]), "of three\n");
    // As if all of it were an hour old.
    let times = PathBuf::from(&world.environment["RIKLET_SDN_STATE_DIR"])
        .join("machines/hello/console.log.times");
    let mut file = OpenOptions::new().read(true).write(true).open(times).unwrap();
    let mut pairs = Vec::new();
    file.read_to_end(&mut pairs).unwrap();
    for pair in pairs.chunks_exact_mut(16) {
        let time = u64::from_le_bytes(pair[..8].try_into().unwrap()) - 3_600_000;
        pair[..8].copy_from_slice(&time.to_le_bytes());
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&pairs).unwrap();
    assert_eq!(logs(&["--since", "10m"]), "");
    assert_eq!(logs(&["--since", "2h", "--tail", "1"]), "of three\n");
    drop(runs);
    world.riklet(&["down", "--all", "--purge"], "").success();
    world.riklet(&["logs", "hello"], "").failure(1);
}
