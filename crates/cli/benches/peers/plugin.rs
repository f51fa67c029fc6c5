//! The program as a CNI plugin, called as the other plugins are.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::json;

use super::{Peer, READY_SLOTS};
use crate::common::{command::run_with_input, daemon::Daemon, enclosure, namespace::Namespace};

pub(super) struct Plugin {
    name: &'static str,
    node: Namespace,
    state: PathBuf,
    _daemon: Option<Daemon>,
    /// A container that stays.
    _other: Namespace,
}

impl Plugin {
    /// Returns a node without a daemon.
    pub(super) fn alone() -> Self {
        Self::new("Riklet SDN, CNI", "plugin", |_, _| None)
    }

    /// Returns a node whose daemon does what the plugin asks.
    pub(super) fn beside_daemon() -> Self {
        let start = |node: &Namespace, state: &PathBuf| {
            Some(Daemon::start(node, state, "nftables", READY_SLOTS))
        };
        Self::new("Riklet SDN, CNI by the daemon", "plugin-daemon", start)
    }

    fn new(
        name: &'static str,
        directory: &str,
        daemon: impl FnOnce(&Namespace, &PathBuf) -> Option<Daemon>,
    ) -> Self {
        let (node, other) = (Namespace::new(), Namespace::new());
        let state = enclosure::directory(directory);
        let started = daemon(&node, &state);
        let plugin = Self { name, node, state, _daemon: started, _other: other.clone() };
        plugin.call("ADD", &other, 0);
        plugin
    }

    fn call(&self, operation: &str, container: &Namespace, number: usize) -> Duration {
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "riklet", "stateDir": self.state,
            "runtimeConfig": { "portMappings": [
                { "hostPort": 10_000 + number, "containerPort": 3000, "protocol": "tcp" },
            ] },
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_riklet-sdn"));
        command
            .env("RIKLET_SDN_FIREWALL", "nftables")
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", format!("c{number}"))
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0");
        self.node.run(|| run_with_input(&mut command, &configuration.to_string())).0
    }
}

impl Peer for Plugin {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        let container = Namespace::new();
        let add = self.call("ADD", &container, number);
        (add, self.call("DEL", &container, number))
    }
}
