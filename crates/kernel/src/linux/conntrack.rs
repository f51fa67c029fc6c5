//! Entries of the connection tracking table, by ctnetlink (`<linux/netfilter/nfnetlink_conntrack.h>`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_DUMP, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple,
        Protocol as Number, Status, Tuple,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    Linux,
    netlink::{NetlinkRequest, Socket, decode},
    opened,
    pins::SharedPins,
    sysctl,
};
use crate::{KernelError, Refusal};
use riklet_core::{
    flows::{Flows, SentFlows, Tracked},
    model::{Family, PortRange, Protocol},
};

/// `CTA_STATUS`, `CTA_ID`, `CTA_ZONE`, `CTA_STATUS_MASK`, and `CTA_FILTER` with its attributes.
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// The parts of a tuple that a filter compares: `CTA_FILTER_F_*` of `net/netfilter/nf_internals.h`.
const BY_SOURCE: u32 = 1;
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_SOURCE_PORT: u32 = 1 << 4;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// The number of entries that one `send` deletes. Each answer takes about 1 KiB of the receive buffer.
const BATCH: usize = 64;
/// The number of filters from which on one dump of all entries costs less than a walk of all buckets for each filter.
const MANY_FILTERS: usize = 16;

/// A socket of ctnetlink.
#[derive(Debug)]
pub(super) struct Conntrack {
    socket: Socket,
    /// Flows to what guests were told for names are none that their policies refuse.
    pins: SharedPins,
}

/// A filter for the kernel: a tuple for each direction that matters, and the parts of it that are compared.
struct Filter {
    family: Family,
    original: Option<(u32, Vec<Tuple>)>,
    reply: Option<(u32, Vec<Tuple>)>,
    /// True if only untranslated entries match.
    untranslated: bool,
}

/// A direction of an entry.
#[derive(Default)]
struct Direction {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: Option<Protocol>,
    /// The protocol's number, whether or not we know the protocol.
    number: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
}

