//! Rules of others, as `iptables-save` prints them, translated into questions about our traffic.

use ipnet::Ipv4Net;

use super::{
    Table,
    saved::{NO_POLICY, Saved, words},
};
use crate::firewall::{
    names::{self, is_our_chain},
    passage::{Chain, Field, Hook, Operator, Rule, Rules, Test, Value, Verdict},
    xtables,
};
use crate::model::InterfaceName;

/// Match extensions that test nothing by themselves.
const SILENT: [&str; 8] = ["comment", "conntrack", "state", "mark", "tcp", "udp", "sctp", "icmp"];
/// `IPPROTO_*`, as `iptables-save` names them.
const PROTOCOLS: [(&str, u8); 5] =
    [("icmp", 1), ("tcp", 6), ("udp", 17), ("udplite", 136), ("sctp", 132)];

/// Translates a table, without our own chains and rules.
pub(super) fn of_table(saved: &Saved, table: Table) -> Rules {
    of_table_as(saved, table, false)
}

/// Does the same as [`of_table`], and has ports and destination addresses as fields.
pub(super) fn of_table_with_ports(saved: &Saved, table: Table) -> Rules {
    of_table_as(saved, table, true)
}

fn of_table_as(saved: &Saved, table: Table, asks_ports: bool) -> Rules {
    let mut rules = Rules::default();
    for (name, policy) in saved.policies(table).filter(|(name, _)| !is_our_chain(name)) {
        let hook = Hook { forward: name == names::iptables::FORWARD, drops: policy == "DROP" };
        let hook = Some(hook).filter(|_| policy != NO_POLICY);
        rules.chains.insert(name.to_owned(), Chain { hook, ..Chain::default() });
    }
    for rule in saved.others(table) {
        let is_chain = |chain: &str| rules.chains.contains_key(chain);
        let translated = if asks_ports {
            translate_whole(&rule.body, is_chain, test_with_ports)
        } else {
            translate(&rule.body, is_chain)
        };
        if let Some(chain) = rules.chains.get_mut(&rule.chain) {
            chain.rules.push(translated);
        }
    }
    rules
}

/// Translates the matches and the target of a rule.
fn translate(body: &str, is_chain: impl Fn(&str) -> bool) -> Rule {
    if is_ban(body) { Rule::default() } else { translate_whole(body, is_chain, test) }
}

/// Reports whether a rule is for single addresses and accepts or drops. There may be tens of thousands of these; none
/// decides about our traffic as a whole, and none leads to another chain, so that they need not be translated.
fn is_ban(body: &str) -> bool {
    let body = body.strip_prefix("! ").unwrap_or(body);
    ["-s ", "-d "].iter().any(|option| body.starts_with(option))
        && ["-j DROP", "-j ACCEPT"].iter().any(|target| body.ends_with(target))
        && !body.contains('"')
}

fn translate_whole(
    body: &str,
    is_chain: impl Fn(&str) -> bool,
    test: impl Fn(&str, &str) -> Option<Test>,
) -> Rule {
    let words = words(body);
    let mut rule = Rule::default();
    let mut rest = &words[..];
    while let [option, after @ ..] = rest {
        let (inverted, option, after) = match (&**option, after) {
            ("!", [option, after @ ..]) => (true, option, after),
            _ => (false, option, after),
        };
        if matches!(&**option, "-j" | "-g") {
            rule.verdict = after.first().and_then(|target| verdict(option, target, &is_chain));
            return rule;
        }
        let values = after.iter().take_while(|word| !word.starts_with(['-', '!'])).count();
        let (values, after) = after.split_at(values);
        let test = match values {
            [value] => test(option, value),
            _ => Some(Test::Other(option.clone())),
        };
        rule.tests.extend(test.map(|test| if inverted { Test::Not(Box::new(test)) } else { test }));
        rest = after;
    }
    rule
}

fn verdict(option: &str, target: &str, is_chain: impl Fn(&str) -> bool) -> Option<Verdict> {
    match target {
        "ACCEPT" => Some(Verdict::Accept),
        "DROP" => Some(Verdict::Drop),
        "RETURN" => Some(Verdict::Return),
        "QUEUE" => Some(Verdict::Queue),
        chain if option == "-g" => Some(Verdict::Goto(chain.to_owned())),
        chain if is_chain(chain) => Some(Verdict::Jump(chain.to_owned())),
        extension => xtables::verdict(extension),
    }
}

