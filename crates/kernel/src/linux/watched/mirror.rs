//! Keeps a mirror of our interfaces up to date by notifications. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::link_state, feed::Message};
use crate::linux::netlink::read_u32;
use riklet_core::{
    link::{DRAINING_GROUP, LinkSpec, LinkState},
    model::{InterfaceName, Slot},
    shaping::Twin,
};

/// `RTM_*` of `<linux/rtnetlink.h>`.
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_NEIGHBOUR: u16 = 28;
const DELETED_NEIGHBOUR: u16 = 29;
const NEW_NETCONF: u16 = 80;
/// `NETCONFA_*` of `<linux/netconf.h>`.
const NETCONF_INDEX: u16 = 1;
const NETCONF_FORWARDING: u16 = 2;
const NETCONF_RP_FILTER: u16 = 3;
const NETCONF_FORCE_FORWARDING: u16 = 9;
/// The index that stands for all interfaces (`NETCONFA_IFINDEX_ALL`, -1).
const NETCONF_ALL: u32 = u32::MAX;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The lowest MTU with which an interface takes part in IPv6 (`IPV6_MIN_MTU`).
const LEAST_OF_IPV6: u32 = 1280;

/// The interfaces named `rik<digits>`, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    links: BTreeMap<u32, LinkState>,
    names: BTreeMap<InterfaceName, u32>,
    /// The last notification of each link that was not read yet.
    unread: BTreeMap<u32, Vec<u8>>,
    /// Interfaces that have to be asked for: they were there before we listened, or may have changed without a
    /// notification.
    unknown: BTreeMap<InterfaceName, u32>,
    /// Interfaces that are down, and not draining: the kernel does not notify of their alias, group and owner.
    down: BTreeMap<InterfaceName, u32>,
    /// The last interface that was marked stale.
    last: Option<InterfaceName>,
    /// Slots whose interfaces changed.
    changed: BTreeSet<Slot>,
    /// True if an interface that is not ours changed.
    strangers: bool,
    /// True if an interface that is not ours came, went, or got or lost an address.
    interfaces: bool,
    /// The settings of our interfaces, as they were notified after their links were.
    settings: BTreeMap<u32, Notified>,
    /// True if forwarding changed for another interface, or for the host as a whole.
    switched: bool,
}

/// The settings of an interface that the kernel notifies of one by one.
#[derive(Debug, Default)]
struct Notified {
    forwarding: Option<bool>,
    rp_filter: Option<bool>,
    forwarding_v6: Option<bool>,
}

impl Mirror {
    /// Replaces the mirror by a complete listing.
    pub(super) fn fill(&mut self, links: BTreeMap<u32, LinkState>) {
        let before = std::mem::replace(&mut self.links, links);
        for (index, state) in before {
            if self.links.get(&index) != Some(&state) {
                self.changed.extend(Slot::of_interface(state.name.as_str()));
            }
        }
        self.names = self.links.iter().map(|(index, s)| (s.name.clone(), *index)).collect();
        self.unread.clear();
        self.unknown.clear();
        let down = |(index, state): (&u32, &LinkState)| {
            let quiet = !state.up && state.group != DRAINING_GROUP;
            quiet.then(|| (state.name.clone(), *index))
        };
        self.down = self.links.iter().filter_map(down).collect();
    }

    /// Processes a notification. Links are read later, once each: of several notifications of one, the last counts.
    pub(super) fn hear(&mut self, message: Message<'_>) {
        match message.kind {
            NEW_LINK => self.hear_link(message),
            DELETED_LINK => {
                // AF_BRIDGE tells of a port that leaves its bridge.
                if let Some(index) = index_of_link(message).filter(|_| family(message) == 0) {
                    self.forget(index);
                }
            }
            NEW_ADDRESS | DELETED_ADDRESS => self.hear_address(message),
            NEW_NEIGHBOUR | DELETED_NEIGHBOUR => self.hear_neighbour(message),
            NEW_NETCONF => self.hear_setting(message),
            _ => {}
        }
    }

    fn hear_link(&mut self, message: Message<'_>) {
        let Some(index) = index_of_link(message).filter(|_| family(message) == 0) else { return };
        self.settings.remove(&index);
        // `ifi_change` is all ones for a new interface: it has no addresses yet, except those of later notifications.
        let new = read_u32(message.body(), 12) == Some(u32::MAX);
        if new && !self.links.contains_key(&index) && !self.unread.contains_key(&index) {
            self.read(index, message.whole, true);
            return;
        }
        let unread = self.unread.entry(index).or_default();
        unread.clear();
        unread.extend_from_slice(message.whole);
    }

    /// Reads the last notification of each link.
    pub(super) fn catch_up(&mut self) {
        for (index, message) in std::mem::take(&mut self.unread) {
            self.read(index, &message, false);
        }
        for (index, notified) in std::mem::take(&mut self.settings) {
            let Notified { forwarding, rp_filter, forwarding_v6 } = notified;
            let Some(state) = self.links.get_mut(&index) else { continue };
            let before = (state.forwarding, state.rp_filter, state.forwarding_v6);
            state.forwarding = forwarding.unwrap_or(state.forwarding);
            state.rp_filter = rp_filter.unwrap_or(state.rp_filter);
            // It means nothing while IPv6 is off.
            let forwarding_v6 = forwarding_v6.filter(|_| state.ipv6);
            state.forwarding_v6 = forwarding_v6.unwrap_or(state.forwarding_v6);
            if before != (state.forwarding, state.rp_filter, state.forwarding_v6) {
                self.changed.extend(Slot::of_interface(state.name.as_str()));
            }
        }
    }

