//! Translations in the table nat: rules of others, as `iptables-save` prints them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{
    Table,
    foreign_rule::{of_table_with_ports, protocol_number},
    layout,
    saved::{Saved, words},
};
use crate::firewall::{
    Entry, PortBan,
    names::{self, is_our_chain},
    passage::{self, Places, Stage, Verdict},
    translation::{
        Ban, Effect, Field, Found, Packets, Rule, Side, Test, Translation, Wanted, packets, search,
    },
    xtables,
};
use crate::model::InterfaceName;

/// Returns the translations of wanted ports in the table nat of the legacy iptables.
#[must_use]
pub fn translations(saved: &Saved, wanted: &Wanted) -> BTreeSet<Translation> {
    let bases = [names::iptables::PREROUTING, names::iptables::OUTPUT];
    let found = follow(saved, Table::Nat, Side::Destination, &bases, &packets(wanted));
    found.translations(&place(Table::Nat))
}

/// Returns the bans in these tables of the legacy iptables.
#[must_use]
pub fn bans(saved: &Saved, tables: &[Table]) -> BTreeSet<Ban> {
    let bases =
        [names::iptables::PREROUTING, names::iptables::FORWARD, names::iptables::POSTROUTING];
    let sides = [Side::Source, Side::Destination];
    let all = tables.iter().flat_map(|table| sides.map(|side| (*table, side)));
    let found = all.flat_map(|(table, side)| {
        let found = follow(saved, table, side, &bases, &[Packets::ALL]);
        found.bans(side, &place(table))
    });
    found.collect()
}

/// Returns the rules in these tables of the legacy iptables that drop packets of these exposures for their ports.
#[must_use]
pub fn port_bans(
    saved: &Saved,
    tables: &[Table],
    uplinks: &BTreeSet<InterfaceName>,
    exposures: &BTreeSet<Entry>,
) -> BTreeSet<PortBan> {
    let mut found = BTreeSet::new();
    for table in tables {
        let rules = of_table_with_ports(saved, *table);
        let (places, none) = (layout::places(saved, *table, uplinks), Places::new());
        for base in [
            (names::iptables::PREROUTING, Stage::Before),
            (names::iptables::FORWARD, Stage::After(&places)),
            (names::iptables::POSTROUTING, Stage::After(&none)),
        ] {
            let dropped = passage::dropped_ports(&rules, base, uplinks, exposures).into_iter();
            found.extend(dropped.map(|(protocol, port, chain)| {
                PortBan::new(protocol, port, format!("{} {chain}", place(*table)))
            }));
        }
    }
    found
}

fn place(table: Table) -> String {
    format!("{} {table}", names::iptables::LEGACY)
}

fn follow(saved: &Saved, table: Table, side: Side, bases: &[&str], wanted: &[Packets]) -> Found {
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for (name, _) in saved.policies(table).filter(|(name, _)| !is_our_chain(name)) {
        chains.insert(name.to_owned(), Vec::new());
    }
    for rule in saved.others(table) {
        let translated = translate(&rule.body, side, |chain| chains.contains_key(chain));
        if let Some(rules) = chains.get_mut(&rule.chain) {
            rules.push(translated);
        }
    }
    search(&chains, bases.iter().copied(), wanted)
}

fn translate(body: &str, side: Side, is_chain: impl Fn(&str) -> bool) -> Rule {
    let words = words(body);
    let mut rule = Rule::default();
    let mut inverted = false;
    let mut rest = words.iter().map(String::as_str);
    while let Some(option) = rest.next() {
        let field = match option {
            "!" => {
                inverted = true;
                continue;
            }
            "-p" => Field::Protocol,
            "-d" if side == Side::Destination => Field::Address,
            "-s" if side == Side::Source => Field::Address,
            "--dport" | "--dports" => Field::Port,
            "-j" | "-g" => {
                let target = rest.next().unwrap_or_default();
                rule.effect = if is_chain(target) {
                    Some(Effect::Leads(target.to_owned()))
                } else if xtables::verdict(target) == Some(Verdict::Drop) {
                    Some(Effect::Drops)
                } else {
                    xtables::translates(target).then_some(Effect::Translates)
                };
                return rule;
            }
            _ => {
                inverted = false;
                continue;
            }
        };
        let ranges = rest.next().and_then(|value| {
            value.split(',').map(|value| range(field, value)).collect::<Option<Vec<_>>>()
        });
        if let Some(ranges) = ranges {
            let among = ranges.into_iter().map(|(low, high)| Packets::ALL.with(field, low, high));
            let among = among.collect();
            rule.tests.push(if inverted { Test::Not(among) } else { Test::Among(among) });
        }
        inverted = false;
    }
    rule
}

