//! Errors that strace(1) has the kernel report instead of doing what it is asked to.

use std::{collections::BTreeMap, env, fs, path::PathBuf, time::Duration};

use rustix::process::{Signal, kill_process};

use crate::world::{World, command::Output, random::Random, wait_for};

/// The errors, and the kernel's words for each.
const ERRORS: [Injected; 7] = [
    Injected { error: "ENOSPC", words: "No space left on device" },
    Injected { error: "EIO", words: "Input/output error" },
    Injected { error: "EMFILE", words: "Too many open files" },
    Injected { error: "EAGAIN", words: "Resource temporarily unavailable" },
    Injected { error: "EINTR", words: "Interrupted system call" },
    Injected { error: "ENOBUFS", words: "No buffer space available" },
    Injected { error: "ENOMEM", words: "Cannot allocate memory" },
];

/// The words of SQLite for any of them, and of the standard library for a directory that it cannot look at.
const OTHER_WORDS: [&str; 6] = [
    "disk I/O error",
    "unable to open database file",
    "database or disk is full",
    "database disk image is malformed",
    "was removed meanwhile: try again",
    "File exists",
];

/// System calls that are left out: a program that gets no memory or cannot handle its signals ends as if it were killed, and
/// these end or ask for nothing. Threads that cannot be started have tests of their own. `close` is done even if it reports an error
/// (close(2)), which strace cannot play. Libraries count on what cannot fail by the manual: our own identity, limits and time.
const LEFT_OUT: [&str; 26] = [
    "exit_group",
    "mmap",
    "brk",
    "munmap",
    "mprotect",
    "madvise",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "futex",
    "getpid",
    "gettid",
    "geteuid",
    "getuid",
    "getegid",
    "getgid",
    "getppid",
    "umask",
    "uname",
    "prlimit64",
    "clock_gettime",
    "sysinfo",
    "capget",
    "close",
    "getrandom",
    "clone3",
];

/// The environment variable that has more calls tried: so many times as many, by a new seed, `all` calls with all errors, or a
/// piece of these, such as `3/40`.
const MORE: &str = "RIKLET_SDN_INJECT";
/// The seed of the calls that are tried otherwise: what fails in one run fails in all.
const SEED: u64 = 11;

/// Longer than any command takes, under strace on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// An error that is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Injected {
    pub(super) error: &'static str,
    words: &'static str,
}

impl Injected {
    /// Returns the error of this name.
    #[track_caller]
    pub(super) fn named(name: &str) -> Self {
        let found = ERRORS.into_iter().find(|injected| injected.error == name);
        found.expect("one of the errors")
    }
}

/// Reports whether a message names the error that was injected, in the kernel's words or in SQLite's.
pub(super) fn names(message: &str, injected: Injected) -> bool {
    message.contains(injected.words) || OTHER_WORDS.iter().any(|words| message.contains(words))
}

/// A system call of a program's first thread: its name, and how many of the name there were up to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) number: usize,
}

fn record(world: &World) -> PathBuf {
    world.directory.path().join("strace")
}

/// Runs the program, which must succeed, and returns its system calls.
#[track_caller]
pub(super) fn calls(world: &World, arguments: &[&str], input: &str) -> Vec<Call> {
    let options = options_of(world, &["-y"]);
    let output = world.program("strace", &with(&options, arguments), input);
    assert_eq!(output.code, Some(0), "{output}");
    recorded(world)
}

/// Returns the system calls that strace has recorded, from the time on when the program read its configuration.
#[track_caller]
fn recorded(world: &World) -> Vec<Call> {
    let mut counts = BTreeMap::new();
    let (mut begun, mut found) = (false, Vec::new());
    for line in read(world).lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            continue;
        }
        let number = counts.entry(name.to_owned()).or_insert(0);
        *number += 1;
        begun |= line.contains("config.toml");
        if begun && !is_of_a_start(rest) && !LEFT_OUT.contains(&name) {
            found.push(Call { name: name.to_owned(), number: *number });
        }
    }
    assert!(found.len() > 100, "only {} calls", found.len());
    found
}

/// Reports whether a call is one by which the standard library talks to a program that it starts. These cannot fail like this,
/// and it has no answer to that: it panics, or waits for the program, which waits for its input.
fn is_of_a_start(rest: &str) -> bool {
    rest.contains("<pipe:") || rest.contains(", 8, 0, NULL, NULL)") || rest.contains("FIONBIO")
}

/// Reports whether the error came at such a call: their numbers differ if the program had something else to do.
pub(super) fn missed(world: &World) -> bool {
    read(world).lines().any(|line| line.contains("(INJECTED)") && is_of_a_start(line))
}

