//! The chains of policies: each decides about what the policies of some guests name, beyond the host or at the host itself.
//!
//! A map leads from a guest to its chain, so a packet costs one look-up however many policies there are. Guests whose policies
//! name the same share a chain. A chain never changes: what names something else is another chain, and the old one goes with
//! its last guest. So a change costs what the policy has, and not what all policies have; the sets that a chain looks into are
//! deleted as a whole, since the kernel takes long to delete single ranges of a set.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    element::{self, Element, fields, octets, port, port_of},
    expression::{by_address, by_port, is_in, jump, not_to_guest},
    object::{Chain, Operation, Rule, Set, Table, TableName, comment},
    sets,
};
use crate::{
    digest,
    firewall::{
        Entry,
        names::nftables::{
            ALLOWED, HOST_POLICY, HOST_POLICY_V6, POLICY, POLICY_V6, REFUSED_POLICY,
            REFUSED_POLICY_HOST,
        },
    },
    model::Family,
    names::NamesToken,
    reach::Block,
};

/// A guest, and whether the host itself is meant or what is beyond it.
type Place = (IpAddr, bool);

/// A chain that decides about the destinations that some policies name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChain {
    /// Its name, which follows from the rest: two chains of one name are equal.
    name: String,
    family: Family,
    /// True if it is for packets to the host itself.
    host: bool,
    /// The destinations, none of which overlap, each with whether it is allowed.
    blocks: BTreeSet<(Block, bool)>,
    /// The names that it allows, by the addresses that the daemon pins.
    names: Option<NamesToken>,
}

/// The destinations that the policy of a guest names.
#[derive(Debug, Default)]
struct Destinations {
    blocks: BTreeSet<(Block, bool)>,
    names: Option<NamesToken>,
}

