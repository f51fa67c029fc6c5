//! Explains the way of one packet: by the records, the kernel's own look-ups, and the rules of others.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use riklet_core::{
    explain::{self, End, Explanation, Facts, Origin, Packet},
    firewall::{Ban, Side, Wanted},
    model::{Addresses, EgressPolicy, Exposure, Family, InstanceName, PortRange, Protocol},
    plan,
};
use riklet_kernel::{Kernel, Listener};

use super::{
    Instance, LinkStatus, NodeError,
    host::{Host, Interfaces},
    record::fragment,
    session::{Context, Operations, Used},
};
use crate::store::{Phase, Record, Store};

/// A question about a packet that begins a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The end that sends it.
    pub from: Peer,
    /// The end that it is for.
    pub to: Peer,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination's port.
    pub port: u16,
}

impl Question {
    /// Returns the family of the packet: that of the address that either end is named by, or else IPv4.
    fn family(&self) -> Family {
        let address = [&self.to, &self.from].into_iter().find_map(|peer| match peer {
            Peer::Address(address) => Some(*address),
            Peer::Node | Peer::Function(_) => None,
        });
        address.map_or(Family::V4, Family::of)
    }
}

/// An end of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The node itself: to its processes 127.0.0.1, to a function its gateway.
    Node,
    /// A function, by its guest's address.
    Function(InstanceName),
    /// An address, of whomever.
    Address(IpAddr),
}

/// The answer of [`Node::explain`](crate::Node::explain).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The packet.
    pub packet: Packet,
    /// The function that sends it, if one does.
    pub sender: Option<InstanceName>,
    /// Its way, by the rules as they should be.
    pub explanation: Explanation,
    /// States that the rules do not tell of: those that stop it nevertheless, or that the rules which refuse it are missing.
    pub obstacles: Vec<Obstacle>,
    /// Chains of others whose rules were not followed, as `ip filter OUTPUT`: these may drop or translate the packet, or its
    /// answer. Empty if the packet does not arrive anyway.
    pub not_followed: BTreeSet<String>,
}

/// A state of the node that stops a packet which the rules let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The state, in words.
    pub what: String,
    /// A remedy.
    pub hint: String,
}

impl Explained {
    /// Reports whether somebody gets the packet.
    #[must_use]
    pub const fn arrives(&self) -> bool {
        self.explanation.end.arrives() && self.obstacles.is_empty()
    }
}

/// The functions that have to do with a packet.
struct Parties {
    sender: Option<Record>,
    publisher: Option<(Record, Exposure)>,
    receiver: Option<Record>,
}

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn explain(&mut self, question: &Question) -> Result<Explained, NodeError> {
        let mut reading = self.glance()?;
        let Some(used) = reading.used(Interfaces::Recorded)? else {
            reading.context.refuse_visible()?;
            return Err(NodeError::NothingUp);
        };
        let Used { store, host, context } = used;
        let Some(base_ruleset) = &host.base_ruleset else { return Err(NodeError::NothingUp) };
        let packet = packet(&host, store, context, question)?;
        let is_local = context.kernel.is_local(packet.to)?;
        let parties = parties(&host, store, context, packet, is_local)?;
        let (translated, listener) = others(context, packet, is_local)?;
        let published = parties.publisher.as_ref().and_then(|(record, exposure)| {
            let addresses = host.node.pool.addresses(record.slot)?;
            let guest = addresses.guests().find(|guest| guest.is_ipv6() == packet.to.is_ipv6())?;
            Some((record.workload.name(), *exposure, guest))
        });
        let facts = Facts {
            base_ruleset,
            policy: parties.sender.as_ref().and_then(policy),
            published,
            function: parties.receiver.as_ref().map(|record| record.workload.name()),
            translated,
            listener,
            is_local,
            route: context.kernel.route_to(packet.to)?,
        };
        let explanation = explain::explain(packet, &facts);
        let obstacles = match &explanation.end {
            end if end.arrives() => obstacles(&host, context, packet, &parties, end)?,
            End::Refused | End::Dropped => {
                let parties = [&parties.sender, &parties.receiver].into_iter().flatten();
                let mut found = Vec::new();
                for record in parties {
                    found.extend(missing_rules(&host, context, record)?);
                }
                found
            }
            _ => vec![],
        };
        let not_followed = if explanation.end.arrives() && obstacles.is_empty() {
            context.kernel.deciding_chains(Family::of(packet.to))?
        } else {
            BTreeSet::new()
        };
        let sender = parties.sender.map(|record| record.workload.name().clone());
        Ok(Explained { packet, sender, explanation, obstacles, not_followed })
    }
}

fn policy(record: &Record) -> Option<&EgressPolicy> {
    record.workload.egress()
}

