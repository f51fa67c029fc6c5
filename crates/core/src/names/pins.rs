//! The addresses that guests were told for names, in memory: the firewall forgets them with its rules, and this does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{AllowedNames, Pin};
use crate::model::Protocol;

/// An address, and a port there.
type Place = (IpAddr, Protocol, u16);

/// The most places that a guest reaches by names at a time.
pub const MOST_PINS: usize = 4096;
/// The most addresses of names that are remembered for each guest. Those beyond are let through, and lost with the rules.
const MOST_REMEMBERED: usize = 8192;

/// The addresses that guests were told for names.
#[derive(Debug, Default)]
pub struct Pins {
    guests: BTreeMap<IpAddr, Told>,
}

/// The addresses that one guest was told.
#[derive(Debug, Default)]
struct Told {
    /// The set of the firewall that has its places.
    set: String,
    /// The places that the set was given, and until when it has them. Those that it has no more may have connections still.
    places: BTreeMap<Place, Instant>,
    /// The addresses of each name, and until when they are let through.
    names: BTreeMap<String, BTreeMap<IpAddr, Instant>>,
    /// The number of these addresses.
    remembered: usize,
    /// The set, and the names, of the policy that it gets next.
    next: Option<(String, AllowedNames)>,
}

/// An answer that a guest is about to be told for a name.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The guest.
    pub guest: IpAddr,
    /// The set of the firewall for what its policy allows.
    pub set: &'a str,
    /// The names that its policy allows.
    pub allowed: &'a AllowedNames,
    /// The name, in lower case and without a dot at its end.
    pub name: &'a str,
    /// The addresses, each with the time for which it is to be let through.
    pub addresses: &'a [(IpAddr, Duration)],
}

impl Told {
    /// Begins anew for another set than the one before. The policy that comes next stays.
    fn begin(&mut self, set: &str) {
        if self.set != set {
            *self = Self { set: set.to_owned(), next: self.next.take(), ..Self::default() };
        }
    }

    fn remember(&mut self, name: &str, address: IpAddr, until: Instant, now: Instant) {
        let is_known = self.names.get(name).is_some_and(|all| all.contains_key(&address));
        if !is_known {
            if self.remembered >= MOST_REMEMBERED {
                self.names.retain(|_, addresses| {
                    addresses.retain(|_, until| *until > now);
                    !addresses.is_empty()
                });
                self.remembered = self.names.values().map(BTreeMap::len).sum();
            }
            if self.remembered >= MOST_REMEMBERED {
                return;
            }
            self.remembered += 1;
        }
        let known = self.names.entry(name.to_owned()).or_default().entry(address).or_insert(until);
        *known = (*known).max(until);
    }

    fn add(&mut self, place: Place, until: Instant, now: Instant) {
        if self.places.len() >= 2 * MOST_PINS {
            self.places.retain(|_, until| *until > now);
        }
        let known = self.places.entry(place).or_insert(until);
        *known = (*known).max(until);
    }

    /// Returns the places of this set: those that it has, or those that its policy allows by names that were told.
    fn places_in(&self, set: &str) -> BTreeMap<Place, Instant> {
        if self.set == set {
            return self.places.clone();
        }
        let mut places = BTreeMap::new();
        let Some((_, allowed)) = self.next.as_ref().filter(|(next, _)| next == set) else {
            return places;
        };
        for (name, addresses) in &self.names {
            for (&address, &until) in addresses {
                for place in allowed.places_of(name, address) {
                    let known = places.entry(place).or_insert(until);
                    *known = (*known).max(until);
                }
            }
        }
        places
    }
}

impl Pins {
    /// Reports whether it is known what the guest of this set was told.
    #[must_use]
    pub fn knows(&self, guest: IpAddr, set: &str) -> bool {
        self.guests.get(&guest).is_some_and(|told| told.set == set)
    }

    /// Reports whether anything is known of what this guest was told.
    #[must_use]
    pub fn has(&self, guest: IpAddr) -> bool {
        self.guests.get(&guest).is_some_and(|told| !told.set.is_empty())
    }

