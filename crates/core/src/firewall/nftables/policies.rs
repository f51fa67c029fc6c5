//! The table of what guests reach, where the rest of the firewall is iptables.
//!
//! It judges what guests begin before the table mangle of iptables does: it refuses, or marks the packet as allowed, which our
//! chains of iptables then let pass. An accept here overrides no drop of others. The table has a name of its own, so that it
//! is not taken for the whole ruleset of the backend nftables.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{Expressions, HookNumber, InetHookNumber, Lookup},
};

use super::{
    base_ruleset::hash,
    change, egress, element,
    expression::{
        ACCEPT, accept, destination_translated, established, from_guest, jump, mark_packet,
        not_from_guest, packet_has_any, source, to_guest,
    },
    layout::Layout,
    names,
    object::{Base, Chain, Operation, Rule, Set, Table, TableName, comment},
    proxies, refused, sets,
};
use crate::{
    address::Ipv6Unsupported,
    firewall::{
        BaseRuleset, Entry, EntryTable, Ruleset,
        names::nftables::{
            ASKED, FORWARD, INPUT, POLICIES_TABLE, PREROUTING, REFUSE, REFUSED, REFUSED_EGRESS,
            REFUSED_POLICY, REFUSED_POLICY_HOST, TABLE_COMMENT, TOLD, UPLINKS, priority,
        },
    },
    model::Egress,
};

/// Returns the name of the table.
#[must_use]
pub fn name() -> TableName {
    TableName::new(NetfilterProtoFamily::Inet, POLICIES_TABLE)
}

/// Returns those of the entries that stand in this table.
#[must_use]
pub fn of(entries: &BTreeSet<Entry>) -> BTreeSet<Entry> {
    entries.iter().filter(|entry| entry.table() == EntryTable::Policies).copied().collect()
}

/// Returns the table as it should be. Its comment identifies the rules, and names the owner.
#[must_use]
pub fn layout(base_ruleset: &BaseRuleset) -> Layout {
    let rules = rules(base_ruleset);
    let chains = chains(&rules);
    let sets = sets(base_ruleset, &rules);
    let uplinks = base_ruleset.uplinks.iter().map(element::uplink).collect();
    let elements = BTreeMap::from([(UPLINKS, uplinks)]);
    let references = u32::try_from(chains.len() + sets.len()).unwrap_or(u32::MAX);
    let mut table = Table { name: name(), flags: 0, references, userdata: vec![] };
    let mut layout = Layout { table: table.clone(), chains, rules, sets, elements };
    let digest = hash(layout.add().into_iter().flat_map(|Operation { message, .. }| {
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut bytes);
        bytes
    }));
    let owner = base_ruleset.owner.as_ref().map(|owner| format!(" {owner}")).unwrap_or_default();
    table.userdata = comment(&format!("{TABLE_COMMENT}{digest:016x}{owner}"));
    layout.table = table;
    layout
}

/// Returns the messages of the transaction that replaces the table.
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn reset(ruleset: &Ruleset) -> Result<Vec<Operation>, Ipv6Unsupported> {
    let entries = change::add_many(&name(), &of(&ruleset.entries))?;
    Ok([remove(), layout(&ruleset.base_ruleset).add(), entries].concat())
}

/// Returns the messages of the transaction that removes those of the entries which stand in the table, and adds others; none
/// if there are none. `references` are the references of those chains of a [`PolicyChange`](super::PolicyChange) that exist.
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn delta(
    remove: &BTreeSet<Entry>,
    add: &BTreeSet<Entry>,
    references: &BTreeMap<String, u32>,
) -> Result<Vec<Operation>, Ipv6Unsupported> {
    change::delta(&name(), &of(remove), &of(add), references)
}

/// Returns the messages of the transaction that removes the table, if there is one.
#[must_use]
pub fn remove() -> Vec<Operation> {
    // A missing table cannot be deleted, but an existing one can be added.
    vec![name().add(None), name().delete(0)]
}

/// Returns the rules. Those for what guests begin are those of the backend nftables, with a mark on what they accept.
fn rules(base_ruleset: &BaseRuleset) -> Vec<Rule> {
    let (pool, marks) = (base_ruleset.pool.v4(), &base_ruleset.marks);
    let (asked, allowed) = (marks.asked(), marks.allowed());
    let rule =
        |chain: &str, text: &str, parts: &[Vec<_>]| Rule::new(&name(), chain, comment(text), parts);
    let mark = mark_packet(allowed, allowed);
    let unmarked = mark_packet(0, allowed);
    let mut rules = vec![
        rule(FORWARD, "others", &[not_from_guest(), accept()]),
        rule(FORWARD, "what guests go on with", &[established(), accept()]),
        rule(FORWARD, "exposures", &[to_guest(), destination_translated(), accept()]),
        rule(
            FORWARD,
            "guests to what others publish",
            &[source(pool), destination_translated(), packet_has_any(asked), accept()],
        ),
        // The rules of iptables tell of it.
        rule(FORWARD, "from guest to guest", &[to_guest(), jump(REFUSE)]),
        rule(FORWARD, "nothing is allowed yet", std::slice::from_ref(&unmarked)),
        rule(INPUT, "others", &[not_from_guest(), accept()]),
        rule(INPUT, "nothing is allowed yet", &[unmarked]),
    ];
    let translating = names::to_the_daemon().into_iter().chain([proxies::to_the_proxy()]);
    rules.extend(translating.map(|rule| Rule { table: name(), ..rule }));
    let accepted = accept();
    rules.extend(egress::rules(base_ruleset).into_iter().map(|mut rule| {
        if rule.expressions.ends_with(&accepted) {
            let place = rule.expressions.len() - accepted.len();
            rule.expressions.splice(place..place, mark.iter().cloned());
        }
        Rule { table: name(), ..rule }
    }));
    rules.push(rule(FORWARD, "nothing else from guests", &[from_guest(), jump(REFUSED_EGRESS)]));
    if base_ruleset.egress == Egress::All {
        rules.push(rule(INPUT, "guests to the host", &[from_guest(), mark, accept()]));
    }
    // Chains of policies lead to these.
    let of_policies = [REFUSED_POLICY, REFUSED_POLICY_HOST];
    let targets: BTreeSet<String> =
        rules.iter().filter_map(Rule::target).chain(of_policies).map(ToOwned::to_owned).collect();
    let refused = refused::rules().into_iter().filter(|rule| targets.contains(&rule.chain));
    rules.extend(refused.map(|rule| Rule { table: name(), ..rule }));
    rules
}

