//! Refused packets of guests: those that the kernel tells of (`nfnetlink_log`), and the counts of all of them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nflog::{ConfigCmd, ConfigMode, ConfigNla, Timeout, ULogMessage},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::net::netdevice;

use super::{
    Linux,
    netlink::{NetlinkRequest, Socket},
};
use crate::{KernelError, Refusal};
use riklet_core::{
    firewall::{
        RefusedPacket, RefusingRule,
        names::nftables::REFUSED,
        nftables::{base_ruleset, element, refused},
        refusal::{GROUP, PACKET_LENGTH},
    },
    model::Slot,
};

/// The most messages that one reading takes. More wait in the socket's buffer, or are lost.
const MOST: usize = 1024;

/// A socket that the kernel sends refused packets of guests to. There is one in a network namespace.
#[derive(Debug)]
pub struct Refusals {
    socket: Socket,
}

/// The refused packets that were heard of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The packets, each with the slot of the guest that sent it; `None` if its interface is gone, or not ours.
    pub packets: Vec<(RefusedPacket, Option<Slot>)>,
    /// True if some were lost because the buffer was full.
    pub lost: bool,
}

impl Refusals {
    /// Listens in the network namespace of the calling thread, until the value is dropped. The kernel sends the beginning of a
    /// packet a tenth of a second later at most.
    ///
    /// # Errors
    /// Fails with `EPERM` or `EBUSY` if another process listens, and if the kernel has no `nfnetlink_log`.
    pub fn listen() -> Result<Self, KernelError> {
        let failed = |source| KernelError::ListenToRefusals { source };
        let mut socket = Socket::open(NETLINK_NETFILTER).map_err(failed)?;
        let request = NetlinkRequest { message: binding(), flags: 0 };
        let results = socket.send_each(vec![request]).map_err(failed)?;
        results.into_iter().collect::<Result<(), Refusal>>().map_err(failed)?;
        Ok(Self { socket })
    }

    /// Returns what has arrived, without waiting.
    ///
    /// # Errors
    /// Fails if the socket cannot be read.
    pub fn read(&mut self) -> Result<Heard, KernelError> {
        let mut packets = Vec::new();
        let mut hear = |message: &[u8]| packets.extend(RefusedPacket::read(message));
        let lost = self.socket.receive_waiting(MOST, &mut hear);
        let lost = lost.map_err(|source| KernelError::ListenToRefusals { source })?;
        let with_slot = |packet: RefusedPacket| {
            let slot = self.slot(packet.interface);
            (packet, slot)
        };
        Ok(Heard { packets: packets.into_iter().map(with_slot).collect(), lost })
    }

    fn slot(&self, interface: u32) -> Option<Slot> {
        let name = netdevice::index_to_name_inlined(&self.socket, interface).ok()?;
        Slot::of_interface(name.as_str())
    }
}

impl AsFd for Refusals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the request for the packets of our group.
fn binding() -> NetfilterMessage {
    /// Hundredths of a second, and packets, after which the kernel sends what it has.
    const DELAY: u32 = 10;
    const PACKETS: u32 = 64;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, GROUP);
    let config = vec![
        ConfigNla::Cmd(ConfigCmd::Bind),
        ConfigNla::Mode(ConfigMode::new_packet(PACKET_LENGTH)),
        ConfigNla::Timeout(Timeout::new(DELAY)),
        ConfigNla::QThresh(PACKETS),
    ];
    NetfilterMessage::new(header, ULogMessage::Config(config))
}

impl Linux {
    /// Returns the number of refused packets by interface and rule, of the guests of nftables: since the interface was
    /// created, the rules were last replaced, or an hour passed in which none was refused. iptables counts none by interface.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn refused_packets(&mut self) -> Result<BTreeMap<(u32, RefusingRule), u64>, KernelError> {
        self.nftables.refused_packets().map_err(|source| KernelError::CountRefusals { source })
    }
}

/// Asks for all counts by this socket.
pub(super) fn counts(socket: &mut Socket) -> Result<BTreeMap<(u32, RefusingRule), u64>, Refusal> {
    let read = |message: &[u8]| Some(refused::counts(message));
    let request = element::get(&base_ruleset::name(), REFUSED, &[]);
    match socket.query_as(&request, NLM_F_DUMP, read) {
        // There are no rules of ours, or those of an earlier version.
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(BTreeMap::new()),
        answer => {
            let counts = answer?.into_iter().flatten();
            Ok(counts.map(|count| ((count.interface, count.rule), count.packets)).collect())
        }
    }
}

/// Reads a message of `nfnetlink_log`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    if let Some(packet) = RefusedPacket::read(message) {
        let text = packet.to_string();
        assert!(text.ends_with(packet.rule.reason()), "{text}");
    }
}
