//! Where everything happens: namespaces that end with the measurement, however it ends.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use super::command::sh;

const INSIDE: &str = "RIKLET_SDN_BENCH_INSIDE";

pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs this program again with its arguments, in namespaces of its own for the network, processes and mounts
/// (unshare(1)). The end of their first process, which is that one, ends every other; and that one ends with
/// unshare, which ends with us, whatever ends us (setpriv(1)): it heeds no signal but SIGKILL. Returns its exit code.
///
/// # Panics
/// Where it cannot be started, or is ended by a signal.
pub(crate) fn enter() -> ExitCode {
    let itself = env::current_exe().unwrap();
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(itself)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.code().is_some(), "{status}");
    ExitCode::from(u8::try_from(status.code().unwrap()).unwrap())
}

/// Makes the namespaces usable. State, locks and temporary files go to memory that nobody else sees.
pub(crate) fn furnish() {
    sh("ip link set lo up && mount -t tmpfs tmpfs /run && mkdir /run/lock /run/bench");
}

/// A directory for this, which vanishes with the namespaces.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new("/run/bench").join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