impl PolicyChain {
    fn new(family: Family, host: bool, destinations: Destinations) -> Self {
        let Destinations { blocks, names } = destinations;
        let of_block = |(block, allowed): &(Block, bool)| {
            let Element { key, last, .. } = key(*block, false);
            [vec![u8::from(*allowed)], key, last.unwrap_or_default()]
        };
        let of_family = vec![u8::from(family == Family::V6)];
        let parts = [of_family].into_iter().chain(blocks.iter().flat_map(of_block));
        let number = digest::of_parts(parts);
        let begin = begin(family, host);
        let end = names.map(|token| format!("{NAMES}{token}")).unwrap_or_default();
        Self { name: format!("{begin}{number:016x}{end}"), family, host, blocks, names }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the element that leads this guest there, and the map that it is in.
    #[must_use]
    pub fn lead(&self, guest: IpAddr) -> (&'static str, Element) {
        let jump = Some(self.name.clone());
        (
            element::policies_of(self.family, self.host),
            Element { jump, ..Element::key(octets(guest)) },
        )
    }

    /// Returns the sets that it looks into, with their elements: what is allowed, and what is denied.
    #[must_use]
    pub fn sets(&self, table: &TableName) -> Vec<(Set, Vec<Element>)> {
        let elements = |allowed| {
            let meant = self.blocks.iter().filter(move |(_, said)| *said == allowed);
            meant.map(|(block, _)| key(*block, self.host)).collect::<Vec<_>>()
        };
        let set = |allowed| {
            let set = sets::of_destinations(&self.set(allowed), self.family, self.host);
            (Set { table: table.clone(), ..set }, elements(allowed))
        };
        [true, false].map(set).into_iter().filter(|(_, elements)| !elements.is_empty()).collect()
    }

    /// Returns the set of the addresses that were told for names; `None` if it allows none.
    #[must_use]
    pub fn pinned(&self, table: &TableName) -> Option<Set> {
        let set = sets::of_pins(&self.pinned_name()?, self.family);
        Some(Set { table: table.clone(), ..set })
    }

    /// Returns the name of that set.
    pub(super) fn pinned_name(&self) -> Option<String> {
        self.names.map(|_| format!("{}{PINNED}", self.name))
    }

    fn set(&self, allowed: bool) -> String {
        set_name(&self.name, allowed)
    }

    /// Returns its rules, in order: one for each set.
    #[must_use]
    pub fn rules(&self, table: &TableName) -> Vec<Rule> {
        let key = || if self.host { by_port() } else { by_address(self.family) };
        let rule = |allowed| {
            let (text, end) = match (allowed, self.host) {
                (true, true) => ("allowed", jump(ALLOWED)),
                (true, false) => ("allowed", [not_to_guest(), jump(ALLOWED)].concat()),
                (false, true) => ("denied", jump(REFUSED_POLICY_HOST)),
                (false, false) => ("denied", jump(REFUSED_POLICY)),
            };
            let parts = [key(), is_in(&self.set(allowed)), end];
            Rule::new(table, &self.name, comment(text), &parts)
        };
        let needed = |allowed: &bool| self.blocks.iter().any(|(_, said)| said == allowed);
        let pinned = self.pinned_name().map(|set| {
            let end = [not_to_guest(), jump(ALLOWED)].concat();
            let parts = [key(), is_in(&set), end];
            Rule::new(table, &self.name, comment("told for names"), &parts)
        });
        [true, false].into_iter().filter(needed).map(rule).chain(pinned).collect()
    }

    /// Reports whether a chain with these rules decides as this one.
    #[must_use]
    pub fn has_rules(&self, table: &TableName, found: &[Rule]) -> bool {
        let wanted = self.rules(table);
        wanted.len() == found.len() && wanted.iter().zip(found).all(|(one, other)| other.means(one))
    }

    /// Returns the number of guests that a chain of this many references has.
    fn guests(&self, table: &TableName, references: u32) -> usize {
        let references = usize::try_from(references).unwrap_or(usize::MAX);
        references.saturating_sub(self.rules(table).len())
    }

    fn add(&self, table: &TableName) -> Vec<Operation> {
        let (name, base, references) = (self.name.clone(), None, 0);
        let chain = Chain { table: table.clone(), name, base, references };
        let mut operations = vec![chain.add()];
        for (id, (set, elements)) in (1..).zip(self.sets(table)) {
            operations.push(set.add(id));
            for some in elements.chunks(element::A_MESSAGE) {
                let what = format!("adding destinations to {}", set.name);
                operations.push(element::add(table, &set.name, some, what));
            }
        }
        operations.extend(self.pinned(table).map(|set| set.add(PINNED_ID)));
        operations.extend(self.rules(table).iter().map(Rule::append));
        operations
    }

    /// Deletes it with its rules, and its sets. Refused with `EBUSY` while a guest is led there.
    fn delete(&self, table: &TableName) -> Vec<Operation> {
        let chain = table.delete_chain(&self.name, 0);
        let sets = self.sets(table).into_iter().map(|(set, _)| set);
        let sets = sets.chain(self.pinned(table)).map(|set| set.delete());
        [chain].into_iter().chain(sets).collect()
    }

    /// Returns the entries that it is for this guest.
    fn entries(&self, guest: IpAddr) -> impl Iterator<Item = Entry> {
        let host = self.host;
        let entry = move |&(block, allowed)| Entry::Reach { guest, host, block, allowed };
        let names = self.names.map(|token| Entry::Pinned { guest, token });
        self.blocks.iter().map(entry).chain(names)
    }
}

/// Between the rest of the name of a chain and the token of its names.
const NAMES: &str = "-names-";
/// The end of the name of a set of addresses that were told for names.
const PINNED: &str = "-pinned";
/// The number of that set in its transaction, beside those of the two others of its chain.
const PINNED_ID: u32 = 3;

/// Reports whether a set is one that the daemon fills with the addresses that it told for names.
#[must_use]
pub fn holds_pins(set: &str) -> bool {
    let is_of = |chain: &str| {
        KINDS.into_iter().any(|(family, host)| !host && chain.starts_with(begin(family, host)))
    };
    chain_of(set).is_some_and(is_of)
}

/// Returns the name of the chain that looks into such a set.
pub(super) fn chain_of(pinned: &str) -> Option<&str> {
    pinned.strip_suffix(PINNED)
}

/// Returns the beginning of the names of chains.
const fn begin(family: Family, host: bool) -> &'static str {
    match (family, host) {
        (Family::V4, false) => POLICY,
        (Family::V4, true) => HOST_POLICY,
        (Family::V6, false) => POLICY_V6,
        (Family::V6, true) => HOST_POLICY_V6,
    }
}