/// Returns the packet of a question, with the addresses of its ends.
fn packet<K: Kernel>(
    host: &Host,
    store: &Store,
    context: &mut Context<'_, K>,
    question: &Question,
) -> Result<Packet, NodeError> {
    let ends = |context: &Context<'_, K>, name: &InstanceName| -> Result<_, NodeError> {
        let record = store.get(name)?.and_then(|record| context.cache.as_committed(record));
        match record.and_then(|record| host.node.pool.addresses(record.slot)) {
            Some(addresses) => Ok(addresses),
            None => Err(context.unknown(name, store.nearest(name.as_str())?)),
        }
    };
    let family = question.family();
    let guest = |context: &Context<'_, K>, name: &InstanceName| {
        let mut guests = Addresses::guests(&ends(context, name)?);
        let own = guests.find(|guest| Family::of(*guest) == family);
        own.ok_or_else(|| NodeError::WithoutIpv6 { name: name.clone() })
    };
    let from = match &question.from {
        Peer::Node => Origin::Node,
        Peer::Function(name) => Origin::Guest(guest(context, name)?),
        Peer::Address(address) => origin(host, context, *address)?,
    };
    let to = match (&question.to, &question.from) {
        (Peer::Function(name), _) => guest(context, name)?,
        (Peer::Address(address), _) => *address,
        (Peer::Node, Peer::Function(name)) => ends(context, name)?.v4.host.into(),
        (Peer::Node, Peer::Node | Peer::Address(_)) => Ipv4Addr::LOCALHOST.into(),
    };
    let &Question { protocol, port, .. } = question;
    Ok(Packet { from, to, protocol, port })
}

fn origin<K: Kernel>(
    host: &Host,
    context: &mut Context<'_, K>,
    address: IpAddr,
) -> Result<Origin, NodeError> {
    if host.node.pool.slot_of_guest(address).is_some() {
        return Ok(Origin::Guest(address));
    }
    let is_local = context.kernel.is_local(address)?;
    Ok(if is_local { Origin::Node } else { Origin::Elsewhere(address) })
}

fn parties<K: Kernel>(
    host: &Host,
    store: &Store,
    context: &Context<'_, K>,
    packet: Packet,
    is_local: bool,
) -> Result<Parties, NodeError> {
    let Packet { from, to, protocol, port } = packet;
    let holder = |address| -> Result<Option<Record>, NodeError> {
        let Some(slot) = host.node.pool.slot_of_guest(address) else { return Ok(None) };
        Ok(store.holder(slot)?.and_then(|record| context.cache.as_committed(record)))
    };
    let sender = match from {
        Origin::Guest(address) => holder(address)?,
        Origin::Node | Origin::Elsewhere(_) => None,
    };
    let mut publisher = None;
    // Of IPv6, neither the loopback nor the addresses of links are published.
    let may_be_published = match to {
        IpAddr::V4(_) => is_local,
        IpAddr::V6(to) => is_local && !to.is_loopback() && !to.is_unicast_link_local(),
    };
    if may_be_published && let Some(ports) = PortRange::single(port) {
        let holders = store.holders(protocol, Some(to), port)?.into_iter();
        let present = holders.filter_map(|record| context.cache.as_committed(record));
        // One that names the address comes first in the ruleset.
        let is_bound = |exposure: &Exposure| exposure.host_address().is_some();
        let taking = present.filter_map(|record| {
            let exposures = record.workload.exposures().iter().copied();
            let taking = exposures.filter(|it| it.takes(protocol, Some(to), ports));
            let first = taking.max_by_key(is_bound)?;
            Some((record, first))
        });
        publisher = taking.max_by_key(|(_, exposure)| is_bound(exposure));
    }
    let receiver = match &publisher {
        Some((record, _)) => Some(record.clone()),
        None => holder(to)?,
    };
    Ok(Parties { sender, publisher, receiver })
}

/// Returns who else on the host has the port: the program that translates it, and the process that listens there, in words.
fn others<K: Kernel>(
    context: &mut Context<'_, K>,
    packet: Packet,
    is_local: bool,
) -> Result<(Option<String>, Option<String>), NodeError> {
    let Packet { to, protocol, port, .. } = packet;
    let Some(ports) = PortRange::single(port).filter(|_| is_local) else { return Ok((None, None)) };
    let wanted: Wanted = [(protocol, Some(to), ports)].into();
    // Translations of IPv6 are not read.
    let translation =
        if to.is_ipv4() { context.kernel.translations(&wanted)?.pop_first() } else { None };
    let listener = context.kernel.listeners(&wanted)?.pop().map(|Listener { process, .. }| {
        process.unwrap_or_else(|| "a process of another namespace".to_owned())
    });
    Ok((translation.map(|translation| translation.to_string()), listener))
}

