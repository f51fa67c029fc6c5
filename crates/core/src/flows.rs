//! Entries of the connection tracking table, by common properties.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    address::Family,
    model::{PortRange, Protocol},
    reach::Block,
};

/// Entries of the connection tracking table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flows {
    /// All flows that this guest sent, or that were translated to it.
    Guest {
        /// The guest's address.
        guest: IpAddr,
    },
    /// Flows that an exposure translated, from these ports of the host to as many ports of this guest, the first to the
    /// first and so on. Flows that another port of the host leads there are not included.
    Exposed {
        /// The transport protocol.
        protocol: Protocol,
        /// The address of the host that it was sent to; `None` stands for every address.
        host_address: Option<IpAddr>,
        /// The host's ports.
        host_ports: PortRange,
        /// The guest's address.
        guest: IpAddr,
        /// The guest's ports.
        guest_ports: PortRange,
    },
    /// Flows that this guest sent to some of these destinations: those that nobody publishes on the host. Where others
    /// translate the destination, the one that it leads to counts.
    Sent {
        /// The guest's address.
        guest: IpAddr,
        /// True if the destination is the host itself, by any of its addresses; false if it is beyond.
        host: bool,
        /// The destinations.
        to: Block,
    },
    /// The same flows of every guest of this range that no [`Self::Sent`] is for.
    SentByOthers {
        /// The guests' addresses.
        guests: IpNet,
        /// True if the destination is the host itself.
        host: bool,
        /// The destinations.
        to: Block,
    },
    /// Flows that others than the host sent to a guest of this range by its own address.
    Direct {
        /// The guests' addresses.
        guests: IpNet,
    },
    /// Flows sent to these ports and not translated at all: those of clients that began before the exposure. Flows that
    /// another program translates or masquerades stay.
    Untranslated {
        /// The family of the destination.
        family: Family,
        /// The transport protocol.
        protocol: Protocol,
        /// The destination address; `None` is every one of the family.
        address: Option<IpAddr>,
        /// The destination ports.
        ports: PortRange,
    },
}

impl Flows {
    /// Returns the family of their packets.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Guest { guest } | Self::Exposed { guest, .. } | Self::Sent { guest, .. } => {
                Family::of(*guest)
            }
            Self::Untranslated { family, .. } => *family,
            Self::SentByOthers { guests, .. } | Self::Direct { guests } => {
                Family::of_network(*guests)
            }
        }
    }

    /// Reports whether they are those of more than one port or destination.
    #[must_use]
    pub const fn has_many_ports(&self) -> bool {
        match self {
            Self::Guest { .. } => false,
            Self::Sent { .. } | Self::SentByOthers { .. } | Self::Direct { .. } => true,
            Self::Exposed { host_ports: ports, .. } | Self::Untranslated { ports, .. } => {
                !ports.is_single()
            }
        }
    }

    /// Reports whether all of the other flows are among these.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        match (*self, *other) {
            (
                Self::Exposed { protocol, host_address, host_ports, guest, guest_ports },
                Self::Exposed { host_ports: from, guest_ports: to, .. },
            ) => {
                let same = Self::Exposed {
                    protocol,
                    host_address,
                    host_ports: from,
                    guest,
                    guest_ports: to,
                };
                // The first leads to the first and so on.
                let place = |ports: PortRange, port: PortRange| port.first() - ports.first();
                same == *other
                    && host_ports.contains(from)
                    && guest_ports.contains(to)
                    && place(host_ports, from) == place(guest_ports, to)
            }
            (
                Self::Untranslated { family, protocol, address, ports },
                Self::Untranslated { ports: sent, .. },
            ) => {
                Self::Untranslated { family, protocol, address, ports: sent } == *other
                    && ports.contains(sent)
            }
            (Self::Sent { guest, host, to }, Self::Sent { guest: sender, host: at, to: sent }) => {
                (guest, host) == (sender, at) && to.contains(&sent)
            }
            _ => self == other,
        }
    }
}

