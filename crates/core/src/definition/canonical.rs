use serde_json::{Value, json};

use super::{
    API_VERSION, EXPOSURE_TYPE, Error, Errors, Reason, Source, SourceLocation, Validator,
    parse_within, tree::Position,
};
use crate::model::{
    Account, Destination, EgressPolicy, Execution, Exposure, Image, Limits, PortRange, Workload,
};

/// Returns the definition of a workload, with every default of its network spelt out.
#[must_use]
pub fn to_value(workload: &Workload) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": workload.kind().as_str(),
        "name": workload.name().as_str(),
        "replicas": 1,
        "spec": workload.spec(),
    })
}

/// Returns the definition of a workload on one line, as [`to_value`] does. Equal workloads have equal texts.
#[must_use]
pub fn to_json(workload: &Workload) -> String {
    let value = to_value(workload);
    // Its `Display` checks every piece for being text, which takes most of the time.
    serde_json::to_string(&value).unwrap_or_else(|_never| value.to_string())
}

/// Returns the workload of a text that [`to_json`] wrote, of whatever length: with its defaults spelt out, it may be
/// many times longer than what the user wrote. An earlier version may have written it: addresses that it published and
/// this one does not are read as well.
///
/// # Errors
/// Fails if the text is not one definition.
pub fn from_json(text: &str) -> Result<Workload, Errors> {
    let source = Source { name: "record".to_owned(), text: text.to_owned() };
    let sources = std::slice::from_ref(&source);
    let workloads = parse_within(usize::MAX, sources, Validator::of_records())?;
    <[Workload; 1]>::try_from(workloads).map(|[workload]| workload).map_err(|workloads| {
        let location = SourceLocation::new(&source.name, Position::START);
        let reason = Reason::NotOne { found: workloads.len() };
        Errors::new(vec![Error { location, field: String::new(), reason }], false)
    })
}

/// Returns only the fields that the definition has: defaults may change in later versions.
pub(crate) fn execution_value(execution: &Execution) -> Value {
    let Execution { vmm, kernel, initrd, rootfs, .. } = execution;
    let Execution { read_only, vcpus, memory, boot_args, accelerator, .. } = execution;
    let Execution { user, group, shared_user, queues, dns, .. } = execution;
    let said = [
        ("vmm", vmm.map(|vmm| json!(vmm.as_str()))),
        ("kernel", kernel.as_ref().map(image)),
        ("initrd", initrd.as_ref().map(image)),
        ("rootfs", rootfs.as_ref().map(image)),
        ("readOnly", read_only.map(Value::from)),
        ("vcpus", vcpus.map(|vcpus| json!(vcpus.get()))),
        ("memory", memory.map(|memory| json!(memory.mib()))),
        ("bootArgs", boot_args.as_ref().map(|words| json!(words.as_str()))),
        ("accelerator", accelerator.map(|accelerator| json!(accelerator.as_str()))),
        ("user", user.as_ref().map(account)),
        ("group", group.as_ref().map(account)),
        ("sharedUser", shared_user.map(Value::from)),
        ("queues", queues.map(|queues| json!(queues.get()))),
        ("dns", dns.as_ref().map(|dns| json!(dns.servers()))),
    ];
    let said = said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(said.collect())
}

/// Returns only the fields that the policy has: the node's reach may change.
pub(crate) fn egress_value(policy: &EgressPolicy) -> Value {
    let list = |all: Vec<String>| (!all.is_empty()).then(|| json!(all));
    let addresses = |all: &[Destination]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let names = policy.names().iter().map(ToString::to_string);
    let allow = addresses(policy.allow()).into_iter().chain(names).collect();
    let ports = policy.via().filter(|proxy| !proxy.has_default_ports());
    let said = [
        ("default", policy.default_reach().map(|reach| json!(reach.as_str()))),
        ("allow", list(allow)),
        ("deny", list(addresses(policy.deny()))),
        ("via", policy.via().map(|proxy| json!(proxy.address().to_string()))),
        ("viaPorts", ports.map(|proxy| json!(proxy.ports().collect::<Vec<_>>()))),
    ];
    let said = said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(said.collect())
}

/// Returns only the limits that the definition has.
pub(crate) fn limits_value(limits: Limits) -> Value {
    let Limits { egress, ingress } = limits;
    let rates = [("egress", egress), ("ingress", ingress)];
    let said = rates
        .into_iter()
        .filter_map(|(name, rate)| Some((name.to_owned(), json!(rate?.to_string()))));
    Value::Object(said.collect())
}

pub(crate) fn exposure_value(exposure: &Exposure) -> Value {
    let mut value = json!({
        "port": ports(exposure.host_ports()),
        "targetPort": ports(exposure.guest_ports()),
        "protocol": exposure.protocol().as_str().to_uppercase(),
        "type": EXPOSURE_TYPE,
    });
    if let Some(address) = exposure.host_address() {
        value["hostAddress"] = json!(address);
    }
    if let Some(ready) = exposure.named_ready() {
        value["ready"] = json!(ready.as_str());
    }
    if exposure.shadow() {
        value["shadow"] = json!(true);
    }
    value
}

fn ports(range: PortRange) -> Value {
    if range.count() == 1 { json!(range.first()) } else { json!(range.to_string()) }
}

fn image(image: &Image) -> Value {
    match image.sha256() {
        None => json!(image.source()),
        Some(sum) => json!({ "source": image.source(), "sha256": sum.to_string() }),
    }
}

fn account(account: &Account) -> Value {
    match account {
        Account::Id(id) => json!(id),
        Account::Name(_) | Account::OfSlot(_) => json!(account.to_string()),
    }
}
