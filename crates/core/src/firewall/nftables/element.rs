//! Entries as elements of sets and maps.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DefaultNla, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{
        DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
        SetElementMessage,
    },
};

use super::object::{Operation, TableName};
use crate::{
    firewall::{
        Entry,
        names::nftables::{
            ALLOWED, BOUND, BOUND_RANGES, DENIED, EXPOSURES, HAIRPIN, HOST_ALLOWED, HOST_DENIED,
            RANGES, REACH_ALL, REACH_INTERNET, REACH_NONE,
        },
    },
    model::{Egress, InterfaceName, Ipv6Unsupported, PortRange, Protocol},
    reach::Block,
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
}

impl Element {
    pub(super) const fn key(key: Vec<u8>) -> Self {
        Self { key, last: None, data: None }
    }
}

/// Returns the request for these elements of a set or map, or for all if none are given.
#[must_use]
pub fn get(table: &TableName, set: &str, elements: &[Element]) -> NetfilterMessage {
    let keys: Vec<_> =
        elements.iter().map(|element| Element { data: None, ..element.clone() }).collect();
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
            let data = element.data.clone();
            let data = data.map(|data| SetElementAttribute::Data(DataAttribute::Value(data)));
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
    let attributes = message.get(HEADERS..)?;
    let elements = attribute(attributes, ELEMENTS)?;
    Some(
        NlasIterator::new(elements)
            .map_while(Result::ok)
            .map(|item| element(item.value()))
            .collect(),
    )
}

fn element(attributes: &[u8]) -> Element {
    let value = |kind| Some(attribute(attribute(attributes, kind)?, VALUE)?.to_vec());
    // An element without a key, such as the catch-all element, gets a key that no entry has.
    Element { key: value(KEY).unwrap_or_default(), last: value(KEY_END), data: value(DATA) }
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
/// Fails if the entry has an IPv6 address: there is no set for those yet.
pub fn of_entry(entry: &Entry) -> Result<Elements, Ipv6Unsupported> {
    let octets = |address| Ok(Ipv6Unsupported::refuse(address)?.octets());
    Ok(match *entry {
        Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports } => {
            let (address, guest) = (host_address.map(octets).transpose()?, octets(guest)?);
            let key = |host_port| {
                let place = [[protocol.number(), 0, 0, 0], port(host_port)];
                address.iter().chain(&place).flatten().copied().collect::<Vec<_>>()
            };
            if !host_ports.is_single() && host_ports == guest_ports {
                let set = if address.is_some() { BOUND_RANGES } else { RANGES };
                let (key, last) = (key(host_ports.first()), Some(key(host_ports.last())));
                return Ok((set, vec![Element { key, last, data: Some(guest.to_vec()) }]));
            }
            let each = host_ports.iter().zip(guest_ports.iter()).map(|(host_port, guest_port)| {
                let data = Some([guest, port(guest_port)].concat());
                Element { key: key(host_port), last: None, data }
            });
            (if address.is_some() { BOUND } else { EXPOSURES }, each.collect())
        }
        // Only iptables has a rule for it.
        Entry::Judged { .. } => (HAIRPIN, vec![]),
        Entry::Hairpin { guest } => (HAIRPIN, vec![Element::key([octets(guest)?; 2].concat())]),
        Entry::Policy { guest, reach } => {
            (guests_of(reach), vec![Element::key(octets(guest)?.to_vec())])
        }
        Entry::Reach { guest, host, block, allowed } => {
            let guest = octets(guest)?;
            let key = |address: Ipv4Addr, protocol: u8, to: u16| {
                let address = (!host).then(|| address.octets());
                let place = [[protocol, 0, 0, 0], port(to)];
                [guest].into_iter().chain(address).chain(place).flatten().collect()
            };
            let (addresses, protocols, ports) =
                (block.addresses(), block.protocols(), block.ports());
            let element = Element {
                key: key(*addresses.start(), *protocols.start(), *ports.start()),
                last: Some(key(*addresses.end(), *protocols.end(), *ports.end())),
                data: None,
            };
            let set = match (host, allowed) {
                (false, true) => ALLOWED,
                (false, false) => DENIED,
                (true, true) => HOST_ALLOWED,
                (true, false) => HOST_DENIED,
            };
            (set, vec![element])
        }
    })
}

/// Returns the set of the guests that have this reach of their own.
pub(super) const fn guests_of(reach: Egress) -> &'static str {
    match reach {
        Egress::Internet => REACH_INTERNET,
        Egress::All => REACH_ALL,
        Egress::None => REACH_NONE,
    }
}