    /// Takes what the firewall has in the set of a guest, with the names that it has been told for.
    pub fn read(
        &mut self,
        guest: IpAddr,
        set: &str,
        found: Vec<(Pin, Option<String>)>,
        now: Instant,
    ) {
        let told = self.guests.entry(guest).or_default();
        told.begin(set);
        for (pin, name) in found {
            let until = now + pin.lifetime;
            told.add((pin.address, pin.protocol, pin.port), until, now);
            if let Some(name) = name {
                told.remember(&name, pin.address, until, now);
            }
        }
    }

    /// Returns what the firewall is to let through before a guest is told this; `None` if that is too much. A lifetime that ends
    /// later already is not made shorter.
    #[must_use]
    pub fn of_answer(&self, answered: &Answered<'_>, now: Instant) -> Option<Vec<Pin>> {
        let Answered { guest, set, allowed, name, addresses } = *answered;
        let told = self.guests.get(&guest).filter(|told| told.set == set);
        let until = |place: &Place| told.and_then(|told| told.places.get(place)).copied();
        let (mut pins, mut new) = (BTreeMap::new(), BTreeSet::new());
        for &(address, lifetime) in addresses {
            for place in allowed.places_of(name, address) {
                let left = until(&place).map(|until| until.saturating_duration_since(now));
                let left = left.filter(|left| !left.is_zero());
                if left.is_none() {
                    new.insert(place);
                }
                // The kernel refuses to renew one twice, and some servers name an address twice.
                let longest = pins.entry(place).or_insert(lifetime);
                *longest = left.unwrap_or_default().max(lifetime).max(*longest);
            }
        }
        let pin = |((address, protocol, port), lifetime)| Pin { address, protocol, port, lifetime };
        let pins = pins.into_iter().map(pin).collect();
        // Those that find no room are not let through either: whoever answers for a name could go on with new ones.
        let places = told.map(|told| &told.places);
        let has_room = |taken: usize| taken + new.len() <= MOST_PINS;
        let taken = || places.map_or(0, |all| all.values().filter(|until| **until > now).count());
        (has_room(places.map_or(0, BTreeMap::len)) || has_room(taken())).then_some(pins)
    }

    /// Notes that the firewall lets these through.
    pub fn told(&mut self, answered: &Answered<'_>, pins: &[Pin], now: Instant) {
        let told = self.guests.entry(answered.guest).or_default();
        told.begin(answered.set);
        for pin in pins {
            told.add((pin.address, pin.protocol, pin.port), now + pin.lifetime, now);
        }
        for &(address, lifetime) in answered.addresses {
            told.remember(answered.name, address, now + lifetime, now);
        }
    }

    /// Notes the policy that a guest gets next, by the set of what it allows.
    pub fn expect(&mut self, guest: IpAddr, set: &str, allowed: AllowedNames) {
        self.guests.entry(guest).or_default().next = Some((set.to_owned(), allowed));
    }

    /// Returns what the firewall is to let through in this set of a guest, if it makes the set anew; each with a name that has the
    /// address, if that is remembered.
    #[must_use]
    pub fn of_set(&self, guest: IpAddr, set: &str, now: Instant) -> Vec<(Pin, Option<&str>)> {
        let Some(told) = self.guests.get(&guest) else { return vec![] };
        let mut names = BTreeMap::new();
        for (name, addresses) in &told.names {
            names.extend(addresses.keys().map(|address| (*address, &**name)));
        }
        let pin = |((address, protocol, port), until): (Place, Instant)| {
            let lifetime = until.saturating_duration_since(now);
            (Pin { address, protocol, port, lifetime }, names.get(&address).copied())
        };
        let pins = told.places_in(set).into_iter().map(pin);
        pins.filter(|(pin, _)| !pin.lifetime.is_zero()).take(MOST_PINS).collect()
    }

    /// Notes that the firewall has this set for a guest, and no other.
    pub fn settle(&mut self, guest: IpAddr, set: &str) {
        let Some(told) = self.guests.get_mut(&guest) else { return };
        if told.set != set {
            told.places = told.places_in(set);
            set.clone_into(&mut told.set);
        }
        told.next = None;
    }