/// Every kind of chain.
const KINDS: [(Family, bool); 4] =
    [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)];

/// Reports whether a set or map is one of those of policies.
pub(super) fn holds_policies(set: &str) -> bool {
    KINDS.into_iter().any(|(family, host)| {
        set.starts_with(begin(family, host)) || set == element::policies_of(family, host)
    })
}

fn set_name(chain: &str, allowed: bool) -> String {
    format!("{chain}-{}", if allowed { "allowed" } else { "denied" })
}

/// Returns the element of a set of destinations; of ports of the host only, the addresses are left out.
fn key(block: Block, host: bool) -> Element {
    let (addresses, protocols, ports) = (block.addresses(), block.protocols(), block.ports());
    let key = |address: &IpAddr, protocol: u8, to: u16| {
        let mut key = if host { vec![] } else { octets(*address) };
        key.extend([[protocol, 0, 0, 0], port(to)].concat());
        key
    };
    let last = key(addresses.end(), *protocols.end(), *ports.end());
    let first = key(addresses.start(), *protocols.start(), *ports.start());
    Element { last: Some(last), ..Element::key(first) }
}

/// Returns the block of an element; `None` if it is not exactly as we write it.
fn block(element: &Element, family: Family, host: bool) -> Option<Block> {
    let everything = Block::everything(family).addresses();
    let read = |key: &[u8], whole: &IpAddr| {
        let (addresses, place) = match (host, family) {
            (true, _) => (*whole, key),
            (false, Family::V4) => {
                let (address, place) = key.split_first_chunk::<4>()?;
                ((*address).into(), place)
            }
            (false, Family::V6) => {
                let (address, place) = key.split_first_chunk::<16>()?;
                ((*address).into(), place)
            }
        };
        let [protocol, to]: [[u8; 4]; 2] = fields(place)?.try_into().ok()?;
        Some((addresses, protocol[0], port_of(to)))
    };
    let (first, by, to) = read(&element.key, everything.start())?;
    let (last, last_by, up_to) = read(element.last.as_ref()?, everything.end())?;
    let block = Block::between((first, last), (by, last_by), (to, up_to))?;
    (key(block, host) == *element).then_some(block)
}

/// Returns the chains that these entries need, by guest and place.
#[must_use]
pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Place, PolicyChain> {
    let mut places: BTreeMap<Place, Destinations> = BTreeMap::new();
    for entry in entries {
        match *entry {
            Entry::Reach { guest, host, block, allowed } => {
                places.entry((guest, host)).or_default().blocks.insert((block, allowed));
            }
            Entry::Pinned { guest, token } => {
                places.entry((guest, false)).or_default().names = Some(token);
            }
            _ => {}
        }
    }
    let chain = |(place, destinations): (Place, Destinations)| {
        (place, PolicyChain::new(Family::of(place.0), place.1, destinations))
    };
    places.into_iter().map(chain).collect()
}

/// The guests of a change that leave a chain, and those that are led to one.
#[derive(Debug)]
pub struct PolicyChange {
    left: BTreeMap<Place, PolicyChain>,
    joined: BTreeMap<Place, PolicyChain>,
}

impl PolicyChange {
    /// Returns the part of a change that is about policies. Of a guest whose policy changes, all entries are removed and added.
    #[must_use]
    pub fn new(remove: &BTreeSet<Entry>, add: &BTreeSet<Entry>) -> Self {
        let (mut left, mut joined) = (of(remove), of(add));
        left.retain(|place, chain| {
            let stays = joined.get(place) == Some(chain);
            if stays {
                joined.remove(place);
            }
            !stays
        });
        Self { left, joined }
    }

    /// Returns the chains that it is about, by name: whether there are any decides what has to be done.
    #[must_use]
    pub fn chains(&self) -> BTreeMap<&str, &PolicyChain> {
        self.left.values().chain(self.joined.values()).map(|chain| (&*chain.name, chain)).collect()
    }

    /// Returns the guests that leave, with what leads them now.
    pub fn leaving(&self) -> impl Iterator<Item = (IpAddr, &PolicyChain)> {
        self.left.iter().map(|((guest, _), chain)| (*guest, chain))
    }