impl Conntrack {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, Refusal> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER)?, pins: SharedPins::default() })
    }

    /// Deletes the entries of these flows, on a host with these addresses.
    pub(super) fn forget(
        &mut self,
        flows: &BTreeSet<Flows>,
        of_host: &BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        self.delete_all(flows, of_host).map_err(|source| KernelError::ForgetFlows { source })
    }

    /// Returns the number of IPv4 entries by address: those of connections that it began, or that were translated
    /// to it. A connection between two guests counts for both.
    pub(super) fn count_by_guest(&mut self) -> Result<BTreeMap<IpAddr, u64>, Refusal> {
        let mut counts = BTreeMap::new();
        for entry in self.dump_everything(Family::V4)? {
            let guests: BTreeSet<_> = flows_of(&entry)
                .filter_map(|flow| match flow {
                    Flows::Guest { guest } => Some(guest),
                    _ => None,
                })
                .collect();
            for guest in guests {
                *counts.entry(guest).or_default() += 1;
            }
        }
        Ok(counts)
    }

    fn delete_all(
        &mut self,
        flows: &BTreeSet<Flows>,
        of_host: &BTreeSet<IpAddr>,
    ) -> Result<(), Refusal> {
        let of = |family| flows.iter().copied().filter(|f| f.family() == family).collect();
        let (v4, v6): (BTreeSet<Flows>, BTreeSet<Flows>) = (of(Family::V4), of(Family::V6));
        if !v4.is_empty() {
            self.delete_v4(&v4, of_host)?;
        }
        // No filter is used for IPv6 addresses: the kernel would delete all other entries, since
        // `ctnetlink_filter_match_tuple` treats equality by ipv6_addr_cmp() as a difference (tried with 6.18).
        if v6.is_empty() { Ok(()) } else { self.delete_listed(&v6, of_host, Family::V6) }
    }

    fn delete_v4(
        &mut self,
        flows: &BTreeSet<Flows>,
        of_host: &BTreeSet<IpAddr>,
    ) -> Result<(), Refusal> {
        let filters = || all_filters(flows);
        // A filter has no ranges of addresses.
        let of_many =
            |flows: &Flows| matches!(flows, Flows::SentByOthers { .. } | Flows::Direct { .. });
        if flows.iter().any(of_many) || filters().len() >= MANY_FILTERS {
            return self.delete_listed(flows, of_host, Family::V4);
        }
        // The filter of a range also matches entries outside of the range.
        let exact = !flows.iter().any(Flows::has_many_ports);
        if exact && self.delete_filtered(filters()).is_ok() {
            return Ok(());
        }
        self.dump_filtered(filters())
            .and_then(|entries| self.delete_of(flows, of_host, entries))
            .or_else(|_refused| self.delete_listed(flows, of_host, Family::V4))
    }

    /// Deletes the entries that these filters match, from Linux 6.11 on. This is much faster than a dump, which
    /// locks each bucket of the table in turn.
    ///
    /// An older kernel does not take the request for one to delete everything: it refuses the filter, or (before
    /// 5.8) the tuple, which is incomplete.
    fn delete_filtered(&mut self, filters: Vec<Filter>) -> Result<(), Refusal> {
        let request = |filter: Filter| {
            let family = filter.family;
            let message = message(family, filter.request(ConntrackMessageType::Delete));
            NetlinkRequest { message, flags: 0 }
        };
        let results = self.socket.send_each(filters.into_iter().map(request).collect())?;
        results.into_iter().collect()
    }

    fn delete_listed(
        &mut self,
        flows: &BTreeSet<Flows>,
        of_host: &BTreeSet<IpAddr>,
        family: Family,
    ) -> Result<(), Refusal> {
        let entries = self.dump_everything(family)?;
        self.delete_of(flows, of_host, entries)
    }

    /// Deletes those of the entries that belong to these flows.
    fn delete_of(
        &mut self,
        flows: &BTreeSet<Flows>,
        of_host: &BTreeSet<IpAddr>,
        entries: Vec<Vec<ConntrackAttribute>>,
    ) -> Result<(), Refusal> {
        // Those that guests sent are looked up by the guest: there may be many for each of many guests.
        let sent = SentFlows::of(flows);
        let goes_on = |flow: &Tracked| !of_host.contains(&flow.to) && self.pins.lead_to(flow);
        let was_sent = |entry: &Vec<_>| {
            tracked(entry).is_some_and(|flow| sent.have(&flow, of_host) && !goes_on(&flow))
        };
        let by_ports = flows.iter().filter(|flows| !is_sent(flows));
        let (of_ranges, of_ports): (BTreeSet<&Flows>, BTreeSet<&Flows>) =
            by_ports.partition(|flows| flows.has_many_ports());
        let in_a_range = |flow: &Flows| of_ranges.iter().any(|flows| flows.contains(flow));
        // A kernel without support for filters may have ignored them, so each entry is checked here.
        let doomed: Vec<_> = entries
            .into_iter()
            .filter(|entry| {
                flows_of(entry).any(|flow| of_ports.contains(&flow) || in_a_range(&flow))
                    || !sent.is_empty() && was_sent(entry)
            })
            .collect();
        for batch in doomed.chunks(BATCH) {
            let deletion = |entry: &Vec<_>| NetlinkRequest { message: delete(entry), flags: 0 };
            for result in self.socket.send_each(batch.iter().map(deletion).collect())? {
                match result {
                    // The entry ended by itself, or two filters found it.
                    Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Lists the entries that these filters match, from Linux 5.8 on.
    fn dump_filtered(
        &mut self,
        filters: Vec<Filter>,
    ) -> Result<Vec<Vec<ConntrackAttribute>>, Refusal> {
        let mut entries = Vec::new();
        for filter in filters {
            let family = filter.family;
            entries.extend(self.dump(family, filter.request(ConntrackMessageType::Get))?);
        }
        Ok(entries)
    }

    fn dump_everything(&mut self, family: Family) -> Result<Vec<Vec<ConntrackAttribute>>, Refusal> {
        self.dump(family, ConntrackMessage::Get(vec![])).or_else(|refusal| {
            // If nothing is tracked, ctnetlink need not be loaded.
            match sysctl::read("net.netfilter.nf_conntrack_count") {
                Ok(None) => Ok(vec![]),
                Ok(Some(count)) if count == "0" => Ok(vec![]),
                _ => Err(refusal),
            }
        })
    }

    fn dump(
        &mut self,
        family: Family,
        request: ConntrackMessage,
    ) -> Result<Vec<Vec<ConntrackAttribute>>, Refusal> {
        self.socket.query_as(&message(family, request), NLM_F_DUMP, entry)
    }
}

impl Filter {
    /// Encodes the filter as attributes without a type: those of the library would lose the flag `NLA_F_NESTED` of
    /// `CTA_FILTER`, on which the kernel insists.
    fn request(self, request: ConntrackMessageType) -> ConntrackMessage {
        let original = self.original.map(|(flags, parts)| {
            (FILTER_ORIGINAL, flags, ConntrackAttribute::CtaTupleOrig(parts))
        });
        let reply = self
            .reply
            .map(|(flags, parts)| (FILTER_REPLY, flags, ConntrackAttribute::CtaTupleReply(parts)));
        let mut compared = Vec::new();
        let mut attributes = Vec::new();
        for (kind, flags, tuple) in original.into_iter().chain(reply) {
            let flags = DefaultNla::new(kind, flags.to_ne_bytes().to_vec());
            let mut bytes = vec![0; flags.buffer_len()];
            flags.emit(&mut bytes);
            compared.append(&mut bytes);
            let mut value = vec![0; tuple.value_len()];
            tuple.emit_value(&mut value);
            attributes.push(DefaultNla::new(tuple.kind() | NLA_F_NESTED, value));
        }
        attributes.push(DefaultNla::new(FILTER | NLA_F_NESTED, compared));
        if self.untranslated {
            let mask = Status::NatMask.bits().to_be_bytes().to_vec();
            attributes.push(DefaultNla::new(STATUS, vec![0; mask.len()]));
            attributes.push(DefaultNla::new(STATUS_MASK, mask));
        }
        ConntrackMessage::Other { message_type: request.into(), attributes }
    }
}

/// Returns the filters that match the entries of all these flows. Those that one guest sent have the same.
fn all_filters(flows: &BTreeSet<Flows>) -> Vec<Filter> {
    let mut senders = BTreeSet::new();
    let is_new = |flows: &&Flows| match flows {
        Flows::Sent { guest, .. } => senders.insert(*guest),
        _ => true,
    };
    flows.iter().filter(is_new).copied().flat_map(filters).collect()
}

/// Returns the filters that match the entries of these flows. A filter has no ranges: that of several ports matches all
/// ports.
fn filters(flows: Flows) -> Vec<Filter> {
    let family = flows.family();
    match flows {
        Flows::Guest { guest } => {
            let sent = || Some((BY_SOURCE, vec![source(guest)]));
            vec![
                Filter { family, original: sent(), reply: None, untranslated: false },
                Filter { family, original: None, reply: sent(), untranslated: false },
            ]
        }
        Flows::Sent { guest, .. } => {
            let original = Some((BY_SOURCE, vec![source(guest)]));
            vec![Filter { family, original, reply: None, untranslated: false }]
        }
        Flows::SentByOthers { .. } | Flows::Direct { .. } => vec![],
        Flows::Exposed { protocol, host_address, host_ports, guest, guest_ports } => {
            let mut ports = vec![number(protocol)];
            let mut flags = BY_SOURCE | BY_PROTOCOL;
            if guest_ports.is_single() {
                ports.push(ProtoTuple::SourcePort(guest_ports.first()));
                flags |= BY_SOURCE_PORT;
            }
            vec![Filter {
                family,
                original: Some(sent_to(protocol, host_address, host_ports)),
                reply: Some((flags, vec![source(guest), Tuple::Proto(ports)])),
                untranslated: false,
            }]
        }
        Flows::Untranslated { protocol, address, ports, .. } => {
            let original = Some(sent_to(protocol, address, ports));
            vec![Filter { family, original, reply: None, untranslated: true }]
        }
    }
}

fn sent_to(protocol: Protocol, address: Option<IpAddr>, ports: PortRange) -> (u32, Vec<Tuple>) {
    let mut fields = vec![number(protocol)];
    let mut flags = BY_PROTOCOL;
    if ports.is_single() {
        fields.push(ProtoTuple::DestinationPort(ports.first()));
        flags |= BY_DESTINATION_PORT;
    }
    if address.is_some() {
        flags |= BY_DESTINATION;
    }
    let address = address.map(|a| Tuple::Ip(vec![IPTuple::DestinationAddress(a)]));
    (flags, address.into_iter().chain([Tuple::Proto(fields)]).collect())
}

fn number(protocol: Protocol) -> ProtoTuple {
    ProtoTuple::Protocol(Number::from(protocol.number()))
}

fn source(address: IpAddr) -> Tuple {
    Tuple::Ip(vec![IPTuple::SourceAddress(address)])
}

/// Returns all flows that an entry belongs to. The answers to a translated packet come from the guest, so the
/// guest's address and port are the source of the reply direction.
fn flows_of(entry: &[ConntrackAttribute]) -> impl Iterator<Item = Flows> + use<> {
    let (original, reply) = directions(entry);
    let translated = is_translated(entry);
    let guests = [original.source, reply.source].into_iter().flatten();
    let guests = guests.map(|guest| Flows::Guest { guest });
    let sent_to = [None, original.destination].into_iter().filter_map(move |address| {
        let (protocol, port) = (original.protocol?, original.destination_port?);
        let ports = PortRange::single(port)?;
        if !translated {
            let family = Family::of(original.destination?);
            return Some(Flows::Untranslated { family, protocol, address, ports });
        }
        let (guest, guest_ports) = (reply.source?, PortRange::single(reply.source_port?)?);
        let (host_address, host_ports) = (address, ports);
        Some(Flows::Exposed { protocol, host_address, host_ports, guest, guest_ports })
    });
    guests.chain(sent_to)
}

/// Reports whether flows are told by who sent them.
const fn is_sent(flows: &Flows) -> bool {
    matches!(flows, Flows::Sent { .. } | Flows::SentByOthers { .. } | Flows::Direct { .. })
}

/// Returns an entry by both of its ends.
fn tracked(entry: &[ConntrackAttribute]) -> Option<Tracked> {
    let (original, reply) = directions(entry);
    let (from, to, answerer) = (original.source?, original.destination?, reply.source?);
    let (protocol, port) = (original.number?, reply.source_port);
    Some(Tracked { from, to, answerer, protocol, port })
}

fn directions(entry: &[ConntrackAttribute]) -> (Direction, Direction) {
    let mut found = (Direction::default(), Direction::default());
    for attribute in entry {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => found.0 = direction(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => found.1 = direction(tuple),
            _ => {}
        }
    }
    found
}

fn direction(tuple: &[Tuple]) -> Direction {
    let mut direction = Direction::default();
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => direction.source = Some(*address),
                        IPTuple::DestinationAddress(address) => {
                            direction.destination = Some(*address);
                        }
                        _ => {}
                    }
                }
            }
            Tuple::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(number) => {
                            let number = u8::from(*number);
                            let same = |p: &Protocol| p.number() == number;
                            direction.protocol = Protocol::ALL.into_iter().find(same);
                            direction.number = Some(number);
                        }
                        ProtoTuple::SourcePort(port) => direction.source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => {
                            direction.destination_port = Some(*port);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    direction
}

fn is_translated(entry: &[ConntrackAttribute]) -> bool {
    entry.iter().any(|attribute| match attribute {
        ConntrackAttribute::CtaStatus(status) => status.intersects(Status::NatMask),
        _ => false,
    })
}

/// Reads a message, with its header, as an entry; `None` if it is another one. The library trusts lengths in messages of
/// other subsystems, and panics if they are wrong.
fn entry(message: &[u8]) -> Option<Vec<ConntrackAttribute>> {
    /// `NFNL_SUBSYS_CTNETLINK` of `<linux/netfilter/nfnetlink.h>`: the upper byte of the type.
    const SUBSYSTEM: u16 = 1;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind >> 8 != SUBSYSTEM {
        return None;
    }
    match decode::<NetfilterMessage>(message)?.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) => Some(entry),
        _ => None,
    }
}