    /// Forgets what this guest was told: it is no more, or has a policy without names.
    pub fn forget(&mut self, guest: IpAddr) {
        self.guests.remove(&guest);
    }

    /// Forgets what all guests but these were told.
    pub fn retain(&mut self, guests: &BTreeSet<IpAddr>) {
        self.guests.retain(|guest, _| guests.contains(guest));
    }

    /// Reports whether a guest was told of this place, by its protocol (IANA) and port, and its policy allows it still. New
    /// connections may be let through there no more; those that were made go on.
    #[must_use]
    pub fn has_told(&self, guest: IpAddr, to: IpAddr, protocol: u8, port: u16) -> bool {
        let Some(told) = self.guests.get(&guest) else { return false };
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol);
        protocol.is_some_and(|protocol| told.places.contains_key(&(to, protocol, port)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::EgressPolicy;

    const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 0, 2));
    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

    fn allowed(names: &[&str], deny: &[&str]) -> AllowedNames {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        let deny = deny.iter().map(|to| to.parse().unwrap()).collect();
        AllowedNames::of(&EgressPolicy::new(None, vec![], deny).with_names(names))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Tells the guest, and returns the places with their lifetimes in seconds.
    fn tell(
        pins: &mut Pins,
        (set, allowed): (&str, &AllowedNames),
        (name, address, lifetime): (&str, IpAddr, u64),
        now: Instant,
    ) -> Vec<(IpAddr, u16, u64)> {
        let addresses = [(address, seconds(lifetime))];
        let answered = Answered { guest: GUEST, set, allowed, name, addresses: &addresses };
        let found = pins.of_answer(&answered, now).unwrap();
        pins.told(&answered, &found, now);
        places(&found)
    }

    /// Returns what is put back, each with the seconds that are left.
    fn put_back(pins: &Pins, set: &str, now: Instant) -> Vec<(IpAddr, u16, u64)> {
        let pins = pins.of_set(GUEST, set, now).into_iter();
        places(&pins.map(|(pin, _)| pin).collect::<Vec<_>>())
    }

    fn places(pins: &[Pin]) -> Vec<(IpAddr, u16, u64)> {
        pins.iter().map(|pin| (pin.address, pin.port, pin.lifetime.as_secs())).collect()
    }

    #[test]
    fn what_was_told_is_put_back_for_the_rest_of_its_time() {
        let (mut pins, start) = (Pins::default(), start());
        let policy = allowed(&["*.example:1-2/tcp"], &[]);
        let told = tell(&mut pins, ("a", &policy), ("one.example", ONE, 60), start);
        assert_eq!(told, [(ONE, 1, 60), (ONE, 2, 60)]);
        // A later answer makes it no shorter.
        let again =
            tell(&mut pins, ("a", &policy), ("other.example", ONE, 30), start + seconds(10));
        assert_eq!(again, [(ONE, 1, 50), (ONE, 2, 50)]);
        // So it is with one that an answer has twice.
        let twice = [(ONE, seconds(20)), (ONE, seconds(10))];
        let (set, allowed, name) = ("b", &policy, "one.example");
        let answered = Answered { guest: GUEST, set, allowed, name, addresses: &twice };
        let found = pins.of_answer(&answered, start).unwrap();
        assert_eq!(places(&found), [(ONE, 1, 20), (ONE, 2, 20)]);
        let left = |after| put_back(&pins, "a", start + seconds(after));
        assert_eq!(left(20), [(ONE, 1, 40), (ONE, 2, 40)]);
        assert_eq!(left(60), []);
        // Its connections go on, in this policy.
        assert!(pins.has_told(GUEST, ONE, 6, 2));
        assert!(!pins.has_told(GUEST, ONE, 17, 2));
        assert!(!pins.has_told(GUEST, ONE, 6, 3));
        assert!(!pins.has_told(ONE, ONE, 6, 2));
        assert_eq!(pins.of_set(GUEST, "b", start), []);
        pins.forget(GUEST);
        assert!(!pins.has_told(GUEST, ONE, 6, 2));
        assert_eq!(pins.of_set(GUEST, "a", start), []);
    }

    #[test]
    fn another_policy_keeps_the_addresses_of_names_that_it_has_too() {
        let (mut pins, now) = (Pins::default(), start());
        let first = allowed(&["one.example:1/tcp", "two.example:1/tcp"], &[]);
        tell(&mut pins, ("a", &first), ("one.example", ONE, 60), now);
        tell(&mut pins, ("a", &first), ("two.example", TWO, 60), now);
        pins.expect(GUEST, "b", allowed(&["one.example:1-3/tcp"], &["203.0.113.0/24:3"]));
        // One that is told before the policy changes is kept too.
        tell(&mut pins, ("a", &first), ("one.example", TWO, 40), now);
        let kept = [(ONE, 1, 60), (ONE, 2, 60), (TWO, 1, 40), (TWO, 2, 40)];
        assert_eq!(put_back(&pins, "b", now), kept);
        assert_eq!(put_back(&pins, "a", now), [(ONE, 1, 60), (TWO, 1, 60)]);
        pins.settle(GUEST, "b");
        assert_eq!(put_back(&pins, "b", now), kept);
        assert_eq!(pins.of_set(GUEST, "a", now), []);
        assert!(pins.has_told(GUEST, TWO, 6, 2));
        // A policy that nobody told of is another function's.
        pins.settle(GUEST, "c");
        assert_eq!(pins.of_set(GUEST, "c", now), []);
        assert!(!pins.has_told(GUEST, TWO, 6, 2));
    }

    #[test]
    fn what_the_firewall_has_is_known_after_a_restart() {
        let (mut pins, now) = (Pins::default(), start());
        let pin =
            |address, port| Pin { address, protocol: Protocol::Tcp, port, lifetime: seconds(20) };
        pins.expect(GUEST, "b", allowed(&["one.example:2/tcp"], &[]));
        assert!(!pins.knows(GUEST, "a"));
        let found = vec![(pin(ONE, 1), Some("one.example".to_owned())), (pin(TWO, 1), None)];
        pins.read(GUEST, "a", found, now);
        assert!(pins.knows(GUEST, "a"));
        assert_eq!(put_back(&pins, "a", now), [(ONE, 1, 20), (TWO, 1, 20)]);
        let names: Vec<_> =
            pins.of_set(GUEST, "a", now).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, [Some("one.example"), None]);
        assert_eq!(put_back(&pins, "b", now), [(ONE, 2, 20)]);
        pins.retain(&[GUEST].into());
        assert!(pins.knows(GUEST, "a"));
        pins.retain(&BTreeSet::new());
        assert!(!pins.knows(GUEST, "a"));
    }

