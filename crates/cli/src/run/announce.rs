//! Announces that all functions are ready.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use riklet_api::{ReadyRuns, ReadyTimes, RunningInstance, lines};
use riklet_core::model::Vmm;
use riklet_daemon::documents;
use riklet_kernel::Kernel;
use riklet_sdn::{Instance, Node, NodeError};
use riklet_vmm::supervisor::{PortAnswer, Ready, Times, tcp_exposures};

use crate::{error::CliError, output::Output, render};

/// The way in which the functions are taken down.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    Interrupt,
    Stop,
}

/// Prints that all functions are ready. `elsewhere` is the address at which other machines reach this one.
pub(super) fn announce(
    ready: &Ready<'_>,
    output: Output,
    elsewhere: Option<IpAddr>,
    ends: Ends,
) -> Result<(), CliError> {
    let urls = urls(ready.instances, &ready.readiness.answers, elsewhere);
    let document = document(ready, urls);
    output.print(|| text(ready, &document, ends), || &document)
}

/// Returns the address at which other machines reach the node, if it can be determined.
pub(super) fn uplink_address<K: Kernel>(node: &mut Node<K>) -> Result<Option<IpAddr>, CliError> {
    let uplinks = node.kernel().uplinks().map_err(NodeError::from)?;
    for uplink in uplinks {
        let link = node.kernel().link(&uplink).map_err(NodeError::from)?;
        if let Some(address) = link.and_then(|link| link.addresses.first().copied()) {
            return Ok(Some(address.addr()));
        }
    }
    Ok(None)
}

/// Returns the URLs that a user can try: on this node, and from other machines.
fn urls(
    instances: &[(&Instance, Vmm)],
    answers: &[PortAnswer],
    elsewhere: Option<IpAddr>,
) -> Vec<String> {
    let here = answers.iter().map(|answer| format!("http://{}/", answer.target));
    let there =
        tcp_exposures(instances).filter(|(_, exposure, _)| exposure.host_address().is_none());
    let there = there.filter_map(|(_, exposure, _)| {
        Some(format!("http://{}/", SocketAddr::new(elsewhere?, exposure.host_ports().first())))
    });
    here.chain(there).collect()
}

fn text(ready: &Ready<'_>, document: &ReadyRuns, ends: Ends) -> String {
    let instances = ready.instances.iter();
    let instances: Vec<_> = instances.map(|(i, vmm)| (documents::instance(i), vmm)).collect();
    let rows = instances.iter().map(|(i, vmm)| (i, vec![vmm.to_string()]));
    let chosen = ready.prepared.iter().map(|p| format!("{}: {}", p.name(), p.choice));
    let answers = ready.readiness.answers.iter().filter_map(|answer| {
        Some(format!("GET http://{}/ -> {}", answer.target, answer.body.as_ref()?))
    });
    let mut lines: Vec<_> = chosen.chain(document.urls.iter().cloned()).chain(answers).collect();
    lines.push(times_text(document));
    lines.push(match ends {
        Ends::Interrupt => "Ctrl-C takes it down\n".to_owned(),
        Ends::Stop => {
            let names: Vec<_> = ready.prepared.iter().map(|p| p.name().as_str()).collect();
            format!("`riklet-sdn stop {}` takes it down\n", names.join(" "))
        }
    });
    render::instances(&["VMM"], rows) + &lines.join("\n")
}

fn document(ready: &Ready<'_>, urls: Vec<String>) -> ReadyRuns {
    let running = |(instance, vmm): &(&Instance, Vmm)| RunningInstance {
        instance: documents::instance(instance),
        vmm: vmm.as_str().to_owned(),
    };
    ReadyRuns {
        instances: ready.instances.iter().map(running).collect(),
        urls,
        ready_ms: milliseconds(&ready.times),
        awaited: ready.readiness.awaited,
        warnings: lines(&ready.report.warnings),
    }
}

fn milliseconds(times: &Times) -> ReadyTimes {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    ReadyTimes {
        total: millis(times.network + times.vmm + times.boot + times.answer),
        network: millis(times.network),
        vmm: millis(times.vmm),
        boot: millis(times.boot),
        answer: millis(times.answer),
    }
}

fn times_text(ready: &ReadyRuns) -> String {
    let ReadyTimes { network, vmm, boot, answer, .. } = ready.ready_ms;
    let started = format!("{}: network {network:.1}, VMM start {vmm:.1}", ready.took());
    if !ready.awaited {
        return started;
    }
    format!("{started}, guest boot {boot:.1}, first answer {answer:.1}")
}
