use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::model::{InterfaceName, MacAddress};

/// What one of our interfaces must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// `rik<slot>`.
    pub name: InterfaceName,
    /// What marks the interface as ours and says whose it is; at most 255 bytes (`IFALIASZ`).
    pub alias: String,
    /// The host's MAC address.
    pub mac: MacAddress,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The host's address and its prefix length.
    pub address: Ipv4Net,
    /// The guest, as a permanent neighbour: no ARP is needed, and none can be spoofed.
    pub neighbour: Neighbour,
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The IPv4 address.
    pub address: Ipv4Addr,
    /// The MAC address it is at.
    pub mac: MacAddress,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The name.
    pub name: InterfaceName,
    /// Its alias; `None` where it has none.
    pub alias: Option<String>,
    /// The MAC address; `None` where it has none of six octets.
    pub mac: Option<MacAddress>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Whether something is attached and what is sent reaches it (`IFF_LOWER_UP` and `IFF_RUNNING`; for a TAP:
    /// a process has it open).
    pub carrier: bool,
    /// The interface group.
    pub group: u32,
    /// Its IPv4 addresses.
    pub addresses: BTreeSet<Ipv4Net>,
    /// Its permanent IPv4 neighbours.
    pub neighbours: BTreeMap<Ipv4Addr, MacAddress>,
    /// `net.ipv4.conf.<name>.route_localnet`.
    pub route_localnet: bool,
}

/// One thing in which an interface is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkDifference(String);

impl fmt::Display for LinkDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LinkSpec {
    /// In what the interface differs, besides addresses that it has and should not have
    /// ([`Self::stray_addresses`]).
    #[must_use]
    pub fn differences(&self, state: &LinkState) -> Vec<LinkDifference> {
        let mut found = Vec::new();
        let mut note = |differs: bool, what: String| {
            if differs {
                found.push(LinkDifference(what));
            }
        };
        note(state.alias.as_deref() != Some(&self.alias), format!("alias {:?}", self.alias));
        note(state.mac != Some(self.mac), format!("MAC address {}", self.mac));
        note(state.mtu != self.mtu, format!("MTU {} instead of {}", self.mtu, state.mtu));
        note(state.group != super::LIVE_GROUP, format!("group {:#x}", super::LIVE_GROUP));
        note(!state.route_localnet, "route_localnet 1".to_owned());
        note(!state.up, "up".to_owned());
        note(!state.addresses.contains(&self.address), format!("address {}", self.address));
        let known = state.neighbours.get(&self.neighbour.address);
        note(
            known != Some(&self.neighbour.mac),
            format!("neighbour {} at {}", self.neighbour.address, self.neighbour.mac),
        );
        found
    }

    /// Addresses that the interface has and should not have.
    pub fn stray_addresses<'a>(
        &self,
        state: &'a LinkState,
    ) -> impl Iterator<Item = Ipv4Net> + use<'a, '_> {
        let wanted = self.address;
        state.addresses.iter().copied().filter(move |&address| address != wanted)
    }
}
