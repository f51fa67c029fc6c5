//! Programs, run in a namespace until they end, or in the background.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::{
    Namespace,
    namespace::{list_proc, read_proc},
    wait_for,
};

/// The directories of the system's programs.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The time after which a program is killed.
const DEADLINE: Duration = Duration::from_mins(1);

/// The outcome of a program.
#[derive(Debug, Clone)]
#[must_use = "a program may have failed"]
pub(crate) struct Output {
    /// The exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
}

impl Output {
    /// Asserts success, and returns what was printed.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Asserts this exit code, and returns standard error.
    #[track_caller]
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self}");
        self.stderr
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr, command } = self;
        write!(f, "`{command}` ended with {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// Returns the whole environment of the system's programs.
pub(super) fn environment() -> BTreeMap<String, String> {
    [("PATH", PATH), ("LC_ALL", "C")].map(|(name, value)| (name.into(), value.into())).into()
}

/// Runs a program in the namespace with this environment and no other, and waits for its end.
#[track_caller]
pub(super) fn run(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdin: &str,
) -> Output {
    let command = [&[program], arguments].concat().join(" ");
    let child = spawn(namespace, program, arguments, environment);
    finish(child, command, stdin)
}

/// Starts a program like [`run`], without waiting for its end.
#[track_caller]
pub(super) fn start(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdin: &str,
) -> Running {
    let mut running = start_held(namespace, program, arguments, environment);
    let mut input = running.input.take().expect("it was not closed");
    input.write_all(stdin.as_bytes()).expect("a program that reads, or a short input");
    running
}

/// Starts a program like [`start`], with a standard input that closes when the harness ends, however it ends.
#[track_caller]
pub(super) fn start_held(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> Running {
    let command = [&[program], arguments].concat().join(" ");
    // The process that starts the tests may ignore signals, as nohup(1) does, and a child inherits that.
    let heeding = [&["--default-signal=HUP,INT,TERM", program], arguments].concat();
    let mut child = spawn(namespace, "env", &heeding, environment);
    let input = child.stdin.take();
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
    let mut errors = child.stderr.take().expect("a pipe");
    let errors = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    Running { child, command, input, lines, stdout: String::new(), errors: Some(errors) }
}

#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the harness starts programs here only")]
fn spawn(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
) -> Child {
    let spawn = || {
        Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    namespace
        .run_on_machine(spawn)
        .unwrap_or_else(|error| panic!("cannot start `{program}`: {error}"))
}

/// A program in the background. Dropping this kills it, if it has not ended.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    command: String,
    /// The standard input, if it is kept open.
    input: Option<ChildStdin>,
    /// The lines of its standard output, until it closes it.
    lines: mpsc::Receiver<String>,
    /// The lines that were read so far.
    stdout: String,
    errors: Option<JoinHandle<io::Result<String>>>,
}

impl Running {
    /// Waits for a line with these words, and returns all output up to it.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, words: &str) -> &str {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.stdout.push_str(&line);
                    self.stdout.push('\n');
                    if line.contains(words) {
                        return &self.stdout;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited {DEADLINE:?} for {words:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{words:?} did not come: {}", self.finish());
                }
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running program");
    }

    /// Returns the processor time used so far, in seconds (fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms).
    pub(crate) fn processor_time(&self) -> f64 {
        let id = self.child.id();
        let stat = read_proc(Path::new(&format!("/proc/{id}/stat"))).expect("a running program");
        let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }

    /// Returns the resident memory in KiB (`VmRSS` of `/proc/PID/status`).
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = read_proc(Path::new(&format!("/proc/{}/status", self.child.id())));
        let status = status.expect("a running program");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("a number of KiB")
    }

    /// Returns the number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells whether the program is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Returns the child processes of all its threads that have not ended (proc(5)).
    pub(crate) fn children(&self) -> Vec<Pid> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut found = Vec::new();
        for task in list_proc(Path::new(&tasks)).expect("a running program") {
            // The thread may have ended.
            let children = read_proc(&task.join("children")).unwrap_or_default();
            let ids = children.split_whitespace().map(|id| id.parse().expect("a process id"));
            found.extend(ids.map(|id| Pid::from_raw(id).expect("not 0")));
        }
        found
    }

    /// Tells whether a child process was started by a name with these words.
    pub(crate) fn runs(&self, words: &str) -> bool {
        let command =
            |id: &Pid| read_proc(Path::new(&format!("/proc/{}/cmdline", id.as_raw_nonzero())));
        let named = |command: String| command.split('\0').next().is_some_and(|c| c.contains(words));
        self.children().iter().any(|id| command(id).is_some_and(named))
    }

    /// Waits at most this long for the program to end, and tells whether it did.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let id = Pid::from_child(&self.child);
        let ended = pidfd_open(id, PidfdFlags::empty()).expect("pidfd_open");
        let limit = Timespec::try_from(limit).expect("a short time");
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit)).expect("poll") == 1
    }

    /// Waits until the program ends by itself, and returns its outcome.
    #[track_caller]
    pub(crate) fn wait(self) -> Output {
        self.wait_within(DEADLINE)
    }

    /// Waits at most this long for the program to end by itself, and returns its outcome.
    #[track_caller]
    pub(crate) fn wait_within(mut self, limit: Duration) -> Output {
        wait_for(&format!("the end of `{}`", self.command), limit, || {
            self.child.try_wait().expect("a child").map(drop)
        });
        self.finish()
    }

    /// Returns the program's outcome once it has closed its standard output.
    fn finish(&mut self) -> Output {
        let code = self.child.wait().expect("a child").code();
        for line in &self.lines {
            self.stdout.push_str(&line);
            self.stdout.push('\n');
        }
        let errors = self.errors.take().expect("it ends once").join().expect("no panic");
        let stderr = errors.expect("UTF-8");
        let (stdout, command) = (self.stdout.clone(), self.command.clone());
        Output { code, stdout, stderr, command }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Does nothing if the program has already ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[track_caller]
fn finish(mut child: Child, command: String, stdin: &str) -> Output {
    let id = Pid::from_child(&child);
    let input = child.stdin.take();
    let (sender, receiver) = mpsc::channel();
    let ended = thread::scope(|scope| {
        scope.spawn(move || {
            // A program need not read its input, so EPIPE is no failure.
            input.map(|mut input| input.write_all(stdin.as_bytes()).ok());
        });
        scope.spawn(move || sender.send(child.wait_with_output()).ok());
        let ended = receiver.recv_timeout(DEADLINE);
        if ended.is_err() {
            kill_process(id, Signal::KILL).ok();
        }
        ended
    });
    let output = ended
        .unwrap_or_else(|_| panic!("`{command}` did not end within {DEADLINE:?}"))
        .expect("the child is waited for once");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Output {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        command,
    }
}
