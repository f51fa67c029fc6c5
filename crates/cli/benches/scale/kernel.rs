//! Makes the same system calls as the program, without the rest of it: the time that the kernel itself takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use riklet_core::{
    definition::{self, Source},
    firewall::{Backend, BaseRuleset, Change, Confinement, Ruleset},
    link::LinkSpec,
    model::{Egress, FlowLimit, Owner, OwnerId, Slot},
    workload::{self, Fragment, NodeFacts},
};
use riklet_kernel::{Firewall, LinkDeletion, Links, linux::Linux};

use super::guest::Nic;
use crate::common;

/// The kernel layer in the namespace of the calling thread, without records, plans or checks above it.
pub(super) struct Bare {
    kernel: Linux,
    node: NodeFacts,
}

impl Bare {
    pub(super) fn new() -> Self {
        let owner = Owner::new(OwnerId::new(1), "/run/riklet-sdn");
        let node = NodeFacts {
            pool: "10.231.0.0/16".parse().unwrap(),
            mtu: 1500,
            owner,
            backend: Backend::Nftables,
            policies: true,
        };
        Self { kernel: Linux::new(), node }
    }

    /// Creates the tables and chains, without any function.
    pub(super) fn install_base_ruleset(&mut self) {
        let base_ruleset = BaseRuleset {
            mtu: 1500,
            pool: self.node.pool,
            uplinks: BTreeSet::new(),
            any_uplink: true,
            egress: Egress::default(),
            flows: FlowLimit::default(),
            marks: riklet_core::routing::UplinkMarks::default(),
            confined: Confinement::default(),
            owner: Some(self.node.owner.clone()),
        };
        let change = Change::Reset(Ruleset { base_ruleset, entries: BTreeSet::new() });
        self.kernel.change_firewall(Backend::Nftables, &change).unwrap();
    }

    /// Returns the fragments that the functions of these numbers need.
    pub(super) fn fragments(&self, numbers: std::ops::Range<u16>) -> Vec<Fragment> {
        let fragment = |number: u16| {
            let text = common::definition(&format!("f{number}"), 10_000 + usize::from(number));
            let source = Source { name: String::new(), text };
            let workload = definition::parse(&[source]).unwrap().remove(0);
            workload::fragment(&workload, Slot::new(number), &self.node).unwrap()
        };
        numbers.map(fragment).collect()
    }

    /// Creates and configures their TAPs one by one, and adds their elements in one transaction.
    pub(super) fn up(&mut self, fragments: &[Fragment]) -> Duration {
        let started = Instant::now();
        for fragment in fragments {
            self.kernel.create_link(&fragment.link).unwrap();
        }
        started.elapsed() + self.publish(fragments)
    }

    /// Adds their elements in one transaction. Their TAPs exist already: this is the work that remains with ready
    /// slots.
    pub(super) fn publish(&mut self, fragments: &[Fragment]) -> Duration {
        let add = fragments.iter().flat_map(|fragment| fragment.entries.clone()).collect();
        let change = Change::Delta { remove: BTreeSet::new(), add, owner: None };
        let started = Instant::now();
        self.kernel.change_firewall(Backend::Nftables, &change).unwrap();
        started.elapsed()
    }

    /// Removes their elements in one transaction.
    pub(super) fn withdraw(&mut self, fragments: &[Fragment]) -> Duration {
        let remove = fragments.iter().flat_map(|fragment| fragment.entries.clone()).collect();
        let change = Change::Delta { remove, add: BTreeSet::new(), owner: None };
        let started = Instant::now();
        self.kernel.change_firewall(Backend::Nftables, &change).unwrap();
        started.elapsed()
    }

    /// Removes their elements in one transaction, takes their TAPs down and marks them for deletion, then deletes
    /// them.
    pub(super) fn down(&mut self, fragments: &[Fragment]) -> Duration {
        let links = fragments.iter().map(|fragment| &fragment.link);
        let links: BTreeMap<_, _> =
            links.map(|link| (link.name.clone(), link.addresses.clone())).collect();
        let withdrawn = self.withdraw(fragments);
        let started = Instant::now();
        self.kernel.drain_links(&links).unwrap();
        self.kernel.delete_links(&links.keys().cloned().collect()).unwrap();
        withdrawn + started.elapsed()
    }
}

/// Returns the configuration of the guest's NIC on this link.
pub(super) fn nic(link: &LinkSpec) -> Nic {
    let (address, mac) = link.neighbours.iter().next().unwrap();
    Nic {
        tap: link.name.to_string(),
        address: address.to_string(),
        gateway: link.addresses.first().unwrap().addr().to_string(),
        mac: mac.to_string(),
        mtu: link.mtu.into(),
    }
}
