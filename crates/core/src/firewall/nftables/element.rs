//! Entries as elements of sets and maps.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{
        DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
        SetElementMessage, Verdict, VerdictAttribute,
    },
};

use super::{
    attribute::Attributes,
    object::{Operation, TableName},
};
use crate::{
    firewall::{
        Entry,
        names::nftables::{
            BOUND, BOUND_RANGES, BOUND_RANGES_V6, BOUND_V6, EXPOSURES, EXPOSURES_V6, HAIRPIN,
            HAIRPIN_V6, HOST_POLICIES, HOST_POLICIES_V6, NAMED, POLICIES, POLICIES_V6, PROXIES,
            RANGES, RANGES_V6, REACH_ALL, REACH_ALL_V6, REACH_INTERNET, REACH_INTERNET_V6,
            REACH_NONE, REACH_NONE_V6,
        },
    },
    model::{Egress, Family, InterfaceName, Ipv6Unsupported, PortRange, Protocol, ProxyAddress},
};

/// `sizeof(struct nlmsghdr)` and `sizeof(struct nfgenmsg)`.
pub(super) const HEADERS: usize = 16 + 4;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_DATA`, `NFTA_SET_ELEM_KEY_END`, `NFTA_DATA_VALUE`
/// of `<linux/netfilter/nf_tables.h>`.
const ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const DATA: u16 = 2;
const KEY_END: u16 = 10;
const VALUE: u16 = 1;

/// The number of elements that one message holds: its list of elements is an attribute, whose length has
/// 16 bits, and an element takes up to 56 bytes.
pub(super) const A_MESSAGE: usize = 200;

/// An element of one of our sets or maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key; fields of a concatenation are padded to four bytes.
    pub key: Vec<u8>,
    /// The last key, if it is of a set of ranges: each field has a range of its own.
    pub last: Option<Vec<u8>>,
    /// The value, if it is of a map.
    pub data: Option<Vec<u8>>,
    /// The chain that it jumps to, if it is of a map of verdicts.
    pub jump: Option<String>,
}

impl Element {
    pub(super) const fn key(key: Vec<u8>) -> Self {
        Self { key, last: None, data: None, jump: None }
    }
}

/// Returns the request for these elements of a set or map, or for all if none are given.
#[must_use]
pub fn get(table: &TableName, set: &str, elements: &[Element]) -> NetfilterMessage {
    let keys: Vec<_> = elements
        .iter()
        .map(|element| Element { data: None, jump: None, ..element.clone() })
        .collect();
    table.message(NfTablesMessage::GetSetElement(list(table, set, &keys)))
}

/// Adds elements. Refused with `EEXIST` if one of them exists.
pub(super) fn add(table: &TableName, set: &str, elements: &[Element], what: String) -> Operation {
    let message = NfTablesMessage::NewSetElement(list(table, set, elements));
    table.operation(what, message, NLM_F_EXCL)
}

/// Deletes elements. Refused with `ENOENT` if one of them is missing.
pub(super) fn delete(
    table: &TableName,
    set: &str,
    elements: &[Element],
    what: String,
) -> Operation {
    let message = NfTablesMessage::DeleteSetElement(list(table, set, elements));
    Operation { what, message: table.message(message), flags: 0 }
}

/// Deletes those of the elements that exist. Refused before Linux 6.3.
pub(super) fn destroy(
    table: &TableName,
    set: &str,
    elements: &[Element],
    what: String,
) -> Operation {
    /// `NFT_MSG_DESTROYSETELEM`.
    const DESTROY: u8 = 30;
    let attribute = |attribute: &SetElementList| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        DefaultNla::new(attribute.kind(), value)
    };
    let attributes = list(table, set, elements).attributes.iter().map(attribute).collect();
    let message = NfTablesMessage::Other { message_type: DESTROY, attributes };
    Operation { what, message: table.message(message), flags: 0 }
}

fn list(table: &TableName, set: &str, elements: &[Element]) -> SetElementMessage {
    let mut attributes =
        vec![SetElementList::Table(table.name.clone()), SetElementList::Set(set.to_owned())];
    if !elements.is_empty() {
        let item = |element: &Element| {
            let key = SetElementAttribute::Key(DataAttribute::Value(element.key.clone()));
            let last = element
                .last
                .clone()
                .map(|last| SetElementAttribute::KeyEnd(vec![DefaultNla::new(VALUE, last)]));
            let jump = element.jump.clone().map(|chain| {
                let code = VerdictAttribute::Code(Verdict::Jump);
                DataAttribute::Verdict(vec![code, VerdictAttribute::Chain(chain)])
            });
            let data = element.data.clone().map(DataAttribute::Value).or(jump);
            let data = data.map(SetElementAttribute::Data);
            ListAttribute::Element([key].into_iter().chain(last).chain(data).collect())
        };
        attributes.push(SetElementList::Elements(elements.iter().map(item).collect()));
    }
    SetElementMessage { attributes }
}

/// Reads the elements of a message of the kernel (`NFT_MSG_NEWSETELEM`, with its header).
///
/// The library is not used: for each element it formats the whole list for an error message that is hardly
/// ever needed, which takes minutes for ten thousand.
#[must_use]
pub fn read(message: &[u8]) -> Option<Vec<Element>> {
    Some(each(message)?.map(element).collect())
}

/// Returns the attributes of each element of such a message.
pub(super) fn each(message: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let elements = attribute(message.get(HEADERS..)?, ELEMENTS)?;
    Some(Attributes(elements).map(|(_, element)| element))
}

pub(super) fn element(attributes: &[u8]) -> Element {
    let value = |kind| Some(attribute(attribute(attributes, kind)?, VALUE)?.to_vec());
    // An element without a key, such as the catch-all element, gets a key that no entry has.
    let key = value(KEY).unwrap_or_default();
    Element { key, last: value(KEY_END), data: value(DATA), jump: jump(attributes) }
}

/// Returns the chain that an element jumps to.
fn jump(attributes: &[u8]) -> Option<String> {
    /// `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`, and `NFT_JUMP`.
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    const JUMP: i32 = -3;
    let verdict = attribute(attribute(attributes, DATA)?, VERDICT)?;
    let code = attribute(verdict, CODE)?.try_into().ok().map(i32::from_be_bytes)?;
    let chain = std::str::from_utf8(attribute(verdict, CHAIN)?.strip_suffix(&[0])?).ok()?;
    (code == JUMP).then(|| chain.to_owned())
}

/// Returns the value of the first attribute of this type.
pub(super) fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    let found = all.find(|attribute| attribute.kind() == wanted)?;
    let end = usize::from(found.length());
    found.into_inner().get(4..end)
}

/// Returns the element of an uplink.
pub(super) fn uplink(name: &InterfaceName) -> Element {
    Element::key(padded(name))
}

/// Returns the element of two interfaces: in by the first, out by the second.
pub(super) fn pair((from, to): (&InterfaceName, &InterfaceName)) -> Element {
    Element::key([padded(from), padded(to)].concat())
}

/// Returns a name padded to `IFNAMSIZ`.
pub(super) fn padded(name: &InterfaceName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(InterfaceName::MAX_LENGTH + 1, 0);
    key
}

/// The set or map of an entry, and its elements there.
pub type Elements = (&'static str, Vec<Element>);

/// Returns the set or map of an entry, and its elements there.
///
/// A range that leads to the same ports of the guest is one element: the address is translated, the port stays. A range
/// that leads to other ports is one element for each port: nf_tables cannot compute with ports.
///
/// # Errors
/// Fails if the entry is an exposure on an address of the other family.
pub fn of_entry(entry: &Entry) -> Result<Elements, Ipv6Unsupported> {
    let family = Family::of(entry.guest());
    Ok(match *entry {
        Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports } => {
            if let (Family::V4, Some(address)) = (family, host_address) {
                Ipv6Unsupported::refuse(address)?;
            }
            let (address, guest) = (host_address.map(octets), octets(guest));
            let ExposureMaps { bound, bound_ranges, exposures, ranges } = exposures_of(family);
            let key = |host_port| {
                let place = [[protocol.number(), 0, 0, 0], port(host_port)].concat();
                address.iter().flatten().copied().chain(place).collect::<Vec<_>>()
            };
            if !host_ports.is_single() && host_ports == guest_ports {
                let set = if address.is_some() { bound_ranges } else { ranges };
                let (key, last) = (key(host_ports.first()), Some(key(host_ports.last())));
                return Ok((set, vec![Element { last, data: Some(guest), ..Element::key(key) }]));
            }
            let each = host_ports.iter().zip(guest_ports.iter()).map(|(host_port, guest_port)| {
                let data = Some([&guest[..], &port(guest_port)].concat());
                Element { data, ..Element::key(key(host_port)) }
            });
            (if address.is_some() { bound } else { exposures }, each.collect())
        }
        Entry::Hairpin { guest } => {
            let key = [octets(guest), octets(guest)].concat();
            (hairpin_of(family), vec![Element::key(key)])
        }
        // Only iptables has a rule for it.
        Entry::Judged { .. } => (HAIRPIN, vec![]),
        Entry::Policy { guest, reach } => {
            (guests_of(family, reach), vec![Element::key(octets(guest))])
        }
        Entry::Via { guest, port: asked, proxy } => {
            let guest = Ipv6Unsupported::refuse(guest)?;
            let key = [guest.octets(), port(asked)].concat();
            let data = Some([proxy.address().octets(), port(proxy.port())].concat());
            (PROXIES, vec![Element { data, ..Element::key(key) }])
        }
        Entry::Names { guest } => {
            let guest = Ipv6Unsupported::refuse(guest)?;
            (NAMED, vec![Element::key(guest.octets().to_vec())])
        }
        Entry::Pinned { .. } => (policies_of(family, false), vec![]),
        // It stands in the chain of a policy.
        Entry::Reach { host, .. } => (policies_of(family, host), vec![]),
    })
}

/// The maps of exposures of one family.
pub(super) struct ExposureMaps {
    /// Those of one address, and ranges of one address.
    pub(super) bound: &'static str,
    pub(super) bound_ranges: &'static str,
    /// Those of every address, and ranges of every address.
    pub(super) exposures: &'static str,
    pub(super) ranges: &'static str,
}

/// Returns the maps of the exposures of a family.
pub(super) const fn exposures_of(family: Family) -> ExposureMaps {
    let [bound, bound_ranges, exposures, ranges] = match family {
        Family::V4 => [BOUND, BOUND_RANGES, EXPOSURES, RANGES],
        Family::V6 => [BOUND_V6, BOUND_RANGES_V6, EXPOSURES_V6, RANGES_V6],
    };
    ExposureMaps { bound, bound_ranges, exposures, ranges }
}

/// Returns the set of the guests of a family that may reach themselves by way of the host.
pub(super) const fn hairpin_of(family: Family) -> &'static str {
    match family {
        Family::V4 => HAIRPIN,
        Family::V6 => HAIRPIN_V6,
    }
}

/// Returns the set of the guests that have this reach of their own.
pub(super) const fn guests_of(family: Family, reach: Egress) -> &'static str {
    match (family, reach) {
        (Family::V4, Egress::Internet) => REACH_INTERNET,
        (Family::V4, Egress::All) => REACH_ALL,
        (Family::V4, Egress::None) => REACH_NONE,
        (Family::V6, Egress::Internet) => REACH_INTERNET_V6,
        (Family::V6, Egress::All) => REACH_ALL_V6,
        (Family::V6, Egress::None) => REACH_NONE_V6,
    }
}

/// Returns the map of the guests whose policy names destinations, beyond the host or at the host itself.
pub(super) const fn policies_of(family: Family, host: bool) -> &'static str {
    match (family, host) {
        (Family::V4, false) => POLICIES,
        (Family::V4, true) => HOST_POLICIES,
        (Family::V6, false) => POLICIES_V6,
        (Family::V6, true) => HOST_POLICIES_V6,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Reports whether a set holds entries of policies.
pub(super) fn is_of_policies(set: &str) -> bool {
    // The policies beside iptables are for IPv4.
    Egress::ALL.into_iter().any(|reach| guests_of(Family::V4, reach) == set)
        || [POLICIES, HOST_POLICIES, PROXIES, NAMED].contains(&set)
}

/// Returns the entry that has only this element, or `None` if it is not exactly as [`of_entry`] makes it.
#[must_use]
pub fn to_entry(set: &str, element: &Element) -> Option<Entry> {
    let key = fields(&element.key)?;
    let last = fields(element.last.as_ref().unwrap_or(&element.key))?;
    let data = fields(element.data.as_deref().unwrap_or_default())?;
    let of_guest = policy_entry(set, key).or_else(|| match (set, key) {
        (PROXIES, [guest, asked]) => {
            let [address, at] = *data else { return None };
            let proxy = ProxyAddress::new(address.into(), port_of(at))?;
            Some(Entry::Via { guest: (*guest).into(), port: port_of(*asked), proxy })
        }
        (NAMED, [guest]) => Some(Entry::Names { guest: (*guest).into() }),
        (HAIRPIN, [guest, _]) => Some(Entry::Hairpin { guest: (*guest).into() }),
        (HAIRPIN_V6, [a, b, c, d, ..]) => Some(Entry::Hairpin { guest: v6([*a, *b, *c, *d]) }),
        _ => None,
    });
    if let Some(entry) = of_guest {
        return is_written(&entry, set, element).then_some(entry);
    }
    let (host_address, number, first) = match (set, key) {
        (EXPOSURES | RANGES | EXPOSURES_V6 | RANGES_V6, [number, first]) => (None, number, first),
        (BOUND | BOUND_RANGES, [address, number, first]) => {
            (Some(IpAddr::from(*address)), number, first)
        }
        (BOUND_V6 | BOUND_RANGES_V6, [a, b, c, d, number, first]) => {
            (Some(v6([*a, *b, *c, *d])), number, first)
        }
        _ => return None,
    };
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number[0])?;
    let host_ports = PortRange::between(port_of(*first), port_of(*last.last()?))?;
    let (guest, guest_ports) = match data {
        [guest] => (IpAddr::from(*guest), host_ports),
        [guest, port] => (IpAddr::from(*guest), PortRange::single(port_of(*port))?),
        [a, b, c, d] => (v6([*a, *b, *c, *d]), host_ports),
        [a, b, c, d, port] => (v6([*a, *b, *c, *d]), PortRange::single(port_of(*port))?),
        _ => return None,
    };
    let entry = Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports };
    is_written(&entry, set, element).then_some(entry)
}

/// Returns the reach of a guest that has this key.
fn policy_entry(set: &str, key: &[[u8; 4]]) -> Option<Entry> {
    let is_of = |family, reach: &Egress| guests_of(family, *reach) == set;
    if let Some(reach) = Egress::ALL.into_iter().find(|reach| is_of(Family::V4, reach)) {
        let [guest] = *key else { return None };
        return Some(Entry::Policy { guest: guest.into(), reach });
    }
    let reach = Egress::ALL.into_iter().find(|reach| is_of(Family::V6, reach))?;
    let guest = v6(key.try_into().ok()?);
    Some(Entry::Policy { guest, reach })
}

/// Returns the address of IPv6 in these fields.
pub(super) fn v6(fields: [[u8; 4]; 4]) -> IpAddr {
    let address =
        fields.into_iter().fold(0, |all, field| all << 32 | u128::from(u32::from_be_bytes(field)));
    Ipv6Addr::from(address).into()
}

/// Returns the fields of a key or a value.
pub(super) fn fields(bytes: &[u8]) -> Option<&[[u8; 4]]> {
    let (fields, rest) = bytes.as_chunks();
    rest.is_empty().then_some(fields)
}

/// Reports whether an entry is written as this element and no other: padding, and the second half of a hairpin, must
/// be as we write them.
fn is_written(entry: &Entry, set: &str, element: &Element) -> bool {
    of_entry(entry).is_ok_and(|(written, elements)| written == set && elements == [element.clone()])
}

/// Returns a port as a field of a concatenation, padded to four bytes.
pub(super) const fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Returns the port of a field.
pub(super) const fn port_of([high, low, ..]: [u8; 4]) -> u16 {
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposure(host_address: Option<IpAddr>, host_ports: &str, guest_ports: &str) -> Entry {
        Entry::Exposure {
            protocol: Protocol::Udp,
            host_address,
            host_ports: host_ports.parse().unwrap(),
            guest: IpAddr::from([10, 231, 0, 2]),
            guest_ports: guest_ports.parse().unwrap(),
        }
    }

    #[test]
    fn entries_read_back() {
        let address = Some([192, 0, 2, 1].into());
        let hairpin = Entry::Hairpin { guest: [10, 231, 0, 2].into() };
        let ports = [("8080", "53"), ("8080", "8080"), ("1-65535", "1-65535")];
        let exposures = ports
            .iter()
            .flat_map(|(host, guest)| [None, address].map(|a| exposure(a, host, guest)));
        let guest = [10, 231, 0, 2].into();
        let policies = Egress::ALL.map(|reach| Entry::Policy { guest, reach });
        let names = Entry::Names { guest };
        let proxy = "10.0.5.2:3128".parse().unwrap();
        let via = Entry::Via { guest, port: 443, proxy };
        for entry in exposures.chain([hairpin, names, via]).chain(policies) {
            let (set, elements) = of_entry(&entry).unwrap();
            let [element] = &*elements else { panic!("{entry}: {elements:?}") };
            assert_eq!(to_entry(set, element), Some(entry));
        }
        let (_, elements) = of_entry(&exposure(None, "8080", "53")).unwrap();
        assert_eq!(elements[0].key, [17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(elements[0].data.as_deref(), Some(&[10, 231, 0, 2, 0, 53, 0, 0][..]));
    }

    #[test]
    fn a_range_to_other_ports_is_an_element_for_each() {
        let (set, elements) = of_entry(&exposure(None, "8000-8002", "1-3")).unwrap();
        let entries: Vec<_> = elements.iter().map(|e| to_entry(set, e).unwrap()).collect();
        let each = [("8000", "1"), ("8001", "2"), ("8002", "3")];
        assert_eq!(entries, each.map(|(host, guest)| exposure(None, host, guest)));
    }

    #[test]
    fn entries_of_ipv6_read_back() {
        let guest: IpAddr = "fd52:494b::3".parse().unwrap();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let ports = [("8080", "53"), ("8080", "8080"), ("1-65535", "1-65535")];
        let of_guest = |entry: Entry| match entry {
            Entry::Exposure { protocol, host_address, host_ports, guest_ports, .. } => {
                Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports }
            }
            other => other,
        };
        let exposures = ports.iter().flat_map(|(host, guest)| {
            [None, Some(address)].map(|address| of_guest(exposure(address, host, guest)))
        });
        let policies = Egress::ALL.map(|reach| Entry::Policy { guest, reach });
        for entry in exposures.chain([Entry::Hairpin { guest }]).chain(policies) {
            let (set, elements) = of_entry(&entry).unwrap();
            let [element] = &*elements else { panic!("{entry}: {elements:?}") };
            assert!(set.ends_with('6'), "{set}");
            assert_eq!(to_entry(set, element), Some(entry));
        }
    }

    #[test]
    fn an_entry_of_both_families_is_refused() {
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let refused = |entry| of_entry(&entry).unwrap_err().to_string();
        let words =
            |address: &str| format!("{address} is an IPv6 address, which is not supported yet");
        assert_eq!(refused(exposure(Some(address), "80", "80")), words("2001:db8::1"));
    }

    #[test]
    fn elements_that_we_would_not_write_are_no_entries() {
        let refused = |set: &str, key: &[u8], last: Option<&[u8]>, data: &[u8]| {
            let (last, data) = (last.map(<[u8]>::to_vec), Some(data.to_vec()));
            let element = Element { last, data, ..Element::key(key.to_vec()) };
            assert_eq!(to_entry(set, &element), None, "{element:?}");
        };
        let data = [10, 231, 0, 2, 0, 53, 0, 0];
        let good = [17, 0, 0, 0, 0x1f, 0x90, 0, 0];
        refused(EXPOSURES, &[1, 0, 0, 0, 0x1f, 0x90, 0, 0], None, &data);
        refused(EXPOSURES, &[17, 0, 0, 0, 0, 0, 0, 0], None, &data);
        refused(EXPOSURES, &[17, 0, 0, 9, 0x1f, 0x90, 0, 0], None, &data);
        refused(EXPOSURES, &[17, 0, 0, 0], None, &data);
        refused(EXPOSURES, &good, None, &data[..4]);
        refused(EXPOSURES, &[], None, &[]);
        let last = [17, 0, 0, 0, 0x1f, 0x91, 0, 0];
        refused(EXPOSURES, &good, Some(&last), &data[..4]);
        refused(RANGES, &good, Some(&last), &data);
        refused(RANGES, &good, Some(&good), &data[..4]);
        refused(RANGES, &last, Some(&good), &data[..4]);
        refused(RANGES, &good, Some(&[132, 0, 0, 0, 0x1f, 0x91, 0, 0]), &data[..4]);
        let other = Element::key(vec![10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(to_entry(HAIRPIN, &other), None);
    }
}
