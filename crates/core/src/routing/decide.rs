use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};

use super::{
    marks::UplinkMarks,
    rule::{MAIN, PROTOCOL, RoutingRule},
    way::{LONGEST_DEFAULT, UplinkRoute, Way},
};
use crate::model::{Family, InterfaceName};

/// The priority of the kernel's rule for `main` (`fib_default_rules_init` of `net/ipv4/fib_rules.c`).
const PRIORITY_OF_MAIN: u32 = 32_766;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// The rules that must exist.
    pub rules: BTreeSet<RoutingRule>,
    /// The routes that must exist in tables of ours.
    pub routes: BTreeSet<UplinkRoute>,
    /// A rule of another program that may take packets to or from guests, and before which there is no room for ours.
    pub unanswered: Option<RoutingRule>,
}

/// Returns the sources for which foreign rules look up a table of their own.
#[must_use]
pub fn sources(rules: &[RoutingRule]) -> BTreeSet<Ipv4Net> {
    let others = rules.iter().filter(|rule| !rule.is_ours() && !rule.narrowed && !rule.from_host);
    let by_source = others.filter(|rule| (rule.to, rule.mark) == (None, None));
    let own_table = by_source.filter(|rule| rule.table.is_some_and(|table| table != MAIN));
    let of_ipv4 = |from| match from {
        IpNet::V4(from) => Some(from),
        IpNet::V6(_) => None,
    };
    own_table.filter_map(|rule| rule.from.and_then(of_ipv4)).collect()
}

/// Decides the rules and routes for packets of the pool's family, given all rules of the host, in their order, and the way
/// out of each uplink.
///
/// Our rules come directly before the first rule of another program that may take packets to guests, or answers of
/// guests; or before `main`.
///
/// Guests are kept apart even while the firewall has no rules: a packet from a guest's address to another guest is routed
/// only if it is the host's own, or has the mark that the firewall gives to what an exposure translated.
#[must_use]
pub fn decide(
    pool: impl Into<IpNet>,
    rules: &[RoutingRule],
    marks: &UplinkMarks,
    ways: &BTreeMap<InterfaceName, Way>,
) -> Routing {
    let pool = pool.into();
    let family = Family::of_network(pool);
    let others = || rules.iter().filter(|rule| !rule.is_ours() && rule.family == family);
    let taker =
        others().take_while(|rule| !rule.leads_to_guests(pool)).find(|rule| rule.may_take(pool));
    let of_answers =
        others().find(|rule| rule.may_take_answers(pool)).filter(|_| !marks.is_empty());
    let first = taker.into_iter().chain(of_answers).min_by_key(|rule| rule.priority);
    let place = first.map_or(PRIORITY_OF_MAIN, |rule| rule.priority.min(PRIORITY_OF_MAIN));
    let ours = |priority| looking_up_main(family, priority);
    let unanswered = || first.cloned();
    let Some(last) = before(place, 1) else {
        return Routing { unanswered: unanswered(), ..Routing::default() };
    };
    let mut routing = Routing::default();
    let within = others().find(|rule| rule.may_lead_within(pool));
    let place_within = within.map_or(place, |rule| rule.priority.min(place));
    match (before(place_within, 4), before(place_within, 3)) {
        (Some(earlier), Some(later)) => {
            let (from, to, mark) = (Some(pool), Some(pool), Some((marks.asked(), marks.asked())));
            let within = |priority| RoutingRule { from, to, ..ours(priority) };
            routing.rules.extend([
                RoutingRule { from_host: true, ..within(earlier) },
                RoutingRule { mark, ..within(earlier) },
                RoutingRule { table: None, prohibits: true, ..within(later) },
            ]);
        }
        _ => routing.unanswered = within.or(first).cloned(),
    }
    routing.rules.extend(taker.map(|_| RoutingRule { to: Some(pool), ..ours(last) }));
    let tables: BTreeMap<_, _> = marks.tables().collect();
    for (uplink, mark) in marks.marks() {
        let answers =
            |rule| RoutingRule { from: Some(pool), mark: Some((mark, marks.bits())), ..rule };
        match (ways.get(uplink), tables.get(uplink), before(place, 2)) {
            (Some(Way::Table(table)), ..) => {
                routing.rules.insert(RoutingRule { table: Some(*table), ..answers(ours(last)) });
            }
            (Some(Way::Hop(hop)), Some(&table), Some(earlier)) => {
                // Routes to particular networks are valid for answers too: only default routes are passed over.
                let suppressed = Some(u32::from(LONGEST_DEFAULT));
                routing.rules.insert(RoutingRule { suppressed, ..answers(ours(earlier)) });
                routing.rules.insert(RoutingRule { table: Some(table), ..answers(ours(last)) });
                routing.routes.insert(UplinkRoute { table, uplink: uplink.clone(), hop: *hop });
            }
            (Some(Way::Hop(_)), ..) => routing.unanswered = unanswered(),
            (None, ..) => {}
        }
    }
    routing
}

