//! The base ruleset: the table, its chains, its sets, and its rules. None of them depends on instances.

use std::{iter, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    egress,
    element::{self, Element},
    expression::{
        ACCEPT, Expression, accept, addresses_in, begins_connection, begins_flow, begins_more_than,
        between, by_address, by_port, clamp_segment_size, connection_has_mark, destination,
        destination_is_broadcast, destination_is_elsewhere, destination_is_local,
        destination_outside, destination_translated, destination_untranslated, drop, established,
        from_guest, from_interface, has_begun_more_than, invalid, jump, mark_connection,
        mark_packet, masquerade, not_from_guest, not_from_host, not_to_guest, of_family,
        packet_has_any, set_segment_size, source, source_is_elsewhere, to_guest, translate,
        translate_address,
    },
    ipv6,
    layout::Layout,
    names,
    object::{Base, Chain, Operation, Rule, Table, TableName, comment, commented},
    refused, sets,
};
use crate::{
    firewall::{
        BaseRuleset,
        names::{
            CHAIN,
            nftables::{
                ALLOWED, ANSWERS, ANTISPOOF, BOUND, BOUND_RANGES, CONFINED, CONFINED_V6, EXPOSURES,
                FLOWS, FLOWS_V6, FORWARD, HAIRPIN, HOST_REFUSE, INPUT, OUTPUT, POSTROUTING,
                PREROUTING, RANGES, RATES, RATES_V6, REFUSE, REFUSED_BROADCAST, REFUSED_EGRESS,
                REFUSED_FLOWS, REFUSED_GUEST, REFUSED_INVALID, REFUSED_LOOPBACK, REFUSED_MULTICAST,
                REFUSED_RATE, REFUSED_SPOOFED, TABLE, TABLE_COMMENT, TRACK, UPLINKS, WHOLE,
                priority,
            },
        },
    },
    model::{Family, Mark, Owner},
};

/// The groups of hosts, and everything that is reserved, with the broadcast address.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);

/// The hash of the messages for some settings: another number means other rules. A test holds it to them.
const VERSION: u64 = 0x7788_f69e_beb1_720a;

/// Returns the name of our table.
#[must_use]
pub fn name() -> TableName {
    TableName::new(NetfilterProtoFamily::Inet, TABLE)
}

/// Returns our table. Its comment identifies the base ruleset, so that one that another version or other
/// settings made is told from it, and names the owner.
#[must_use]
pub fn table(base_ruleset: &BaseRuleset) -> Table {
    let references = hooks(base_ruleset).count() + sets::all(base_ruleset).len();
    let owner = base_ruleset.owner.as_ref().map(|owner| format!(" {owner}")).unwrap_or_default();
    let userdata = comment(&format!("{TABLE_COMMENT}{:016x}{owner}", digest(base_ruleset)));
    let references = u32::try_from(references).unwrap_or(u32::MAX);
    Table { name: name(), flags: 0, references, userdata }
}

/// Returns the mark on our table.
pub(super) fn mark(table: &Table) -> Mark {
    let owner = commented(&table.userdata).and_then(|text| {
        text.strip_prefix(TABLE_COMMENT)?.split_once(' ')?.1.parse::<Owner>().ok()
    });
    owner.map_or(Mark::Unsigned, |owner| owner.mark())
}

/// Returns a number that identifies the messages that make the base ruleset: the hash of the settings that they follow
/// from, and of [`VERSION`]. Every look at the firewall needs it, and the messages themselves take longer to make than the
/// look.
fn digest(base_ruleset: &BaseRuleset) -> u64 {
    // The owner stands beside the number.
    let BaseRuleset { pool, mtu, uplinks, any_uplink, egress, flows, confined, marks, owner: _ } =
        base_ruleset;
    // Nothing of IPv6 leaves the number as it was.
    let v6: Vec<_> = confined.pairs_v6().collect();
    let v6 = if v6.is_empty() { String::new() } else { format!("{v6:?}") };
    let confined: Vec<_> = confined.pairs().collect();
    let marks = (marks.marks().collect::<Vec<_>>(), marks.bits(), marks.asked());
    let settings = (pool, mtu, uplinks, any_uplink, egress, flows, confined, marks);
    hash(VERSION.to_be_bytes().into_iter().chain(format!("{settings:?}{v6}").into_bytes()))
}

