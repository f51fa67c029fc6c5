//! netavark, called as Podman calls it: a bridge network with a port mapping.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::json;

use super::Peer;
use crate::common::{command::run_with_input, enclosure, namespace::Namespace};

/// The path where Debian installs it.
const PROGRAM: &str = "/usr/lib/podman/netavark";

pub(super) struct Netavark {
    node: Namespace,
    /// A container that stays, and keeps the bridge.
    _other: Namespace,
    directory: PathBuf,
}

impl Netavark {
    pub(super) fn new() -> Self {
        let (node, other) = (Namespace::new(), Namespace::new());
        let directory = enclosure::directory("netavark");
        let netavark = Self { node, _other: other.clone(), directory };
        netavark.call("setup", &other, 0);
        netavark
    }

    fn call(&self, operation: &str, container: &Namespace, number: usize) -> Duration {
        let address = format!("10.88.{}.{}", number / 250, 2 + number % 250);
        // The same options as `podman network create` sets.
        let options = json!({
            "container_id": format!("{number:064x}"),
            "container_name": format!("c{number}"),
            "port_mappings": [{
                "container_port": 3000, "host_ip": "", "host_port": 10_000 + number,
                "protocol": "tcp", "range": 1,
            }],
            "networks": { "bench": { "static_ips": [address], "interface_name": "eth0" } },
            "network_info": { "bench": {
                "name": "bench", "id": "b".repeat(64), "driver": "bridge",
                "network_interface": "podman1",
                "subnets": [{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }],
                "ipv6_enabled": false, "internal": false, "dns_enabled": false,
                "ipam_options": { "driver": "host-local" },
            } },
        });
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(&self.directory).args([operation, &container.path()]);
        self.node.run(|| run_with_input(&mut command, &options.to_string()).0)
    }
}

impl Peer for Netavark {
    fn name(&self) -> &'static str {
        "netavark"
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        let container = Namespace::new();
        let add = self.call("setup", &container, number);
        (add, self.call("teardown", &container, number))
    }
}
