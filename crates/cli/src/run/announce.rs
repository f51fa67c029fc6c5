//! What `run` says once all is ready.

use std::{fmt, net::Ipv4Addr, time::Duration};

use riklet_api as wire;
use riklet_core::model::Vmm;
use riklet_sdn::{Instance, Report};
use serde_json::{Value, json};

use super::{
    prepare::Prepared,
    ready::{self, Readiness},
};
use crate::{
    error::CliError,
    output::{self, Output},
};

/// How long what took, each part after the one before.
pub(super) struct Times {
    pub(super) network: Duration,
    pub(super) vmm: Duration,
    pub(super) boot: Duration,
    pub(super) answer: Duration,
}

/// What takes it down.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    Interrupt,
    Stop,
}

/// All of it.
pub(super) struct Ready<'a> {
    pub(super) instances: &'a [(&'a Instance, Vmm)],
    pub(super) prepared: &'a [Prepared],
    pub(super) readiness: &'a Readiness,
    pub(super) times: Times,
    pub(super) report: &'a Report,
}

impl Ready<'_> {
    /// Prints it. `elsewhere` is the address that other machines reach this one by.
    pub(super) fn announce(
        &self,
        output: Output,
        elsewhere: Option<Ipv4Addr>,
        ends: Ends,
    ) -> Result<(), CliError> {
        let urls = ready::urls(self.instances, &self.readiness.answers, elsewhere);
        output.print(|| self.text(&urls, ends), || self.json(&urls))
    }

    fn text(&self, urls: &[String], ends: Ends) -> String {
        let instances = self.instances.iter();
        let instances: Vec<_> = instances.map(|(i, vmm)| (wire::Instance::from(*i), vmm)).collect();
        let rows = instances.iter().map(|(i, vmm)| (i, vec![vmm.to_string()]));
        let chosen = self.prepared.iter().map(|p| format!("{}: {}", p.name(), p.choice));
        let answers = self.readiness.answers.iter().filter_map(|answer| {
            Some(format!("GET http://{}/ -> {}", answer.target, answer.body.as_ref()?))
        });
        let mut lines: Vec<_> = chosen.chain(urls.iter().cloned()).chain(answers).collect();
        lines.push(self.times.to_string());
        lines.push(match ends {
            Ends::Interrupt => "Ctrl-C takes it down\n".to_owned(),
            Ends::Stop => {
                let names: Vec<_> = self.prepared.iter().map(|p| p.name().as_str()).collect();
                format!("`riklet-sdn stop {}` takes it down\n", names.join(" "))
            }
        });
        output::instances(&["VMM"], rows) + &lines.join("\n")
    }

    fn json(&self, urls: &[String]) -> Value {
        let described = |(instance, vmm): &(&Instance, Vmm)| {
            let mut value = json!(wire::Instance::from(*instance));
            value["vmm"] = vmm.as_str().into();
            value
        };
        json!({
            "instances": self.instances.iter().map(described).collect::<Vec<_>>(),
            "urls": urls,
            "readyMs": self.times.json(),
            "warnings": wire::lines(&self.report.warnings),
        })
    }
}

impl Times {
    fn total(&self) -> Duration {
        self.network + self.vmm + self.boot + self.answer
    }

    fn json(&self) -> Value {
        json!({
            "total": millis(self.total()),
            "network": millis(self.network),
            "vmm": millis(self.vmm),
            "boot": millis(self.boot),
            "answer": millis(self.answer),
        })
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [total, network, vmm, boot, answer] =
            [self.total(), self.network, self.vmm, self.boot, self.answer].map(millis);
        write!(
            f,
            "ready in {total:.1} ms: network {network:.1}, VMM start {vmm:.1}, guest boot {boot:.1}, \
             first answer {answer:.1}"
        )
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
