use std::net::IpAddr;

use riklet_api::{InspectionDocument, LinkEnd};
use riklet_core::model::Addresses;
use serde_json::Value;

/// Returns a line for each field, exposure and difference.
pub(crate) fn inspection(found: &InspectionDocument) -> String {
    let instance = &found.instance;
    let exposed = if found.exposed { "in the firewall" } else { "MISSING in the firewall" };
    let end = |end: &LinkEnd| {
        let address6 = end.address6.map(IpAddr::V6);
        let addresses = [end.address].into_iter().chain(address6).map(Addresses::network);
        let words = addresses.map(|address| address.to_string()).chain([end.mac.clone()]);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![
        ("name", instance.name.clone()),
        ("kind", instance.kind.clone()),
        ("phase", instance.phase.clone()),
        ("interface", format!("{} ({})", instance.interface, found.link)),
        ("guest", end(&instance.guest)),
        ("host", end(&instance.host)),
        ("mtu", instance.mtu.to_string()),
    ];
    for exposure in &instance.exposures {
        lines.push(("exposure", format!("{exposure} ({exposed})")));
    }
    if let Some(policy) = policy(&found.definition) {
        lines.push(("egress", format!("{policy} ({exposed})")));
    }
    let lacks = found.drift.iter().chain(&found.inside);
    lines.extend(lacks.map(|line| ("lacks", line.clone())));
    let lines: Vec<_> = lines.iter().map(|(field, value)| format!("{field:9} {value}")).collect();
    lines.join("\n") + "\n"
}

/// Returns the policy of a definition in one line, if it has one.
fn policy(definition: &Value) -> Option<String> {
    let kinds = definition.get("spec")?.as_object()?.values();
    let egress = kinds.into_iter().find_map(|kind| kind.pointer("/network/egress"))?;
    let default = egress["default"].as_str().map_or("as the node".to_owned(), str::to_owned);
    let list = |name: &str| {
        let words = egress[name].as_array()?.iter().filter_map(Value::as_str);
        Some(format!("{name} {}", words.collect::<Vec<_>>().join(" ")))
    };
    let via = egress["via"].as_str().map(|proxy| {
        let ports = egress["viaPorts"]
            .as_array()
            .map(|ports| ports.iter().map(Value::to_string).collect::<Vec<_>>().join(" "));
        ports.map_or(format!("via {proxy}"), |ports| format!("via {proxy} for {ports}"))
    });
    let parts = [Some(default), list("allow"), list("deny"), via].into_iter().flatten();
    Some(parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_is_one_line() {
        let policy = |egress: Value| {
            policy(&json!({ "spec": { "function": { "network": { "egress": egress } } } }))
        };
        let proxied = json!({ "via": "10.0.5.2:3128" });
        assert_eq!(policy(proxied).unwrap(), "as the node, via 10.0.5.2:3128");
        let proxied = json!({ "via": "10.0.5.2:3128", "viaPorts": [80, 8080] });
        assert_eq!(policy(proxied).unwrap(), "as the node, via 10.0.5.2:3128 for 80 8080");
        let whole =
            json!({ "default": "none", "allow": ["10.0.0.1:443", "host"], "deny": ["10.0.0.2"] });
        assert_eq!(policy(whole).unwrap(), "none, allow 10.0.0.1:443 host, deny 10.0.0.2");
        assert_eq!(policy(json!({})).unwrap(), "as the node");
        assert_eq!(super::policy(&json!({ "spec": { "function": {} } })), None);
        let pod = json!({ "spec": { "containers": [], "pod": { "network": { "egress": {} } } } });
        assert_eq!(super::policy(&pod).unwrap(), "as the node");
    }
}
