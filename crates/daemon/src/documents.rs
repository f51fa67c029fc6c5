//! Turns the node's types into the documents of the API, and an inspection back into an instance.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::engine::{Delay, SlotCounts};
use riklet_api::{
    Check, ExposureDocument, FailureDocument, Health, InspectionDocument, InstanceDocument,
    LinkEnd, ListEntry, PlanDocument, RebuiltDocument, RefusedDocument, ReportDocument,
    RunDocument, SettingsDocument, Unsettled, lines,
};
use riklet_core::{
    address::GATEWAY_MAC,
    definition,
    firewall::RefusedPacket,
    model::{Addresses, Ends, MacAddress, Mtu, Slot},
};
use riklet_kernel::process::ProcessId;
use riklet_sdn::{
    Config, Drift, LinkStatus, Warning,
    store::{self, Phase, Setting, Store, StoreError},
};
use riklet_vmm::runs::{Repaired, RunState};

/// Describes a refused packet.
#[must_use]
pub fn refused(packet: &RefusedPacket) -> RefusedDocument {
    RefusedDocument {
        rule: packet.rule.to_string(),
        protocol: packet.protocol_name(),
        source: packet.from.to_string(),
        destination: packet.to.to_string(),
        port: packet.port,
    }
}

/// Describes a recorded instance.
#[must_use]
pub fn instance(instance: &riklet_sdn::Instance) -> InstanceDocument {
    let Addresses { v4, v6 } = instance.addresses;
    let end = |address: Ipv4Addr, address6, mac: MacAddress| LinkEnd {
        address: address.into(),
        address6,
        mac: mac.to_string(),
    };
    InstanceDocument {
        name: instance.name().to_string(),
        kind: instance.kind().as_str().to_owned(),
        slot: instance.slot.number(),
        interface: instance.interface().to_string(),
        tap: instance.interface().to_string(),
        phase: instance.phase.as_str().to_owned(),
        guest: end(v4.guest, v6.map(|v6| v6.guest), instance.guest_mac()),
        host: end(v4.host, v6.map(|v6| v6.host), GATEWAY_MAC),
        prefix_length: Addresses::PREFIX_LENGTH,
        mtu: instance.mtu,
        exposures: instance.exposures().iter().map(ExposureDocument::from).collect(),
    }
}

/// Describes a line of [`riklet_sdn::Node::list`].
#[must_use]
pub fn listed(listed: &riklet_sdn::ListedInstance) -> ListEntry {
    entry(&listed.instance, listed.link)
}

/// Describes an instance whose TAP has this status, as lists do.
#[must_use]
pub fn entry(recorded: &riklet_sdn::Instance, status: LinkStatus) -> ListEntry {
    ListEntry { instance: instance(recorded), link: status.as_str().to_owned() }
}

/// Describes the result of [`riklet_sdn::Node::inspect`].
#[must_use]
pub fn inspection(found: &riklet_sdn::Inspection) -> InspectionDocument {
    InspectionDocument {
        instance: instance(&found.instance),
        link: found.status.as_str().to_owned(),
        exposed: found.exposed,
        drift: found.drift.clone(),
        inside: found.inside.clone(),
        definition: definition::to_value(&found.instance.workload),
    }
}

/// Describes the result of an operation.
#[must_use]
pub fn report(report: &riklet_sdn::Report) -> ReportDocument {
    ReportDocument {
        instances: report.instances.iter().map(instance).collect(),
        steps: lines(&report.done),
        warnings: report.warnings.iter().map(ToString::to_string).collect(),
        failures: report.failures.iter().map(failure).collect(),
        others: report.others.iter().map(failure).collect(),
    }
}

/// Describes a repair, with a warning for each run that was cleared away.
#[must_use]
pub fn repaired(repaired: &Repaired) -> ReportDocument {
    let ReportDocument { steps, instances, failures, others, warnings } = report(&repaired.report);
    let cleared = repaired.cleared.iter();
    let warning = |name| format!("{name}: its supervisor died; cleared away what it left");
    ReportDocument {
        steps: cleared.clone().flat_map(|(_, report)| lines(&report.done)).chain(steps).collect(),
        warnings: cleared.map(|(run, _)| warning(&run.name)).chain(warnings).collect(),
        instances,
        failures,
        others,
    }
}

