//! The traffic of each TAP, as rtnetlink(7) counts it (`IFLA_STATS64`). Reading it needs no privilege.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

use super::{Linux, conntrack::Conntrack, opened, route::Route};
use crate::{KernelError, Refusal};
use riklet_core::model::{InterfaceName, Slot};

/// The traffic of a TAP since it was created, as its guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// The interface's index: a TAP that was made anew has another, and counts from 0.
    pub index: u32,
    /// Packets that the guest took.
    pub packets_in: u64,
    /// Their bytes, each packet with its Ethernet header.
    pub bytes_in: u64,
    /// Packets that the guest sent.
    pub packets_out: u64,
    /// Their bytes, each packet with its Ethernet header.
    pub bytes_out: u64,
}

impl Linux {
    /// Returns the traffic of each TAP named `rik<digits>`.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn traffic(&mut self) -> Result<BTreeMap<InterfaceName, Traffic>, KernelError> {
        let failed = |source| KernelError::ListLinks { source };
        self.route(failed)?.traffic().map_err(failed)
    }
}

impl Linux {
    /// Returns the number of entries of the connection tracking table by address, whether of a guest or not.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn flows_by_guest(&mut self) -> Result<BTreeMap<IpAddr, u64>, KernelError> {
        let failed = |source| KernelError::ListFlows { source };
        let conntrack = opened(&mut self.conntrack, Conntrack::open).map_err(failed)?;
        conntrack.count_by_guest().map_err(failed)
    }
}

impl Route {
    fn traffic(&mut self) -> Result<BTreeMap<InterfaceName, Traffic>, Refusal> {
        let mut message = LinkMessage::default();
        // The kernel leaves out interfaces of other kinds.
        message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Tun)])];
        let links = self.socket.query(&RouteNetlinkMessage::GetLink(message), NLM_F_DUMP)?;
        Ok(links.iter().filter_map(counted).collect())
    }
}

fn counted(answer: &RouteNetlinkMessage) -> Option<(InterfaceName, Traffic)> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    let name = InterfaceName::try_from(name?.as_str()).ok()?;
    Slot::of_interface(name.as_str())?;
    let stats = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(stats),
        _ => None,
    })?;
    // The guest receives the packets that the host sends.
    let traffic = Traffic {
        index: message.header.index,
        packets_in: stats.tx_packets,
        bytes_in: stats.tx_bytes,
        packets_out: stats.rx_packets,
        bytes_out: stats.rx_bytes,
    };
    Some((name, traffic))
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use riklet_testkit::namespace::{ip, isolated};

    use super::*;
    use crate::linux::tap;

    #[test]
    fn traffic_is_counted_from_the_guests_side() {
        isolated(|| {
            ip("link add rik1 type veth peer name other");
            for name in ["rik0", "rik2", "tun0"] {
                ip(&format!("tuntap add {name} mode tap vnet_hdr"));
            }
            ip("link set rik0 up");
            let name = |name| InterfaceName::try_from(name).unwrap();
            let guest = tap::attach(&name("rik0")).unwrap();
            let before = Linux::new().traffic().unwrap();
            // A veth with one of our names is not ours, and neither is a TAP with another name.
            assert_eq!(before.keys().cloned().collect::<Vec<_>>(), [name("rik0"), name("rik2")]);
            let mut frame = [0xff; tap::VNET_HEADER + 60];
            frame[..tap::VNET_HEADER].fill(0);
            for _ in 0..3 {
                rustix::io::write(&guest, &frame).unwrap();
            }
            let after = Linux::new().traffic().unwrap();
            let (before, after) = (before[&name("rik0")], after[&name("rik0")]);
            assert_eq!(after.packets_out - before.packets_out, 3);
            assert_eq!(after.bytes_out - before.bytes_out, 180);
            assert_eq!((after.packets_in, after.index), (before.packets_in, before.index));
            // The other way, once the guest takes it.
            ip("address add 192.0.2.1/24 dev rik0");
            ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev rik0 nud permanent");
            let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
            socket.send_to(&[7; 100], "192.0.2.2:9").unwrap();
            let mut buffer = [0; 2048];
            let found = (0..16).find(|_| rustix::io::read(&guest, &mut buffer).unwrap() == 152);
            assert!(found.is_some(), "the datagram comes, of 100 bytes and 42 of headers");
            let taken = Linux::new().traffic().unwrap()[&name("rik0")];
            assert!(taken.packets_in > after.packets_in);
            assert!(taken.bytes_in >= after.bytes_in + 142);
            assert_eq!(taken.packets_out, after.packets_out);
        });
    }
}
