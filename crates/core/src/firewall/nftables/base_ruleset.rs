//! The base ruleset: the table, with its chains, sets and rules. None of them depends on instances.

use std::iter;

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    element::{self, Element},
    expression::ACCEPT,
    layout::Layout,
    object::{Base, Chain, Operation, Rule, Table, TableName, comment, commented},
    refused,
    rules::rules,
    sets,
};
use crate::{
    firewall::{
        BaseRuleset,
        names::{
            CHAIN,
            nftables::{
                ALLOWED, ANSWERS, ANTISPOOF, CONFINED, CONFINED_V6, FORWARD, HOST_REFUSE, INPUT,
                OUTPUT, POSTROUTING, PREROUTING, REFUSE, TABLE, TABLE_COMMENT, TRACK, UPLINKS,
                WHOLE, priority,
            },
        },
    },
    model::{Mark, Owner},
};

/// The hash of the messages for some settings: another number means other rules. A test holds it to them.
const VERSION: u64 = 0x06b9_dfd8_e227_f704;

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
