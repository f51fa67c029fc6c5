//! The rules for IPv6 that those of IPv4 do not say as well: addresses, neighbour discovery, and exposures.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::{
    base_ruleset,
    expression::{
        Expression, accept, addresses_in, begins_connection, by_address, by_port, destination,
        destination_is_local, destination_outside_all, destination_translated, discovers_more_than,
        drop, from_guest, jump, masquerade, neighbour_discovery, not_from_guest, not_from_host,
        not_to_guest, of_family, set_segment_size, source, source_outside, translate,
        translate_address,
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
                ANTISPOOF, BOUND_RANGES_V6, BOUND_V6, DISCOVERIES, EXPOSURES_V6, HAIRPIN_V6, INPUT,
                OUTPUT, POSTROUTING, PREROUTING, RANGES_V6, REFUSED_MULTICAST, REFUSED_SPOOFED,
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
    let arriving = exposures().into_iter().chain(arriving(pool, size));
    arriving.chain(among).chain(translated(pool)).collect()
}

fn rule(chain: &str, text: &str, parts: &[Vec<Expression>]) -> Rule {
    Rule::new(&base_ruleset::name(), chain, comment(&format!("IPv6: {text}")), parts)
}

fn discovery() -> Vec<Expression> {
    [of_family(Family::V6), neighbour_discovery()].concat()
}

/// Returns the rules of the chain of exposures.
fn exposures() -> [Rule; 4] {
    let v6 = Family::V6;
    let by_port = || [of_family(v6), by_port()].concat();
    [
        rule(CHAIN, "exposures of one address", &[by_address(v6), translate(v6, BOUND_V6)]),
        rule(
            CHAIN,
            "ranges of one address",
            &[by_address(v6), translate_address(v6, BOUND_RANGES_V6)],
        ),
        rule(CHAIN, "exposures of every address", &[by_port(), translate(v6, EXPOSURES_V6)]),
        rule(CHAIN, "ranges of every address", &[by_port(), translate_address(v6, RANGES_V6)]),
    ]
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

/// Returns the rules that lead to the chain of exposures, and those that give packets a source that can be answered.
fn translated(pool: Ipv6Net) -> [Rule; 5] {
    let localhost = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
    let published = || {
        let outside = destination_outside_all(&[localhost, LINK_LOCAL]);
        [outside, destination_is_local(), jump(CHAIN)].concat()
    };
    [
        rule(PREROUTING, "to the host", &[published()]),
        rule(OUTPUT, "from the host to itself", &[published()]),
        rule(POSTROUTING, "guests to others", &[source(pool), not_to_guest(), masquerade()]),
        rule(
            POSTROUTING,
            "guests to themselves",
            &[addresses_in(Family::V6, HAIRPIN_V6), destination_translated(), masquerade()],
        ),
        rule(INPUT, "guests discover neighbours", &[from_guest(), discovery(), accept()]),
    ]
}