/// Runs the program with an error at this call.
#[track_caller]
pub(super) fn inject(
    world: &World,
    call: &Call,
    injected: Injected,
    arguments: &[&str],
    input: &str,
) -> Output {
    let options = options(&call.name, injected, call.number);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    ended(world, &options, arguments, input, || missed(world))
}

/// Runs the program, which must run until it gets SIGTERM, and returns its system calls until `is_up`.
#[track_caller]
pub(super) fn calls_until(
    world: &World,
    arguments: &[&str],
    input: &str,
    is_up: impl Fn() -> bool,
) -> Vec<Call> {
    let output = ended(world, &["-y"], arguments, input, is_up);
    assert_eq!(output.code, Some(0), "{output}");
    recorded(world)
}

/// Runs the program with an error at this call, and ends it (SIGTERM) once it `is_up`, unless it ends before.
#[track_caller]
pub(super) fn inject_until(
    world: &World,
    (call, injected): (&Call, Injected),
    arguments: &[&str],
    input: &str,
    is_up: impl Fn() -> bool,
) -> Output {
    let options = options(&call.name, injected, call.number);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    ended(world, &options, arguments, input, is_up)
}

#[track_caller]
fn ended(
    world: &World,
    options: &[&str],
    arguments: &[&str],
    input: &str,
    is_up: impl Fn() -> bool,
) -> Output {
    let options = options_of(world, options);
    let mut running = world.program_in_background("strace", &with(&options, arguments), input);
    let up = wait_for("the program to be up or to end", LONG, || {
        if running.is_running() { is_up().then_some(true) } else { Some(false) }
    });
    if up {
        for child in running.children() {
            // It may have ended.
            kill_process(child, Signal::TERM).ok();
        }
    }
    running.wait()
}

fn options_of(world: &World, options: &[&str]) -> Vec<String> {
    let record = record(world).into_os_string().into_string().expect("UTF-8");
    let first = ["-qq".to_owned(), "-o".to_owned(), record];
    first.into_iter().chain(options.iter().map(|&option| option.to_owned())).collect()
}

fn with<'a>(options: &'a [String], arguments: &[&'a str]) -> Vec<&'a str> {
    let options = options.iter().map(String::as_str);
    options.chain([env!("CARGO_BIN_EXE_riklet-sdn")]).chain(arguments.iter().copied()).collect()
}

/// Returns the options of strace(1) for an error at the call of this name and number.
pub(super) fn options(name: &str, injected: Injected, number: usize) -> Vec<String> {
    let inject = format!("inject={name}:error={}:when={number}", injected.error);
    ["-y".to_owned(), "-e".to_owned(), format!("trace={name}"), "-e".to_owned(), inject].into()
}

/// Returns the files `status` of all threads of a process (`proc_pid_status(5)`).
#[expect(clippy::disallowed_methods, reason = "files of procfs")]
pub(super) fn statuses(process: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("a process");
    let paths = threads.flatten().map(|thread| thread.path().join("status"));
    paths.filter_map(|path| fs::read_to_string(path).ok()).collect()
}

#[expect(clippy::disallowed_methods, reason = "what strace has written")]
fn read(world: &World) -> String {
    fs::read_to_string(record(world)).expect("the record of strace")
}

/// Returns random choices: the same in each run, unless more calls are tried.
pub(super) fn random() -> Random {
    if more().is_some() { Random::new() } else { Random::of(SEED) }
}

#[expect(clippy::disallowed_methods, reason = "whoever wants more says so by the environment")]
fn more() -> Option<String> {
    env::var(MORE).ok()
}

/// Returns this number of calls, or more of them, each with an error.
pub(super) fn chosen<T: Clone>(
    random: &mut Random,
    calls: &[T],
    sample: usize,
) -> Vec<(T, Injected)> {
    let more = more();
    let piece = more
        .as_deref()
        .and_then(|more| if more == "all" { Some(("1", "1")) } else { more.split_once('/') });
    if let Some((piece, pieces)) = piece {
        let [piece, pieces] =
            [piece, pieces].map(|number| number.parse::<usize>().expect("a number"));
        let all = calls.iter().flat_map(|call| ERRORS.map(|injected| (call.clone(), injected)));
        return all.skip(piece - 1).step_by(pieces).collect();
    }
    let times = more.map_or(1, |times| times.parse().expect("a number"));
    let one = |_| (random.pick(calls).clone(), *random.pick(&ERRORS));
    (0..sample * times).map(one).collect()
}
