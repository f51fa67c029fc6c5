use std::net::IpAddr;

use riklet_api::{InspectionDocument, LinkEnd};
use riklet_core::model::Addresses;

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
        ("tap", format!("{} ({})", instance.tap, found.link)),
        ("guest", end(&instance.guest)),
        ("host", end(&instance.host)),
        ("mtu", instance.mtu.to_string()),
    ];
    for exposure in &instance.exposures {
        lines.push(("exposure", format!("{exposure} ({exposed})")));
    }
    lines.extend(found.drift.iter().map(|line| ("lacks", line.clone())));
    let lines: Vec<_> = lines.iter().map(|(field, value)| format!("{field:9} {value}")).collect();
    lines.join("\n") + "\n"
}
