//! The rules of the base ruleset, by what becomes of a packet: it arrives, is translated, passes, and leaves.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::{
    base_ruleset::name,
    egress, element,
    expression::{
        Expression, accept, addresses_in, begins_connection, begins_flow, begins_more_than,
        between, by_address, by_port, clamp_segment_size, connection_has_mark, destination,
        destination_is_broadcast, destination_is_elsewhere, destination_is_local,
        destination_outside, destination_translated, destination_untranslated, drop, established,
        from_guest, from_interface, has_begun_more_than, invalid, jump, mark_connection,
        mark_packet, masquerade, not_from_guest, not_from_host, not_to_guest, of_family,
        packet_has_any, set_segment_size, source, source_is_elsewhere, to_guest, translate,
        translate_address,
    },
    ipv6, names,
    object::{Rule, comment},
    proxies, refused,
};
use crate::{
    firewall::{
        BaseRuleset,
        names::{
            CHAIN,
            nftables::{
                ANSWERS, ANTISPOOF, CONFINED, CONFINED_V6, FLOWS, FLOWS_V6, FORWARD, OUTPUT,
                POSTROUTING, PREROUTING, RATES, RATES_V6, REFUSE, REFUSED_BROADCAST,
                REFUSED_EGRESS, REFUSED_FLOWS, REFUSED_GUEST, REFUSED_INVALID, REFUSED_LOOPBACK,
                REFUSED_MULTICAST, REFUSED_RATE, REFUSED_SPOOFED, TRACK,
            },
        },
    },
    model::Family,
};

/// The groups of hosts, and everything that is reserved, with the broadcast address.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// Returns the rules; those of one chain are in order.
pub(super) fn rules(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let v6 = base_ruleset.pool.v6().map(|pool| ipv6::rules(base_ruleset, pool));
    let mut rules: Vec<_> = mark_rules(base_ruleset).collect();
    rules.extend(exposures(rule, Family::V4));
    rules.extend(v6.unwrap_or_default());
    rules.extend(arriving(base_ruleset));
    rules.extend(limited(base_ruleset));
    rules.extend(names::to_the_daemon());
    rules.push(proxies::to_the_proxy());
    rules.extend(to_the_host());
    rules.extend(passing(base_ruleset));
    rules.extend(egress::rules(base_ruleset));
    rules.extend(refused::rules());
    rules.extend(else_refused());
    rules.extend(leaving(base_ruleset));
    rules.extend(confined(base_ruleset));
    rules
}

fn rule(chain: &str, text: &str, parts: &[Vec<Expression>]) -> Rule {
    Rule::new(&name(), chain, comment(text), parts)
}

/// Returns the rules of the chain of exposures, for packets of a family; `rule` makes one. No other packet can match by accident:
/// every key has a transport protocol with ports, and conntrack reassembles fragments, of which only the first has ports,
/// before these rules.
pub(super) fn exposures(
    rule: impl Fn(&str, &str, &[Vec<Expression>]) -> Rule,
    family: Family,
) -> [Rule; 4] {
    let maps = element::exposures_of(family);
    let by_port = || match family {
        Family::V4 => by_port(),
        Family::V6 => [of_family(family), by_port()].concat(),
    };
    let bound = [by_address(family), translate(family, maps.bound)];
    let bound_ranges = [by_address(family), translate_address(family, maps.bound_ranges)];
    let exposures = [by_port(), translate(family, maps.exposures)];
    let ranges = [by_port(), translate_address(family, maps.ranges)];
    [
        rule(CHAIN, "exposures of one address", &bound),
        rule(CHAIN, "ranges of one address", &bound_ranges),
        rule(CHAIN, "exposures of every address", &exposures),
        rule(CHAIN, "ranges of every address", &ranges),
    ]
}

/// Returns the rules that lead to the chain of exposures.
fn to_the_host() -> [Rule; 3] {
    let localhost = Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32);
    let published = || [destination_outside(LOOPBACK), destination_is_local(), jump(CHAIN)];
    [
        // The kernel drops packets that arrive for 127.0.0.0/8 as martian, but only after this rule, which would
        // translate them.
        rule(PREROUTING, "to the host", &published()),
        rule(OUTPUT, "from the host to itself", &published()),
        // Other addresses of 127.0.0.0/8 are those of local services, such as a resolver.
        rule(OUTPUT, "from the host to 127.0.0.1", &[destination(localhost), jump(CHAIN)]),
    ]
}

