//! The documents that a runtime gets. Pure.

use std::net::IpAddr;

use riklet_api::{InspectionDocument, InstanceDocument};
use riklet_core::address::{Addresses, GATEWAY_LINK_LOCAL};
use serde_json::{Map, Value, json};

use super::{
    attachment::Attachment,
    config::{Config, Version},
};

/// The latest version of the specification that is spoken.
pub(crate) const LATEST: &str = "1.1.0";
/// Returns the answer to `VERSION`.
pub(crate) fn versions() -> Value {
    json!({ "cniVersion": LATEST, "supportedVersions": Version::ALL.map(Version::as_str) })
}

/// Returns the result of an `ADD`: that of the plugins before, with what was attached.
pub(crate) fn result(
    config: &Config,
    attachment: &Attachment,
    instance: &InstanceDocument,
) -> Value {
    let mut result = config.previous.clone().unwrap_or_default();
    result.insert("cniVersion".to_owned(), json!(config.version.as_str()));
    let sandbox = attachment.namespace.as_ref().map(ToString::to_string);
    let mut outside = json!({ "name": instance.interface, "mac": instance.host.mac });
    let mut inside = json!({
        "name": attachment.interface.as_str(), "mac": instance.guest.mac, "sandbox": sandbox,
    });
    if config.version >= Version::V1_1_0 {
        outside["mtu"] = json!(instance.mtu);
        inside["mtu"] = json!(instance.mtu);
    }
    let interfaces = list(&mut result, "interfaces");
    interfaces.extend([outside, inside]);
    let index = interfaces.len() - 1;
    for (address, gateway) in ends(instance) {
        let (version, all) = match address {
            IpAddr::V4(_) => ("4", "0.0.0.0/0"),
            IpAddr::V6(_) => ("6", "::/0"),
        };
        let mut ip = json!({
            "address": Addresses::network(address).to_string(), "gateway": gateway,
            "interface": index,
        });
        if config.version < Version::V1_0_0 {
            ip["version"] = json!(version);
        }
        list(&mut result, "ips").push(ip);
        list(&mut result, "routes").push(json!({ "dst": all, "gw": gateway }));
    }
    if let Some(dns) = &config.dns {
        result.insert("dns".to_owned(), dns.clone());
    }
    result.into()
}

/// Returns the addresses of the guest, each with its gateway.
fn ends(instance: &InstanceDocument) -> Vec<(IpAddr, IpAddr)> {
    let v6 = instance.guest.address6.map(|guest| (guest.into(), GATEWAY_LINK_LOCAL.into()));
    [(instance.guest.address, instance.host.address)].into_iter().chain(v6).collect()
}

fn list<'a>(result: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let entry = result.entry(name).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list"),
    }
}

/// Returns what an attachment lacks; `None` if it is whole.
pub(crate) fn complaint(
    config: &Config,
    attachment: &Attachment,
    found: &InspectionDocument,
) -> Option<String> {
    let InspectionDocument { instance, link, exposed, drift, inside, .. } = found;
    if !attachment.is_of(found) {
        return Some(format!("{attachment} is in another namespace"));
    }
    if !inside.is_empty() {
        return Some(format!("the namespace lacks: {}", inside.join(", ")));
    }
    if link != "attached" {
        return Some(format!("{} is {link}, instead of attached", instance.interface));
    }
    if !drift.is_empty() {
        return Some(format!("{} lacks: {}", instance.interface, drift.join(", ")));
    }
    if !exposed {
        return Some("rules of the firewall are missing".to_owned());
    }
    let previous = config.previous.as_ref().and_then(|result| result.get("ips"));
    let known: Vec<_> = previous.and_then(Value::as_array).into_iter().flatten().collect();
    let own = Addresses::network(instance.guest.address).to_string();
    let has = known.iter().any(|ip| ip["address"].as_str() == Some(&own));
    (!has).then(|| format!("prevResult has no address {own}"))
}
