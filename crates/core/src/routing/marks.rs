use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::way::{TABLES, Way};
use crate::model::{InterfaceName, MarkMask};

/// Returns the numbers of all tables that may have routes of ours.
pub fn our_tables() -> impl Iterator<Item = u32> {
    (1..=MarkMask::UPLINKS).map(|number| TABLES | number)
}

/// The numbers of uplinks, and the mark of each whose answers need one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkMarks {
    mask: MarkMask,
    /// The numbers, also of uplinks that are gone: connections bear them.
    numbers: BTreeMap<InterfaceName, u32>,
    marked: BTreeSet<InterfaceName>,
}

impl UplinkMarks {
    /// Gives each of these uplinks a number, and a mark if answers could leave by a wrong one: if there are several, or
    /// if packets of the host take a table of their own.
    ///
    /// An uplink that had a number keeps it; `recorded` is the text that `to_string` made of the former ones. The number
    /// of an uplink that is gone is given to another only if all are taken. Uplinks beyond [`MarkMask::UPLINKS`] get
    /// none.
    #[must_use]
    pub fn new(
        mask: MarkMask,
        ways: &BTreeMap<InterfaceName, Way>,
        recorded: Option<&str>,
    ) -> Self {
        let mut numbers = read_all(recorded);
        for uplink in ways.keys() {
            if numbers.contains_key(uplink) {
                continue;
            }
            let is_free = |number: &u32| !numbers.values().any(|taken| taken == number);
            let free = (1..=MarkMask::UPLINKS).find(is_free).or_else(|| {
                let gone = numbers.keys().find(|name| !ways.contains_key(*name)).cloned()?;
                numbers.remove(&gone)
            });
            numbers.extend(free.map(|number| (uplink.clone(), number)));
        }
        let needed = ways.len() > 1 || ways.values().any(|way| matches!(way, Way::Table(_)));
        let marked = ways.keys().filter(|name| needed && numbers.contains_key(*name));
        Self { mask, marked: marked.cloned().collect(), numbers }
    }

    /// Returns the uplinks in the record.
    pub fn recorded(recorded: Option<&str>) -> impl Iterator<Item = InterfaceName> {
        read_all(recorded).into_keys()
    }

    /// Returns the bits of marks that hold an uplink.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.mask.of_uplinks()
    }

    /// Returns the bit of the mark of packets that guests send to an address of the host.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.mask.asked()
    }

    /// Returns the bit of the mark of packets of guests that the table of policies allows.
    #[must_use]
    pub fn allowed(&self) -> u32 {
        self.mask.allowed()
    }

    /// Returns each uplink that has a mark, with it.
    pub fn marks(&self) -> impl Iterator<Item = (&InterfaceName, u32)> {
        self.numbered().map(|(name, number)| (name, self.mask.uplink(number)))
    }

    /// Returns each uplink that has a mark, with our table for it.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&InterfaceName, u32)> {
        self.numbered().map(|(name, number)| (name, TABLES | number))
    }

    fn numbered(&self) -> impl Iterator<Item = (&InterfaceName, u32)> {
        let numbers = self.numbers.iter().filter(|(name, _)| self.marked.contains(*name));
        numbers.map(|(name, number)| (name, *number))
    }

    /// Reports whether no uplink has a mark.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marked.is_empty()
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

fn read_all(recorded: Option<&str>) -> BTreeMap<InterfaceName, u32> {
    recorded.unwrap_or_default().split(' ').filter_map(read).collect()
}

fn read(word: &str) -> Option<(InterfaceName, u32)> {
    let (name, number) = word.split_once(':')?;
    let number = number.parse().ok().filter(|number| (1..=MarkMask::UPLINKS).contains(number))?;
    Some((InterfaceName::try_from(name).ok()?, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::NextHop;

    fn marks(names: &str, recorded: Option<&str>) -> UplinkMarks {
        let hop = |name: &str| (name.parse().unwrap(), Way::Hop(NextHop::default()));
        let ways = names.split_whitespace().map(hop).collect();
        UplinkMarks::new(MarkMask::default(), &ways, recorded)
    }

    #[test]
    fn an_uplink_keeps_its_number_while_it_is_gone() {
        let named = |names: &str, recorded| marks(names, recorded).to_string();
        assert_eq!(named("eth1 wwan0", None), "eth1:1 wwan0:2");
        assert_eq!(named("aaa0 wwan0", Some("eth1:1 wwan0:2")), "aaa0:3 eth1:1 wwan0:2");
        assert_eq!(
            named("a b c d e f g h", Some("h:3 nonsense b:9")),
            "a:1 b:2 c:4 d:5 e:6 f:7 h:3"
        );
        assert_eq!(named("", Some("eth1:1")), "eth1:1");
        let full = Some("a:1 b:2 c:3 d:4 e:5 f:6 g:7");
        assert_eq!(named("a b c e f g z", full), "a:1 b:2 c:3 e:5 f:6 g:7 z:4");
    }

    #[test]
    fn only_uplinks_beside_others_have_marks() {
        let marked = |names: &str, recorded: &str| -> Vec<_> {
            let marks = marks(names, Some(recorded));
            marks.marks().map(|(name, mark)| format!("{name} {mark}")).collect()
        };
        assert_eq!(marked("eth0", "eth0:1 eth1:2"), [""; 0]);
        assert_eq!(marked("eth0 eth1", "eth1:1"), ["eth0 2", "eth1 1"]);
        assert_eq!(marked("a b c d e f g h", "").len(), 7);
        let table = [("eth1".parse().unwrap(), Way::Table(100))].into();
        assert!(!UplinkMarks::new(MarkMask::default(), &table, None).is_empty());
    }
}
