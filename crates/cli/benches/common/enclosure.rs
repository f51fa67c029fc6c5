//! Namespaces in which everything is measured. They end with the measurement, however it ends.

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

/// Runs this program again with its arguments, in network, process and mount namespaces of its own (unshare(1)).
/// Returns its exit code.
///
/// The new process is the first one of the namespaces: its end ends every other process in them. It ends with
/// unshare, which ends with us, whatever ends us (setpriv(1)): it reacts to no signal but SIGKILL.
///
/// # Panics
/// Panics if the program cannot be started, or if a signal ends it.
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

/// Makes the namespaces usable: state, locks and temporary files are kept in memory that no other process sees.
pub(crate) fn set_up() {
    sh("ip link set lo up && mount -t tmpfs tmpfs /run && mkdir /run/lock /run/bench");
}

/// Creates a directory of this name, which vanishes with the namespaces.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new("/run/bench").join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Returns the root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