/// Describes the result of [`riklet_sdn::Node::rebuild`].
#[must_use]
pub fn rebuilt(rebuilt: &riklet_sdn::Rebuilt) -> RebuiltDocument {
    RebuiltDocument {
        set_aside: rebuilt.set_aside.clone(),
        recovered: rebuilt.recovered.iter().map(ToString::to_string).collect(),
        incomplete: rebuilt.incomplete.iter().map(ToString::to_string).collect(),
        lost: rebuilt.lost.iter().map(ToString::to_string).collect(),
        repair: report(&rebuilt.report),
    }
}

fn failure(failure: &riklet_sdn::Failure) -> FailureDocument {
    FailureDocument {
        name: failure.name.to_string(),
        error: riklet_api::chain(failure),
        hint: failure.hint(),
        kind: failure.kind(),
    }
}

/// Describes what `up` would do, with the warnings that it would give.
#[must_use]
pub fn plan(plan: &riklet_core::plan::Plan, warnings: &[Warning]) -> PlanDocument {
    PlanDocument {
        steps: lines(&plan.steps),
        blocked: blocked(plan),
        warnings: warnings.iter().map(ToString::to_string).collect(),
    }
}

/// Returns the obstacles in the way of a plan.
fn blocked(plan: &riklet_core::plan::Plan) -> Vec<String> {
    let obstacles = plan.blocked.values().map(ToString::to_string);
    let claims = plan.claims.iter().map(ToString::to_string);
    obstacles.chain(claims).chain(plan.cut_offs.iter().map(ToString::to_string)).collect()
}

/// Describes the drift of the kernel, and the names of runs whose supervisor has died.
pub fn check(drift: &Drift, lost: impl IntoIterator<Item = String>) -> Check {
    let unsettled = drift.unsettled.iter();
    let unsettled = unsettled
        .map(|(name, phase)| Unsettled { name: name.to_string(), phase: phase.to_string() });
    Check {
        firewall: drift.firewall.clone(),
        steps: lines(&drift.plan.steps),
        blocked: blocked(&drift.plan),
        unsettled: unsettled.collect(),
        lost: lost.into_iter().collect(),
        warnings: drift.warnings.iter().map(ToString::to_string).collect(),
    }
}

/// Describes a run that is in this state.
#[must_use]
pub fn run(run: &store::Run, state: RunState) -> RunDocument {
    let end = run.end.as_ref();
    RunDocument {
        name: run.name.to_string(),
        vmm: run.vmm.clone(),
        state: state.as_str().to_owned(),
        pid: run.process.map(ProcessId::pid),
        supervisor_pid: run.supervisor.pid(),
        started_ms: run.started,
        ready_after_ms: run.ready.filter(|after| *after > 0),
        ended_ms: end.map(|end| end.at),
        reason: end.map(|end| end.reason.clone()),
        failed: end.map(|end| end.failed),
    }
}