/// A tracked flow, by both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// The address that it was sent from.
    pub from: IpAddr,
    /// The address that it was sent to.
    pub to: IpAddr,
    /// The address that answers: another one if the destination was translated.
    pub answerer: IpAddr,
    /// The protocol (IANA).
    pub protocol: u8,
    /// The port that answers, if the protocol has ports.
    pub port: Option<u16>,
}

/// The flows of a set that are told by who sent them and where to. A look-up takes the same time however many guests the set
/// is about.
#[derive(Debug, Default)]
pub struct SentFlows {
    by_guest: BTreeMap<IpAddr, Vec<(bool, Block)>>,
    by_others: Vec<(IpNet, bool, Block)>,
    direct: Vec<IpNet>,
}

impl SentFlows {
    /// Returns those of a set.
    #[must_use]
    pub fn of(flows: &BTreeSet<Flows>) -> Self {
        let mut sent = Self::default();
        for flows in flows {
            match *flows {
                Flows::Sent { guest, host, to } => {
                    sent.by_guest.entry(guest).or_default().push((host, to));
                }
                Flows::SentByOthers { guests, host, to } => {
                    sent.by_others.push((guests, host, to));
                }
                Flows::Direct { guests } => sent.direct.push(guests),
                Flows::Guest { .. } | Flows::Exposed { .. } | Flows::Untranslated { .. } => {}
            }
        }
        sent
    }