    /// Reports whether it leads a guest to this chain.
    #[must_use]
    pub fn joins(&self, name: &str) -> bool {
        self.joined.values().any(|chain| chain.name == name)
    }

    /// Returns the messages, of which `references` are the references of those of the chains that exist.
    #[must_use]
    pub fn operations(
        &self,
        table: &TableName,
        references: &BTreeMap<String, u32>,
    ) -> Vec<Operation> {
        let remove = self.left.iter().map(|((guest, _), chain)| {
            let (map, element) = chain.lead(*guest);
            element::delete(table, map, &[element], format!("removing the policy of {guest}"))
        });
        let add = self.joined.iter().map(|((guest, _), chain)| {
            let (map, element) = chain.lead(*guest);
            element::add(table, map, &[element], format!("adding the policy of {guest}"))
        });
        let count = |all: &BTreeMap<Place, PolicyChain>, name: &str| {
            all.values().filter(|chain| chain.name == name).count()
        };
        let (mut deleted, mut added) = (vec![], vec![]);
        for (name, chain) in self.chains() {
            let joined = count(&self.joined, name);
            match references.get(name) {
                None if joined > 0 => added.extend(chain.add(table)),
                Some(references)
                    if joined == 0
                        && chain.guests(table, *references) <= count(&self.left, name) =>
                {
                    deleted.extend(chain.delete(table));
                }
                _ => {}
            }
        }
        remove.chain(deleted).chain(added).chain(add).collect()
    }
}

/// Adds the chains of these entries to a table that has none, and leads the guests there, many in each message.
#[must_use]
pub(super) fn add_many(table: &TableName, entries: &BTreeSet<Entry>) -> Vec<Operation> {
    let all = of(entries);
    let chains: BTreeMap<_, _> = all.values().map(|chain| (&*chain.name, chain)).collect();
    let mut operations: Vec<_> = chains.values().flat_map(|chain| chain.add(table)).collect();
    let mut maps: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((guest, _), chain) in &all {
        let (map, lead) = chain.lead(*guest);
        maps.entry(map).or_default().push(lead);
    }
    for (map, leads) in maps {
        for some in leads.chunks(element::A_MESSAGE) {
            let what = format!("adding {} policies", some.len());
            operations.push(element::add(table, map, some, what));
        }
    }
    operations
}

/// Reports whether the table and its chains are as expected, apart from chains of policies and what these need.
///
/// Each rule of such a chain leads to one of three chains, and looks into a set of its own. So the references of those tell how
/// many objects there may be.
#[must_use]
pub fn stand(expected: (&Table, &[Chain]), found: (&Table, &[Chain])) -> bool {
    let ((expected, chains), (table, found)) = (expected, found);
    let named = Table { references: expected.references, ..table.clone() };
    if named != *expected || chains.len() != found.len() {
        return false;
    }
    let mut rules = 0;
    for (expected, found) in chains.iter().zip(found) {
        let counts = [ALLOWED, REFUSED_POLICY, REFUSED_POLICY_HOST].contains(&&*expected.name);
        let more = found.references.checked_sub(expected.references);
        match more.filter(|more| counts || *more == 0) {
            Some(more) => rules += more,
            None => return false,
        }
        if *found != (Chain { references: found.references, ..expected.clone() }) {
            return false;
        }
    }
    match table.references.checked_sub(expected.references) {
        Some(objects) => (rules..=2 * rules).contains(&objects) && (rules < objects || rules == 0),
        None => false,
    }
}

