//! fcnet-cli, which creates a TAP for Firecracker and masquerades its traffic.

use std::{path::PathBuf, process::Command, time::Duration};

use super::Peer;
use crate::common::{command::run_with_input, enclosure, namespace::Namespace};

pub(super) struct Fcnet {
    node: Namespace,
    program: PathBuf,
}

impl Fcnet {
    pub(super) fn new() -> Self {
        let program = enclosure::repository().join("target/tools/bin/fcnet-cli");
        let fcnet = Self { node: Namespace::new(), program };
        fcnet.call("--add", 0);
        fcnet
    }

    fn call(&self, operation: &str, number: usize) -> Duration {
        let network = format!("172.16.{}", number / 64);
        let first = number % 64 * 4;
        let mut command = Command::new(&self.program);
        command
            .args([operation, "--iface", "eth0", "--tap", &format!("fc{number}")])
            .args(["--tap-ip", &format!("{network}.{}/30", first + 1)])
            .args(["--guest-ip", &format!("{network}.{}/30", first + 2)])
            .arg("simple");
        let (took, output) = self.node.run(|| run_with_input(&mut command, ""));
        // fcnet-cli exits with 0 even when it fails.
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.is_empty(), "{command:?}: {complaint}");
        took
    }
}

impl Peer for Fcnet {
    fn name(&self) -> &'static str {
        "fcnet-cli"
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        (self.call("--add", number), self.call("--del", number))
    }
}