/// Returns the test of an option with one value, or `None` if it asks nothing.
fn test(option: &str, value: &str) -> Option<Test> {
    let other = || Test::Other(option.to_owned());
    Some(match option {
        "-i" => interface(Field::InInterface, value),
        "-o" => interface(Field::OutInterface, value),
        "-p" => protocol(value).unwrap_or_else(other),
        "-m" if SILENT.contains(&value) => return None,
        "-m" => Test::Other(value.to_owned()),
        "--comment" => return None,
        "--ctstate" | "--state" => states(value).unwrap_or_else(other),
        "--mark" => mark(value).unwrap_or_else(other),
        _ => other(),
    })
}

/// Does the same as [`test()`], and understands destination addresses and ports.
fn test_with_ports(option: &str, value: &str) -> Option<Test> {
    let other = || Some(Test::Other(option.to_owned()));
    match option {
        "-m" if value == "multiport" => None,
        "-d" => value.parse().map_or_else(
            |_error| other(),
            |network: Ipv4Net| {
                let mask = network.netmask().octets().into();
                let value = Value::Of(Field::Address, Some(mask));
                Some(Test::Compare(value, Operator::Equal, network.network().octets().into()))
            },
        ),
        "--dport" | "--dports" => ports(Field::Port, value).or_else(other),
        "--ctorigdstport" => ports(Field::OriginalPort, value).or_else(other),
        "--ctdir" if value == "ORIGINAL" => None,
        // Only answers have the other direction.
        "--ctdir" => Some(Test::Any(vec![])),
        _ => test(option, value),
    }
}

/// Returns the test for ports, given as single ones and ranges (`8000:8010`).
fn ports(field: Field, text: &str) -> Option<Test> {
    let range = |text: &str| {
        let (low, high) = text.split_once(':').unwrap_or((text, text));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    let ranges: Option<Vec<(u16, u16)>> = text.split(',').map(range).collect();
    Some(xtables::in_ranges(field, &ranges?))
}

/// Returns the test for the name of an interface, in which a `+` at the end is a wildcard.
fn interface(field: Field, name: &str) -> Test {
    let mut bytes = name.strip_suffix('+').unwrap_or(name).as_bytes().to_vec();
    if !name.ends_with('+') {
        bytes.resize(InterfaceName::MAX_LENGTH + 1, 0);
    }
    Test::Compare(Value::field(field), Operator::Equal, bytes)
}

/// Returns the number of a protocol that `iptables-save` names or numbers.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| name.parse().ok())
}

fn protocol(name: &str) -> Option<Test> {
    let number = protocol_number(name)?;
    Some(Test::Compare(Value::field(Field::Protocol), Operator::Equal, vec![number]))
}

fn states(names: &str) -> Option<Test> {
    let states: Option<Vec<u16>> = names.split(',').map(xtables::state).collect();
    Some(xtables::states(states?.into_iter().sum()))
}

