//! Functions that fuzzing calls. Each takes foreign bytes, and panics if a law is broken.
//!
//! The programs in `fuzz/` pass them the inputs that libFuzzer finds; the tests here pass them the corpus and
//! mutations of it.

use std::{collections::BTreeSet, net::Ipv6Addr};

use crate::{
    address::{Pool, Slot},
    definition::{self, Source},
    firewall::{BaseRuleset, Confinement, Entry, Ruleset, iptables},
    lease::{self, Lease},
    model::{Egress, FlowLimit, Owner, OwnerId, PortRange, Protocol},
    routing::UplinkMarks,
    workload::alias,
};

/// Reads a definition. One that is accepted reads back from its canonical form; one that is refused has an error
/// message.
///
/// # Panics
/// Panics if that does not hold.
pub fn definition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match definition::parse(&[Source { name: "fuzz".into(), text: text.into() }]) {
        Ok(workloads) => {
            for workload in workloads {
                let again = definition::from_json(&definition::to_json(&workload));
                assert_eq!(again, Ok(workload));
            }
        }
        Err(errors) => assert_ne!(errors.to_string(), ""),
    }
}

/// Reads an interface's alias. One that is complete reads back as it is written.
///
/// # Panics
/// Panics if that does not hold.
pub fn alias(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let marked = alias::parse(text);
    assert!(marked.is_none() || alias::mark(Some(text)).is_some());
    let Some(marked) = marked else { return };
    let owner = Owner::new(OwnerId::new(7), "/run/riklet-sdn");
    let (kind, words) = (marked.kind, (marked.policy, marked.limits));
    let written =
        alias::render(&owner, (kind, &marked.name), words, marked.peer.as_ref(), &marked.exposures);
    let again = alias::parse(&written);
    let same = again.is_some_and(|again| {
        (again.kind, &again.name, (again.policy, again.limits)) == (kind, &marked.name, words)
            && marked.exposures.starts_with(&again.exposures)
    });
    assert!(same, "{written:?} does not read back");
}

/// Reads tables as iptables lists them, and plans the changes to it.
pub fn iptables_save(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(saved) = iptables::Saved::parse([], text) else { return };
    let owner = Owner::new(OwnerId::new(7), "/run/riklet-sdn");
    let Some(&pool) = Pool::candidates().first() else { return };
    let (uplinks, confined) = (BTreeSet::new(), Confinement::default());
    let base_ruleset = BaseRuleset {
        pool,
        mtu: 1500,
        uplinks,
        any_uplink: true,
        egress: Egress::default(),
        flows: FlowLimit::default(),
        marks: UplinkMarks::default(),
        confined,
        owner: Some(owner),
    };
    let ruleset = Ruleset { base_ruleset, entries: BTreeSet::new() };
    let _changes = (
        iptables::state(&ruleset, &saved),
        iptables::reset(&ruleset, &saved),
        iptables::remove(&saved),
        iptables::foreign_chain_state(&saved, iptables::Table::Filter, &BTreeSet::new()),
        iptables::open_passage(&saved, iptables::Table::Filter, &BTreeSet::new()),
        iptables::close_passage(&saved, iptables::Table::Filter),
    );
    let wanted = PortRange::single(80).map(|ports| (Protocol::Tcp, None, ports));
    let wanted = wanted.into_iter().collect();
    let tables = iptables::Table::FORWARDING;
    let _found = (
        iptables::translations(&saved, &wanted),
        iptables::bans(&saved, &tables),
        iptables::port_bans(&saved, &tables, &BTreeSet::new(), &exposures()),
    );
}

/// Answers a frame of a guest. An answer is for that guest, and is itself no question.
///
/// # Panics
/// If an answer is for another, or is answered.
pub fn lease(data: &[u8]) {
    let slot = Slot::new(1);
    let range = Pool::unique_local(7);
    let pool = Pool::candidates().first().and_then(|pool| pool.with_v6(range).ok());
    let Some(addresses) = pool.and_then(|pool| pool.addresses(slot)) else { return };
    let lease = Lease {
        mac: slot.guest_mac(),
        addresses,
        mtu: 1500,
        host_name: "hello".to_owned(),
        resolvers: vec![[192, 0, 2, 53].into(), Ipv6Addr::LOCALHOST.into()],
        routed_v6: true,
    };
    let Some(answer) = lease::answer(data, &lease) else { return };
    assert!(answer.starts_with(&lease.mac.octets()));
    assert_eq!(lease::answer(&answer, &lease), None);
}

/// Returns an exposure of a range of ports.
fn exposures() -> BTreeSet<Entry> {
    let range = |first, last| PortRange::between(first, last);
    let ports = range(8000, 8100).zip(range(3000, 3100));
    let entry = ports.map(|(host_ports, guest_ports)| Entry::Exposure {
        protocol: Protocol::Tcp,
        host_address: None,
        host_ports,
        guest: [10, 231, 0, 2].into(),
        guest_ports,
    });
    entry.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn definitions() {
        replay("definition", super::definition);
    }

    #[test]
    fn aliases() {
        replay("alias", super::alias);
    }

    #[test]
    fn questions_of_guests() {
        replay("lease", super::lease);
    }

    #[test]
    fn outputs_of_iptables_save() {
        replay("iptables_save", super::iptables_save);
    }
}
