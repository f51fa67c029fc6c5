//! Names in policies: the rules that lead a guest's questions to the daemon, and the addresses that it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

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
    object::{Operation, Rule, TableName, comment, commented},
    policies, policy_chain,
};
use crate::{
    firewall::{
        Backend, Entry,
        names::nftables::{ASKED, NAMED, PREROUTING},
        ruleset::NAME_SERVERS,
    },
    model::{Family, Protocol},
    names::{Pin, Pins, RESOLVER},
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
    chains.get(&(guest, false))?.pinned_name()
}

/// Returns the messages of the transaction that adds these addresses, all of the set's family, to such a set for a name, or
/// renews their lifetimes. Refused with `ENOENT` if the policy is another one by now, and with `ENFILE` if there is no room.
///
/// Before Linux 6.12, an element that exists keeps its lifetime, so each is added, deleted, and added.
#[must_use]
pub fn pin(backend: Backend, set: &str, name: &str, pins: &[Pin]) -> Vec<Operation> {
    let table = table(backend);
    let named: Vec<_> = pins.iter().map(|pin| (*pin, Some(name))).collect();
    let all = named.chunks(A_MESSAGE).flat_map(|pins| {
        let elements: Vec<_> = pins.iter().map(|(pin, _)| Element::key(key(pin))).collect();
        let delete = element::delete(&table, set, &elements, PINNING.to_owned());
        [add(&table, set, pins), delete, add(&table, set, pins)]
    });
    all.collect()
}

/// Returns the table with such sets.
#[must_use]
pub fn table(backend: Backend) -> TableName {
    match backend {
        Backend::Nftables => base_ruleset::name(),
        Backend::Iptables(_) => policies::name(),
    }
}

/// Returns the guests of these entries whose policies have names, each with its set.
pub fn sets(entries: &BTreeSet<Entry>) -> impl Iterator<Item = (IpAddr, String)> {
    let named: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| match *entry {
            Entry::Pinned { guest, .. } => Some(guest),
            _ => None,
        })
        .collect();
    let chains = if named.is_empty() { BTreeMap::new() } else { policy_chain::of(entries) };
    named
        .into_iter()
        .filter_map(move |guest| Some((guest, chains.get(&(guest, false))?.pinned_name()?)))
}

/// Returns the messages that put back what guests were told, into those of these sets that a transaction makes anew.
/// `references` are the references of those chains of policies that exist.
#[must_use]
pub fn put_back(
    table: &TableName,
    sets: &[(IpAddr, String)],
    references: &BTreeMap<String, u32>,
    pins: &Pins,
    now: Instant,
) -> Vec<Operation> {
    let is_new =
        |set: &str| policy_chain::chain_of(set).is_none_or(|it| !references.contains_key(it));
    let of_set = |(guest, set): &(IpAddr, String)| {
        let told: Vec<_> = pins.of_set(*guest, set, now);
        let add = |pins: &[(Pin, Option<&str>)]| add(table, set, pins);
        told.chunks(A_MESSAGE).map(add).collect::<Vec<_>>()
    };
    sets.iter().filter(|(_, set)| is_new(set)).flat_map(of_set).collect()
}

/// Reads the elements of a message of the kernel (`NFT_MSG_NEWSETELEM`, with its header) as pins, each with the name that it
/// was told for. Those of an earlier version have none. The lifetime is what is left of it.
#[must_use]
pub fn read(message: &[u8]) -> Option<Vec<(Pin, Option<String>)>> {
    /// `NFTA_SET_ELEM_EXPIRATION` and `NFTA_SET_ELEM_USERDATA`.
    const EXPIRATION: u16 = 5;
    const USERDATA: u16 = 6;
    let pin = |attributes: &[u8]| {
        let Element { key, .. } = element::element(attributes);
        let (address, protocol, port) = match *element::fields(&key)? {
            [address, [protocol, ..], port] => (IpAddr::from(address), protocol, port),
            [a, b, c, d, [protocol, ..], port] => (element::v6([a, b, c, d]), protocol, port),
            _ => return None,
        };
        let known = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
        let left = element::attribute(attributes, EXPIRATION)?.try_into().ok();
        let lifetime = Duration::from_millis(left.map(u64::from_be_bytes)?);
        let name = element::attribute(attributes, USERDATA).and_then(commented);
        let port = element::port_of(port);
        let pin = Pin { address, protocol: known, port, lifetime };
        Some((pin, name.map(str::to_owned)))
    };
    Some(element::each(message)?.filter_map(pin).collect())
}

/// A description for errors.
const PINNING: &str = "pinning the addresses of a name";
/// The longest name that is kept beside an address: nft(8) refuses to list longer comments (`NFTNL_UDATA_COMMENT_MAXLEN`).
const LONGEST_COMMENT: usize = 127;

fn key(pin: &Pin) -> Vec<u8> {
    let Pin { address, protocol, port, .. } = *pin;
    let place = [[protocol.number(), 0, 0, 0], element::port(port)].concat();
    [element::octets(address), place].concat()
}

fn add(table: &TableName, set: &str, pins: &[(Pin, Option<&str>)]) -> Operation {
    let item = |(pin, name): &(Pin, Option<&str>)| {
        let milliseconds = u64::try_from(pin.lifetime.as_millis()).unwrap_or(u64::MAX);
        let mut attributes = vec![
            SetElementAttribute::Key(DataAttribute::Value(key(pin))),
            SetElementAttribute::Timeout(milliseconds),
        ];
        let name = name.filter(|name| name.len() <= LONGEST_COMMENT);
        attributes.extend(name.map(|name| SetElementAttribute::UserData(comment(name))));
        ListAttribute::Element(attributes)
    };
    let elements = SetElementList::Elements(pins.iter().map(item).collect());
    let set = SetElementList::Set(set.to_owned());
    let attributes = vec![SetElementList::Table(table.name.clone()), set, elements];
    let message = NfTablesMessage::NewSetElement(SetElementMessage { attributes });
    table.operation(PINNING.to_owned(), message, 0)
}
