//! Entries of a policy that change nothing.

use std::fmt;

use super::{Block, Scope, blocks, special};
use crate::model::{Destination, Egress, EgressPolicy, Family, Place};

/// An entry of a policy that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Idle {
    /// True if it is an entry of `allow`, false if of `deny`.
    pub allowed: bool,
    /// The entry.
    pub entry: Destination,
    /// The reason.
    pub reason: IdleReason,
}

/// The reason why an entry of a policy changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum IdleReason {
    /// The same list has it before.
    Twice,
    /// The policy denies all of what the entry allows.
    Denied,
    /// The default says the same.
    Default(Egress),
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.allowed { "allow" } else { "deny" };
        write!(f, "network.egress.{list}: {} ", self.entry)?;
        match self.reason {
            IdleReason::Twice => f.write_str("is there twice"),
            IdleReason::Denied => f.write_str("allows nothing: deny has all of it"),
            IdleReason::Default(reach) => write!(f, "changes nothing: the default is {reach}"),
        }
    }
}

/// Returns the entries of a policy that change nothing, those of `allow` first. Without any one of them the policy says the
/// same.
#[must_use]
pub fn idle(policy: &EgressPolicy) -> Vec<Idle> {
    let of = |list: &[Destination], allowed: bool| -> Vec<Idle> {
        let idle = |(index, entry): (usize, &Destination)| {
            let is_twice = list.iter().take(index).any(|other| other == entry);
            let twice = is_twice.then_some(IdleReason::Twice);
            let reason = twice.or_else(|| reason(policy, entry, allowed))?;
            Some(Idle { allowed, entry: *entry, reason })
        };
        list.iter().enumerate().filter_map(idle).collect()
    };
    [of(policy.allow(), true), of(policy.deny(), false)].concat()
}

