//! Network namespaces for tests.

#![expect(unsafe_code, reason = "unshare(2) has no safe wrapper")]

use std::{process::Command, thread};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs a test on a thread of its own, in a network namespace of its own with its loopback up.
///
/// The thread has a file descriptor table of its own, too: otherwise a program that another test starts
/// would hold our TAPs and sockets open from its fork(2) to its execve(2).
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    on_thread(UnshareFlags::NEWNET | UnshareFlags::FILES, test);
}

/// Runs a test like [`isolated`], but with the file descriptors of the process, which `/proc/<pid>/fd` shows.
pub fn isolated_with_shared_descriptors(test: impl FnOnce() + Send + 'static) {
    on_thread(UnshareFlags::NEWNET, test);
}

fn on_thread(unshared: UnshareFlags, test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: no descriptor passes from this thread to another, since the test returns nothing.
        unsafe { unshare_unsafe(unshared) }.expect("tests need CAP_SYS_ADMIN");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// Runs `ip` with these words, and returns its output.
pub fn ip(words: &str) -> String {
    run("ip", words)
}

/// Runs a program with these words. It must succeed. Returns its output.
pub fn run(program: &str, words: &str) -> String {
    run_with(program, &words.split_whitespace().collect::<Vec<_>>())
}

/// Runs a program with these arguments, of which some have spaces. It must succeed. Returns its output.
pub fn run_with(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().expect("it can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("it prints text")
}