    /// Processes a change of one setting. A write of `net.ipv4.ip_forward` causes one for every interface.
    fn hear_setting(&mut self, message: Message<'_>) {
        let Some((index, notified)) = setting(message) else { return };
        let Notified { forwarding, rp_filter, forwarding_v6 } = notified;
        if message.body().first() == Some(&AF_INET6) && forwarding_v6.is_none() {
            // Whoever writes 0 to that of all interfaces turns off `force_forwarding` of each, without another notification.
            if index == NETCONF_ALL {
                self.switched = true;
                self.unknown.extend(self.names.iter().map(|(name, index)| (name.clone(), *index)));
            }
            return;
        }
        if self.links.contains_key(&index) || self.unread.contains_key(&index) {
            let known = self.settings.entry(index).or_default();
            known.forwarding = forwarding.or(known.forwarding);
            known.rp_filter = rp_filter.or(known.rp_filter);
            known.forwarding_v6 = forwarding_v6.or(known.forwarding_v6);
        } else {
            self.switched |= forwarding.or(forwarding_v6).is_some();
        }
    }

    fn read(&mut self, index: u32, message: &[u8], new: bool) {
        if let Some(slot) = link_state::name(message).and_then(Twin::slot) {
            self.hear_twin(slot);
            return;
        }
        let Some((_, mut state)) = link_state::link(message) else { return };
        let Some(slot) = Slot::of_interface(state.name.as_str()) else {
            self.strangers = true;
            self.interfaces |= new;
            // The interface had one of our names before.
            self.forget_known(index);
            return;
        };
        self.changed.insert(slot);
        let before = self.links.remove(&index);
        if let Some(before) = &before {
            state.addresses.clone_from(&before.addresses);
            state.neighbours.clone_from(&before.neighbours);
            state.shaping.clone_from(&before.shaping);
            if before.name != state.name {
                self.changed.extend(Slot::of_interface(before.name.as_str()));
                // Two interfaces may have swapped their names.
                if self.names.get(&before.name) == Some(&index) {
                    self.names.remove(&before.name);
                }
                self.down.remove(&before.name);
                // Its guard is that of another slot.
                self.unknown.insert(state.name.clone(), index);
            }
            if before.mtu < LEAST_OF_IPV6 && state.mtu >= LEAST_OF_IPV6 {
                // The kernel sets up IPv6 for it after this notification.
                self.unknown.insert(state.name.clone(), index);
            }
        }
        if before.is_none() && !new {
            self.unknown.insert(state.name.clone(), index);
            return;
        }
        self.keep(index, state);
    }

    fn keep(&mut self, index: u32, state: LinkState) {
        if state.up || state.group == DRAINING_GROUP {
            self.down.remove(&state.name);
        } else {
            self.down.insert(state.name.clone(), index);
        }
        self.names.insert(state.name.clone(), index);
        self.links.insert(index, state);
    }

    /// Processes a change of a twin: its interface has to be asked for.
    fn hear_twin(&mut self, slot: Slot) {
        self.changed.insert(slot);
        self.mark_unknown(&slot.interface());
    }

    /// Has an interface asked for.
    pub(super) fn mark_unknown(&mut self, name: &InterfaceName) {
        if let Some(&index) = self.names.get(name) {
            self.unknown.insert(name.clone(), index);
        }
    }

    fn forget(&mut self, index: u32) {
        self.unread.remove(&index);
        if let Some(slot) = Twin::of_number(index) {
            self.hear_twin(slot);
            return;
        }
        if !self.forget_known(index) {
            (self.strangers, self.interfaces) = (true, true);
        }
    }

    /// Forgets an interface, and reports whether it was one of ours.
    fn forget_known(&mut self, index: u32) -> bool {
        let before = self.unknown.len();
        self.unknown.retain(|_, other| *other != index);
        let was_unknown = self.unknown.len() < before;
        let Some(state) = self.links.remove(&index) else { return was_unknown };
        if self.names.get(&state.name) == Some(&index) {
            self.names.remove(&state.name);
            self.down.remove(&state.name);
        }
        self.changed.extend(Slot::of_interface(state.name.as_str()));
        true
    }

    fn hear_address(&mut self, message: Message<'_>) {
        let Some(state) = read_u32(message.body(), 4).and_then(|i| self.links.get_mut(&i)) else {
            self.interfaces = true;
            return;
        };
        let Some((_, address)) = link_state::address(message.whole) else { return };
        if message.kind == NEW_ADDRESS {
            state.addresses.insert(address);
        } else {
            state.addresses.remove(&address);
        }
        self.changed.extend(Slot::of_interface(state.name.as_str()));
    }

