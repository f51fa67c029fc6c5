use std::{collections::BTreeSet, net::IpAddr};

use super::{Fragment, FragmentError, NodeFacts, alias};
use crate::{
    address::GATEWAY_MAC,
    firewall::Entry,
    link::{LinkSpec, Tap},
    model::{Account, Addresses, Family, Function, Pool, Slot},
};

/// A function gets a TAP with the host's end of the slot's /30, its guest as a permanent neighbour, an
/// entry for each exposed port, and one that lets it reach itself through them.
pub(super) fn fragment(
    function: &Function,
    slot: Slot,
    node: &NodeFacts,
) -> Result<Fragment, FragmentError> {
    let alias = alias::render(&node.owner, &function.name, &function.exposures);
    let (link, addresses) = link(slot, node, alias, tap(function)?)?;
    Ok(Fragment { link, addresses, entries: entries(function, node.pool, addresses)? })
}

/// What the next function in this slot will need, whichever it is: its TAP, which lacks nothing but its alias where
/// the definition asks for no other user, group or queues.
pub(super) fn spare(slot: Slot, node: &NodeFacts) -> Result<Fragment, FragmentError> {
    let tap = Tap { owner: Some(Tap::ROOT), ..Tap::default() };
    let (link, addresses) = link(slot, node, alias::spare(&node.owner), tap)?;
    Ok(Fragment { link, addresses, entries: BTreeSet::new() })
}

fn link(
    slot: Slot,
    node: &NodeFacts,
    alias: String,
    tap: Tap,
) -> Result<(LinkSpec, Addresses), FragmentError> {
    let missing = FragmentError::NoSuchSlot { pool: node.pool, slot };
    let addresses = node.pool.addresses(slot).ok_or(missing)?;
    let link = LinkSpec {
        name: slot.interface(),
        alias,
        mac: GATEWAY_MAC,
        mtu: node.mtu,
        addresses: addresses.hosts().map(Addresses::network).collect(),
        neighbours: addresses.guests().map(|guest| (guest, slot.guest_mac())).collect(),
        link_local: None,
        tap,
    };
    Ok((link, addresses))
}

fn tap(function: &Function) -> Result<Tap, FragmentError> {
    let id = |account: &Option<Account>| match account {
        None => Ok(None),
        Some(Account::Id(id)) => Ok(Some(*id)),
        Some(Account::Name(account)) => {
            Err(FragmentError::Unresolved { name: function.name.clone(), account: account.clone() })
        }
    };
    let execution = &function.execution;
    let (owner, group) = (id(&execution.user)?, id(&execution.group)?);
    // A TAP of nobody may be opened by everybody who may open /dev/net/tun (`tun_not_capable` of drivers/net/tun.c).
    let owner = if group.is_none() { owner.or(Some(Tap::ROOT)) } else { owner };
    Ok(Tap { owner, group, multi_queue: execution.queues.is_some_and(|queues| queues.get() > 1) })
}

