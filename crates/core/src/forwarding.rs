//! Decides which interfaces of the host forward packets to our guests, and which packets must not pass because of that.
//! Pure.
//!
//! The kernel forwards a packet if the interface that it came in by has its own switch on, whatever
//! `net.ipv4.ip_forward` says. We never write that sysctl. While it is 0, we turn on the switches of the interfaces
//! that clients use, and confine all other packets that these would forward, as long as a daemon is notified of
//! changes. Once it is 1, another program wants packets forwarded, and is responsible for them.
//!
//! IPv6 has switches of its own ([`switch::of`]), so there is a record for each family. The kernel asks for the switch of an
//! interface only while the host as a whole does not forward.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    firewall::Confinement,
    link::HostInterface,
    model::{Family, InterfaceName, Slot},
    switch,
};

/// The value of a switch that is off.
pub const OFF: &str = "0";
/// The value of a switch that is on.
pub const ON: &str = "1";

/// The stored state of forwarding.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The family of the packets that are forwarded.
    family: Family,
    /// The sysctls that were changed, with their former values.
    former: BTreeMap<String, String>,
    /// The interfaces that existed when the first one was switched on; `None` if that has not happened yet.
    neighbours: Option<Neighbours>,
}

type Neighbours = BTreeMap<InterfaceName, Neighbour>;

/// An interface as it was when the first one was switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Neighbour {
    /// A later interface of the same name has another number.
    index: u32,
    bridge: bool,
}

/// The host as observed.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// True if the host forwards as a whole (`net.ipv4.ip_forward`, or `net.ipv6.conf.all.forwarding`).
    pub globally: bool,
    /// The interfaces of the default route.
    pub uplinks: &'a BTreeSet<InterfaceName>,
    /// All interfaces of the host, if they were listed.
    pub interfaces: Option<&'a BTreeMap<InterfaceName, HostInterface>>,
}

/// The decision.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    /// The interfaces whose switches must be on.
    pub needed: BTreeSet<InterfaceName>,
    /// Those of them that are switched on for the first time. They are recorded before.
    pub switched: BTreeSet<InterfaceName>,
    /// Recorded sysctls that no longer matter.
    pub forgotten: BTreeSet<String>,
    /// The neighbours to record, if they have changed.
    pub neighbours: Option<String>,
    /// The traffic that the firewall must drop.
    pub confined: Confinement,
    /// The traffic that passes because no process is notified of changes. A process that is notified confines it.
    pub open: Confinement,
}

impl Recorded {
    /// Reads the sysctls, of both families, and the neighbours as the store has them. Neighbours that cannot be read are
    /// left out.
    #[must_use]
    pub fn new(
        family: Family,
        mut former: BTreeMap<String, String>,
        neighbours: Option<&str>,
    ) -> Self {
        // Earlier versions recorded what is no switch, of IPv4.
        let is_v6 = |name: &str| switch::interface_of(Family::V6, name).is_some();
        former.retain(|name, _| is_v6(name) == (family == Family::V6));
        Self { family, former, neighbours: neighbours.map(read) }
    }

    /// Returns the family of the packets that are forwarded.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Returns the interfaces that we switched on.
    pub fn switched(&self) -> impl Iterator<Item = InterfaceName> {
        let off = self.former.iter().filter(|(_, former)| *former == OFF);
        off.filter_map(|(name, _)| switch::interface_of(self.family, name)).filter(is_of_clients)
    }

