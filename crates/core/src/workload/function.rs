use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{Fragment, FragmentError, NodeFacts, alias};
use crate::{
    firewall::Entry,
    link::{LinkSpec, Neighbour, Tap},
    model::{Account, Addresses, Function, Slot},
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
    Ok(Fragment { link, addresses, entries: entries(function, addresses) })
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
    let addresses = node.pool.addresses(slot).ok_or_else(|| missing.clone())?;
    let address = Ipv4Net::new(addresses.host, Addresses::PREFIX_LENGTH);
    let link = LinkSpec {
        name: slot.interface(),
        alias,
        mac: slot.host_mac(),
        mtu: node.mtu,
        address: address.map_err(|_too_long| missing)?,
        neighbour: Neighbour { address: addresses.guest, mac: slot.guest_mac() },
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

fn entries(function: &Function, addresses: Addresses) -> BTreeSet<Entry> {
    let guest = addresses.guest;
    let exposed = function.exposures.iter().flat_map(|exposure| {
        exposure.ports().map(move |(host_port, guest_port)| Entry::Exposure {
            protocol: exposure.protocol(),
            host_address: exposure.host_address(),
            host_port,
            guest,
            guest_port,
        })
    });
    let hairpin = (!function.exposures.is_empty()).then_some(Entry::Hairpin { guest });
    exposed.chain(hairpin).collect()
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
        assert_eq!(fragment.link.address.to_string(), "10.231.0.21/30");
        assert_eq!(fragment.link.mtu, 1400);
        assert_eq!(fragment.link.neighbour.mac, Slot::new(5).guest_mac());
        let text: Vec<_> = fragment.entries.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["tcp 8000 -> 10.231.0.22:80", "tcp 8001 -> 10.231.0.22:81", "hairpin 10.231.0.22"]
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