fn reason(policy: &EgressPolicy, entry: &Destination, allowed: bool) -> Option<IdleReason> {
    // What an entry says of the host, it says of both families.
    let scope = match entry.place() {
        Place::Host => Scope { family: Family::V4, host: true },
        Place::Network(network) => Scope::of_network(network),
    };
    let all = |list: &[Destination]| -> Vec<Block> { scope.blocks(list).collect() };
    let own = blocks(entry, scope);
    if allowed {
        let denied = all(policy.deny());
        let rest = denied.iter().fold(own.clone(), |rest, no| {
            rest.into_iter().flat_map(|block| block.without(no)).collect()
        });
        if rest.is_empty() {
            return Some(IdleReason::Denied);
        }
        // What is allowed is reached by any interface; only public addresses are anyway.
        let special = special(scope.family);
        let is_special = |block: &Block| special.iter().any(|range| range.overlaps(block));
        let included = entry.place() == Place::Host || !own.iter().any(is_special);
        let reach = policy.default_reach().filter(|reach| *reach == Egress::All);
        return reach.filter(|_| included).map(IdleReason::Default);
    }
    let allows = all(policy.allow());
    let narrows = own.iter().any(|block| allows.iter().any(|yes| yes.overlaps(block)));
    // The host answers echo requests by default.
    let denies_echo =
        entry.place() == Place::Host && entry.protocol().is_none() && entry.ports().is_none();
    let reach = policy.default_reach().filter(|reach| *reach == Egress::None);
    reach.filter(|_| !narrows && !denies_echo).map(IdleReason::Default)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::reach::{entries, refused};

    fn policy(default: Option<Egress>, allow: &[&str], deny: &[&str]) -> EgressPolicy {
        let read = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        EgressPolicy::new(default, read(allow), read(deny))
    }

    /// Few destinations, so that random ones overlap and repeat.
    fn destination() -> impl Strategy<Value = Destination> {
        let places = ["10.0.0.0/8", "10.9.0.0/16", "10.9.5.1", "9.0.0.0/8", "9.9.9.9", "host"];
        let of_v6 = ["[fd00::/8]", "[fd00:9::/32]", "[2001:db8::/32]", "[2001:db8::9]", "[::/0]"];
        let places = [&places[..], &of_v6].concat();
        let ports = ["", ":53", ":7000-7001", ":7000"];
        let protocols = ["", "/tcp", "/udp"];
        let random = (select(places), select(ports.to_vec()), select(protocols.to_vec()));
        random.prop_map(|(place, ports, protocol)| {
            format!("{place}{ports}{protocol}").parse().unwrap()
        })
    }

    fn policies() -> impl Strategy<Value = EgressPolicy> {
        let default = proptest::option::of(select(Egress::ALL.to_vec()));
        let list = || proptest::collection::vec(destination(), 0..5);
        (default, list(), list())
            .prop_map(|(default, allow, deny)| EgressPolicy::new(default, allow, deny))
    }

    /// Returns what a policy refuses, of packets that tell all of [`destination`] apart.
    fn refusals(policy: &EgressPolicy) -> Vec<bool> {
        let v4 = ["10.9.5.1", "10.9.6.1", "10.1.1.1", "9.9.9.9", "9.1.1.1", "8.8.8.8"];
        let v6 = ["fd00:9::1", "fd00:8::1", "2001:db8::9", "2001:db8::8", "2600::1", "fe80::1"];
        let mut found = Vec::new();
        for (guest, to) in [("10.231.0.2", v4), ("fd52:494b::3", v6)] {
            let guest: IpAddr = guest.parse().unwrap();
            let entries: Vec<_> = entries(policy, guest);
            for at_host in [false, true] {
                let refused = refused(&entries, Egress::Internet, Family::of(guest), at_host);
                let packets = to.into_iter().flat_map(packets);
                found.extend(
                    packets.map(|packet| refused.iter().any(|block| block.contains(&packet))),
                );
            }
        }
        found
    }

    fn packets(to: &str) -> impl Iterator<Item = Block> {
        let to = to.parse().unwrap();
        [1, 6, 17, 58, 132].into_iter().flat_map(move |protocol| {
            let ports = [0, 53, 80, 7000, 7001].into_iter();
            ports.map(move |port| Block::of_packet(to, protocol, Some(port)))
        })
    }

    proptest! {
        #[test]
        fn without_an_idle_entry_a_policy_says_the_same(policy in policies()) {
            for Idle { allowed, entry, .. } in idle(&policy) {
                let without = |list: &[Destination], is_it: bool| {
                    let mut list = list.to_vec();
                    if is_it {
                        list.remove(list.iter().rposition(|other| *other == entry).unwrap());
                    }
                    list
                };
                let (allow, deny) = (without(policy.allow(), allowed), without(policy.deny(), !allowed));
                let rest = EgressPolicy::new(policy.default_reach(), allow, deny);
                prop_assert_eq!(refusals(&policy), refusals(&rest), "{:?}", entry);
            }
        }
    }

    #[test]
    fn entries_that_change_nothing_are_told_with_their_list() {
        let told = |default, allow: &[&str], deny: &[&str]| -> Vec<String> {
            idle(&policy(default, allow, deny)).iter().map(ToString::to_string).collect()
        };
        let (all, none) = (Some(Egress::All), Some(Egress::None));
        let [allow, deny] = ["allow", "deny"].map(|list| format!("network.egress.{list}: "));
        assert_eq!(
            told(
                None,
                &["10.9.5.1:7000/tcp", "10.9.5.0/24"],
                &["10.9.5.1:1-7000", "10.9.5.1:7001-8000"]
            ),
            [format!("{allow}10.9.5.1:7000/tcp allows nothing: deny has all of it")]
        );
        assert_eq!(
            told(None, &["9.9.9.9", "9.9.9.9"], &["host", "host"]),
            [format!("{allow}9.9.9.9 is there twice"), format!("{deny}host is there twice")]
        );
        assert_eq!(
            told(all, &["9.9.9.9", "host:22", "10.0.0.0/8"], &["8.8.8.8"]),
            [
                format!("{allow}9.9.9.9 changes nothing: the default is all"),
                format!("{allow}host:22 changes nothing: the default is all"),
            ]
        );
        assert_eq!(
            told(
                none,
                &["9.0.0.0/8:443"],
                &["9.9.9.9:80", "9.9.9.9:400-500/tcp", "host", "host:22", "2001:db8::9"]
            ),
            [
                format!("{deny}9.9.9.9:80 changes nothing: the default is none"),
                format!("{deny}host:22 changes nothing: the default is none"),
                format!("{deny}2001:db8::9 changes nothing: the default is none"),
            ]
        );
        assert_eq!(
            told(all, &["[2001:db8::9]:443", "fd00::/8", "[::/0]:53"], &["2001:db8::/32"]),
            [format!("{allow}[2001:db8::9]:443 allows nothing: deny has all of it")]
        );
    }
}