    /// Reports whether an earlier version made the record, which wrote `net.ipv4.ip_forward`.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.former.contains_key(switch::IP_FORWARD)
    }

    /// Reports whether the decision needs a list of the host's interfaces.
    #[must_use]
    pub fn needs_list(&self, globally: bool) -> bool {
        self.is_inherited() || !globally && self.neighbours.is_none()
    }

    /// Returns the interfaces whose switches must be on, because packets to guests come in by them.
    ///
    /// Answers to guests come in by the uplinks. Clients ask for published ports at every interface that has an
    /// address. A bridge that was added later is the network of another program, and is left to it. If the host
    /// forwards as a whole, its own settings apply to all interfaces except the uplinks, and with IPv6 to these as well.
    #[must_use]
    pub fn needed(&self, sight: Sight<'_>) -> BTreeSet<InterfaceName> {
        if sight.globally && self.family == Family::V6 {
            return BTreeSet::new();
        }
        let mut needed = sight.uplinks.clone();
        if !sight.globally {
            let came_later = |name: &InterfaceName| {
                self.neighbours.as_ref().is_some_and(|known| !known.contains_key(name))
            };
            let listed = sight.interfaces.into_iter().flatten();
            let asked = listed
                .filter(|(name, i)| i.has_address(self.family) && !(i.bridge && came_later(name)));
            needed.extend(asked.map(|(name, _)| name.clone()));
            if !self.is_inherited() {
                needed.extend(self.switched());
            }
        }
        needed.retain(is_of_clients);
        needed
    }

    /// Decides, given what is `needed` and which of these are `off` and not recorded yet.
    ///
    /// `heard` is true if a process is notified when `net.ipv4.ip_forward` is set, and then lifts the confinement.
    /// Without such a process, nothing is confined: the rule would outlast the reason for it.
    #[must_use]
    pub fn decide(
        &self,
        sight: Sight<'_>,
        heard: bool,
        needed: BTreeSet<InterfaceName>,
        off: BTreeSet<InterfaceName>,
    ) -> Forwarding {
        let forgotten = if self.is_inherited() { self.not_ours(sight) } else { BTreeSet::new() };
        let is_kept = |name: &_| !forgotten.contains(&switch::of(self.family, name));
        let kept = self.switched().filter(is_kept);
        let switched: BTreeSet<_> = kept.chain(off.iter().cloned()).collect();
        let neighbours = self.neighbours(sight, &off);
        let (mut confined, mut open) = (Confinement::default(), Confinement::default());
        if !sight.globally {
            let known = || neighbours.iter().flatten();
            let to: BTreeSet<_> = known().map(|(name, _)| name.clone()).collect();
            let bridges = known().filter(|(_, neighbour)| neighbour.bridge);
            let bridges: BTreeSet<_> = bridges.map(|(name, _)| name.clone()).collect();
            let passes = Confinement::new(switched, to, bridges);
            *(if heard { &mut confined } else { &mut open }) = passes;
        }
        let neighbours = neighbours.filter(|_| sight.interfaces.is_some());
        let neighbours = neighbours.filter(|found| self.neighbours.as_ref() != Some(found));
        let neighbours = neighbours.as_ref().map(text);
        Forwarding { needed, switched: off, forgotten, neighbours, confined, open }
    }

    /// Returns the sysctls of an inherited record, which has every switch of the host, that we would not touch.
    fn not_ours(&self, sight: Sight<'_>) -> BTreeSet<String> {
        let serves = |name: InterfaceName| {
            let listed = sight.interfaces.and_then(|interfaces| interfaces.get(&name));
            let addressed = listed.is_some_and(|interface| interface.has_address(self.family));
            is_of_clients(&name) && (addressed || sight.uplinks.contains(&name))
        };
        let ours =
            |name: &str, former: &str| former == OFF && switch::interface(name).is_some_and(serves);
        let rest = self.former.iter().filter(|(name, former)| !ours(name, former));
        rest.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the neighbours, except those whose names belong to other interfaces by now.
    fn neighbours(&self, sight: Sight<'_>, off: &BTreeSet<InterfaceName>) -> Option<Neighbours> {
        let Some(interfaces) = sight.interfaces else { return self.neighbours.clone() };
        let neighbour = |(name, found): (&InterfaceName, &HostInterface)| {
            (name.clone(), Neighbour { index: found.index, bridge: found.bridge })
        };
        let Some(known) = &self.neighbours else {
            let was_there =
                |name| !self.is_inherited() || self.former.contains_key(&switch::forwarding(name));
            let there = interfaces.iter().filter(|(name, _)| was_there(name)).map(neighbour);
            return (!sight.globally || self.is_inherited()).then(|| there.collect());
        };
        let mut known = known.clone();
        known.retain(|name, was| interfaces.get(name).is_none_or(|found| found.index == was.index));
        known.extend(interfaces.iter().filter(|(name, _)| off.contains(*name)).map(neighbour));
        Some(known)
    }
}

/// Reports whether clients may use this interface. Packets that the host sends to itself by the loopback are not
/// forwarded.
fn is_of_clients(name: &InterfaceName) -> bool {
    name.as_str() != "lo" && Slot::of_interface(name.as_str()).is_none()
}

