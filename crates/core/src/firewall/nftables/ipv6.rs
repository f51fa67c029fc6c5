//! The rules for IPv6 that those of IPv4 do not say as well: addresses, neighbour discovery, and exposures.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::{
    base_ruleset,
    expression::{
        Expression, accept, begins_connection, destination, destination_is_local,
        destination_outside_all, discovers_more_than, drop, from_guest, jump, neighbour_discovery,
        not_from_guest, not_from_host, of_family, set_segment_size, source, source_outside,
    },
    object::{Rule, comment},
    rules,
};
use crate::{
    firewall::{
        BaseRuleset,
        names::{
            CHAIN,
            nftables::{
                ANTISPOOF, DISCOVERIES, INPUT, OUTPUT, PREROUTING, REFUSED_MULTICAST,
                REFUSED_SPOOFED,
            },
        },
    },
    model::Family,
};

/// The groups of hosts, and the addresses of a link (RFC 4291, sections 2.7 and 2.5.6).
const MULTICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
/// The messages of neighbour discovery that a guest may send in a second, and at once. Each may have the host remember a
/// neighbour for a minute, and the host remembers about a thousand (arp(7), `gc_thresh3`). A guest asks for its gateway,
/// and whether it is still there, a few times a minute (RFC 4861, section 10).
const DISCOVERED: (u32, u32) = (5, 20);

/// Returns the rules for IPv6 that stand beside those for IPv4, before them in each chain. `pool` has the guests' addresses.
///
/// An address of the link is not published: who asks it cannot be answered from beyond the link.
pub(super) fn rules(base_ruleset: &BaseRuleset, pool: Ipv6Net) -> Vec<Rule> {
    let asked = base_ruleset.marks.asked();
    let size = base_ruleset.segment_size(Family::V6);
    let among = rules::among_guests(rule, pool.into(), asked);
    let exposures = rules::exposures(rule, Family::V6).into_iter();
    let arriving = exposures.chain(arriving(pool, size));
    arriving.chain(among).chain(translated(pool)).collect()
}

fn rule(chain: &str, text: &str, parts: &[Vec<Expression>]) -> Rule {
    Rule::new(&base_ruleset::name(), chain, comment(&format!("IPv6: {text}")), parts)
}

fn discovery() -> Vec<Expression> {
    [of_family(Family::V6), neighbour_discovery()].concat()
}

/// Returns the rules for packets that are not tracked yet. `size` is that of segments to guests, in bytes.
fn arriving(pool: Ipv6Net, size: u16) -> [Rule; 6] {
    let (rate, burst) = DISCOVERED;
    [
        rule(
            ANTISPOOF,
            "guests discover neighbours as often as they may",
            &[from_guest(), discovery(), discovers_more_than(rate, burst, DISCOVERIES), drop()],
        ),
        // By any address of the link. The kernel reads it only if no router passed it on (RFC 4861, section 7.1).
        rule(ANTISPOOF, "guests discover neighbours", &[from_guest(), discovery(), accept()]),
        rule(
            ANTISPOOF,
            "guests have their own addresses",
            &[from_guest(), source_outside(pool), jump(REFUSED_SPOOFED)],
        ),
        rule(
            ANTISPOOF,
            "nobody else has guests' addresses",
            &[not_from_guest(), not_from_host(), source(pool), drop()],
        ),
        rule(
            ANTISPOOF,
            "guests do not reach many hosts",
            &[from_guest(), destination(MULTICAST_V6), jump(REFUSED_MULTICAST)],
        ),
        rule(
            ANTISPOOF,
            "segments to guests fit the TAP",
            &[from_guest(), of_family(Family::V6), begins_connection(), set_segment_size(size)],
        ),
    ]
}

/// Returns the rules that lead to the chain of exposures, those that give packets a source that can be answered, and the one
/// that lets guests find the host.
fn translated(pool: Ipv6Net) -> impl Iterator<Item = Rule> {
    let localhost = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
    let published = || {
        let outside = destination_outside_all(&[localhost, LINK_LOCAL]);
        [outside, destination_is_local(), jump(CHAIN)].concat()
    };
    let published = [
        rule(PREROUTING, "to the host", &[published()]),
        rule(OUTPUT, "from the host to itself", &[published()]),
    ];
    let found = rule(INPUT, "guests discover neighbours", &[from_guest(), discovery(), accept()]);
    published.into_iter().chain(rules::masqueraded(rule, pool.into())).chain([found])
}
