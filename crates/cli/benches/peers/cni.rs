//! The CNI plugins, called as a container runtime calls them.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use super::Peer;
use crate::common::{command::run_with_input, enclosure, namespace::Namespace};

pub(super) const NAME: &str = "CNI ptp+portmap";
/// The directory where Debian installs the plugins.
const PLUGINS: &str = "/usr/lib/cni";

pub(super) struct Cni {
    node: Namespace,
    /// A container that stays, so that the chains shared by all containers exist already.
    _other: Namespace,
}

impl Cni {
    pub(super) fn new() -> Self {
        let (node, other) = (Namespace::new(), Namespace::new());
        let cni = Self { node, _other: other.clone() };
        cni.add(&other, 0);
        cni
    }

    /// Calls one plugin after the other, each with the result of the one before it.
    fn add(&self, container: &Namespace, number: usize) -> (Duration, Value) {
        let (ptp_took, result) = self.call("ADD", "ptp", container, number, None);
        let (took, result) = self.call("ADD", "portmap", container, number, Some(&result));
        (ptp_took + took, result)
    }

    /// Calls the plugins in reverse order, with the result of ADD (section 4 of the specification).
    fn delete(&self, container: &Namespace, number: usize, result: &Value) -> Duration {
        let (took, _) = self.call("DEL", "portmap", container, number, Some(result));
        took + self.call("DEL", "ptp", container, number, Some(result)).0
    }

    fn call(
        &self,
        operation: &str,
        plugin: &str,
        container: &Namespace,
        number: usize,
        previous: Option<&Value>,
    ) -> (Duration, Value) {
        let mut configuration = json!({ "cniVersion": "1.0.0", "name": "bench", "type": plugin });
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        if plugin == "ptp" {
            configuration["ipMasq"] = true.into();
            let data = enclosure::directory("cni");
            configuration["ipam"] =
                json!({ "type": "host-local", "subnet": "10.98.0.0/16", "dataDir": data });
        } else {
            configuration["runtimeConfig"] = json!({ "portMappings": [
                { "hostPort": 10_000 + number, "containerPort": 3000, "protocol": "tcp" },
            ] });
        }
        let mut command = Command::new(format!("{PLUGINS}/{plugin}"));
        command
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", format!("c{number}"))
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS);
        let (took, output) =
            self.node.run(|| run_with_input(&mut command, &configuration.to_string()));
        (took, serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

impl Peer for Cni {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cycle(&mut self, number: usize) -> (Duration, Duration) {
        let container = Namespace::new();
        let (add, result) = self.add(&container, number);
        (add, self.delete(&container, number, &result))
    }
}