/// Returns the test for a mark, given as `VALUE/MASK` in hexadecimal.
fn mark(text: &str) -> Option<Test> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (mark, bits) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let value = Value::Of(Field::Mark, Some(number(bits)?.to_ne_bytes().into()));
    Some(Test::Compare(value, Operator::Equal, number(mark)?.to_ne_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::passage::places;

    /// Returns the positions of passages, each with the foreign rule after it.
    fn placed(dump: &str) -> String {
        let saved = Saved::parse([], dump).unwrap();
        let rules = of_table(&saved, Table::Filter);
        let uplinks = [InterfaceName::try_from("eth0").unwrap()].into();
        let line = |(place, sides): (&crate::firewall::passage::Place, _)| {
            let mut others = saved.others(Table::Filter);
            let before = others.by_ref().filter(|rule| rule.chain == place.chain).nth(place.index);
            let before = before.map_or_else(|| "the end".to_owned(), |rule| rule.body.clone());
            let crate::firewall::passage::Sides { from, to } = sides;
            format!("{} before {before} (from {from}, to {to})", place.chain)
        };
        let places = places(&rules, names::iptables::FORWARD, &uplinks);
        places
            .into_iter()
            .map(|(place, sides)| line((&place, sides)))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn filter(rules: &str) -> String {
        format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n{rules}\nCOMMIT\n")
    }

    #[test]
    fn specific_rules_are_left_alone() {
        for rule in [
            "-s 203.0.113.9/32 -j DROP",
            "! -s 10.0.0.0/8 -j DROP",
            "-p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset",
            "-p tcp -m multiport --dports 25,465 -j DROP",
            "-m set --match-set banned src -j DROP",
            "-i wlan0 -j DROP",
            "-i br+ ! -o br+ -j DROP",
            "-m conntrack --ctstate INVALID -j DROP",
            "-m mark --mark 0x1/0x1 -j DROP",
            "-m limit --limit 1/sec -m comment --comment \"all -j DROP\" -j DROP",
            "-m physdev --physdev-is-bridged -j DROP",
            "-j NFQUEUE --queue-num 0",
            "-m comment --comment \"-j DROP\" -j LOG --log-prefix \"-j DROP\"",
            "-f -j DROP",
        ] {
            assert_eq!(placed(&filter(&format!("-A FORWARD {rule}"))), "", "{rule}");
        }
    }

    #[test]
    fn rules_that_drop_our_traffic_are_found() {
        for rule in [
            "-j DROP",
            "-j REJECT --reject-with icmp-port-unreachable",
            "-p tcp -j REJECT --reject-with tcp-reset",
            "! -i docker0 -j DROP",
            "-m conntrack --ctstate NEW,RELATED -j DROP",
            "-m state --state NEW -j DROP",
            "-m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP",
            "-m mark ! --mark 0x1/0x1 -j DROP",
            "-m comment --comment \"the rest\" -j DROP",
            "-i + -j DROP",
        ] {
            let found = placed(&filter(&format!(
                "-A FORWARD -s 203.0.113.9/32 -j DROP\n-A FORWARD {rule}"
            )));
            assert!(found.starts_with(&format!("FORWARD before {rule} (")), "{rule}: {found}");
        }
    }

    #[test]
    fn rules_for_single_addresses_can_be_left_out() {
        let bodies = [
            ("-s 203.0.113.9/32 -j DROP", true),
            ("! -d 10.0.0.0/8 -i eth0 -p tcp -m tcp --dport 25 -j ACCEPT", true),
            ("-s 203.0.113.9/32 -j REJECT --reject-with icmp-port-unreachable", false),
            ("-s 203.0.113.9/32 -m comment --comment \"x\" -j DROP", false),
            ("-s 203.0.113.9/32 -j OTHER", false),
            ("-i eth0 -j DROP", false),
            ("-j DROP", false),
        ];
        for (body, left_out) in bodies {
            assert_eq!(is_ban(body), left_out, "{body}");
            let whole = translate_whole(body, |_| true, test);
            assert!(!left_out || whole.is_specific() && whole.targets().is_empty(), "{whole:?}");
        }
    }

    fn dump(name: &str) -> String {
        let dumps = [
            ("docker-20.10", include_str!("dumps/docker-20.10")),
            ("docker-28", include_str!("dumps/docker-28")),
            ("docker-29", include_str!("dumps/docker-29")),
            ("ufw", include_str!("dumps/ufw")),
            ("firewalld", include_str!("dumps/firewalld")),
            ("openwrt", include_str!("dumps/openwrt")),
        ];
        dumps.into_iter().find(|(known, _)| *known == name).unwrap().1.to_owned()
    }

    #[test]
    fn docker() {
        // Only the policy drops; the operator's bans are in DOCKER-USER.
        let end = "FORWARD before the end (from true, to true)";
        for version in ["docker-20.10", "docker-28", "docker-29"] {
            assert_eq!(placed(&dump(version)), end, "{version}");
            assert_eq!(placed(&dump(version).replace(":FORWARD DROP", ":FORWARD ACCEPT")), "");
        }
    }

    #[test]
    fn ufw() {
        let end = "FORWARD before the end (from true, to true)";
        assert_eq!(placed(&dump("ufw")), end);
        let reject = dump("ufw").replace(":FORWARD DROP", ":FORWARD ACCEPT")
            + "*filter\n-A ufw-reject-forward -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
        let before = "ufw-reject-forward before -j REJECT --reject-with icmp-port-unreachable";
        assert_eq!(placed(&reject), format!("{before} (from true, to true)"));
    }

    #[test]
    fn firewalld() {
        // The chain of the zone is reached from two rules, both for interfaces.
        let reject = "-j REJECT --reject-with icmp-host-prohibited (from true, to false)";
        assert_eq!(placed(&dump("firewalld")), format!("FWD_public before {reject}"));
    }

    #[test]
    fn openwrt() {
        // The chain `reject` also refuses packets to the host: the passages stand before the rules that lead there.
        let forward = "FORWARD before -j reject (from true, to true)";
        let wan = "zone_wan_forward before -j reject (from false, to true)";
        let found = placed(&dump("openwrt"));
        assert_eq!(found, [forward, wan].join("\n"));
    }
}