/// Returns the rules for packets that pass whatever the policies are.
fn passing(base_ruleset: &BaseRuleset) -> [Rule; 7] {
    let (pool, asked) = (base_ruleset.pool.v4(), base_ruleset.marks.asked());
    [
        // Segments are clamped before any packet is accepted. Guests assume an MTU of 1,500 bytes, and a router behind
        // an uplink with a smaller one may lose its "fragmentation needed" (RFC 2923, section 2.1).
        rule(
            FORWARD,
            "segments of guests fit the route",
            &[from_guest(), begins_connection(), clamp_segment_size()],
        ),
        rule(
            FORWARD,
            "segments to guests fit the route",
            &[to_guest(), begins_connection(), clamp_segment_size()],
        ),
        rule(FORWARD, "what guests go on with", &[from_guest(), established(), accept()]),
        rule(FORWARD, "what goes on with guests", &[to_guest(), established(), accept()]),
        rule(FORWARD, "exposures", &[to_guest(), destination_translated(), accept()]),
        // A packet that others translate, such as one for a container's port, is for a port that they publish on the
        // host.
        rule(
            FORWARD,
            "guests to what others publish",
            &[
                from_guest(),
                source(pool),
                destination_translated(),
                packet_has_any(asked),
                accept(),
            ],
        ),
        // Routing refuses it as well, and it was told of before.
        rule(
            FORWARD,
            "from guest to guest by its address",
            &[from_guest(), to_guest(), jump(REFUSE)],
        ),
    ]
}

/// Returns the rules for what no rule before them accepts.
fn else_refused() -> [Rule; 2] {
    [
        rule(FORWARD, "nothing else from guests", &[from_guest(), jump(REFUSED_EGRESS)]),
        rule(FORWARD, "nothing else to guests", &[to_guest(), drop()]),
    ]
}

/// Returns the rules that give packets of guests a source that can be answered, of the family of these addresses; `rule` makes
/// one.
pub(super) fn masqueraded(
    rule: impl Fn(&str, &str, &[Vec<Expression>]) -> Rule,
    pool: IpNet,
) -> [Rule; 2] {
    let family = Family::of_network(pool);
    let itself = addresses_in(family, element::hairpin_of(family));
    [
        rule(POSTROUTING, "guests to others", &[source(pool), not_to_guest(), masquerade()]),
        rule(
            POSTROUTING,
            "guests to themselves",
            &[itself, destination_translated(), masquerade()],
        ),
    ]
}

/// Returns the rules that give packets a source that can be answered.
fn leaving(base_ruleset: &BaseRuleset) -> impl Iterator<Item = Rule> {
    let local = [to_guest(), source(LOOPBACK), masquerade()];
    let local = rule(POSTROUTING, "127.0.0.0/8 to guests", &local);
    masqueraded(rule, base_ruleset.pool.v4().into()).into_iter().chain([local])
}

/// Returns the rules that drop what is nobody's guest's and would not be forwarded without us.
fn confined(base_ruleset: &BaseRuleset) -> impl Iterator<Item = Rule> {
    let confined = &base_ruleset.confined;
    let v4 = (!confined.is_empty()).then(|| {
        let text = "what only our forwarding makes possible";
        rule(FORWARD, text, &[of_family(Family::V4), between(CONFINED), drop()])
    });
    let v6 = confined.v6().map(|_| {
        let text = "what only our forwarding of IPv6 makes possible";
        rule(FORWARD, text, &[of_family(Family::V6), between(CONFINED_V6), drop()])
    });
    v4.into_iter().chain(v6)
}

