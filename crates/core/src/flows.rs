//! Entries of the connection tracking table, by common properties.

use std::net::IpAddr;

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
    /// Flows that this guest sent to some of these destinations, and whose destination nobody translated.
    Sent {
        /// The guest's address.
        guest: IpAddr,
        /// The destinations.
        to: Block,
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
        }
    }

    /// Reports whether they are those of more than one port or destination.
    #[must_use]
    pub const fn has_many_ports(&self) -> bool {
        match self {
            Self::Guest { .. } => false,
            Self::Sent { .. } => true,
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
            (Self::Sent { guest, to }, Self::Sent { guest: sender, to: sent }) => {
                guest == sender && to.contains(&sent)
            }
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