/// Returns a rule of ours for all packets of a family.
fn looking_up_main(family: Family, priority: u32) -> RoutingRule {
    RoutingRule {
        priority,
        protocol: PROTOCOL,
        family,
        from: None,
        to: None,
        mark: None,
        from_host: false,
        narrowed: false,
        table: Some(MAIN),
        prohibits: false,
        suppressed: None,
    }
}

/// Returns the priority that is this much lower; `None` if it would be 0, the priority of the kernel's own rule.
fn before(place: u32, steps: u32) -> Option<u32> {
    place.checked_sub(steps).filter(|priority| *priority > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::MarkMask, routing::NextHop};

    fn pool() -> IpNet {
        "10.231.0.0/16".parse().unwrap()
    }

    /// Reads a rule as it is shown; `!` stands for another condition, `>N` for a suppressed prefix.
    fn rule(text: &str) -> RoutingRule {
        let (priority, rest) = text.split_once(": from ").unwrap();
        let words: Vec<_> = rest.split(' ').collect();
        let after = |word: &str| Some(words[words.iter().position(|w| *w == word)? + 1]);
        let mark = |text: &str| {
            let (value, bits) = text.split_once('/').unwrap();
            [value, bits].map(|n| u32::from_str_radix(n.trim_start_matches("0x"), 16).unwrap())
        };
        RoutingRule {
            priority: priority.parse().unwrap(),
            protocol: 3,
            family: if text.contains("::/") { Family::V6 } else { Family::V4 },
            from: words[0].parse().ok(),
            to: after("to").map(|to| to.parse().unwrap()),
            mark: after("fwmark").map(mark).map(|[mark, mask]| (mark, mask)),
            from_host: words.contains(&"iif"),
            narrowed: words.contains(&"!"),
            prohibits: words.contains(&"prohibit"),
            table: after("lookup").map(|table| table.parse().unwrap_or(MAIN)),
            suppressed: after("suppress").map(|length| length.parse().unwrap()),
        }
    }

    fn decided(rules: &[&str]) -> Vec<String> {
        let local = rule("0: from all lookup 255");
        let main = rule("32766: from all lookup main");
        let rules = rules.iter().map(|text| rule(text));
        let mut all: Vec<_> = [local].into_iter().chain(rules).chain([main]).collect();
        let by_source = all.iter().any(|rule| rule.table == Some(100));
        let ways = if by_source { ways(&[("eth1", Way::Table(100))]) } else { ways(&[]) };
        decided_by(&mut all, &ways)
    }

    fn ways(of: &[(&str, Way)]) -> BTreeMap<InterfaceName, Way> {
        of.iter().map(|(name, way)| (name.parse().unwrap(), way.clone())).collect()
    }

    /// Returns the decision, a line for each part.
    fn decided_by(all: &mut Vec<RoutingRule>, ways: &BTreeMap<InterfaceName, Way>) -> Vec<String> {
        let marks = UplinkMarks::new(MarkMask::default(), ways, None);
        let routing = decide(pool(), all, &marks, ways);
        // Our own rules do not affect the decision.
        all.extend(routing.rules.iter().cloned());
        all.sort();
        assert_eq!(decide(pool(), all, &marks, ways), routing);
        let unanswered = routing.unanswered.iter().map(|rule| format!("! {rule}"));
        let routes = routing.routes.iter().map(ToString::to_string);
        let rules = routing.rules.iter().filter(|rule| (rule.from, rule.to) != within());
        rules.map(ToString::to_string).chain(routes).chain(unanswered).collect()
    }

    /// Returns the ends of the rules that keep guests apart.
    fn within() -> (Option<IpNet>, Option<IpNet>) {
        (Some(pool()), Some(pool()))
    }

    /// Returns the rules that keep guests apart.
    fn apart(others: &[&str]) -> Vec<String> {
        let mut rules: Vec<_> = others.iter().map(|text| rule(text)).collect();
        rules.extend([rule("0: from all lookup 255"), rule("32766: from all lookup main")]);
        rules.sort();
        let decided = decide(pool(), &rules, &UplinkMarks::default(), &ways(&[]));
        let rules = decided.rules.iter().filter(|rule| (rule.from, rule.to) == within());
        rules.map(ToString::to_string).collect()
    }

    #[test]
    fn guests_are_kept_apart_before_any_rule_that_leads_to_them() {
        let expected = |place: u32| {
            let (earlier, later) = (place - 4, place - 3);
            let within = "from 10.231.0.0/16 to 10.231.0.0/16";
            [
                format!("{earlier}: {within} iif lo lookup main"),
                format!("{earlier}: {within} fwmark 0x40/0x40 lookup main"),
                format!("{later}: {within} prohibit"),
            ]
        };
        let sorted = |rules: &[&str]| {
            let mut found = apart(rules);
            found.sort_by_key(|rule| (rule.contains("prohibit"), !rule.contains("iif")));
            found
        };
        assert_eq!(sorted(&[]), expected(32_766));
        for other in [
            "100: from all lookup main",
            "100: from all to 10.0.0.0/8 lookup main",
            "100: from 10.231.0.6/32 lookup 7",
            "100: from all ! lookup 7",
        ] {
            assert_eq!(sorted(&[other]), expected(100), "{other}");
        }
        for other in [
            "100: from 10.19.0.1/32 lookup main",
            "100: from all to 10.9.0.0/16 lookup 7",
            "100: from all iif lo lookup main",
        ] {
            assert_eq!(sorted(&[other])[2], expected(32_766)[2], "{other}");
        }
        assert_eq!(apart(&["4: from all lookup main"]), [""; 0], "there is no room");
        assert_eq!(decided(&["4: from all lookup main"]), ["! 4: from all lookup main"]);
    }

    #[test]
    fn guests_are_kept_apart_in_both_families() {
        let pool: IpNet = "fd52:494b::/64".parse().unwrap();
        let v6 = |text: &str| RoutingRule { family: Family::V6, ..rule(text) };
        let decided = |rules: &[RoutingRule]| -> Vec<_> {
            let decided = decide(pool, rules, &UplinkMarks::default(), &ways(&[]));
            assert!(decided.rules.iter().all(|rule| rule.family == Family::V6));
            decided.rules.iter().map(ToString::to_string).collect()
        };
        let expected = |place: u32| {
            let (earlier, later) = (place - 4, place - 3);
            let within = "from fd52:494b::/64 to fd52:494b::/64";
            [
                format!("{earlier}: {within} iif lo lookup main"),
                format!("{earlier}: {within} fwmark 0x40/0x40 lookup main"),
                format!("{later}: {within} prohibit"),
            ]
        };
        let sorted = |rules: &[RoutingRule]| {
            let mut found = decided(rules);
            found.sort_by_key(|rule| (rule.contains("prohibit"), !rule.contains("iif")));
            found
        };
        let main = || v6("32766: from all lookup main");
        assert_eq!(sorted(&[v6("0: from all lookup 255"), main()]), expected(32_766));
        let other = "100: from all lookup 7";
        assert_eq!(sorted(&[rule(other), main()]), expected(32_766), "one of IPv4");
        let found = sorted(&[v6(other), main()]);
        assert!(expected(100).iter().all(|rule| found.contains(rule)), "{found:?}");
        assert!(
            found.contains(&"99: from all to fd52:494b::/64 lookup main".to_owned()),
            "{found:?}"
        );
    }

    #[test]
    fn a_host_without_rules_of_its_own_gets_none() {
        assert_eq!(decided(&[]), [""; 0]);
        assert_eq!(decided(&["100: from all to 10.9.0.0/16 lookup 7"]), [""; 0]);
        assert_eq!(decided(&["100: from 10.9.0.1 lookup main"]), [""; 0]);
        // These are the rules of wg-quick(8): the routes of main come first, except for the default route.
        let wireguard =
            ["32764: from all lookup main suppress 0", "32765: from all ! lookup 51820"];
        assert_eq!(decided(&wireguard), [""; 0]);
    }

    #[test]
    fn ours_precede_rules_that_may_take_packets_to_guests() {
        let to_guests =
            |priority: u32| [format!("{priority}: from all to 10.231.0.0/16 lookup main")];
        for rule in [
            "from all lookup 7",
            "from all to 10.0.0.0/8 lookup 7",
            "from all ! lookup 7",
            "from all",
        ] {
            assert_eq!(decided(&[&format!("700: {rule}")]), to_guests(699), "{rule}");
        }
        let marked = ["700: from all fwmark 0x80000/0xff0000 lookup 52", "800: from all lookup 7"];
        assert_eq!(decided(&marked), to_guests(699));
        let suppressed = ["600: from all lookup main suppress 30", "700: from all lookup 7"];
        assert_eq!(decided(&suppressed), to_guests(699));
    }

    #[test]
    fn nothing_precedes_the_first_rules() {
        assert_eq!(decided(&["1: from all lookup 7"]), ["! 1: from all lookup 7"]);
        assert_eq!(decided(&["0: from all lookup 7"]), ["! 0: from all lookup 7"]);
        let in_time = decided(&["5: from all lookup 7"]);
        assert_eq!(in_time, ["4: from all to 10.231.0.0/16 lookup main"]);
    }

    #[test]
    fn answers_take_the_table_of_their_uplink() {
        assert_eq!(
            decided(&["32765: from 10.19.0.1/32 lookup 100"]),
            [
                "32764: from all to 10.231.0.0/16 lookup main",
                "32764: from 10.231.0.0/16 fwmark 0x1/0x7 lookup 100",
            ]
        );
    }

    #[test]
    fn sources_are_those_with_a_table_of_their_own() {
        let rules = [
            "1: from 10.19.0.1/32 lookup 100",
            "2: from 10.29.0.0/24 lookup 101",
            "3: from 10.39.0.1/32 lookup main",
            "4: from 10.49.0.1/32 ! lookup 102",
            "5: from 10.59.0.1/32 to 10.0.0.0/8 lookup 103",
            "6: from all lookup 104",
        ];
        let found = sources(&rules.map(rule)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found, ["10.19.0.1/32", "10.29.0.0/24"]);
    }

    /// Returns the decision for a host with two uplinks and these rules.
    fn with_two_uplinks(rules: &[&str]) -> Vec<String> {
        let hop = |gateway| NextHop { gateway: Some([192, 0, 2, gateway].into()), mtu: None };
        let ways = ways(&[
            ("eth0", Way::Hop(hop(1))),
            ("wg0", Way::Hop(NextHop { mtu: Some(1420), ..NextHop::default() })),
        ]);
        let mut all: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        all.extend([rule("0: from all lookup 255"), rule("32766: from all lookup main")]);
        all.sort();
        decided_by(&mut all, &ways)
    }

    #[test]
    fn answers_take_the_default_route_of_their_uplink() {
        let expected = |place: u32| {
            let (main, own) = (place - 2, place - 1);
            let from = "from 10.231.0.0/16 fwmark";
            let specific = "lookup main suppress_prefixlength 8";
            vec![
                format!("{main}: {from} 0x1/0x7 {specific}"),
                format!("{main}: {from} 0x2/0x7 {specific}"),
                format!("{own}: {from} 0x1/0x7 lookup 1380535041"),
                format!("{own}: {from} 0x2/0x7 lookup 1380535042"),
                "default via 192.0.2.1 dev eth0 table 1380535041".to_owned(),
                "default dev wg0 table 1380535042 mtu 1420".to_owned(),
            ]
        };
        assert_eq!(with_two_uplinks(&[]), expected(32_766));
        // These are the rules of wg-quick(8), of Tailscale, and of an administrator.
        let wireguard = [
            "32764: from all lookup main suppress 0",
            "32765: from all ! fwmark 0xca6c/0xffffffff lookup 51820",
        ];
        assert_eq!(with_two_uplinks(&wireguard), expected(32_764));
        let marked = "5230: from all fwmark 0x80000/0xff0000 lookup 253";
        assert_eq!(with_two_uplinks(&[marked]).len(), 7, "it may take packets to guests");
        for others in [
            "100: from all to 10.9.0.0/16 lookup 7",
            "100: from 10.9.0.1/32 lookup main",
            "100: from 10.231.0.0/16 to 198.51.100.0/24",
        ] {
            assert_eq!(with_two_uplinks(&[others]), expected(32_766), "{others}");
        }
        assert_eq!(with_two_uplinks(&["100: from all lookup main"]), expected(100));
    }

    #[test]
    fn answers_need_two_priorities() {
        let rule = "2: from all lookup main";
        assert_eq!(with_two_uplinks(&[rule]), [format!("! {rule}")]);
        assert_eq!(with_two_uplinks(&["5: from all lookup main"]).len(), 6);
    }
}