    /// Processes a neighbour. One that is no longer permanent is not kept.
    fn hear_neighbour(&mut self, message: Message<'_>) {
        let Some(state) = read_u32(message.body(), 4).and_then(|i| self.links.get_mut(&i)) else {
            return;
        };
        let Some((address, permanent)) = link_state::said_of_neighbour(message.whole) else {
            return;
        };
        match permanent.filter(|_| message.kind == NEW_NEIGHBOUR) {
            Some(mac) => drop(state.neighbours.insert(address, mac)),
            None => drop(state.neighbours.remove(&address)),
        }
        self.changed.extend(Slot::of_interface(state.name.as_str()));
    }

    /// Returns the interfaces that have to be asked for.
    pub(super) fn unknown(&self) -> Vec<InterfaceName> {
        self.unknown.keys().chain(self.down.keys()).cloned().collect()
    }

    /// Marks the next `count` interfaces as unknown, in turn.
    pub(super) fn mark_stale(&mut self, count: usize) {
        let after = |name: &&InterfaceName| self.last.as_ref().is_none_or(|last| *name > last);
        let next: Vec<_> = self.names.keys().filter(after).take(count).cloned().collect();
        self.last = if next.len() < count { None } else { next.last().cloned() };
        for name in next {
            if let Some(&index) = self.names.get(&name) {
                self.unknown.insert(name, index);
            }
        }
    }

    /// Stores the answer about an unknown interface.
    pub(super) fn learn(&mut self, name: &InterfaceName, found: Option<LinkState>) {
        let unknown = self.unknown.remove(name).or_else(|| self.down.get(name).copied());
        // The kernel notifies of one that no longer exists.
        let (Some(index), Some(state)) = (unknown, found) else { return };
        if self.links.get(&index) != Some(&state) {
            self.changed.extend(Slot::of_interface(name.as_str()));
        }
        self.keep(index, state);
    }

    /// Stores the properties that we have set, as far as the kernel does not notify of them.
    pub(super) fn expect(&mut self, spec: &LinkSpec) {
        let state = self.names.get(&spec.name).and_then(|index| self.links.get_mut(index));
        if let Some(state) = state {
            let wanted = spec.state();
            (state.forwarding, state.route_localnet, state.ipv6) =
                (wanted.forwarding, wanted.route_localnet, wanted.ipv6);
            (state.accept_redirects, state.send_redirects) =
                (wanted.accept_redirects, wanted.send_redirects);
            (state.rp_filter, state.arp_ignore) = (wanted.rp_filter, wanted.arp_ignore);
            (state.learns_routes, state.forwarding_v6) =
                (wanted.learns_routes, wanted.forwarding_v6);
        }
    }

    /// Stores an alias that we have set: the kernel does not notify of it if the interface is down.
    pub(super) fn expect_alias(&mut self, name: &InterfaceName, alias: &str) {
        let state = self.names.get(name).and_then(|index| self.links.get_mut(index));
        if let Some(state) = state {
            state.alias = Some(alias.to_owned());
        }
    }

    pub(super) fn link(&self, name: &InterfaceName) -> Option<&LinkState> {
        self.links.get(self.names.get(name)?)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &LinkState> {
        self.names.values().filter_map(|index| self.links.get(index))
    }

    /// Returns the slots whose interfaces changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.changed)
    }

    /// Reports whether a foreign interface changed since the last call.
    pub(super) fn take_strangers(&mut self) -> bool {
        std::mem::take(&mut self.strangers)
    }

    /// Reports whether one of them came, went, or got or lost an address since the last call.
    pub(super) fn take_interfaces(&mut self) -> bool {
        std::mem::take(&mut self.interfaces)
    }

    /// Reports whether forwarding changed for one of them, or for the host as a whole, since the last call.
    pub(super) fn take_switched(&mut self) -> bool {
        std::mem::take(&mut self.switched)
    }
}

/// Returns the interface of which a setting was changed, and that setting. A notification with all settings is of an
/// interface that has just come; its link follows.
fn setting(message: Message<'_>) -> Option<(u32, Notified)> {
    /// `sizeof(struct netconfmsg)`, rounded up.
    const HEADER: usize = 4;
    let value = |wanted| read_u32(message.attribute(HEADER, wanted)?, 0);
    let on = |wanted| value(wanted).map(|value| value != 0);
    let found = Notified {
        forwarding: on(NETCONF_FORWARDING),
        rp_filter: on(NETCONF_RP_FILTER),
        forwarding_v6: on(NETCONF_FORCE_FORWARDING),
    };
    let Notified { forwarding, rp_filter, forwarding_v6 } = &found;
    let set = [forwarding, rp_filter, forwarding_v6].into_iter().flatten().count();
    let known = matches!(message.body().first(), Some(&(AF_INET | AF_INET6)));
    Some((value(NETCONF_INDEX)?, found)).filter(|_| known && set == 1)
}

/// `ifi_family`.
fn family(message: Message<'_>) -> u8 {
    message.body().first().copied().unwrap_or_default()
}

/// `ifi_index`.
fn index_of_link(message: Message<'_>) -> Option<u32> {
    read_u32(message.body(), 4)
}