/// The mark of a bridge in the record.
const BRIDGE: &str = ":bridge";

/// Writes the record: `eth0:2 br0:3:bridge`. No name has a colon or white space in it.
fn text(neighbours: &Neighbours) -> String {
    let word = |(name, neighbour): (&InterfaceName, &Neighbour)| {
        format!("{name}:{}{}", neighbour.index, if neighbour.bridge { BRIDGE } else { "" })
    };
    neighbours.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn read(text: &str) -> Neighbours {
    let word = |word: &str| {
        let (plain, bridge) = match word.strip_suffix(BRIDGE) {
            Some(plain) => (plain, true),
            None => (word, false),
        };
        let (name, index) = plain.split_once(':')?;
        let neighbour = Neighbour { index: index.parse().ok()?, bridge };
        Some((InterfaceName::try_from(name).ok()?, neighbour))
    };
    text.split(' ').filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &str) -> BTreeSet<InterfaceName> {
        names.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    fn listed(names: &str) -> BTreeMap<InterfaceName, HostInterface> {
        let interface =
            |index| HostInterface { index, addressed: true, addressed_v6: true, bridge: false };
        set(names).into_iter().zip((2..).map(interface)).collect()
    }

    fn pairs(confined: &Confinement) -> Vec<String> {
        confined.pairs().map(|(from, to)| format!("{from} {to}")).collect()
    }

    #[test]
    fn recorded_neighbours_read_back() {
        let (bridge, plain) = ("br-0".parse().unwrap(), "eth0.1".parse().unwrap());
        let neighbours = Neighbours::from([
            (bridge, Neighbour { index: 7, bridge: true }),
            (plain, Neighbour { index: 2, bridge: false }),
        ]);
        assert_eq!(text(&neighbours), "br-0:7:bridge eth0.1:2");
        assert_eq!(read(&text(&neighbours)), neighbours);
        assert_eq!(read("nonsense a/b:1 eth0.1:2"), read("eth0.1:2"));
    }

    #[test]
    fn each_family_has_its_own_switches() {
        let switched = [
            (switch::IP_FORWARD, "1"),
            ("net.ipv4.conf.eth0.forwarding", "0"),
            ("net.ipv6.conf.eth1.force_forwarding", "0"),
        ];
        let former: BTreeMap<_, _> =
            switched.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let recorded = |family| Recorded::new(family, former.clone(), None);
        let names = |family| recorded(family).switched().collect::<BTreeSet<_>>();
        assert_eq!((names(Family::V4), names(Family::V6)), (set("eth0"), set("eth1")));
        assert!(recorded(Family::V4).is_inherited() && !recorded(Family::V6).is_inherited());
        let (uplinks, mut interfaces) = (set("eth0"), listed("eth0 lan0 tun0"));
        for (name, interface) in &mut interfaces {
            interface.addressed_v6 = name.as_str() == "lan0";
        }
        let sight = |globally| Sight { globally, uplinks: &uplinks, interfaces: Some(&interfaces) };
        let needed = |globally| recorded(Family::V6).needed(sight(globally));
        assert_eq!(needed(false), set("eth0 eth1 lan0"));
        assert_eq!(needed(true), set(""), "the kernel does not ask for them");
    }

    #[test]
    fn packets_back_out_of_their_interface_are_confined_unless_it_is_a_bridge() {
        let mut interfaces = listed("br0 eth0");
        for interface in interfaces.iter_mut().filter(|(name, _)| name.as_str() == "br0") {
            interface.1.bridge = true;
        }
        let uplinks = set("eth0");
        let sight = Sight { globally: false, uplinks: &uplinks, interfaces: Some(&interfaces) };
        let recorded = Recorded::new(Family::V4, BTreeMap::new(), None);
        let decision = |heard| recorded.decide(sight, heard, set("br0 eth0"), set("br0 eth0"));
        let expected = ["br0 eth0", "eth0 br0", "eth0 eth0"];
        assert_eq!(pairs(&decision(true).confined), expected);
        assert!(decision(true).open.is_empty());
        assert!(decision(false).confined.is_empty());
        assert_eq!(pairs(&decision(false).open), expected);
    }
}