/// Reports whether a set holds entries of policies.
pub(super) fn is_of_policies(set: &str) -> bool {
    Egress::ALL.into_iter().any(|reach| guests_of(reach) == set)
        || [ALLOWED, DENIED, HOST_ALLOWED, HOST_DENIED].contains(&set)
}

/// Returns the entry that has only this element, or `None` if it is not exactly as [`of_entry`] makes it.
#[must_use]
pub fn to_entry(set: &str, element: &Element) -> Option<Entry> {
    let key = fields(&element.key)?;
    let last = fields(element.last.as_ref().unwrap_or(&element.key))?;
    let data = fields(element.data.as_deref().unwrap_or_default())?;
    if let Some(entry) = policy_entry(set, key, last) {
        return is_written(&entry, set, element).then_some(entry);
    }
    let (host_address, number, first) = match (set, key) {
        (EXPOSURES | RANGES, [number, first]) => (None, number, first),
        (BOUND | BOUND_RANGES, [address, number, first]) => {
            (Some(IpAddr::from(*address)), number, first)
        }
        (HAIRPIN, [guest, _]) => {
            let entry = Entry::Hairpin { guest: (*guest).into() };
            return is_written(&entry, set, element).then_some(entry);
        }
        _ => return None,
    };
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number[0])?;
    let host_ports = PortRange::between(port_of(*first), port_of(*last.last()?))?;
    let (guest, guest_ports) = match data {
        [guest] => (*guest, host_ports),
        [guest, port] => (*guest, PortRange::single(port_of(*port))?),
        _ => return None,
    };
    let guest = guest.into();
    let entry = Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports };
    is_written(&entry, set, element).then_some(entry)
}

/// Returns the entry of a policy that has this key and last key.
fn policy_entry(set: &str, key: &[[u8; 4]], last: &[[u8; 4]]) -> Option<Entry> {
    if let Some(reach) = Egress::ALL.into_iter().find(|reach| guests_of(*reach) == set) {
        let [guest] = *key else { return None };
        return Some(Entry::Policy { guest: guest.into(), reach });
    }
    let (host, allowed) = match set {
        ALLOWED => (false, true),
        DENIED => (false, false),
        HOST_ALLOWED => (true, true),
        HOST_DENIED => (true, false),
        _ => return None,
    };
    let (guest, addresses, [by, to], [until, up_to]) = match (host, key, last) {
        (false, [guest, from, from_rest @ ..], [_, to, to_rest @ ..]) => {
            let addresses = (u32::from_be_bytes(*from), u32::from_be_bytes(*to));
            (guest, addresses, from_rest.try_into().ok()?, to_rest.try_into().ok()?)
        }
        (true, [guest, from @ ..], [_, to @ ..]) => {
            (guest, (0, u32::MAX), from.try_into().ok()?, to.try_into().ok()?)
        }
        _ => return None,
    };
    let ports = (port_of(to), port_of(up_to));
    let block = Block::between(addresses, (by[0], until[0]), ports)?;
    Some(Entry::Reach { guest: (*guest).into(), host, block, allowed })
}

/// Returns the fields of a key or a value.
fn fields(bytes: &[u8]) -> Option<&[[u8; 4]]> {
    let (fields, rest) = bytes.as_chunks();
    rest.is_empty().then_some(fields)
}

/// Reports whether an entry is written as this element and no other: padding, and the second half of a hairpin, must
/// be as we write them.
fn is_written(entry: &Entry, set: &str, element: &Element) -> bool {
    of_entry(entry).is_ok_and(|(written, elements)| written == set && elements == [element.clone()])
}

/// Returns a port as a field of a concatenation, padded to four bytes.
const fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Returns the port of a field.
const fn port_of([high, low, ..]: [u8; 4]) -> u16 {
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
        let block = Block::of_network("10.0.5.0/24".parse().unwrap());
        let places = [(false, block), (false, Block::EVERYTHING), (true, Block::EVERYTHING)];
        let reach = [true, false].into_iter().flat_map(|allowed| {
            places.map(|(host, block)| Entry::Reach { guest, host, block, allowed })
        });
        for entry in exposures.chain([hairpin]).chain(policies).chain(reach) {
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
    fn an_entry_of_ipv6_is_refused() {
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        for entry in [exposure(Some(address), "80", "80"), Entry::Hairpin { guest: address }] {
            let refused = of_entry(&entry).unwrap_err().to_string();
            assert_eq!(refused, "2001:db8::1 is an IPv6 address, which is not supported yet");
        }
    }

    #[test]
    fn elements_that_we_would_not_write_are_no_entries() {
        let refused = |set: &str, key: &[u8], last: Option<&[u8]>, data: &[u8]| {
            let (last, data) = (last.map(<[u8]>::to_vec), Some(data.to_vec()));
            let element = Element { key: key.to_vec(), last, data };
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