/// Returns the 64-bit FNV-1a hash.
pub(super) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = bytes.into_iter();
    bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Adds the base ruleset, if there is no table.
pub(super) fn add(base_ruleset: &BaseRuleset) -> impl Iterator<Item = Operation> {
    let table = name().add(Some(table(base_ruleset).userdata));
    iter::once(table).chain(parts(base_ruleset))
}

fn parts(base_ruleset: &BaseRuleset) -> Vec<Operation> {
    let rules = rules(base_ruleset);
    let chains = chains_of(base_ruleset, &rules).map(|chain| chain.add());
    let sets = (1..).zip(sets::all(base_ruleset)).map(|(id, set)| set.add(id));
    let uplinks = base_ruleset.uplinks.iter().map(|uplink| {
        let what = format!("adding uplink {uplink}");
        element::add(&name(), UPLINKS, &[element::uplink(uplink)], what)
    });
    let confined = |set: &'static str, pairs: Vec<Element>| {
        let pairs = pairs.chunks(element::A_MESSAGE);
        let add = |pairs| element::add(&name(), set, pairs, "adding interfaces".to_owned());
        pairs.map(add).collect::<Vec<_>>()
    };
    let v6 = base_ruleset.confined.pairs_v6().map(element::pair).collect();
    let confined = [
        confined(CONFINED, base_ruleset.confined.pairs().map(element::pair).collect()),
        confined(CONFINED_V6, v6),
    ];
    let rules = rules.iter().map(Rule::append);
    chains.chain(sets).chain(uplinks).chain(confined.concat()).chain(rules).collect()
}

/// Reports whether a table is ours.
#[must_use]
pub fn is_ours(table: &TableName) -> bool {
    [name(), super::confinement::name(), super::policies::name()].contains(table)
}

/// Returns the table as it should be.
#[must_use]
pub fn layout(base_ruleset: &BaseRuleset) -> Layout {
    let rules = rules(base_ruleset);
    let confined_v6 = base_ruleset
        .pool
        .v6()
        .map(|_| (CONFINED_V6, base_ruleset.confined.pairs_v6().map(element::pair).collect()));
    Layout {
        table: table(base_ruleset),
        chains: chains_of(base_ruleset, &rules).collect(),
        rules,
        sets: sets::all(base_ruleset),
        elements: [
            (UPLINKS, base_ruleset.uplinks.iter().map(element::uplink).collect()),
            (CONFINED, base_ruleset.confined.pairs().map(element::pair).collect()),
        ]
        .into_iter()
        .chain(confined_v6)
        .collect(),
    }
}

/// Returns the chains, with the number of references that the rules make.
#[must_use]
pub fn chains(base_ruleset: &BaseRuleset) -> Vec<Chain> {
    chains_of(base_ruleset, &rules(base_ruleset)).collect()
}

fn chains_of(base_ruleset: &BaseRuleset, rules: &[Rule]) -> impl Iterator<Item = Chain> {
    hooks(base_ruleset).map(|(name, base)| {
        let refers = |rule: &&Rule| rule.chain == name || rule.target() == Some(name);
        let references = rules.iter().filter(refers).count();
        let references = u32::try_from(references).unwrap_or(u32::MAX);
        Chain { table: self::name(), name: name.to_owned(), base, references }
    })
}