/// Returns what stops a packet that the rules let pass.
fn obstacles<K: Kernel>(
    host: &Host,
    context: &mut Context<'_, K>,
    packet: Packet,
    parties: &Parties,
    end: &End,
) -> Result<Vec<Obstacle>, NodeError> {
    let mut found = Vec::new();
    let ours = [&parties.sender, &parties.receiver];
    for record in ours.into_iter().flatten() {
        found.extend(standing(host, context, record)?);
    }
    let is_forwarded = !matches!((packet.from, end), (Origin::Node, _) | (_, End::Node { .. }));
    // Rules of others are followed for IPv4 only.
    if !is_forwarded || packet.to.is_ipv6() {
        return Ok(found);
    }
    let Some(base_ruleset) = &host.base_ruleset else { return Ok(found) };
    let foreign_chains = context.kernel.foreign_chains(host.backend, &base_ruleset.uplinks)?;
    let files = context.kernel.manager_files()?;
    found.extend(plan::cut_offs(&foreign_chains, &files).into_iter().map(|cut_off| Obstacle {
        what: format!("the chain {} drops packets of functions", cut_off.foreign_chain),
        hint: cut_off.advice.to_string(),
    }));
    let closed = foreign_chains.iter().filter(|chain| !chain.open && !chain.is_blocked());
    found.extend(closed.map(|chain| Obstacle {
        what: format!("our passage through the chain {} is missing", chain.foreign_chain),
        hint: "`riklet-sdn repair` restores it".to_owned(),
    }));
    found.extend(context.kernel.drops_around(&base_ruleset.uplinks)?.into_iter().map(|chain| {
        Obstacle {
            what: format!("the chain {chain} drops packets of functions"),
            hint: "have its owner accept packets from and to rik*".to_owned(),
        }
    }));
    let guest = parties.publisher.as_ref();
    let guest = guest.and_then(|(record, _)| Some(host.node.pool.addresses(record.slot)?.v4.guest));
    let bans = context.kernel.bans()?;
    let bans = bans.iter().filter(|ban| takes(ban, packet, guest));
    let banned = |what: String| Obstacle {
        what,
        hint: "this rule is its owner's decision: remove it there, if it shall pass".to_owned(),
    };
    found.extend(bans.map(|ban| banned(ban.to_string())));
    if let (Some((record, _)), Origin::Elsewhere(_)) = (&parties.publisher, packet.from) {
        let entries = fragment(host, record)?.entries.into_iter().collect::<BTreeSet<_>>();
        let bans = context.kernel.port_bans(&base_ruleset.uplinks, &entries)?.into_iter();
        let bans = bans.filter(|ban| (ban.protocol, ban.port) == (packet.protocol, packet.port));
        found.extend(bans.map(|ban| banned(ban.to_string())));
    }
    Ok(found)
}

/// Reports whether a rule of others drops a packet. `guest` is what the destination is translated to.
fn takes(ban: &Ban, packet: Packet, guest: Option<Ipv4Addr>) -> bool {
    let address = match (ban.side, packet.from) {
        (Side::Source, Origin::Guest(address) | Origin::Elsewhere(address)) => address,
        (Side::Source, Origin::Node) => return false,
        (Side::Destination, _) => guest.map_or(packet.to, IpAddr::V4),
    };
    let (first, last) = ban.addresses;
    (IpAddr::V4(first)..=IpAddr::V4(last)).contains(&address)
}

/// Returns what is not as it should be with a function.
fn standing<K: Kernel>(
    host: &Host,
    context: &mut Context<'_, K>,
    record: &Record,
) -> Result<Vec<Obstacle>, NodeError> {
    let mut found = Vec::new();
    let instance = Instance::of(&host.node, record)?;
    let (name, tap) = (instance.name(), instance.interface());
    let repair = || "`riklet-sdn repair` goes on with it".to_owned();
    if record.phase != Phase::Up {
        let what = format!("the last operation of {name} was interrupted: it is {}", record.phase);
        found.push(Obstacle { what, hint: repair() });
    }
    let link = context.kernel.link(&tap)?;
    match LinkStatus::of(host, link.as_ref()) {
        LinkStatus::Attached => {}
        LinkStatus::Ready if !instance.kind().runs() => found.push(Obstacle {
            what: format!("the other end of {tap}, in the namespace of {name}, is down"),
            hint: "set it up there: `ip -n NAMESPACE link set INTERFACE up`".to_owned(),
        }),
        LinkStatus::Ready => found.push(Obstacle {
            what: format!("no VMM of {name} has {tap} open"),
            hint: "start the VMM: `riklet-sdn run` does, `inspect` has its settings".to_owned(),
        }),
        status @ (LinkStatus::Down | LinkStatus::Missing) => found.push(Obstacle {
            what: format!("{tap} of {name} is {}", status.as_str()),
            hint: repair(),
        }),
    }
    found.extend(missing_rules(host, context, record)?);
    Ok(found)
}

/// Returns an obstacle if rules of a function are missing.
fn missing_rules<K: Kernel>(
    host: &Host,
    context: &mut Context<'_, K>,
    record: &Record,
) -> Result<Option<Obstacle>, NodeError> {
    let Some(base_ruleset) = &host.base_ruleset else { return Ok(None) };
    let entries = fragment(host, record)?.entries.into_iter().collect();
    let stand = context.kernel.probe_firewall(host.backend, base_ruleset, &entries)?;
    Ok((!stand).then(|| Obstacle {
        what: format!("rules that {} needs are missing in the firewall", record.workload.name()),
        hint: "`riklet-sdn repair` restores them".to_owned(),
    }))
}