/// What is bound to no address leads to the guest by every family that it has, and what is bound to one by the
/// family of that.
fn entries(
    function: &Function,
    pool: Pool,
    addresses: Addresses,
) -> Result<BTreeSet<Entry>, FragmentError> {
    let mut entries = BTreeSet::new();
    for exposure in &function.exposures {
        let host_address = exposure.host_address();
        let family = host_address.map(Family::of);
        let meant = |guest: &IpAddr| family.is_none_or(|family| family == Family::of(*guest));
        let mut guests = addresses.guests().filter(meant).peekable();
        if guests.peek().is_none() {
            let (name, exposure) = (function.name.clone(), *exposure);
            return Err(FragmentError::NoAddress { name, exposure, pool });
        }
        for guest in guests {
            let protocol = exposure.protocol();
            entries.insert(Entry::Hairpin { guest });
            entries.extend(exposure.ports().map(|(host_port, guest_port)| Entry::Exposure {
                protocol,
                host_address,
                host_port,
                guest,
                guest_port,
            }));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Execution, Exposure, Owner, OwnerId, Protocol, Queues};

    fn node(pool: &str, mtu: u32) -> NodeFacts {
        let owner = Owner::new(OwnerId::new(1), "/run/riklet-sdn");
        NodeFacts { pool: pool.parse().unwrap(), mtu, owner }
    }

    #[test]
    fn a_function_gets_a_tap_and_an_entry_for_each_port() {
        let ports = |text: &str| text.parse().unwrap();
        let function = Function {
            name: "hello".parse().unwrap(),
            execution: Execution::default(),
            exposures: vec![
                Exposure::new(Protocol::Tcp, None, ports("8000-8001"), ports("80-81")).unwrap(),
            ],
        };
        let node = node("10.231.0.0/16", 1400);
        let fragment = fragment(&function, Slot::new(5), &node).unwrap();
        assert_eq!(fragment.link.name.as_str(), "rik5");
        let addresses: Vec<_> = fragment.link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.231.0.21/30"]);
        assert_eq!(fragment.link.mtu, 1400);
        let guest = "10.231.0.22".parse().unwrap();
        assert_eq!(fragment.link.neighbours, [(guest, Slot::new(5).guest_mac())].into());
        let text: Vec<_> = fragment.entries.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["tcp 8000 -> 10.231.0.22:80", "tcp 8001 -> 10.231.0.22:81", "hairpin 10.231.0.22"]
        );
    }

    #[test]
    fn a_pool_of_both_families_serves_each_exposure_by_those_that_it_is_for() {
        let exposure = |address: Option<&str>, port: &str| {
            let (address, port) = (address.map(|a| a.parse().unwrap()), port.parse().unwrap());
            Exposure::new(Protocol::Tcp, address, port, port).unwrap()
        };
        let function = |exposures| Function {
            name: "hello".parse().unwrap(),
            execution: Execution::default(),
            exposures,
        };
        let only_v4 = node("10.231.0.0/16", 1500);
        let pool = only_v4.pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
        let both = NodeFacts { pool, ..only_v4.clone() };
        let all = vec![
            exposure(None, "80"),
            exposure(Some("192.0.2.1"), "81"),
            exposure(Some("2001:db8::1"), "82"),
        ];
        let found = fragment(&function(all), Slot::new(5), &both).unwrap();
        let text: Vec<_> = found.entries.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "tcp 80 -> 10.231.0.22:80",
                "tcp 80 -> [fd52:494b::b]:80",
                "tcp 192.0.2.1:81 -> 10.231.0.22:81",
                "tcp [2001:db8::1]:82 -> [fd52:494b::b]:82",
                "hairpin 10.231.0.22",
                "hairpin fd52:494b::b",
            ]
        );
        let addresses: Vec<_> = found.link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.231.0.21/30", "fd52:494b::a/127"]);
        assert!(found.link.neighbours.values().all(|&mac| mac == Slot::new(5).guest_mac()));
        assert_eq!(found.link.neighbours.len(), 2);

        let only_v6 = function(vec![exposure(Some("2001:db8::1"), "82")]);
        assert_eq!(
            fragment(&only_v6, Slot::new(5), &only_v4).unwrap_err().to_string(),
            "hello: tcp [2001:db8::1]:82 -> 82 needs a guest with an address of the same family, and \
             10.231.0.0/16 has none"
        );
    }

    #[test]
    fn the_tap_is_the_vmms() {
        let function = |user: &str, queues| Function {
            name: "hello".parse().unwrap(),
            execution: Execution {
                user: Some(user.parse().unwrap()),
                group: Some(Account::Id(7)),
                queues: Some(Queues::new(queues).unwrap()),
                ..Execution::default()
            },
            exposures: vec![],
        };
        let node = node("10.231.0.0/16", 1400);
        let tap = |function| fragment(&function, Slot::new(0), &node).map(|found| found.link.tap);
        let wanted = Tap { owner: Some(1000), group: Some(7), multi_queue: false };
        assert_eq!(tap(function("1000", 1)), Ok(wanted));
        assert_eq!(tap(function("1000", 2)), Ok(Tap { multi_queue: true, ..wanted }));
        let execution = Execution::default();
        let nobody_s = Function { execution, ..function("1000", 1) };
        let administrator_s = Tap { owner: Some(Tap::ROOT), ..Tap::default() };
        assert_eq!(tap(nobody_s.clone()), Ok(administrator_s));
        let execution = Execution { group: Some(Account::Id(7)), ..Execution::default() };
        let group_s = Tap { owner: None, group: Some(7), multi_queue: false };
        assert_eq!(tap(Function { execution, ..nobody_s }), Ok(group_s));
        assert_eq!(
            tap(function("riklet", 1)).unwrap_err().to_string(),
            "hello is for riklet, whose number was not looked up"
        );
    }

    #[test]
    fn without_exposures_there_is_nothing_to_translate() {
        let function = Function {
            name: "worker".parse().unwrap(),
            execution: Execution::default(),
            exposures: vec![],
        };
        let node = node("10.231.0.0/30", 1500);
        assert!(fragment(&function, Slot::new(0), &node).unwrap().entries.is_empty());
        assert!(fragment(&function, Slot::new(1), &node).is_err());
    }
}