/// Returns the names of the chains, with their hooks.
fn hooks(base_ruleset: &BaseRuleset) -> impl Iterator<Item = (&'static str, Option<Base>)> {
    let base = |kind: &str, hook: InetHookNumber, priority: i32| {
        let kind = kind.to_owned();
        Some(Base { kind, hook: HookNumber::Inet(hook), priority, policy: ACCEPT })
    };
    let all = vec![
        (CHAIN, None),
        (REFUSE, None),
        (HOST_REFUSE, None),
        (WHOLE, None),
        (ALLOWED, None),
        (ANTISPOOF, base("filter", InetHookNumber::PreRouting, priority::RAW)),
        (TRACK, base("filter", InetHookNumber::PreRouting, priority::AFTER_DSTNAT)),
        (PREROUTING, base("nat", InetHookNumber::PreRouting, priority::BEFORE_DSTNAT)),
        (OUTPUT, base("nat", InetHookNumber::LocalOut, priority::BEFORE_DSTNAT)),
        (INPUT, base("filter", InetHookNumber::LocalIn, priority::BEFORE_FILTER)),
        (FORWARD, base("filter", InetHookNumber::Forward, priority::FILTER)),
        (POSTROUTING, base("nat", InetHookNumber::PostRouting, priority::SRCNAT)),
    ];
    // This chain costs a test for each packet, so it exists only if there is something to mark.
    let mark = base("filter", InetHookNumber::PreRouting, priority::MANGLE);
    let mark = (!base_ruleset.marks.is_empty()).then_some((ANSWERS, mark));
    all.into_iter().chain(refused::chains().map(|chain| (chain, None))).chain(mark)
}

/// Returns the rules; those of one chain are in order.
#[must_use]
pub fn rules(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let table = name();
    let rule = |chain: &str, text: &str, parts: &[Vec<Expression>]| {
        Rule::new(&table, chain, comment(text), parts)
    };
    let (pool, asked) = (base_ruleset.pool.v4(), base_ruleset.marks.asked());
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let localhost = Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32);
    // No other packet can match by accident: every key has a transport protocol with ports, and conntrack
    // reassembles fragments, of which only the first has ports, before these rules.
    let v4 = Family::V4;
    let mut all = vec![
        rule(CHAIN, "exposures of one address", &[by_address(v4), translate(v4, BOUND)]),
        rule(
            CHAIN,
            "ranges of one address",
            &[by_address(v4), translate_address(v4, BOUND_RANGES)],
        ),
        rule(CHAIN, "exposures of every address", &[by_port(), translate(v4, EXPOSURES)]),
        rule(CHAIN, "ranges of every address", &[by_port(), translate_address(v4, RANGES)]),
    ];
    let of_v6 = base_ruleset.pool.v6().map(|pool| ipv6::rules(base_ruleset, pool));
    all.extend(of_v6.unwrap_or_default());
    all.extend(arriving(base_ruleset));
    all.extend(limited(base_ruleset));
    all.extend(names::to_the_daemon());
    all.extend([
        // The kernel drops packets that arrive for 127.0.0.0/8 as martian, but only after this rule, which would
        // translate them.
        rule(
            PREROUTING,
            "to the host",
            &[destination_outside(loopback), destination_is_local(), jump(CHAIN)],
        ),
        rule(
            OUTPUT,
            "from the host to itself",
            &[destination_outside(loopback), destination_is_local(), jump(CHAIN)],
        ),
        // Other addresses of 127.0.0.0/8 are those of local services, such as a resolver.
        rule(OUTPUT, "from the host to 127.0.0.1", &[destination(localhost), jump(CHAIN)]),
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
    ]);
    all.extend(egress::rules(base_ruleset));
    all.extend(refused::rules());
    all.extend([
        rule(FORWARD, "nothing else from guests", &[from_guest(), jump(REFUSED_EGRESS)]),
        rule(FORWARD, "nothing else to guests", &[to_guest(), drop()]),
        rule(POSTROUTING, "guests to others", &[source(pool), not_to_guest(), masquerade()]),
        rule(
            POSTROUTING,
            "guests to themselves",
            &[addresses_in(v4, HAIRPIN), destination_translated(), masquerade()],
        ),
        rule(POSTROUTING, "127.0.0.0/8 to guests", &[to_guest(), source(loopback), masquerade()]),
    ]);
    if !base_ruleset.confined.is_empty() {
        let text = "what only our forwarding makes possible";
        all.push(rule(FORWARD, text, &[of_family(v4), between(CONFINED), drop()]));
    }
    if base_ruleset.confined.v6().is_some() {
        let text = "what only our forwarding of IPv6 makes possible";
        let parts = [of_family(Family::V6), between(CONFINED_V6), drop()];
        all.push(rule(FORWARD, text, &parts));
    }
    mark_rules(base_ruleset).chain(all).collect()
}