/// Returns the rules for arriving packets: those that are dropped before they are tracked, and those of guests that are
/// tracked.
fn arriving(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let (pool, asked) = (base_ruleset.pool.v4(), base_ruleset.marks.asked());
    let mut rules = vec![
        // The routes to a guest lead to its TAP. No packet comes from 127.0.0.0/8 or from an address of the host either:
        // these are local.
        rule(
            ANTISPOOF,
            "guests have their own addresses",
            &[from_guest(), source_is_elsewhere(), jump(REFUSED_SPOOFED)],
        ),
        // Packets of the host to itself may have the address of a gateway.
        rule(
            ANTISPOOF,
            "nobody else has guests' addresses",
            &[not_from_guest(), not_from_host(), source(pool), drop()],
        ),
        rule(
            ANTISPOOF,
            "guests do not reach 127.0.0.0/8",
            &[from_guest(), destination(LOOPBACK), jump(REFUSED_LOOPBACK)],
        ),
        rule(
            ANTISPOOF,
            "guests do not reach many hosts",
            &[from_guest(), destination(MULTICAST), jump(REFUSED_MULTICAST)],
        ),
        rule(
            ANTISPOOF,
            "guests do not reach all hosts of a network",
            &[from_guest(), destination_is_broadcast(), jump(REFUSED_BROADCAST)],
        ),
        rule(
            ANTISPOOF,
            "guests ask the host",
            &[from_guest(), destination_is_local(), mark_packet(asked, asked)],
        ),
        // The size of segments does not depend on the MTU that a guest assumes. Packets of the host itself are routed
        // to its own address, with the MTU of the loopback, and translated later: only the size that the guest
        // announces limits them.
        rule(
            ANTISPOOF,
            "segments to guests fit the TAP",
            &[
                from_guest(),
                begins_connection(),
                set_segment_size(base_ruleset.segment_size(Family::V4)),
            ],
        ),
        rule(
            TRACK,
            "guests go on with their own connections only",
            &[from_guest(), invalid(), jump(REFUSED_INVALID)],
        ),
    ];
    rules.extend(among_guests(rule, pool.into(), asked));
    rules
}

/// Returns the rules for tracked packets from one guest to another, of the family of these addresses. `rule` makes a rule of a
/// chain, its text and its parts; `asked` is the mark of what is for the host.
///
/// A routing rule of ours refuses what goes from one guest to another without the mark.
pub(super) fn among_guests(
    rule: impl Fn(&str, &str, &[Vec<Expression>]) -> Rule,
    pool: IpNet,
    asked: u32,
) -> [Rule; 2] {
    [
        rule(
            TRACK,
            "from guest to guest by an exposure",
            &[from_guest(), destination(pool), destination_translated(), mark_packet(asked, asked)],
        ),
        rule(
            TRACK,
            "from guest to guest by its address",
            &[
                from_guest(),
                destination(pool),
                destination_untranslated(),
                destination_is_elsewhere(),
                jump(REFUSED_GUEST),
            ],
        ),
    ]
}

/// Returns the rules that limit the flows of each guest. A packet that is dropped leaves no flow. Only one that begins a
/// flow is counted: what a guest goes on with, and what it answers, passes.
///
/// The kernel notes a flow before it says that there are too many, so the rate is held first.
fn limited(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let limit = base_ruleset.flows;
    let (Some(most), Some(rate)) = (limit.number(), limit.each_second()) else { return vec![] };
    let rule = |text: &str, limited: Vec<Expression>, refused: &str| {
        rule(TRACK, text, &[from_guest(), begins_flow(), limited, jump(refused)])
    };
    let of_each = |family, rates, flows| {
        let fast = begins_more_than(family, rate, most, rates);
        let many = has_begun_more_than(family, most, flows);
        [
            rule("guests begin flows as fast as they may", fast, REFUSED_RATE),
            rule("guests have as many flows as they may", many, REFUSED_FLOWS),
        ]
    };
    let v6 = base_ruleset.pool.v6().map(|_| of_each(Family::V6, RATES_V6, FLOWS_V6));
    let v4 = of_each(Family::V4, RATES, FLOWS);
    v4.into_iter().chain(v6.into_iter().flatten()).collect()
}

/// Returns the rules that make answers leave by the uplink that was asked. Connections are marked before any packet is
/// accepted; none of these rules has a verdict.
fn mark_rules(base_ruleset: &BaseRuleset) -> impl Iterator<Item = Rule> {
    let bits = base_ruleset.marks.bits();
    base_ruleset.marks.marks().flat_map(move |(uplink, mark)| {
        let marked = [
            from_interface(uplink),
            to_guest(),
            destination_translated(),
            mark_connection(mark, bits),
        ];
        let answer = [from_guest(), connection_has_mark(mark, bits), mark_packet(mark, bits)];
        let text = format!("asked at {uplink}");
        [rule(FORWARD, &text, &marked), rule(ANSWERS, &text, &answer)]
    })
}
