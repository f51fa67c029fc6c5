//! Entries as elements of sets and maps.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_EXCL, NlasIterator};
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
        names::nftables::{BOUND, EXPOSURES, HAIRPIN},
    },
    model::{InterfaceName, Ipv6Unsupported, Protocol},
};

/// `sizeof(struct nlmsghdr)` and `sizeof(struct nfgenmsg)`.
pub(super) const HEADERS: usize = 16 + 4;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_DATA`, `NFTA_DATA_VALUE` of
/// `<linux/netfilter/nf_tables.h>`.
const ELEMENTS: u16 = 3;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;

/// The number of elements that one message holds: its list of elements is an attribute, whose length has
/// 16 bits, and an element takes up to 56 bytes.
pub(super) const A_MESSAGE: usize = 200;

/// An element of one of our sets or maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key; fields of a concatenation are padded to four bytes.
    pub key: Vec<u8>,
    /// The value, if it is of a map.
    pub data: Option<Vec<u8>>,
}

/// Returns the request for these elements of a set or map, or for all if none are given.
#[must_use]
pub fn get(table: &TableName, set: &str, elements: &[Element]) -> NetfilterMessage {
    let keys: Vec<_> =
        elements.iter().map(|e| Element { key: e.key.clone(), data: None }).collect();
    table.message(NfTablesMessage::GetSetElement(list(table, set, &keys)))
}

/// Adds elements. Refused with `EEXIST` if one of them is there.
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

fn list(table: &TableName, set: &str, elements: &[Element]) -> SetElementMessage {
    let mut attributes =
        vec![SetElementList::Table(table.name.clone()), SetElementList::Set(set.to_owned())];
    if !elements.is_empty() {
        let item = |element: &Element| {
            let key = SetElementAttribute::Key(DataAttribute::Value(element.key.clone()));
            let data = element.data.clone();
            let data = data.map(|data| SetElementAttribute::Data(DataAttribute::Value(data)));
            ListAttribute::Element([key].into_iter().chain(data).collect())
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
    // An element without a key, as the catch-all element, gets one that no entry has.
    Element { key: value(KEY).unwrap_or_default(), data: value(DATA) }
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
    Element { key: padded(name), data: None }
}

/// Returns the element of two interfaces: in by the first, out by the second.
pub(super) fn pair((from, to): (&InterfaceName, &InterfaceName)) -> Element {
    Element { key: [padded(from), padded(to)].concat(), data: None }
}

/// Returns a name padded to `IFNAMSIZ`.
pub(super) fn padded(name: &InterfaceName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(InterfaceName::MAX_LENGTH + 1, 0);
    key
}

/// Returns the set or map of an entry, and its element there.
///
/// # Errors
/// Where it is one of IPv6: there is no set for those yet.
pub fn of_entry(entry: &Entry) -> Result<(&'static str, Element), Ipv6Unsupported> {
    let octets = |address| Ok(Ipv6Unsupported::refuse(address)?.octets());
    Ok(match *entry {
        Entry::Exposure { protocol, host_address, host_port, guest, guest_port } => {
            let place = [[protocol.number(), 0, 0, 0], port(host_port)];
            let data = Some([octets(guest)?, port(guest_port)].concat());
            match host_address {
                None => (EXPOSURES, Element { key: place.concat(), data }),
                Some(address) => {
                    let key = [&octets(address)?[..], &place.concat()].concat();
                    (BOUND, Element { key, data })
                }
            }
        }
        Entry::Hairpin { guest } => {
            (HAIRPIN, Element { key: [octets(guest)?; 2].concat(), data: None })
        }
    })
}

/// Returns the entry of an element, or `None` if it is not exactly as [`of_entry`] makes it.
#[must_use]
pub fn to_entry(set: &str, element: &Element) -> Option<Entry> {
    let (key, []) = element.key.as_chunks::<4>() else { return None };
    let (data, []) = element.data.as_deref().unwrap_or_default().as_chunks::<4>() else {
        return None;
    };
    let entry = match (set, key, data) {
        (EXPOSURES, [proto, host_port], [guest, guest_port]) => {
            exposure(None, *proto, *host_port, *guest, *guest_port)?
        }
        (BOUND, [address, proto, host_port], [guest, guest_port]) => {
            exposure(Some(*address), *proto, *host_port, *guest, *guest_port)?
        }
        (HAIRPIN, [guest, _], []) => Entry::Hairpin { guest: (*guest).into() },
        _ => return None,
    };
    // Padding, and the second half of a hairpin, must be as we write them.
    of_entry(&entry).is_ok_and(|written| written == (set, element.clone())).then_some(entry)
}

fn exposure(
    host_address: Option<[u8; 4]>,
    [number, ..]: [u8; 4],
    [high, low, ..]: [u8; 4],
    guest: [u8; 4],
    [guest_high, guest_low, ..]: [u8; 4],
) -> Option<Entry> {
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    let host_port = u16::from_be_bytes([high, low]);
    let guest_port = u16::from_be_bytes([guest_high, guest_low]);
    let (host_address, guest) = (host_address.map(IpAddr::from), guest.into());
    (host_port != 0 && guest_port != 0).then_some(Entry::Exposure {
        protocol,
        host_address,
        host_port,
        guest,
        guest_port,
    })
}

/// Returns a port as a field of a concatenation, padded to four bytes.
const fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposure(host_address: Option<IpAddr>) -> Entry {
        let guest = IpAddr::from([10, 231, 0, 2]);
        Entry::Exposure {
            protocol: Protocol::Udp,
            host_address,
            host_port: 8080,
            guest,
            guest_port: 53,
        }
    }

    #[test]
    fn entries_survive_the_way_there_and_back() {
        let bound = exposure(Some([192, 0, 2, 1].into()));
        let hairpin = Entry::Hairpin { guest: [10, 231, 0, 2].into() };
        for entry in [exposure(None), bound, hairpin] {
            let (set, element) = of_entry(&entry).unwrap();
            assert_eq!(to_entry(set, &element), Some(entry));
        }
        let (_, element) = of_entry(&exposure(None)).unwrap();
        assert_eq!(element.key, [17, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.data.unwrap(), [10, 231, 0, 2, 0, 53, 0, 0]);
    }

    #[test]
    fn an_entry_of_ipv6_is_refused() {
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        for entry in [exposure(Some(address)), Entry::Hairpin { guest: address }] {
            let refused = of_entry(&entry).unwrap_err().to_string();
            assert_eq!(refused, "2001:db8::1 is an IPv6 address, which is not supported yet");
        }
    }

    #[test]
    fn what_we_would_not_write_is_no_entry() {
        let (_, good) = of_entry(&exposure(None)).unwrap();
        let refused = |key: &[u8], data: &[u8]| {
            let element = Element { key: key.to_vec(), data: Some(data.to_vec()) };
            assert_eq!(to_entry(EXPOSURES, &element), None, "{element:?}");
        };
        let data = good.data.clone().unwrap();
        refused(&[1, 0, 0, 0, 0x1f, 0x90, 0, 0], &data);
        refused(&[17, 0, 0, 0, 0, 0, 0, 0], &data);
        refused(&[17, 0, 0, 9, 0x1f, 0x90, 0, 0], &data);
        refused(&[17, 0, 0, 0], &data);
        refused(&good.key, &[10, 231, 0, 2]);
        refused(&[], &[]);
        let other = Element { key: vec![10, 0, 0, 1, 10, 0, 0, 2], data: None };
        assert_eq!(to_entry(HAIRPIN, &other), None);
    }
}