/// Returns the rules for arriving packets: those that are dropped before they are tracked, and those of guests that are
/// tracked.
fn arriving(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let table = name();
    let rule = |chain: &str, text: &str, parts: &[Vec<Expression>]| {
        Rule::new(&table, chain, comment(text), parts)
    };
    let (pool, asked) = (base_ruleset.pool.v4(), base_ruleset.marks.asked());
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
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
            &[from_guest(), destination(loopback), jump(REFUSED_LOOPBACK)],
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
    let table = name();
    let rule = |text: &str, limited: Vec<Expression>, refused: &str| {
        let parts = [from_guest(), begins_flow(), limited, jump(refused)];
        Rule::new(&table, TRACK, comment(text), &parts)
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
        let (text, table) = (format!("asked at {uplink}"), name());
        [(FORWARD, &marked[..]), (ANSWERS, &answer[..])]
            .map(|(chain, parts)| Rule::new(&table, chain, comment(&text), parts))
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkSerializable;

    use super::*;
    use crate::{
        firewall::Confinement,
        model::{Egress, FlowLimit, MarkMask, OwnerId},
        routing::{UplinkMarks, Way},
    };

    fn base_ruleset() -> BaseRuleset {
        let pool = "10.231.0.0/16".parse().unwrap();
        let (uplinks, confined) = (["eth0".parse().unwrap()].into(), Confinement::default());
        let owner = Some(Owner::new(OwnerId::new(1), "/run/riklet-sdn"));
        let marks = UplinkMarks::default();
        let (egress, flows) = (Egress::default(), FlowLimit::default());
        BaseRuleset {
            pool,
            mtu: 1500,
            uplinks,
            any_uplink: true,
            egress,
            flows,
            confined,
            marks,
            owner,
        }
    }

    fn confined(from: &str, to: &str) -> BaseRuleset {
        let set = |names: &str| names.split(' ').map(|name| name.parse().unwrap()).collect();
        let confined = Confinement::new(set(from), set(to), [].into());
        BaseRuleset { confined, ..base_ruleset() }
    }

    #[test]
    fn the_comment_differs_where_the_base_ruleset_does() {
        let mine = base_ruleset();
        let (one, other) = (confined("eth0", "eth1"), confined("eth0", "eth2"));
        let elsewhere = BaseRuleset { pool: "10.232.0.0/16".parse().unwrap(), ..base_ruleset() };
        let smaller = BaseRuleset { mtu: 1400, ..base_ruleset() };
        let offline = BaseRuleset { uplinks: [].into(), ..base_ruleset() };
        assert_eq!(table(&mine), table(&base_ruleset()));
        let fixed = BaseRuleset { any_uplink: false, ..base_ruleset() };
        let marked = marked();
        let unsigned = BaseRuleset { owner: None, ..base_ruleset() };
        let moved = Owner::new(OwnerId::new(1), "/run/other");
        let moved = BaseRuleset { owner: Some(moved), ..base_ruleset() };
        let [all, none] =
            [Egress::All, Egress::None].map(|egress| BaseRuleset { egress, ..base_ruleset() });
        let limits = ["64", "unlimited"].map(limited_to);
        let others =
            [one, other, elsewhere, offline, fixed, marked, unsigned, moved, smaller, all, none];
        let v6 = with_v6(base_ruleset());
        for other in others.into_iter().chain(limits).chain([v6]) {
            assert_ne!(table(&mine).userdata, table(&other).userdata, "{other:?}");
        }
    }

    fn limited_to(flows: &str) -> BaseRuleset {
        BaseRuleset { flows: flows.parse().unwrap(), ..base_ruleset() }
    }

    fn marked() -> BaseRuleset {
        let ways = [("eth1".parse().unwrap(), Way::Table(100))].into();
        let marks = UplinkMarks::new(MarkMask::default(), &ways, None);
        BaseRuleset { marks, ..base_ruleset() }
    }

    fn with_v6(base_ruleset: BaseRuleset) -> BaseRuleset {
        let pool = base_ruleset.pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
        let one = |name: &str| [name.parse().unwrap()].into();
        let v6 = Confinement::new(one("eth0"), one("eth1"), [].into());
        BaseRuleset { pool, confined: base_ruleset.confined.with_v6(v6), ..base_ruleset }
    }

    #[test]
    fn ipv6_adds_to_the_rules_and_changes_none() {
        for base_ruleset in [base_ruleset(), marked(), confined("eth0", "eth1")] {
            let (before, after) = (rules(&base_ruleset), rules(&with_v6(base_ruleset.clone())));
            let is_kept = |rule: &Rule| after.iter().any(|other| other.means(rule));
            assert!(before.iter().all(is_kept), "{base_ruleset:?}");
            let is_new = |rule: &&Rule| !before.iter().any(|other| other.means(rule));
            assert!(after.iter().filter(is_new).count() > 20, "{base_ruleset:?}");
        }
    }

    #[test]
    fn the_version_is_that_of_the_rules() {
        let elsewhere = BaseRuleset { pool: "10.232.0.0/16".parse().unwrap(), ..base_ruleset() };
        let smaller = BaseRuleset { mtu: 1400, ..base_ruleset() };
        let offline = BaseRuleset { uplinks: [].into(), ..base_ruleset() };
        let fixed = BaseRuleset { any_uplink: false, ..base_ruleset() };
        let confined = confined("eth0", "eth1");
        let [all, none] =
            [Egress::All, Egress::None].map(|egress| BaseRuleset { egress, ..base_ruleset() });
        let all = [
            base_ruleset(),
            confined,
            elsewhere,
            smaller,
            offline,
            fixed,
            marked(),
            all,
            none,
            with_v6(base_ruleset()),
        ];
        let limits = ["64", "unlimited"].map(limited_to);
        let bytes = all.iter().chain(&limits).flat_map(parts).flat_map(|operation| {
            let mut bytes = vec![0; NetlinkSerializable::buffer_len(&operation.message)];
            operation.message.serialize(&mut bytes);
            bytes
        });
        let version = hash(bytes);
        assert_eq!(VERSION, version, "the rules have changed: the version is {version:#018x} now");
    }

    #[test]
    fn the_table_names_its_owner() {
        let owner = base_ruleset().owner.unwrap();
        assert_eq!(mark(&table(&base_ruleset())), owner.mark());
        let unsigned = BaseRuleset { owner: None, ..base_ruleset() };
        assert_eq!(mark(&table(&unsigned)), Mark::Unsigned);
    }

    #[test]
    fn comments_fit_the_limit_of_nft() {
        // nft(8) reads at most 128 characters of a listed comment.
        let longest = Owner::new(OwnerId::new(u64::MAX), &format!("/{}", "d".repeat(100)));
        let table = table(&BaseRuleset { owner: Some(longest), ..base_ruleset() });
        assert!(commented(&table.userdata).unwrap().len() < 128, "{table:?}");
        // NFTNL_UDATA_COMMENT_MAXLEN is 128.
        for rule in rules(&confined("eth0", "eth1")) {
            assert!(rule.userdata.len() < 128, "{rule}");
        }
    }

    #[test]
    fn references_count_rules_and_jumps() {
        let chains = chains(&base_ruleset());
        let of = |name| chains.iter().find(|chain| chain.name == name).unwrap().references;
        assert_eq!(of(CHAIN), 7);
        assert_eq!(of(OUTPUT), 2);
        assert_eq!(of(INPUT), 11);
        assert_eq!(of(FORWARD), 20);
        assert_eq!(of(REFUSE), 7);
    }
}
