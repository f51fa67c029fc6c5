//! Translations in the table nat: rules of others, as `iptables-save` prints them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{
    Table,
    foreign_rule::protocol_number,
    saved::{Saved, words},
};
use crate::firewall::{
    names::{self, is_our_chain},
    passage::Verdict,
    translation::{
        Ban, Effect, Field, Found, Packets, Rule, Side, Test, Translation, Wanted, packets, search,
    },
    xtables,
};

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

    #[test]
    fn own_rules_are_left_out() {
        let dump = nat(":RIKLET - [0:0]\n-A PREROUTING -j RIKLET\n\
             -A RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:3000");
        assert_eq!(found(&dump, Protocol::Tcp, "8080"), [""; 0]);
    }
}
