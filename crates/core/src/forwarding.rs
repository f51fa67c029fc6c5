//! Which interfaces of the host must forward for our guests, and what becomes possible by that. Pure.
//!
//! The kernel sends on what comes in by an interface whose own switch is on, whatever that of the host as a whole is:
//! `net.ipv4.ip_forward` is never written. Where it is off, an interface that clients ask at is switched on, and what
//! nobody wants sent on by that is confined. Where it is on, somebody else wants packets forwarded, and sees to them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    firewall::Confinement,
    link::HostInterface,
    model::{InterfaceName, Slot},
    switch,
};

/// The value of a switch that is off.
pub const OFF: &str = "0";
/// The value of a switch that is on.
pub const ON: &str = "1";

/// What is recorded of it.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// The sysctls that were changed, and what they were before.
    former: BTreeMap<String, String>,
    /// The interfaces that were there when the first one was switched on, by their numbers; `None` where that was
    /// never to be known.
    neighbours: Option<Neighbours>,
}

type Neighbours = BTreeMap<InterfaceName, u32>;

/// What the host is like.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Whether it forwards as a whole.
    pub globally: bool,
    /// The interfaces of its default route.
    pub uplinks: &'a BTreeSet<InterfaceName>,
    /// Its interfaces, where they were listed.
    pub interfaces: Option<&'a BTreeMap<InterfaceName, HostInterface>>,
}

/// What must be.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    /// The interfaces whose switches must be on.
    pub needed: BTreeSet<InterfaceName>,
    /// Those of them whose switches are about to be changed for the first time.
    pub switched: BTreeSet<InterfaceName>,
    /// What was recorded and means nothing any more.
    pub forgotten: BTreeSet<String>,
    /// What is to be recorded as the interfaces that were there, where that is news.
    pub neighbours: Option<String>,
    /// What the firewall must drop.
    pub confined: Confinement,
    /// What it would drop besides, if a process heard of it when somebody has the whole host forward.
    pub open: Confinement,
}

impl Recorded {
    /// Reads what the store has: sysctls, and neighbours as [`text`] writes them.
    #[must_use]
    pub fn new(former: BTreeMap<String, String>, neighbours: Option<&str>) -> Self {
        Self { former, neighbours: neighbours.map(read) }
    }

    /// Returns the interfaces that we switched on.
    pub fn switched(&self) -> impl Iterator<Item = InterfaceName> {
        let off = self.former.iter().filter(|(_, former)| *former == OFF);
        off.filter_map(|(name, _)| switch::interface(name)).filter(may_be_asked_at)
    }

    /// Whether it was recorded by an earlier version, which had the whole host forward.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.former.contains_key(switch::IP_FORWARD)
    }

    /// Whether nothing can be said before the host's interfaces are listed.
    #[must_use]
    pub fn needs_list(&self, globally: bool) -> bool {
        self.is_inherited() || !globally && self.neighbours.is_none()
    }

    /// Returns the interfaces whose switches must be on: those that a packet to a guest comes in by.
    ///
    /// Answers to guests come in by the uplinks. A published port is asked for at any interface with an address; the
    /// host that forwards as a whole has its own idea of which of them send packets on.
    #[must_use]
    pub fn needed(&self, sight: Sight<'_>) -> BTreeSet<InterfaceName> {
        let mut needed = sight.uplinks.clone();
        if !sight.globally {
            let listed = sight.interfaces.into_iter().flatten();
            needed.extend(listed.filter(|(_, i)| i.addressed).map(|(name, _)| name.clone()));
            if !self.is_inherited() {
                needed.extend(self.switched());
            }
        }
        needed.retain(may_be_asked_at);
        needed
    }

    /// Returns what must be, where the switches of `off` are off and were not changed before.
    ///
    /// `heard`: whether a process hears of it when somebody has the whole host forward. Without one nothing is confined
    /// that comes in by an uplink, since nobody would let it pass then.
    #[must_use]
    pub fn decide(
        &self,
        sight: Sight<'_>,
        heard: bool,
        needed: BTreeSet<InterfaceName>,
        off: BTreeSet<InterfaceName>,
    ) -> Forwarding {
        let forgotten = if self.is_inherited() { self.not_ours(sight) } else { BTreeSet::new() };
        let kept = self.switched().filter(|name| !forgotten.contains(&switch::forwarding(name)));
        let switched: BTreeSet<_> = kept.chain(off.iter().cloned()).collect();
        let neighbours = self.neighbours(sight, &off);
        let (mut confined, mut open) = (Confinement::default(), Confinement::default());
        if !sight.globally {
            let to: BTreeSet<_> = neighbours.iter().flat_map(BTreeMap::keys).cloned().collect();
            let shut = |name: &InterfaceName| heard || !sight.uplinks.contains(name);
            let (from, rest) = switched.into_iter().partition(shut);
            confined = Confinement::new(from, to.clone());
            open = Confinement::new(rest, to);
        }
        let neighbours = neighbours.filter(|_| sight.interfaces.is_some());
        let neighbours = neighbours.filter(|found| self.neighbours.as_ref() != Some(found));
        let neighbours = neighbours.as_ref().map(text);
        Forwarding { needed, switched: off, forgotten, neighbours, confined, open }
    }

    /// Of what an earlier version recorded, which is every switch there was: those that we would not have touched.
    fn not_ours(&self, sight: Sight<'_>) -> BTreeSet<String> {
        let serves = |name: InterfaceName| {
            let listed = sight.interfaces.and_then(|interfaces| interfaces.get(&name));
            let addressed = listed.is_some_and(|interface| interface.addressed);
            may_be_asked_at(&name) && (addressed || sight.uplinks.contains(&name))
        };
        let ours =
            |name: &str, former: &str| former == OFF && switch::interface(name).is_some_and(serves);
        let rest = self.former.iter().filter(|(name, former)| !ours(name, former));
        rest.map(|(name, _)| name.clone()).collect()
    }

    /// The interfaces that were there, without those whose names are other interfaces' by now.
    fn neighbours(&self, sight: Sight<'_>, off: &BTreeSet<InterfaceName>) -> Option<Neighbours> {
        let Some(interfaces) = sight.interfaces else { return self.neighbours.clone() };
        let number = |(name, found): (&InterfaceName, &HostInterface)| (name.clone(), found.index);
        let Some(known) = &self.neighbours else {
            let was_there =
                |name| !self.is_inherited() || self.former.contains_key(&switch::forwarding(name));
            let there = interfaces.iter().filter(|(name, _)| was_there(name)).map(number);
            return (!sight.globally || self.is_inherited()).then(|| there.collect());
        };
        let mut known = known.clone();
        known.retain(|name, index| interfaces.get(name).is_none_or(|found| found.index == *index));
        known.extend(interfaces.iter().filter(|(name, _)| off.contains(*name)).map(number));
        Some(known)
    }
}

/// Whether a client may ask for a port there: the host itself does at the loopback, whose packets are not forwarded.
fn may_be_asked_at(name: &InterfaceName) -> bool {
    name.as_str() != "lo" && Slot::of_interface(name.as_str()).is_none()
}

/// As recorded. No name has a colon or white space in it.
fn text(neighbours: &Neighbours) -> String {
    let words: Vec<_> = neighbours.iter().map(|(name, index)| format!("{name}:{index}")).collect();
    words.join(" ")
}

/// What cannot be read is left out: it is confined less than it might be.
fn read(text: &str) -> Neighbours {
    let word = |word: &str| {
        let (name, index) = word.split_once(':')?;
        Some((InterfaceName::try_from(name).ok()?, index.parse().ok()?))
    };
    text.split(' ').filter_map(word).collect()
}