/// Returns the request that deletes an entry by its original direction in its zone. The identifier protects an entry
/// that has replaced it since.
fn delete(entry: &[ConntrackAttribute]) -> NetfilterMessage {
    let names = |attribute: &&ConntrackAttribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => matches!(other.kind(), ID | ZONE),
        _ => false,
    };
    let source = directions(entry).0.source;
    let family = source.map_or(Family::V4, Family::of);
    let key = entry.iter().filter(names).cloned().collect();
    message(family, ConntrackMessage::Delete(key))
}

fn message(family: Family, message: ConntrackMessage) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

impl crate::Conntrack for Linux {
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        let failed = |source| KernelError::ForgetFlows { source };
        let families: BTreeSet<Family> =
            flows.iter().filter(|flows| is_sent(flows)).map(Flows::family).collect();
        let of_host = if families.is_empty() {
            BTreeSet::new()
        } else {
            self.route(failed)?.addresses_of_host(&families).map_err(failed)?
        };
        let conntrack = opened(&mut self.conntrack, Conntrack::open).map_err(failed)?;
        conntrack.pins = self.nftables.pins().clone();
        conntrack.forget(flows, &of_host)
    }
}

#[cfg(test)]
#[cfg(privileged)]
mod tests;

/// Reads messages as tracked connections, and names them to the kernel again.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    let Some(entry) = entry(message) else { return };
    assert!(flows_of(&entry).count() <= 4);
    let _flow = tracked(&entry);
    let deletion = delete(&entry);
    deletion.emit(&mut vec![0; deletion.buffer_len()]);
}
