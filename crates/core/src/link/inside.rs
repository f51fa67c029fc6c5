//! The other end of a veth, in the guest's namespace: the state that it should have, and the differences. Pure.

use ipnet::IpNet;

use super::Peer;
use crate::{
    address::{Family, MacAddress},
    small::SmallSet,
};

/// The state of the other end of a veth, and of the namespace around it, as far as the guest needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// The MAC address; `None` if it has none of six octets.
    pub mac: Option<MacAddress>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// True if it is administratively up.
    pub up: bool,
    /// The addresses that it has, of those that it should have.
    pub addresses: SmallSet<IpNet>,
    /// The families of the gateways whose packets to the Internet have a route, by whichever interface.
    pub routed: SmallSet<Family>,
}

impl Peer {
    /// Returns the state that it is created with.
    #[must_use]
    pub fn state(&self, mtu: u32) -> PeerState {
        let routed = self.gateways.iter().map(|gateway| Family::of(*gateway)).collect();
        PeerState { mac: Some(self.mac), mtu, up: true, addresses: self.addresses.clone(), routed }
    }

    /// Returns what the namespace lacks, in the order in which it is made; `None` is the state of an end that is not there. A
    /// larger MTU is no lack of the guest's: but what it sends does not fit the link, and is lost.
    #[must_use]
    pub fn lacks(&self, state: Option<&PeerState>, mtu: u32) -> Vec<String> {
        let place = format!("{} in {}", self.name.interface, self.name.namespace);
        let Some(state) = state else { return vec![place] };
        let mut lacks = Vec::new();
        if state.mac != Some(self.mac) {
            lacks.push(format!("MAC {}", self.mac));
        }
        if state.mtu > mtu {
            lacks.push(format!("MTU {mtu}"));
        }
        if !state.up {
            lacks.push("up".to_owned());
        }
        let addresses = self.addresses.difference(&state.addresses);
        lacks.extend(addresses.map(|address| format!("address {address}")));
        let unrouted =
            self.gateways.iter().filter(|gateway| !state.routed.contains(&Family::of(**gateway)));
        lacks.extend(unrouted.map(|gateway| format!("default route via {gateway}")));
        lacks.into_iter().map(|lack| format!("{place}: {lack}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{link::PeerName, model::NamespaceId};

    #[test]
    fn each_lack_of_a_namespace_is_named() {
        let address: IpNet = "10.231.0.2/30".parse().unwrap();
        let gateway: IpAddr = "10.231.0.1".parse().unwrap();
        let peer = Peer {
            name: PeerName {
                path: None,
                namespace: NamespaceId::new(7),
                interface: "eth0".parse().unwrap(),
            },
            mac: MacAddress::new([6, 0, 0, 0, 0, 1]),
            addresses: [address].into_iter().collect(),
            gateways: [gateway].into_iter().collect(),
        };
        let whole = peer.state(1500);
        assert!(peer.lacks(Some(&whole), 1500).is_empty());
        assert!(peer.lacks(Some(&PeerState { mtu: 1280, ..whole.clone() }), 1500).is_empty());
        assert_eq!(peer.lacks(None, 1500), ["eth0 in net:[7]"]);
        let nothing = PeerState {
            mac: None,
            mtu: 9000,
            up: false,
            addresses: SmallSet::default(),
            routed: SmallSet::default(),
        };
        assert_eq!(
            peer.lacks(Some(&nothing), 1500),
            [
                "eth0 in net:[7]: MAC 06:00:00:00:00:01",
                "eth0 in net:[7]: MTU 1500",
                "eth0 in net:[7]: up",
                "eth0 in net:[7]: address 10.231.0.2/30",
                "eth0 in net:[7]: default route via 10.231.0.1",
            ]
        );
    }
}
