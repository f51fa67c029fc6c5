//! Formats plans and steps for output.

use std::fmt;

use super::{Plan, Step};
use crate::{
    firewall::{BaseRuleset, Change, Entry},
    flows::Flows,
    link::{Device, LinkDifference, LinkSpec, Peer, Tap},
    manager::Manager,
    model::{Bracketed, Egress, Family, FlowLimit, InterfaceName},
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for conflict in self.blocked.values() {
            writeln!(f, "! {conflict}")?;
        }
        for claim in &self.claims {
            writeln!(f, "! {claim}")?;
        }
        for cut_off in &self.cut_offs {
            writeln!(f, "! {cut_off}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    /// Writes one or more lines, each beginning with `+` (comes), `~` (changes) or `-` (goes); no final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(spec) => {
                let LinkSpec { name, addresses, mtu, mac, neighbours, .. } = spec;
                write!(f, "+ {} {name}", device(spec))?;
                if let Some(Peer { name, .. }) = spec.peer() {
                    write!(f, " to {} in {}", name.interface, name.namespace)?;
                    name.path.iter().try_for_each(|path| write!(f, " ({path})"))?;
                }
                f.write_str(": ")?;
                addresses.iter().try_for_each(|address| write!(f, "address {address}, "))?;
                write!(f, "MAC {mac}, MTU {mtu}")?;
                neighbours.iter().try_for_each(|(a, mac)| write!(f, ", neighbour {a} at {mac}"))?;
                let tap = spec.tap().unwrap_or_default();
                // The administrator is the default owner, and is not shown.
                let owner = tap.owner.filter(|&id| id != Tap::ROOT);
                owner.iter().try_for_each(|id| write!(f, ", owner {id}"))?;
                tap.group.iter().try_for_each(|id| write!(f, ", owning group {id}"))?;
                if tap.multi_queue { f.write_str(", several queues") } else { Ok(()) }
            }
            Self::SetAlias(name, alias) => write!(f, "~ interface {name}: alias {alias:?}"),
            Self::SetOwner(name, _, differences) => {
                write!(f, "~ TAP {name}: {}", list(differences))
            }
            Self::DeleteLink(name, differences) => {
                write!(f, "- interface {name}: cannot be changed to {}", list(differences))
            }
            // One that is not limited any more, and had a twin only, has no difference.
            Self::Shape(spec, differences) if differences.is_empty() => {
                write!(f, "~ {} {}: no limits", device(spec), spec.name)
            }
            Self::ConfigureLink(spec, differences) | Self::Shape(spec, differences) => {
                write!(f, "~ {} {}: {}", device(spec), spec.name, list(differences))
            }
            Self::RemoveAddress(name, address) => write!(f, "- address {address} of {name}"),
            Self::Firewall(_, change) => change.fmt(f),
            Self::OpenPassage(foreign_chain, _) => {
                write!(f, "+ passage through the foreign chain {foreign_chain}")
            }
            Self::ClosePassage(foreign_chain) => {
                write!(f, "- passage through the foreign chain {foreign_chain}")
            }
            Self::WriteManagerFile(file, _) => {
                let effect = match file.manager() {
                    Manager::Firewalld => "lets packets of functions pass once it reloads",
                    Manager::Networkd | Manager::NetworkManager => "leaves our interfaces alone",
                };
                write!(f, "+ {} {effect} ({})", file.manager(), file.path())
            }
            Self::RemoveManagerFile(file) => write!(f, "- {}", file.path()),
            Self::AddRoute(route) => write!(f, "+ route {route}"),
            Self::RemoveRoute(route) => write!(f, "- route {route}"),
            Self::AddRule(rule) => write!(f, "+ routing rule {rule}"),
            Self::RemoveRule(rule) => write!(f, "- routing rule {rule}"),
            Self::SetSysctl(name, value) => write!(f, "~ sysctl {name} = {value}"),
            Self::ForgetFlows(flows) => {
                // Those that a policy refuses are many blocks of one guest.
                let mut lines: Vec<_> = flows.iter().map(|f| format!("- flows: {f}")).collect();
                lines.dedup();
                join(f, &lines, "\n")
            }
            Self::DrainLinks(names) => out_of_service(f, names.keys()),
            Self::RetireLinks(names) => out_of_service(f, names.iter()),
            Self::DeleteLinks(_) => f.write_str("- interfaces of draining slots: deleted"),
            Self::RemoveEmptyTables(..) => f.write_str("- firewall: tables left empty"),
        }
    }
}

/// Returns the word for the device of an interface.
fn device(spec: &LinkSpec) -> &'static str {
    match spec.device {
        Device::Tap(_) => "TAP",
        Device::Veth(_) => "veth",
    }
}

fn out_of_service<'a>(
    f: &mut fmt::Formatter<'_>,
    names: impl Iterator<Item = &'a InterfaceName>,
) -> fmt::Result {
    let lines: Vec<_> = names.map(|name| format!("- interface {name}: out of service")).collect();
    join(f, &lines, "\n")
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(ruleset) => {
                let BaseRuleset { pool, uplinks, egress, flows, confined, .. } =
                    &ruleset.base_ruleset;
                let uplinks: Vec<_> = uplinks.iter().map(ToString::to_string).collect();
                let uplinks = if uplinks.is_empty() { "none".into() } else { uplinks.join(", ") };
                write!(f, "~ firewall: all of it, guests {pool}, uplinks {uplinks}")?;
                if *egress != Egress::default() {
                    write!(f, ", egress {egress}")?;
                }
                if *flows != FlowLimit::default() {
                    write!(f, ", flows {flows}")?;
                }
                if !confined.is_empty() {
                    let from: Vec<_> = confined.from().iter().map(ToString::to_string).collect();
                    write!(f, ", nothing else is forwarded from {}", from.join(", "))?;
                }
                ruleset.entries.iter().try_for_each(|entry| write!(f, "\n+ firewall: {entry}"))
            }
            Self::Delta { remove, add, .. } => {
                // What a policy names is replaced as a whole.
                let removed = remove.difference(add).map(|entry| format!("- firewall: {entry}"));
                let added = add.difference(remove).map(|entry| format!("+ firewall: {entry}"));
                join(f, &removed.chain(added).collect::<Vec<_>>(), "\n")
            }
            Self::Remove => f.write_str("- firewall: all of it"),
        }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest { guest } => write!(f, "of guest {guest}"),
            &Self::Exposed { protocol, host_address, host_ports, guest, guest_ports } => {
                Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports }.fmt(f)
            }
            Self::Sent { guest, .. } => write!(f, "of guest {guest} that its policy refuses"),
            Self::SentByOthers { guests, .. } => {
                write!(f, "of guests of {guests} that the rules refuse")
            }
            Self::Direct { guests } => write!(f, "to guests of {guests}, untranslated"),
            Self::Untranslated { protocol, address: Some(address), ports, .. } => {
                write!(f, "{protocol} to {}:{ports}, untranslated", Bracketed(*address))
            }
            Self::Untranslated { family: Family::V4, protocol, address: None, ports } => {
                write!(f, "{protocol} to port {ports}, untranslated")
            }
            Self::Untranslated { family: Family::V6, protocol, address: None, ports } => {
                write!(f, "{protocol} to port {ports} by IPv6, untranslated")
            }
        }
    }
}

pub(super) fn list(differences: &[LinkDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], with: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(with)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}