/// Describes the state of the daemon.
#[must_use]
pub fn health(counts: SlotCounts, delay: Option<&Delay>) -> Health {
    let millis = |busy: Duration| u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
    Health {
        status: if delay.is_some() { "busy" } else { "ok" }.to_owned(),
        busy_ms: delay.map(|delay| millis(delay.busy)),
        waits_for: delay.and_then(|delay| delay.waits_for.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        functions: counts.functions,
        creating_slots: counts.creating,
        ready_slots: counts.ready,
        draining_slots: counts.draining,
    }
}

/// Describes the settings of a node with this configuration, by its records.
///
/// # Errors
/// Fails if the records cannot be read.
pub fn settings(config: &Config) -> Result<SettingsDocument, StoreError> {
    let store = Store::open_existing(&config.state_dir)?;
    let recorded = |setting| store.as_ref().map_or(Ok(None), |store| store.setting(setting));
    let names = recorded(Setting::Uplinks)?;
    let names = names.map(|names| names.split_whitespace().map(str::to_owned).collect());
    let configured = config.uplinks.as_ref();
    let configured = configured.map(|names| names.iter().map(ToString::to_string).collect());
    let (firewall, pool) = (recorded(Setting::Backend)?, recorded(Setting::Pool)?);
    let (mask, egress) = (recorded(Setting::MarkMask)?, recorded(Setting::Egress)?);
    let (flows, ipv6) = (recorded(Setting::Flows)?, recorded(Setting::Ipv6)?);
    let mtu = recorded(Setting::Mtu)?.and_then(|mtu| mtu.parse().ok());
    Ok(SettingsDocument {
        firewall: firewall.unwrap_or_else(|| config.firewall.as_str().to_owned()),
        pool: pool.or_else(|| config.pool.map(|pool| pool.to_string())),
        uplinks: names.or(configured),
        mtu: mtu.or(config.mtu.map(Mtu::bytes)),
        flows: flows.unwrap_or_else(|| config.flows.unwrap_or_default().to_string()),
        ipv6: ipv6.unwrap_or_else(|| config.ipv6.unwrap_or_default().to_string()),
        egress: egress.unwrap_or_else(|| config.egress.unwrap_or_default().to_string()),
        mark_mask: mask.unwrap_or_else(|| config.mark_mask.unwrap_or_default().to_string()),
    })
}

/// A field of an answer that this version does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot understand the {field} in the daemon's answer; it may have another version")]
pub struct NotUnderstood {
    field: &'static str,
}

/// Parses the instance that an inspection describes.
///
/// # Errors
/// Fails if this version does not know the definition, the phase or an address.
pub fn inspected(found: &InspectionDocument) -> Result<riklet_sdn::Instance, NotUnderstood> {
    let InstanceDocument { slot, phase, guest, host, mtu, .. } = &found.instance;
    let workload = definition::from_json(&found.definition.to_string())
        .map_err(|_errors| NotUnderstood { field: "definition" })?;
    let phase = [Phase::Pending, Phase::Up, Phase::Removing]
        .into_iter()
        .find(|known| known.as_str() == phase)
        .ok_or(NotUnderstood { field: "phase" })?;
    let ends = (host.address, guest.address, host.address6.zip(guest.address6));
    let (IpAddr::V4(host), IpAddr::V4(guest), v6) = ends else {
        return Err(NotUnderstood { field: "address" });
    };
    let v6 = v6.map(|(host, guest)| Ends { host, guest });
    let addresses = Addresses { v4: Ends { host, guest }, v6 };
    Ok(riklet_sdn::Instance::new(workload, Slot::new(*slot), phase, addresses, *mtu))
}

#[cfg(test)]
mod tests {
    use riklet_core::model::Pool;

    use super::*;

    const DEFINITION: &str = r#"{ "apiVersion": "v1", "kind": "Function", "name": "hello", "spec": { "function": {} } }"#;

    #[test]
    fn inspection_round_trips_with_addresses_of_both_families() {
        let v4: Pool = "10.231.0.0/16".parse().unwrap();
        let both = v4.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
        for (pool, guest) in [
            (v4, r#"{"address":"10.231.0.6","mac":"06:52:49:4b:00:01"}"#),
            (
                both,
                r#"{"address":"10.231.0.6","address6":"fd52:494b::3","mac":"06:52:49:4b:00:01"}"#,
            ),
        ] {
            let workload = definition::from_json(DEFINITION).unwrap();
            let (slot, phase) = (Slot::new(1), Phase::Up);
            let addresses = pool.addresses(slot).unwrap();
            let instance = riklet_sdn::Instance::new(workload, slot, phase, addresses, 1500);
            let found = riklet_sdn::Inspection::new(instance.clone(), LinkStatus::Ready);
            let document = inspection(&found);
            let text = serde_json::to_string(&document).unwrap();
            assert!(text.contains(&format!("\"guest\":{guest}")), "{text}");
            let read: InspectionDocument = serde_json::from_str(&text).unwrap();
            assert_eq!(inspected(&read).unwrap(), instance);
        }
    }
}