    /// Reports whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { by_guest, by_others, direct } = self;
        by_guest.is_empty() && by_others.is_empty() && direct.is_empty()
    }

    /// Reports whether a flow is among these, on a host with these addresses.
    #[must_use]
    pub fn have(&self, flow: &Tracked, of_host: &BTreeSet<IpAddr>) -> bool {
        let Tracked { from, to, answerer, protocol, port } = *flow;
        if of_host.contains(&from) {
            return false;
        }
        let translated = answerer != to;
        if !translated && !of_host.contains(&to) && self.direct.iter().any(|net| net.contains(&to))
        {
            return true;
        }
        let host = of_host.contains(&to);
        // It is published: on the host, or by the host in place of another.
        if translated && (host || of_host.contains(&answerer)) {
            return false;
        }
        let packet = Block::of_packet(answerer, protocol, port);
        match self.by_guest.get(&from) {
            Some(blocks) => blocks.iter().any(|(at, block)| *at == host && block.contains(&packet)),
            None => self.by_others.iter().any(|(guests, at, block)| {
                *at == host && guests.contains(&from) && block.contains(&packet)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow of a guest, its destination and who answers, by TCP.
    fn tracked(from: [u8; 4], to: [u8; 4], answerer: [u8; 4], port: u16) -> Tracked {
        let (from, to, answerer) = (from.into(), to.into(), answerer.into());
        Tracked { from, to, answerer, protocol: 6, port: Some(port) }
    }

    #[test]
    fn a_flow_is_judged_by_who_sent_it_and_what_it_leads_to() {
        let guests: IpNet = "10.231.0.0/16".parse().unwrap();
        let network = |net: &str| Block::of_network(net.parse().unwrap());
        let named = [10, 231, 0, 2];
        let sent = SentFlows::of(
            &[
                Flows::Sent { guest: named.into(), host: false, to: network("9.9.9.0/24") },
                Flows::SentByOthers { guests, host: false, to: network("10.0.0.0/8") },
                Flows::SentByOthers { guests, host: true, to: network("0.0.0.0/0") },
                Flows::Direct { guests },
            ]
            .into(),
        );
        let of_host = [[192, 168, 7, 1], [10, 231, 0, 1], [10, 231, 0, 5]].map(IpAddr::from).into();
        let other = [10, 231, 0, 6];
        let (node, gateway, client) = ([192, 168, 7, 1], [10, 231, 0, 1], [192, 168, 7, 2]);
        for (flow, expected) in [
            ((named, [9, 9, 9, 9], [9, 9, 9, 9]), true),
            ((named, [10, 9, 5, 1], [10, 9, 5, 1]), false),
            ((named, node, node), false),
            ((other, [9, 9, 9, 9], [9, 9, 9, 9]), false),
            ((other, [10, 9, 5, 1], [10, 9, 5, 1]), true),
            ((other, node, node), true),
            // Another program leads it there.
            ((other, [9, 9, 9, 9], [10, 9, 5, 1]), true),
            ((other, [10, 9, 5, 1], [9, 9, 9, 9]), false),
            // It is published.
            ((other, node, [10, 9, 5, 1]), false),
            ((other, node, named), false),
            ((client, node, named), false),
            ((other, [10, 9, 5, 1], node), false),
            // By a guest's own address, from a guest, from others and from the host.
            ((other, named, named), true),
            ((client, named, named), true),
            ((gateway, named, named), false),
            ((named, gateway, gateway), false),
            ((client, node, node), false),
        ] {
            let (from, to, answerer) = flow;
            let flow = tracked(from, to, answerer, 80);
            assert_eq!(sent.have(&flow, &of_host), expected, "{flow:?}");
        }
    }

    #[test]
    fn flows_of_ipv6_are_told_apart_as_well() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let guests: IpNet = "fd52:494b::/64".parse().unwrap();
        let named = address("fd52:494b::3");
        let network = |net: &str| Block::of_network(net.parse().unwrap());
        let sent = SentFlows::of(
            &[
                Flows::Sent { guest: named, host: false, to: network("2001:db8:9::/48") },
                Flows::SentByOthers { guests, host: false, to: network("fd00::/8") },
                Flows::Direct { guests },
            ]
            .into(),
        );
        assert_eq!(Flows::Direct { guests }.family(), Family::V6);
        let of_host = ["2001:db8:7::1", "fd52:494b::2"].map(address).into();
        let (node, other) = ("2001:db8:7::1", "fd52:494b::5");
        for (from, to, answerer, expected) in [
            ("fd52:494b::3", "2001:db8:9::1", "2001:db8:9::1", true),
            ("fd52:494b::3", "2001:db8:8::1", "2001:db8:8::1", false),
            (other, "fd99::1", "fd99::1", true),
            (other, "2001:db8:9::1", "2001:db8:9::1", false),
            (other, node, "fd52:494b::3", false),
            ("2001:db8:7::2", "fd52:494b::3", "fd52:494b::3", true),
            ("fd52:494b::2", "fd52:494b::3", "fd52:494b::3", false),
        ] {
            let [from, to, answerer] = [from, to, answerer].map(address);
            let flow = Tracked { from, to, answerer, protocol: 6, port: Some(80) };
            assert_eq!(sent.have(&flow, &of_host), expected, "{flow:?}");
        }
    }

    #[test]
    fn a_range_contains_each_port_with_its_own_target() {
        let exposed = |host: &str, guest: &str| Flows::Exposed {
            protocol: Protocol::Udp,
            host_address: None,
            host_ports: host.parse().unwrap(),
            guest: [10, 231, 0, 2].into(),
            guest_ports: guest.parse().unwrap(),
        };
        let range = exposed("8000-8010", "1-11");
        for (host, guest, expected) in [
            ("8000", "1", true),
            ("8010", "11", true),
            ("8005", "6", true),
            ("8005", "7", false),
            ("8011", "12", false),
            ("7999", "1", false),
        ] {
            assert_eq!(range.contains(&exposed(host, guest)), expected, "{host} {guest}");
        }
        let Flows::Exposed { protocol, host_address, host_ports, guest_ports, .. } = range else {
            panic!()
        };
        let guest = [10, 231, 0, 6].into();
        let other = Flows::Exposed { protocol, host_address, host_ports, guest, guest_ports };
        assert!(!range.contains(&other), "of another guest");
        let to = |ports: &str, protocol| Flows::Untranslated {
            family: Family::V4,
            protocol,
            address: None,
            ports: ports.parse().unwrap(),
        };
        assert!(to("1-65535", Protocol::Udp).contains(&to("65535", Protocol::Udp)));
        assert!(!to("1-65534", Protocol::Udp).contains(&to("65535", Protocol::Udp)));
        assert!(!to("1-65535", Protocol::Udp).contains(&to("80", Protocol::Tcp)));
    }
}