/// Returns the lowest and the highest value of an option; `None` if it is not understood.
fn range(field: Field, text: &str) -> Option<(u32, u32)> {
    match field {
        Field::Protocol => protocol_number(text).map(|number| (number.into(), number.into())),
        Field::Address => {
            let network: Ipv4Net = text.parse().ok()?;
            Some((network.network().into(), network.broadcast().into()))
        }
        Field::Port => {
            let (low, high) = text.split_once(':').unwrap_or((text, text));
            Some((low.parse::<u16>().ok()?.into(), high.parse::<u16>().ok()?.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn found(dump: &str, protocol: Protocol, ports: &str) -> Vec<String> {
        let saved = Saved::parse([], dump).unwrap();
        let wanted = [(protocol, None, ports.parse().unwrap())].into();
        translations(&saved, &wanted).iter().map(ToString::to_string).collect()
    }

    fn nat(rules: &str) -> String {
        format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n{rules}\nCOMMIT\n"
        )
    }

    #[test]
    fn ports_that_others_publish_are_found() {
        let docker = nat("-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A DOCKER -i docker0 -j RETURN\n\
             -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
             -A DOCKER -d 192.0.2.1/32 ! -i docker0 -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.3:53");
        let expected = "the chain iptables-legacy nat DOCKER, which translates tcp port 8080";
        assert_eq!(found(&docker, Protocol::Tcp, "8080"), [expected]);
        assert_eq!(found(&docker, Protocol::Tcp, "8000-9000"), [expected]);
        assert_eq!(found(&docker, Protocol::Tcp, "8081"), [""; 0]);
        assert_eq!(found(&docker, Protocol::Udp, "8080"), [""; 0]);
        let expected =
            "the chain iptables-legacy nat DOCKER, which translates udp port 53 of 192.0.2.1";
        assert_eq!(found(&docker, Protocol::Udp, "53"), [expected]);
    }

    #[test]
    fn every_way_to_write_ports_is_read() {
        for rule in [
            "-p tcp -m multiport --dports 22,8000:8010 -j REDIRECT --to-ports 1",
            "-p tcp -m multiport ! --dports 22,80 -m tcp --dport 8005 -j REDIRECT --to-ports 1",
            "-d 10.0.0.0/8 -p tcp -m tcp --dport 8000:8010 -m comment --comment \"-p udp\" -j DNAT --to-destination 10.0.0.1",
        ] {
            let dump = nat(&format!("-A PREROUTING {rule}"));
            assert_eq!(found(&dump, Protocol::Tcp, "8005").len(), 1, "{rule}");
        }
        for rule in [
            "-p tcp -m tcp ! --dport 8005 -j REDIRECT --to-ports 1",
            "-p tcp -j REDIRECT --to-ports 15001",
            "-p tcp -m tcp --dport 8005 -j RETURN",
            "-p tcp -m tcp --sport 8005 -j REDIRECT --to-ports 1",
            "-p udp -m udp --dport 8005 -j REDIRECT --to-ports 1",
        ] {
            let dump = nat(&format!("-A PREROUTING {rule}"));
            assert_eq!(found(&dump, Protocol::Tcp, "8005"), [""; 0], "{rule}");
        }
    }

    /// Returns the bans of tcp 8080, which leads to port 80 of a guest, and of udp 9000-9010, which lead to 7000-7010.
    fn port_bans_of(dump: &str) -> Vec<String> {
        let entry = |protocol, host: &str, guest: &str| Entry::Exposure {
            protocol,
            host_address: None,
            host_ports: host.parse().unwrap(),
            guest: [10, 231, 0, 2].into(),
            guest_ports: guest.parse().unwrap(),
        };
        let exposures =
            [entry(Protocol::Tcp, "8080", "80"), entry(Protocol::Udp, "9000-9010", "7000-7010")];
        let saved = Saved::parse([], dump).unwrap();
        let uplinks = ["eth0".parse().unwrap()].into();
        let tables = [Table::Filter, Table::Mangle, Table::Raw];
        let found = port_bans(&saved, &tables, &uplinks, &exposures.into());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_drop_packets_for_published_ports_are_found() {
        let tcp = "FORWARD: drops packets for the published tcp port 8080";
        let udp = "FORWARD: drops packets for the published udp port";
        for (rule, expected) in [
            ("-p tcp -m conntrack --ctorigdstport 8080 -j DROP", tcp.to_owned()),
            (
                "-p tcp -m conntrack --ctorigdstport 8000:8100 --ctdir ORIGINAL -j DROP",
                tcp.to_owned(),
            ),
            ("-p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset", tcp.to_owned()),
            ("-i eth0 -p tcp -m multiport --dports 22,79:81 -j DROP", tcp.to_owned()),
            ("-d 10.231.0.0/16 -p tcp -m tcp --dport 80 -j DROP", tcp.to_owned()),
            (
                "! -i docker0 -m conntrack --ctstate NEW --ctorigdstport 8080 -j DROP",
                tcp.to_owned(),
            ),
            ("-p tcp -m tcp ! --dport 22 -j DROP", tcp.to_owned()),
            ("-p udp -m udp --dport 7003:7004 -j DROP", format!("{udp} 9003")),
            ("-p udp -m conntrack --ctorigdstport 9010 -j DROP", format!("{udp} 9010")),
        ] {
            let expected = [format!("iptables-legacy filter {expected}")];
            let dump = format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule}\nCOMMIT\n");
            assert_eq!(port_bans_of(&dump), expected, "{rule}");
            let jump = format!(
                "*filter\n:FORWARD ACCEPT [0:0]\n:USER - [0:0]\n-A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT\n\
                 -A FORWARD -o rik+ -j USER\n-A USER {rule}\nCOMMIT\n"
            );
            assert_eq!(port_bans_of(&jump), [expected[0].replace("FORWARD", "USER")], "{rule}");
        }
    }

    #[test]
    fn before_the_translation_rules_name_the_ports_of_the_host() {
        let dump = |rule: &str| {
            let chains = ":PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]";
            format!("*mangle\n{chains}\n-A {rule}\nCOMMIT\n")
        };
        for (chain, port) in [("PREROUTING", 8080), ("POSTROUTING", 80)] {
            let expected = format!(
                "iptables-legacy mangle {chain}: drops packets for the published tcp port 8080"
            );
            let rule = |port| dump(&format!("{chain} -p tcp -m tcp --dport {port} -j DROP"));
            assert_eq!(port_bans_of(&rule(port)), [expected]);
            assert_eq!(port_bans_of(&rule(8160 - port)), [""; 0], "{chain}");
        }
        let other = "PREROUTING -d 192.0.2.9/32 -p tcp -m tcp --dport 8080 -j DROP";
        assert_eq!(port_bans_of(&dump(other)), [""; 0], "that may not be the host's only address");
    }

    #[test]
    fn rules_for_other_ports_or_some_clients_are_no_bans_of_published_ports() {
        for rule in [
            "-p tcp -m conntrack --ctorigdstport 8081 -j DROP",
            "-p tcp -m conntrack --ctorigdstport 80 -j DROP",
            "-p tcp -m conntrack ! --ctorigdstport 8080 -j ACCEPT",
            "-p tcp -m conntrack --ctorigdstport 8080 --ctdir REPLY -j DROP",
            "-p tcp -m tcp --dport 8080 -j DROP",
            "-p udp -m udp --dport 80 -j DROP",
            "-s 203.0.113.9/32 -p tcp -m tcp --dport 80 -j DROP",
            "! -s 192.168.0.0/16 -p tcp -m tcp --dport 80 -j DROP",
            "-d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j DROP",
            "-i wlan0 -p tcp -m tcp --dport 80 -j DROP",
            "-o docker0 -p tcp -m tcp --dport 80 -j DROP",
            "-p tcp -m tcp --dport 80 -m limit --limit 1/sec -j DROP",
            "-p tcp -m tcp --sport 80 -j DROP",
            "-m conntrack --ctstate INVALID -p tcp -m tcp --dport 80 -j DROP",
            "-p tcp -m tcp --dport 80 -j LOG",
            "-j DROP",
            "-p tcp -m tcp --dport 22 -j DROP\n-A FORWARD -j DROP",
            "-p tcp -m tcp --dport 80 -j ACCEPT\n-A FORWARD -p tcp -m tcp --dport 1:1000 -j DROP",
            "-j REJECT\n-A FORWARD -p tcp -m tcp --dport 80 -j DROP",
        ] {
            let dump = format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule}\nCOMMIT\n");
            assert_eq!(port_bans_of(&dump), [""; 0], "{rule}");
        }
    }

    #[test]
    fn a_ban_of_dockers_users_is_one_only_of_that_port() {
        let dump = include_str!("dumps/docker-29");
        let expected =
            "iptables-legacy filter DOCKER-USER: drops packets for the published tcp port 8080";
        assert_eq!(port_bans_of(dump), [expected]);
        assert_eq!(port_bans_of(&dump.replace("8080", "8081")), [""; 0]);
        for dump in [
            include_str!("dumps/docker-20.10"),
            include_str!("dumps/docker-28"),
            include_str!("dumps/ufw"),
            include_str!("dumps/firewalld"),
            include_str!("dumps/openwrt"),
        ] {
            assert_eq!(port_bans_of(dump), [""; 0], "{dump}");
        }
    }

    #[test]
    fn own_rules_are_left_out() {
        let dump = nat(":RIKLET - [0:0]\n-A PREROUTING -j RIKLET\n\
             -A RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:3000");
        assert_eq!(found(&dump, Protocol::Tcp, "8080"), [""; 0]);
    }
}