    #[test]
    fn a_guest_is_told_a_bounded_number_of_addresses() {
        let (mut pins, now) = (Pins::default(), start());
        let policy = allowed(&["*.example:1/tcp"], &[]);
        let most = u32::try_from(MOST_PINS).unwrap();
        let mut tell = |name: &str, numbers: std::ops::Range<u32>, now| {
            let addresses = numbers.map(|number| (Ipv4Addr::from(number).into(), seconds(60)));
            let addresses: Vec<_> = addresses.collect();
            let (guest, set, allowed) = (GUEST, "a", &policy);
            let answered = Answered { guest, set, allowed, name, addresses: &addresses };
            let found = pins.of_answer(&answered, now);
            pins.told(&answered, found.as_deref().unwrap_or_default(), now);
            let Told { places, remembered, .. } = &pins.guests[&GUEST];
            assert!(places.len() <= 2 * MOST_PINS && *remembered <= MOST_REMEMBERED);
            found.map(|pins| pins.len())
        };
        assert_eq!(tell("a.example", 0..most, now), Some(MOST_PINS));
        assert_eq!(tell("a.example", most..most + 1, now), None);
        assert_eq!(tell("a.example", 0..most, now), Some(MOST_PINS), "none is new");
        // What is let through no more has no share in that.
        for round in 1..4 {
            let numbers = round * most..(round + 1) * most;
            let now = now + seconds(60) * round;
            assert_eq!(tell("a.example", numbers.clone(), now), Some(MOST_PINS));
            assert_eq!(tell(&format!("{round}.example"), numbers, now), Some(MOST_PINS));
        }
    }
}