/// The policies of a table as it was read.
#[derive(Debug, Default)]
pub(super) struct FoundPolicies {
    /// The entries that they are.
    pub(super) entries: BTreeSet<Entry>,
    /// The names of the chains and sets that they need.
    pub(super) names: BTreeSet<String>,
    /// The elements of the maps that lead to no such chain, with the name of the map.
    pub(super) strays: Vec<(&'static str, Element)>,
}

impl FoundPolicies {
    /// Reads the policies of a table with these chains, rules, sets and elements.
    pub(super) fn read(
        table: &TableName,
        chains: &[Chain],
        rules: &[Rule],
        sets: &[Set],
        elements: &BTreeMap<String, Vec<Element>>,
    ) -> Self {
        let mut rules_of: BTreeMap<&str, Vec<Rule>> = BTreeMap::new();
        for rule in rules.iter().filter(|rule| holds_policies(&rule.chain)) {
            rules_of.entry(&rule.chain).or_default().push(rule.clone());
        }
        let sets: BTreeMap<&str, &Set> = sets.iter().map(|set| (&*set.name, set)).collect();
        let read = |chain: &Chain| {
            let rules = rules_of.get(&*chain.name).map(Vec::as_slice).unwrap_or_default();
            read_chain(table, chain, rules, &sets, elements)
        };
        let sound: BTreeMap<_, _> =
            chains.iter().filter_map(read).map(|chain| (chain.name.clone(), chain)).collect();
        let mut found = Self::default();
        for (family, host) in KINDS {
            let map = element::policies_of(family, host);
            for lead in elements.get(map).into_iter().flatten() {
                let chain = lead.jump.as_ref().and_then(|name| sound.get(name));
                let guest = address(&lead.key);
                match chain
                    .zip(guest)
                    .filter(|(chain, guest)| chain.lead(*guest) == (map, lead.clone()))
                {
                    Some((chain, guest)) => {
                        found.entries.extend(chain.entries(guest));
                        let sets = chain.sets(table).into_iter().map(|(set, _)| set);
                        let sets = sets.chain(chain.pinned(table)).map(|set| set.name);
                        found.names.extend(sets.chain([chain.name.clone()]));
                    }
                    None => found.strays.push((map, lead.clone())),
                }
            }
        }
        found
    }
}

/// Returns the chain of a policy if it is exactly as its name says, with its rules and sets.
fn read_chain(
    table: &TableName,
    chain: &Chain,
    rules: &[Rule],
    sets: &BTreeMap<&str, &Set>,
    elements: &BTreeMap<String, Vec<Element>>,
) -> Option<PolicyChain> {
    let is_of = |(family, host): &(Family, bool)| chain.name.starts_with(begin(*family, *host));
    let (family, host) = KINDS.into_iter().find(is_of)?;
    let mut blocks = BTreeSet::new();
    for allowed in [true, false] {
        for element in elements.get(&set_name(&chain.name, allowed)).into_iter().flatten() {
            blocks.insert((block(element, family, host)?, allowed));
        }
    }
    let names = chain.name.split_once(NAMES).and_then(|(_, token)| token.parse().ok());
    let policy = PolicyChain::new(family, host, Destinations { blocks, names });
    let has = |set: &Set| sets.get(&*set.name) == Some(&set);
    let stands = policy.name == chain.name
        && chain.base.is_none()
        && policy.has_rules(table, rules)
        && policy.sets(table).iter().map(|(set, _)| set).chain(&policy.pinned(table)).all(has);
    stands.then_some(policy)
}

fn address(key: &[u8]) -> Option<IpAddr> {
    match fields(key)? {
        [guest] => Some((*guest).into()),
        fields => Some(element::v6(fields.try_into().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EgressPolicy;

    #[test]
    fn sets_of_pins_are_known_by_their_names() {
        let rules = vec!["api.example.com:443".parse().unwrap()];
        let policy = EgressPolicy::new(None, vec![], vec![]).with_names(rules);
        for guest in ["10.231.0.2", "fd52:494b::3"] {
            let guest: IpAddr = guest.parse().unwrap();
            let name = "f".parse().unwrap();
            let entries: Vec<_> = crate::names::entries(&name, &policy, guest).collect();
            let chain = &of(&entries)[&(guest, false)];
            let set = chain.pinned_name().unwrap();
            assert!(holds_pins(&set), "{set}");
            assert_eq!(chain_of(&set), Some(&*chain.name));
            assert!(!holds_pins(&chain.name) && !holds_pins("policies-pinned"));
        }
        for begin in KINDS.map(|(family, host)| begin(family, host)) {
            let is_host = begin.starts_with("host");
            assert_eq!(holds_pins(&format!("{begin}0-pinned")), !is_host, "{begin}");
        }
    }
}
