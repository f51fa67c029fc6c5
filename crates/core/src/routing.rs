//! Decides the routing rules that lead packets to guests, and answers of guests to the uplink that was asked. Pure.
//!
//! The routes to guests are in the table `main`. An earlier rule of another program may look up another table for
//! packets to guests; then a rule of ours before it leads them to `main`.
//!
//! A host with several uplinks often has rules by source address: packets from the address of its second uplink leave
//! by that uplink. A guest's answer is routed while its source is the guest's own address, so such a rule misses it.
//! The firewall marks the connection with the uplink that it came in by, and a rule of ours sends answers with that
//! mark to the same table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::Ipv4Net;

use crate::model::{InterfaceName, MarkMask};

/// The mark of our rules: their protocol (`FRA_PROTOCOL`), an `R`. Nobody in the list of iproute2 (`rt_protos`) has it.
pub const PROTOCOL: u8 = b'R';
/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` of `<linux/rtnetlink.h>`.
pub const MAIN: u32 = 254;
const LOCAL: u32 = 255;
/// The priority of the kernel's rule for `main` (`fib_default_rules_init` of `net/ipv4/fib_rules.c`).
const PRIORITY_OF_MAIN: u32 = 32_766;
/// The prefix length of the routes to guests.
const TO_GUEST: u32 = 30;

/// A routing rule of IPv4 (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// The priority: rules are tried from the lowest on.
    pub priority: u32,
    /// The program that made it ([`PROTOCOL`] is ours); 0 if that is unknown.
    pub protocol: u8,
    /// The sources that it is for; `None` is any.
    pub from: Option<Ipv4Net>,
    /// The destinations that it is for; `None` is any.
    pub to: Option<Ipv4Net>,
    /// The value of these bits of the packet's mark, and the bits; `None` is any.
    pub mark: Option<(u32, u32)>,
    /// True if it has other conditions as well.
    pub narrowed: bool,
    /// The table that it looks up; `None` if it refuses packets, or goes on at another rule.
    pub table: Option<u32>,
    /// Routes whose prefix is not longer than this are passed over.
    pub suppressed: Option<u32>,
}

/// The path of answers whose source is an address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPath {
    /// The interface that they leave by.
    pub uplink: InterfaceName,
    /// The table with that route.
    pub table: u32,
}

/// The mark of each uplink whose answers have a table of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkMarks {
    mask: MarkMask,
    numbers: BTreeMap<InterfaceName, u32>,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// The rules that must exist.
    pub rules: BTreeSet<RoutingRule>,
    /// A rule of another program that may take packets to guests, and before which there is no room for ours.
    pub unanswered: Option<RoutingRule>,
}

impl RoutingRule {
    /// Reports whether it is one of ours.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Reports whether it leads each packet to the pool to the routes of guests.
    fn leads_to_guests(&self, pool: Ipv4Net) -> bool {
        self.table == Some(MAIN)
            && !self.narrowed
            && (self.from, self.mark) == (None, None)
            && self.to.is_none_or(|to| to.contains(&pool))
            && self.suppressed.is_none_or(|length| length < TO_GUEST)
    }

    /// Reports whether it may lead a packet to the pool elsewhere.
    fn may_take(&self, pool: Ipv4Net) -> bool {
        let meets = self.to.is_none_or(|to| to.contains(&pool) || pool.contains(&to));
        meets && !matches!(self.table, Some(MAIN | LOCAL))
    }
}

impl fmt::Display for RoutingRule {
    /// Writes the rule as ip-rule(8) shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from ", self.priority)?;
        match self.from {
            Some(from) => from.fmt(f)?,
            None => f.write_str("all")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " to {to}"))?;
        self.mark.map_or(Ok(()), |(mark, mask)| write!(f, " fwmark {mark:#x}/{mask:#x}"))?;
        match self.table {
            Some(MAIN) => f.write_str(" lookup main"),
            Some(table) => write!(f, " lookup {table}"),
            None => Ok(()),
        }
    }
}

impl UplinkMarks {
    /// Gives each of these uplinks a number. One that had a number keeps it, as connections bear it; `recorded` is what
    /// `to_string` made of the former ones. Uplinks beyond [`MarkMask::UPLINKS`] get none.
    #[must_use]
    pub fn new<'a>(
        mask: MarkMask,
        uplinks: impl Iterator<Item = &'a InterfaceName> + Clone,
        recorded: Option<&str>,
    ) -> Self {
        let former: BTreeMap<_, _> =
            recorded.unwrap_or_default().split(' ').filter_map(read).collect();
        let stays = |name: &InterfaceName| Some((name.clone(), *former.get(name)?));
        let mut numbers: BTreeMap<_, _> = uplinks.clone().filter_map(stays).collect();
        for name in uplinks {
            let is_free = |number: &u32| !numbers.values().any(|taken| taken == number);
            let free = (1..=MarkMask::UPLINKS).find(is_free);
            if let (false, Some(number)) = (numbers.contains_key(name), free) {
                numbers.insert(name.clone(), number);
            }
        }
        Self { mask, numbers }
    }

    /// Returns the bits of marks that hold an uplink.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.mask.of_uplinks()
    }

    /// Returns each uplink with its mark.
    pub fn marks(&self) -> impl Iterator<Item = (&InterfaceName, u32)> {
        self.numbers.iter().map(|(name, number)| (name, self.mask.uplink(*number)))
    }

    /// Reports whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

impl fmt::Display for UplinkMarks {
    /// Writes the record: `eth0:1 eth1:2`. No name has a colon or white space in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.numbers.iter().map(|(name, number)| format!("{name}:{number}")).collect();
        f.write_str(&words.join(" "))
    }
}

fn read(word: &str) -> Option<(InterfaceName, u32)> {
    let (name, number) = word.split_once(':')?;
    let number = number.parse().ok().filter(|number| (1..=MarkMask::UPLINKS).contains(number))?;
    Some((InterfaceName::try_from(name).ok()?, number))
}

/// Returns the sources for which foreign rules look up a table of their own.
#[must_use]
pub fn sources(rules: &[RoutingRule]) -> BTreeSet<Ipv4Net> {
    let others = rules.iter().filter(|rule| !rule.is_ours() && !rule.narrowed);
    let by_source = others.filter(|rule| (rule.to, rule.mark) == (None, None));
    let own_table = by_source.filter(|rule| rule.table.is_some_and(|table| table != MAIN));
    own_table.filter_map(|rule| rule.from).collect()
}

/// Decides the rules, given all rules of the host, in their order, and the table of each uplink.
///
/// Our rules come directly before the first rule of another program that may take packets to guests, or before `main`.
#[must_use]
pub fn decide(
    pool: Ipv4Net,
    rules: &[RoutingRule],
    marks: &UplinkMarks,
    tables: &BTreeMap<InterfaceName, u32>,
) -> Routing {
    let others = rules.iter().filter(|rule| !rule.is_ours());
    let before_main = others.take_while(|rule| !rule.leads_to_guests(pool));
    let taker = before_main.into_iter().find(|rule| rule.may_take(pool));
    let place = taker.map_or(PRIORITY_OF_MAIN, |rule| rule.priority);
    // Our rules get the next lower priority than the rule that they precede. 0 is the priority of the kernel's own
    // rule, before which there is no room.
    let Some(priority) = place.checked_sub(1).filter(|priority| *priority > 0) else {
        return Routing { rules: BTreeSet::new(), unanswered: taker.cloned() };
    };
    let ours = RoutingRule {
        priority,
        protocol: PROTOCOL,
        from: None,
        to: None,
        mark: None,
        narrowed: false,
        table: Some(MAIN),
        suppressed: None,
    };
    let to_guests = taker.map(|_| RoutingRule { to: Some(pool), ..ours.clone() });
    let answers = marks.marks().filter_map(|(uplink, mark)| {
        let table = Some(*tables.get(uplink)?);
        Some(RoutingRule {
            from: Some(pool),
            mark: Some((mark, marks.bits())),
            table,
            ..ours.clone()
        })
    });
    Routing { rules: answers.chain(to_guests).collect(), unanswered: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Ipv4Net {
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
            from: words[0].parse().ok(),
            to: after("to").map(|to| to.parse().unwrap()),
            mark: after("fwmark").map(mark).map(|[mark, mask]| (mark, mask)),
            narrowed: words.contains(&"!"),
            table: after("lookup").map(|table| table.parse().unwrap_or(MAIN)),
            suppressed: after("suppress").map(|length| length.parse().unwrap()),
        }
    }

    fn decided(rules: &[&str]) -> Vec<String> {
        let local = rule("0: from all lookup 255");
        let main = rule("32766: from all lookup main");
        let rules = rules.iter().map(|text| rule(text));
        let mut all: Vec<_> = [local].into_iter().chain(rules).chain([main]).collect();
        let names = ["eth0", "eth1"].map(|name| InterfaceName::try_from(name).unwrap());
        let marks = UplinkMarks::new(MarkMask::default(), names.iter().skip(1), None);
        let tables = names.into_iter().zip([MAIN, 100]).collect();
        let marks = if all.iter().any(|rule| rule.table == Some(100)) {
            marks
        } else {
            UplinkMarks::default()
        };
        let routing = decide(pool(), &all, &marks, &tables);
        // Our own rules do not affect the decision.
        all.extend(routing.rules.iter().cloned());
        all.sort();
        assert_eq!(decide(pool(), &all, &marks, &tables), routing);
        let unanswered = routing.unanswered.iter().map(|rule| format!("! {rule}"));
        routing.rules.iter().map(ToString::to_string).chain(unanswered).collect()
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
        assert_eq!(decided(&["2: from all lookup 7"]).len(), 1);
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

    #[test]
    fn an_uplink_keeps_its_number() {
        let names = |text: &str| -> Vec<InterfaceName> {
            text.split_whitespace().map(|name| name.parse().unwrap()).collect()
        };
        let marks = |text: &str, recorded| {
            UplinkMarks::new(MarkMask::default(), names(text).iter(), recorded).to_string()
        };
        assert_eq!(marks("eth1 wwan0", None), "eth1:1 wwan0:2");
        assert_eq!(marks("aaa0 wwan0", Some("eth1:1 wwan0:2")), "aaa0:1 wwan0:2");
        assert_eq!(
            marks("a b c d e f g h", Some("h:3 nonsense b:9")),
            "a:1 b:2 c:4 d:5 e:6 f:7 h:3"
        );
        assert_eq!(marks("", Some("eth1:1")), "");
    }
}
