//! The environment that a test runs the program in, isolated from the host in both directions.

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Write},
    fs,
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use assert_cmd::Command;
use serde_json::Value;

/// The directories of the system's programs.
const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The time after which a program is killed.
const DEADLINE: Duration = Duration::from_mins(1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_riklet-sdn");

/// Everything that a program could change, by name.
pub(crate) type Snapshot = BTreeMap<String, Vec<u8>>;

/// The definition of one function, `hello`, with one exposure.
pub(crate) const HELLO: &str = include_str!("../../../../examples/hello.json");

/// Two more definitions: one with several optional fields of an exposure and an execution, and one with none.
pub(crate) const TWO: &str = "
apiVersion: v1
kind: Function
name: resolver
spec:
  function:
    execution: { dns: [192.0.2.53] }
    exposure:
    - { port: 53, protocol: UDP, hostAddress: 127.0.0.1 }
    - { port: 8000-8002, targetPort: 80-82 }
---
apiVersion: v1
kind: Function
name: worker
spec: { function: {} }
";

/// A directory, and a network namespace, which the test's thread moves into. The program runs in both, with a state
/// directory and an empty configuration in the directory. It finds no other program, so the firewall is nftables.
#[derive(Debug)]
pub(crate) struct Environment {
    directory: PathBuf,
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Creates an environment: only `lo` exists, and is up; nothing is forwarded; `hello.json` is in the directory.
    pub(crate) fn new() -> Self {
        unshare_network();
        let directory = directory();
        let path = |name: &str| directory.join(name).to_str().expect("UTF-8").to_owned();
        let variables = BTreeMap::from([
            ("PATH".to_owned(), path("no-programs")),
            ("RIKLET_SDN_STATE_DIR".to_owned(), path("state")),
            ("RIKLET_SDN_CONFIG".to_owned(), path("config.toml")),
        ]);
        let environment = Self { directory, variables };
        environment.tool("ip", &["link", "set", "lo", "up"]);
        Self::forward(false);
        environment.write("config.toml", "");
        environment.write("hello.json", HELLO);
        environment
    }

    /// Creates an environment in which `hello` is up.
    pub(crate) fn with_hello() -> Self {
        let environment = Self::new();
        environment.run(&["up", "hello.json"]).success();
        environment
    }

    /// Runs the program.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[], "")
    }

    /// Starts the program in the background. Its standard error is in the [`Self::log`].
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.start(arguments, Stdio::null())
    }

    /// Starts the program in the background, with a pipe for its standard output.
    pub(crate) fn spawn_piped(&self, arguments: &[&str]) -> Child {
        self.start(arguments, Stdio::piped())
    }

    #[expect(clippy::disallowed_methods, reason = "a program of the test's own, in its background")]
    fn start(&self, arguments: &[&str], output: Stdio) -> Child {
        let log = fs::File::create(self.path("log")).expect("a file");
        let mut command = process::Command::new(PROGRAM);
        command.env_clear().envs(&self.variables).current_dir(&self.directory).args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        command.spawn().expect("the program can be started")
    }

    /// Returns the standard error of the program that was started last.
    pub(crate) fn log(&self) -> String {
        String::from_utf8(read(&self.path("log"))).expect("UTF-8")
    }

    /// Runs the program with these additional environment variables, and with this input.
    pub(crate) fn run_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) -> Output {
        let mut command = self.command(PROGRAM);
        self.finish(command.args(arguments).envs(variables.iter().copied()).write_stdin(input))
    }

    /// Runs the program, which must fail with this code and change nothing. Returns its error.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, arguments: &[&str]) -> String {
        self.refused_with(code, arguments, &[])
    }

    #[track_caller]
    pub(crate) fn refused_with(
        &self,
        code: i32,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> String {
        let before = self.snapshot();
        let complaint = self.run_with(arguments, variables, "").failure(code);
        self.assert_unchanged(&before, &arguments.join(" "));
        complaint
    }

    /// Runs a script that finds the system's programs. `$RIKLET` is the program.
    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut command = self.command("/bin/sh");
        let riklet = format!("env PATH={} {PROGRAM}", self.path("no-programs").display());
        let variables = [("PATH", SYSTEM), ("RIKLET", &riklet), ("PROGRAM", PROGRAM)];
        self.finish(command.args(["-c", script]).envs(variables))
    }

    /// Runs such a script in a mount namespace of its own: nobody else sees its mounts.
    pub(crate) fn shell_that_mounts(&self, script: &str) -> Output {
        self.shell(&format!("exec unshare --mount sh -c '{script}'"))
    }

    /// Runs a program of the system, which must succeed, and returns its output.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        self.finish(command.args(arguments).env("PATH", SYSTEM)).success()
    }

    /// Returns a path below the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own files")]
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("a file");
    }

    /// Enables or disables IPv4 forwarding on the host.
    #[expect(clippy::disallowed_methods, reason = "a sysctl of the thread's namespace")]
    pub(crate) fn forward(forward: bool) {
        let value = if forward { "1" } else { "0" };
        fs::write("/proc/sys/net/ipv4/ip_forward", value).expect("a sysctl");
    }

    /// Returns the records on disk and the kernel's state. SQLite's journal files, which it keeps next to its database
    /// for rollbacks, are not records.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for entry in fs::read_dir(self.path("state")).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "db-journal") {
                snapshot.insert(path.display().to_string(), read(&path));
            }
        }
        let commands =
            ["ip -d link", "ip address", "ip -4 route show table all", "nft -s list ruleset"];
        for command in commands {
            let words: Vec<_> = command.split(' ').collect();
            let mut text = self.tool(words[0], &words[1..]);
            // The kernel updates the carrier's state after a while.
            for volatile in ["NO-CARRIER,", " state UNKNOWN", " state DOWN", " linkdown"] {
                text = text.replace(volatile, "");
            }
            snapshot.insert(command.to_owned(), text.into());
        }
        snapshot.insert("ip_forward".to_owned(), read(Path::new("/proc/sys/net/ipv4/ip_forward")));
        snapshot
    }

    /// Asserts that nothing has changed since before `what`.
    #[track_caller]
    pub(crate) fn assert_unchanged(&self, before: &Snapshot, what: &str) {
        self.assert_unchanged_but(before, "", what);
    }

    /// Asserts that nothing but the file of this name has changed.
    #[track_caller]
    pub(crate) fn assert_unchanged_but(&self, before: &Snapshot, file: &str, what: &str) {
        let after = self.snapshot();
        let is_other = |name: &&String| file.is_empty() || !name.ends_with(file);
        for name in before.keys().chain(after.keys()).filter(is_other) {
            let text = |snapshot: &Snapshot| {
                snapshot.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            };
            let same = before.get(name) == after.get(name);
            assert!(same, "{what} changed {name}: from {:#?} to {:#?}", text(before), text(&after));
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.variables).current_dir(&self.directory).timeout(DEADLINE);
        command
    }

    fn finish(&self, command: &mut Command) -> Output {
        let output = command.output().expect("the program can be started");
        let directory = self.directory.to_str().expect("UTF-8");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8").replace(directory, "$DIR");
        let text = |bytes| without_owner(&text(bytes));
        Output {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // A failed test would otherwise leave its runs running.
        if std::thread::panicking() && self.path("state/machines").exists() {
            let _not_stopped = self.run(&["stop", "--all", "--timeout", "0"]);
        }
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// The outcome of a program, in which `$DIR` replaces the environment's directory.
#[derive(Debug, Clone)]
#[must_use = "a program may have failed"]
pub(crate) struct Output {
    /// The exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Asserts success without any output on standard error, and returns what was printed.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self}");
        self.stdout
    }

    /// Asserts success, and returns the output. Standard error may have warnings.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Returns the text of [`Self::success`], as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    /// Asserts this exit code and an empty standard output, and returns standard error.
    #[track_caller]
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self}");
        self.stderr
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stdout)?;
        if !self.stderr.is_empty() {
            write!(f, "---- stderr ----\n{}", self.stderr)?;
        }
        match self.code {
            Some(0) => Ok(()),
            Some(code) => write!(f, "---- exit code {code} ----"),
            None => f.write_str("---- killed ----"),
        }
    }
}