/// Returns the chains of these rules, with the number of references that they make.
fn chains(rules: &[Rule]) -> Vec<Chain> {
    let base = |hook| {
        let (kind, priority) = ("filter".to_owned(), priority::BEFORE_MANGLE);
        Base { kind, hook: HookNumber::Inet(hook), priority, policy: ACCEPT }
    };
    let names: BTreeSet<&str> = rules.iter().map(|rule| &*rule.chain).collect();
    let chain = |name: &str| {
        let refers = |rule: &&Rule| rule.chain == name || rule.target() == Some(name);
        let references = rules.iter().filter(refers).count();
        let references = u32::try_from(references).unwrap_or(u32::MAX);
        let base = match name {
            FORWARD => Some(base(InetHookNumber::Forward)),
            INPUT => Some(base(InetHookNumber::LocalIn)),
            PREROUTING => Some(Base {
                kind: "nat".to_owned(),
                priority: priority::BEFORE_DSTNAT,
                ..base(InetHookNumber::PreRouting)
            }),
            _ => None,
        };
        Chain { table: self::name(), name: name.to_owned(), base, references }
    };
    names.into_iter().map(chain).collect()
}

/// Returns the sets that these rules look into.
fn sets(base_ruleset: &BaseRuleset, rules: &[Rule]) -> Vec<Set> {
    let named: BTreeSet<&str> = rules
        .iter()
        .flat_map(|rule| &rule.expressions)
        .filter_map(|expression| match expression {
            Expressions::Lookup(attributes) => {
                attributes.iter().find_map(|attribute| match attribute {
                    Lookup::Set(set) => Some(&**set),
                    _ => None,
                })
            }
            _ => None,
        })
        .collect();
    // The places of entries are there even if no rule asks for a reach that the node has anyway.
    let holds = |set: &Set| {
        let is_filled = [REFUSED, TOLD, ASKED].contains(&&*set.name);
        is_filled || named.contains(&*set.name) || element::is_of_policies(&set.name)
    };
    let sets = sets::all(base_ruleset).into_iter().filter(holds);
    sets.map(|set| Set { table: name(), ..set }).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::base_ruleset, *};
    use crate::{
        firewall::Confinement,
        model::{FlowLimit, Owner, OwnerId},
        routing::UplinkMarks,
    };

    fn base_ruleset(egress: Egress) -> BaseRuleset {
        BaseRuleset {
            pool: "10.231.0.0/16".parse().unwrap(),
            mtu: 1500,
            uplinks: ["eth0".parse().unwrap()].into(),
            any_uplink: true,
            egress,
            flows: FlowLimit::default(),
            confined: Confinement::default(),
            marks: UplinkMarks::default(),
            owner: Some(Owner::new(OwnerId::new(1), "/run/riklet-sdn")),
        }
    }

    #[test]
    fn what_is_accepted_of_guests_beginnings_is_marked() {
        let marked = mark_packet(8, 8);
        for egress in Egress::ALL {
            let rules = rules(&base_ruleset(egress));
            let accepting = |rule: &&Rule| rule.expressions.ends_with(&accept());
            let without = rules
                .iter()
                .filter(accepting)
                .filter(|rule| !rule.expressions.windows(marked.len()).any(|part| part == marked));
            let without: Vec<_> = without.map(ToString::to_string).collect();
            assert_eq!(without.len(), 5, "{without:?}");
        }
    }

    #[test]
    fn the_comment_differs_where_the_rules_do() {
        let userdata = |egress| layout(&base_ruleset(egress)).table.userdata;
        assert_eq!(userdata(Egress::All), userdata(Egress::All));
        assert_ne!(userdata(Egress::All), userdata(Egress::None));
        let owner = base_ruleset(Egress::All).owner.unwrap();
        assert_eq!(base_ruleset::mark(&layout(&base_ruleset(Egress::All)).table), owner.mark());
    }

    #[test]
    fn only_what_policies_say_stands_here() {
        let guest = [10, 231, 0, 2].into();
        let reach = Egress::None;
        let all =
            [Entry::Hairpin { guest }, Entry::Judged { guest }, Entry::Policy { guest, reach }];
        assert_eq!(of(&all.into()), [Entry::Policy { guest, reach }].into());
        let none = BTreeMap::new();
        assert!(delta(&[].into(), &[Entry::Judged { guest }].into(), &none).unwrap().is_empty());
    }
}
