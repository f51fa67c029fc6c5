//! Routing rules of rtnetlink(7), as ip-rule(8) has them.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage},
};

use rustix::io::Errno;

use super::{netlink::NetlinkRequest, route::Route};
use crate::Refusal;
use riklet_core::{model::Family, routing::RoutingRule};

/// The value of an attribute that is not set (`suppress_prefixlength`, `suppress_ifgroup`).
const UNSET: u32 = u32::MAX;

impl Route {
    /// Lists the routing rules of both families, in the order in which those of each are tried.
    pub(super) fn rules(&mut self) -> Result<Vec<RoutingRule>, Refusal> {
        let mut found = self.rules_of(Family::V4)?;
        match self.rules_of(Family::V6) {
            // The kernel has no IPv6.
            Err(refusal) if refusal.errno == Some(Errno::AFNOSUPPORT.raw_os_error()) => {}
            of_ipv6 => found.extend(of_ipv6?),
        }
        Ok(found)
    }

    fn rules_of(&mut self, family: Family) -> Result<Vec<RoutingRule>, Refusal> {
        let mut message = RuleMessage::default();
        message.header.family = netlink_family(family);
        let answers = self.socket.query(&RouteNetlinkMessage::GetRule(message), NLM_F_DUMP)?;
        Ok(answers.iter().filter_map(rule).collect())
    }

    /// Adds a rule. Succeeds if it is there.
    pub(super) fn add_rule(&mut self, rule: &RoutingRule) -> Result<(), Refusal> {
        // NLM_F_EXCL is not used: it would be refused because of a foreign rule that differs only in its protocol.
        if self.rules_of(rule.family)?.contains(rule) {
            return Ok(());
        }
        self.change_rule(RouteNetlinkMessage::NewRule(message(rule)), NLM_F_CREATE)
    }

    /// Removes a rule. Succeeds if there is none.
    pub(super) fn remove_rule(&mut self, rule: &RoutingRule) -> Result<(), Refusal> {
        match self.change_rule(RouteNetlinkMessage::DelRule(message(rule)), 0) {
            Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn change_rule(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.socket.send_each(vec![NetlinkRequest { message, flags }])?.into_iter().collect()
    }
}

/// The name of the interface that packets of the host itself come from, to rules.
const HOST: &str = "lo";

/// Writes a rule that has no other conditions, and looks up a table or refuses.
fn message(rule: &RoutingRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let length = |network: Option<IpNet>| network.map_or(0, |network| network.prefix_len());
    message.header = RuleHeader {
        family: netlink_family(rule.family),
        dst_len: length(rule.to),
        src_len: length(rule.from),
        action: if rule.prohibits { RuleAction::Prohibit } else { RuleAction::ToTable },
        ..RuleHeader::default()
    };
    let address = |network: IpNet| network.network();
    let (value, bits) = rule.mark.unzip();
    let attributes = [
        Some(RuleAttribute::Priority(rule.priority)),
        Some(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol))),
        rule.to.map(address).map(RuleAttribute::Destination),
        rule.from.map(address).map(RuleAttribute::Source),
        value.map(RuleAttribute::FwMark),
        bits.map(RuleAttribute::FwMask),
        rule.from_host.then(|| RuleAttribute::Iifname(HOST.to_owned())),
        rule.table.map(RuleAttribute::Table),
        rule.suppressed.map(RuleAttribute::SuppressPrefixLen),
    ];
    message.attributes = attributes.into_iter().flatten().collect();
    message
}

/// Reads a rule; `None` if it takes no packet of the host's own interfaces. That is so for rules of VRFs
/// (`FRA_L3MDEV`).
pub(super) fn rule(answer: &RouteNetlinkMessage) -> Option<RoutingRule> {
    let RouteNetlinkMessage::NewRule(RuleMessage { header, attributes, .. }) = answer else {
        return None;
    };
    let table = match header.action {
        RuleAction::ToTable => Some(u32::from(header.table)),
        RuleAction::Nop => return None,
        _ => None,
    };
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut rule = RoutingRule {
        priority: 0,
        protocol: 0,
        family,
        from: None,
        to: None,
        mark: None,
        from_host: false,
        narrowed: header.tos != 0 || header.flags.contains(RuleFlags::Invert),
        table,
        prohibits: header.action == RuleAction::Prohibit,
        suppressed: None,
    };
    let (mut value, mut bits) = (0, None);
    for attribute in attributes {
        match *attribute {
            RuleAttribute::Iifname(ref name) if name == HOST => rule.from_host = true,
            RuleAttribute::Priority(priority) => rule.priority = priority,
            RuleAttribute::Protocol(protocol) => rule.protocol = protocol.into(),
            RuleAttribute::Source(address) => rule.from = network(address, header.src_len),
            RuleAttribute::Destination(address) => rule.to = network(address, header.dst_len),
            RuleAttribute::FwMark(mark) => value = mark,
            RuleAttribute::FwMask(mask) => bits = Some(mask),
            RuleAttribute::Table(number) => rule.table = table.map(|_| number),
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppressed = (length != UNSET).then_some(length);
            }
            RuleAttribute::SuppressIfGroup(group) => rule.narrowed |= group != UNSET,
            RuleAttribute::L3MDev(true) => return None,
            RuleAttribute::L3MDev(false) | RuleAttribute::Goto(_) | RuleAttribute::Realm(_) => {}
            _ => rule.narrowed = true,
        }
    }
    rule.mark = bits.map(|bits| (value, bits));
    Some(rule)
}