/// Runs commands, and returns the output of each below its arguments.
pub(crate) fn transcript<'a>(
    environment: &Environment,
    commands: impl IntoIterator<Item = &'a [&'a str]>,
) -> String {
    let mut text = String::new();
    for arguments in commands {
        let output = environment.run(arguments).to_string();
        writeln!(text, "$ riklet-sdn {}", arguments.join(" ")).unwrap();
        text += &output;
        if !output.is_empty() && !output.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "the test's own files, and a sysctl")]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Creates a directory that every user may list.
fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = env::temp_dir().join(format!("riklet-sdn-cli-{}-{number}", process::id()));
    // A killed test with the same process id may have left one behind.
    fs::remove_dir_all(&path).ok();
    fs::create_dir(&path).expect("a directory");
    path
}

/// Moves the calling thread, which belongs to the test, into a new network namespace. The namespace vanishes with the
/// thread and the programs started from it.
#[expect(unsafe_code, reason = "unshare(2) has no safe wrapper")]
fn unshare_network() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only `CLONE_FILES` is unsafe, and it is not given.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests need root");
}

/// Returns the text without the identifier of the state directory in aliases. It differs from one directory to
/// another.
fn without_owner(text: &str) -> String {
    let mut parts = text.split("riklet-sdn@");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("riklet-sdn@$ID");
        plain.push_str(part.get(16..).expect("an identifier"));
    }
    plain
}
