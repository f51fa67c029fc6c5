//! Programs, run in a namespace to their end.

use std::{
    collections::BTreeMap,
    fmt,
    io::Write,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::Namespace;

/// Where the system's programs are.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// When a program is killed.
const DEADLINE: Duration = Duration::from_mins(1);

/// What a program did.
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
    /// What the program printed, which must have succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// What the program complained about, which must have ended with this code.
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

/// The environment of the system's programs: all of it.
pub(super) fn environment() -> BTreeMap<String, String> {
    [("PATH", PATH), ("LC_ALL", "C")].map(|(name, value)| (name.into(), value.into())).into()
}

/// Runs a program in the namespace with this environment and no other, and waits for its end.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "the harness starts programs here only")]
pub(super) fn run(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdin: &str,
) -> Output {
    let command = [&[program], arguments].concat().join(" ");
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
    let child =
        namespace.run(spawn).unwrap_or_else(|error| panic!("cannot start `{command}`: {error}"));
    finish(child, command, stdin)
}

#[track_caller]
fn finish(mut child: Child, command: String, stdin: &str) -> Output {
    let id = Pid::from_child(&child);
    let input = child.stdin.take();
    let (sender, receiver) = mpsc::channel();
    let ended = thread::scope(|scope| {
        scope.spawn(move || {
            // A program need not read its input: EPIPE is no failure.
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
