//! Network namespaces for tests.

#![expect(unsafe_code, reason = "unshare(2) has no safe wrapper")]

use std::{ffi::OsStr, thread};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs a test on a thread of its own, in a network namespace of its own.
pub(crate) fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        enter_new();
        test()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves the calling thread to a new network namespace, with its loopback up.
pub(crate) fn enter_new() {
    // SAFETY: the file descriptor table stays shared; only the network namespace changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("tests need CAP_SYS_ADMIN");
    ip("link set lo up");
}

/// Runs `ip` with these words, and answers what it printed.
pub(crate) fn ip(words: &str) -> String {
    run("ip", words)
}

/// Runs a program with these words, which must succeed, and answers what it printed.
pub(crate) fn run(program: &str, words: &str) -> String {
    let args: Vec<_> = words.split_whitespace().collect();
    let output = crate::process::run(OsStr::new(program), &args, b"").expect("it can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words}: {error}");
    String::from_utf8(output.stdout).expect("it prints text")
}