fn network(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok()
}

fn netlink_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use super::*;
    use riklet_core::routing::PROTOCOL;
    use riklet_testkit::namespace::{ip, isolated};

    fn shown(route: &mut Route) -> Vec<String> {
        let rules = route.rules().unwrap();
        let others = rules.iter().filter(|rule| {
            rule.family == Family::V4 && !(32_766..=32_767).contains(&rule.priority)
        });
        others.map(|rule| format!("{rule}{}", if rule.narrowed { " !" } else { "" })).collect()
    }

    #[test]
    fn rules_are_read_as_ip_writes_them() {
        isolated(|| {
            for rule in [
                "from 10.19.0.1 lookup 100 pref 1",
                "to 10.9.0.0/16 lookup 70000 pref 2",
                "fwmark 0x80000/0xff0000 lookup main pref 3",
                "not from 10.9.0.1 lookup 7 pref 4",
                "iif lo lookup 7 pref 5",
                "lookup main suppress_prefixlength 0 pref 6",
                "prohibit pref 7",
                "l3mdev pref 8",
                "fwmark 0/7 lookup 9 pref 9",
            ] {
                ip(&format!("rule add {rule}"));
            }
            let mut route = Route::open().unwrap();
            assert_eq!(
                shown(&mut route),
                [
                    "0: from all lookup 255",
                    "1: from 10.19.0.1/32 lookup 100",
                    "2: from all to 10.9.0.0/16 lookup 70000",
                    "3: from all fwmark 0x80000/0xff0000 lookup main",
                    "4: from 10.9.0.1/32 lookup 7 !",
                    "5: from all iif lo lookup 7",
                    "6: from all lookup main suppress_prefixlength 0",
                    "7: from all prohibit",
                    "9: from all fwmark 0x0/0x7 lookup 9",
                ]
            );
            let suppressed = route.rules().unwrap().into_iter().find(|rule| rule.priority == 6);
            assert_eq!(suppressed.unwrap().suppressed, Some(0));
        });
    }

    #[test]
    fn a_rule_is_added_and_removed_once() {
        isolated(|| {
            let mut route = Route::open().unwrap();
            let before = route.rules().unwrap();
            let pool = Some("10.231.0.0/16".parse().unwrap());
            let rule = RoutingRule {
                priority: 98,
                protocol: PROTOCOL,
                family: Family::V4,
                from: pool,
                to: None,
                mark: Some((1, 7)),
                from_host: false,
                narrowed: false,
                table: Some(70_000),
                prohibits: false,
                suppressed: Some(8),
            };
            ip("rule add pref 98 from 10.231.0.0/16 fwmark 1/7 lookup 70000");
            let with_others = route.rules().unwrap();
            let within = RoutingRule { to: pool, mark: None, suppressed: None, ..rule.clone() };
            let v6 = Some("fd52:494b::/64".parse().unwrap());
            let v6 = RoutingRule { family: Family::V6, from: v6, to: v6, ..within.clone() };
            let of_family = |within: RoutingRule| {
                [
                    RoutingRule { from_host: true, ..within.clone() },
                    RoutingRule { mark: Some((64, 64)), ..within.clone() },
                    RoutingRule { table: None, prohibits: true, ..within },
                ]
            };
            for other in of_family(within).into_iter().chain(of_family(v6)) {
                for _ in 0..2 {
                    route.add_rule(&other).unwrap();
                    assert!(route.rules().unwrap().contains(&other), "{other}");
                    assert_eq!(route.rules().unwrap().len(), with_others.len() + 1);
                }
                route.remove_rule(&other).unwrap();
                assert_eq!(route.rules().unwrap(), with_others);
            }
            for _ in 0..2 {
                route.add_rule(&rule).unwrap();
                assert!(route.rules().unwrap().contains(&rule));
                assert_eq!(route.rules().unwrap().len(), before.len() + 2);
            }
            for _ in 0..2 {
                route.remove_rule(&rule).unwrap();
                assert_eq!(route.rules().unwrap(), with_others, "that of somebody else stays");
            }
        });
    }
}
