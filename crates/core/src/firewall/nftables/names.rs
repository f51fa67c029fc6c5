//! Names in policies: the rules that lead a guest's questions to the daemon, and the addresses that it was told.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
    SetElementMessage,
};

use super::{
    base_ruleset,
    element::{self, A_MESSAGE, Element},
    expression::{
        Expression, destination, destination_is_own, drop, from_guest, sends_more_than, source_in,
        to_port, translate_to,
    },
    object::{Operation, Rule, TableName, comment},
    policies, policy_chain,
};
use crate::{
    firewall::{
        Backend, Entry,
        names::nftables::{ASKED, NAMED, PREROUTING},
        ruleset::NAME_SERVERS,
    },
    model::Family,
    names::{Pin, RESOLVER},
};

/// The packets to the daemon's resolver that one guest may send in a second, and in a burst. More are dropped, so that they
/// take no place in the resolver's buffer, which all share.
const MOST_QUESTIONS: (u32, u32) = (500, 500);
/// The comment of that rule.
pub(super) const AS_FAST_AS_THEY_MAY: &str = "guests ask for names as fast as they may";

/// Returns the parts of the rule that drops what a guest asks the resolver too fast.
pub(super) fn too_fast() -> Vec<Expression> {
    let (rate, burst) = MOST_QUESTIONS;
    let resolver = Ipv4Net::new_assert(RESOLVER.0, 32);
    let asked = sends_more_than(Family::V4, rate, burst, ASKED);
    [from_guest(), destination(resolver), asked, drop()].concat()
}

/// Returns the rules that lead questions to the gateway of a guest with names to the resolver. If nobody listens there, they
/// are refused: such a guest has no other resolver.
pub(super) fn to_the_daemon() -> [Rule; 2] {
    NAME_SERVERS.map(|(protocol, port)| {
        let parts = [
            from_guest(),
            to_port(protocol, port),
            destination_is_own(),
            source_in(Family::V4, NAMED),
            translate_to(RESOLVER),
        ];
        let text = format!("questions for names by {protocol}");
        Rule::new(&base_ruleset::name(), PREROUTING, comment(&text), &parts)
    })
}

/// Returns the name of the set of the addresses that a guest with these entries was told for names; `None` if its policy has
/// none. Another policy has another set.
#[must_use]
pub fn set_of(guest: IpAddr, entries: &[Entry]) -> Option<String> {
    let chains = policy_chain::of(entries);
    Some(chains.get(&(guest, false))?.pinned(&base_ruleset::name())?.name)
}

/// Returns the messages of the transaction that adds these addresses, all of the set's family, to such a set, or renews their lifetimes. Refused with
/// `ENOENT` if the policy is another one by now, and with `ENFILE` if there is no room.
///
/// Before Linux 6.12, an element that exists keeps its lifetime, so each is added, deleted, and added.
#[must_use]
pub fn pin(backend: Backend, set: &str, pins: &[Pin]) -> Vec<Operation> {
    let table = match backend {
        Backend::Nftables => base_ruleset::name(),
        Backend::Iptables(_) => policies::name(),
    };
    let all = pins.chunks(A_MESSAGE).flat_map(|pins| {
        let what = || "pinning the addresses of a name".to_owned();
        let add = || {
            let message = NfTablesMessage::NewSetElement(list(&table, set, pins));
            table.operation(what(), message, 0)
        };
        let elements: Vec<_> = pins.iter().map(|pin| Element::key(key(pin))).collect();
        [add(), element::delete(&table, set, &elements, what()), add()]
    });
    all.collect()
}

fn key(pin: &Pin) -> Vec<u8> {
    let Pin { address, protocol, port, .. } = *pin;
    let place = [[protocol.number(), 0, 0, 0], element::port(port)].concat();
    [element::octets(address), place].concat()
}

fn list(table: &TableName, set: &str, pins: &[Pin]) -> SetElementMessage {
    let item = |pin: &Pin| {
        let milliseconds = u64::try_from(pin.lifetime.as_millis()).unwrap_or(u64::MAX);
        ListAttribute::Element(vec![
            SetElementAttribute::Key(DataAttribute::Value(key(pin))),
            SetElementAttribute::Timeout(milliseconds),
        ])
    };
    let elements = SetElementList::Elements(pins.iter().map(item).collect());
    let set = SetElementList::Set(set.to_owned());
    let attributes = vec![SetElementList::Table(table.name.clone()), set, elements];
    SetElementMessage { attributes }
}
