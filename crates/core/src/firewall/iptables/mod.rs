//! The ruleset as input of `iptables-restore`, and the output of `iptables-save` compared with it.
//!
//! Rules are written as `iptables-save` of both variants prints them, in the same order of options, so that
//! comparing rules is comparing text (tried with 1.8.9).

mod foreign_rule;
mod foreign_translation;
mod layout;
mod probe;
mod refused;
mod saved;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

pub use self::foreign_translation::{bans, port_bans, translations};
use self::layout::Layout;
pub use self::probe::Probe;
pub use self::saved::{Saved, Unanswered, is_incompatible, list};
use super::{
    BaseRuleset, BaseState, Entry, EntryError, EntryTable, FirewallState, ForeignChain,
    ForeignChainState, Ruleset,
    names::{self, CHAIN},
    passage,
};
use crate::model::{InterfaceName, Mark, Owner};

/// The match by which services of the host are told from ports that nobody listens on, and its first revision that has the
/// option which our rule names.
pub const SOCKET: (&str, u8) = ("socket", 1);

/// A table, in the order in which tables are committed: no rule leads to a guest before those that refuse are in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Filters. Others accept packets here, so nothing is refused here; only passages of ours are in it.
    Filter,
    /// Alters packets, before they are filtered. Here we refuse.
    Mangle,
    /// Comes before connection tracking.
    Raw,
    /// Translates addresses.
    Nat,
    /// Filters after the table filter, for mandatory access control.
    Security,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Filter, Self::Mangle, Self::Raw, Self::Nat, Self::Security];
    /// The tables of our ruleset.
    pub const OURS: [Self; 3] = [Self::Mangle, Self::Raw, Self::Nat];
    /// The tables with a chain FORWARD, which may drop our packets.
    pub const FORWARDING: [Self; 3] = [Self::Filter, Self::Mangle, Self::Security];
    /// The tables with chains before and after it, which may drop our packets as well.
    pub const AROUND: [Self; 2] = [Self::Raw, Self::Mangle];

    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filter => names::iptables::FILTER,
            Self::Mangle => names::iptables::MANGLE,
            Self::Raw => names::iptables::RAW,
            Self::Nat => names::iptables::NAT,
            Self::Security => names::iptables::SECURITY,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule, as it is written after `-A`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    chain: String,
    /// Matches and target.
    body: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.chain, self.body)
    }
}

/// Joins lines to an input, each ended by a newline.
fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Returns input that removes entries and adds entries, each table in one transaction; empty if none of them stands in
/// iptables.
///
/// The input is refused if a rule to be removed or a chain to be added to is missing, and if one of the jumps that it
/// checks is: flushing a table removes these too. It does not check the jumps to [`CHAIN`] itself, because iptables-nft
/// would read all exposures for that (50 ms for 10,000; [`Probe`] sees them in 1 ms). iptables has no keys, so an
/// existing entry is added again. The second one has no effect, and [`state`] reports it.
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn delta(
    remove: &BTreeSet<Entry>,
    add: &BTreeSet<Entry>,
    owner: Option<&Owner>,
) -> Result<String, EntryError> {
    if !remove.iter().chain(add).any(is_rule) {
        return Ok(String::new());
    }
    changed(owner, |table| {
        Ok([entry_lines("-D", table, remove)?, entry_lines("-A", table, add)?].concat())
    })
}

/// Reports whether an entry is a rule of iptables.
#[must_use]
pub fn is_rule(entry: &Entry) -> bool {
    entry.table() != EntryTable::Policies
}

/// Returns input that checks the jumps, and changes the entries by these lines.
fn changed(
    owner: Option<&Owner>,
    lines: impl Fn(Table) -> Result<Vec<String>, EntryError>,
) -> Result<String, EntryError> {
    // Not every ruleset has the chain for marks.
    let unchecked = [CHAIN, names::iptables::MARK_CHAIN].map(|chain| format!(" {chain}"));
    let mut input = Vec::new();
    for table in Table::OURS {
        input.push(format!("*{table}"));
        let jumps = layout::jumps(table, owner);
        let checked =
            jumps.iter().filter(|jump| !unchecked.iter().any(|chain| jump.body.ends_with(chain)));
        input.extend(checked.map(|jump| format!("-C {jump}")));
        input.extend(lines(table)?);
        input.push("COMMIT".to_owned());
    }
    Ok(text(&input))
}

/// From this many entries to be removed on, [`rewrite`] costs less than [`delta`], which has iptables compare each of them
/// with every rule.
const MANY: usize = 16;

/// Reports whether a change that removes these entries is made by [`rewrite`].
#[must_use]
pub fn rewrites(remove: &BTreeSet<Entry>) -> bool {
    remove.iter().filter(|entry| is_rule(entry)).count() >= MANY
}

/// Returns input that replaces the entries that are found by these, in one transaction. The jumps are checked as in
/// [`delta`].
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn rewrite(entries: &BTreeSet<Entry>, owner: Option<&Owner>) -> Result<String, EntryError> {
    changed(owner, |table| {
        let chains: &[&str] = match table {
            Table::Nat => &[CHAIN, names::iptables::HAIRPIN_CHAIN],
            Table::Mangle => &[names::iptables::POLICY_CHAIN],
            _ => &[],
        };
        let emptied = chains.iter().map(|chain| format!(":{chain} - [0:0]"));
        Ok(emptied.chain(entry_lines("-A", table, entries)?).collect())
    })
}

/// Returns a line for the rule of each entry of this table.
fn entry_lines(
    operation: &str,
    table: Table,
    entries: &BTreeSet<Entry>,
) -> Result<Vec<String>, EntryError> {
    let line = |entry| layout::of_entry(entry).map(|rule| format!("{operation} {rule}"));
    entries.iter().filter(|entry| layout::stands_in(entry, table)).map(line).collect()
}

/// Returns input that replaces all our objects by this ruleset. Everything else stays.
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn reset(ruleset: &Ruleset, saved: &Saved) -> Result<String, EntryError> {
    let mut layouts = layout::of_ruleset(ruleset)?;
    add_passages(&mut layouts, &ruleset.base_ruleset, saved);
    Ok(layouts.iter().map(|layout| put(layout, saved)).collect())
}

/// Returns input that removes all our objects, or `None` if there are none.
#[must_use]
pub fn remove(saved: &Saved) -> Option<String> {
    // The order is reversed: when what refuses is removed, no rule leads to a guest any more.
    let touched = Table::OURS.into_iter().rev().filter(|&table| saved.has_ours(table));
    let input: String = touched.map(|table| put(&Layout::empty(table), saved)).collect();
    (!input.is_empty()).then_some(input)
}

/// Compares all our objects with the expected ruleset.
#[must_use]
pub fn state(expected: &Ruleset, saved: &Saved) -> FirewallState {
    if !Table::OURS.into_iter().any(|table| saved.has_ours(table)) {
        return FirewallState::absent();
    }
    let (entries, strays) = entries_and_strays(saved);
    let mut base_ruleset = layout::of_base_ruleset(&expected.base_ruleset);
    add_passages(&mut base_ruleset, &expected.base_ruleset, saved);
    let differences: Vec<_> =
        base_ruleset.iter().flat_map(|layout| differences(layout, saved)).collect();
    let base_ruleset =
        if differences.is_empty() { BaseState::Intact } else { BaseState::Altered(differences) };
    FirewallState { base_ruleset, entries, strays, marks: marks(saved) }
}

/// Returns the entries that are found.
#[must_use]
pub fn entries(saved: &Saved) -> BTreeSet<Entry> {
    entries_and_strays(saved).0
}

/// Returns the entries, and the rules among them that are no entries or duplicates.
fn entries_and_strays(saved: &Saved) -> (BTreeSet<Entry>, Vec<String>) {
    let mut entries = BTreeSet::new();
    let mut strays = Vec::new();
    let rules = [Table::Mangle, Table::Nat].into_iter().flat_map(|table| saved.rules(table));
    for rule in rules.filter(|rule| layout::holds_entries(&rule.chain)) {
        match layout::entry_of(rule) {
            Some(entry) if entries.insert(entry) => {}
            _ => strays.push(format!("-A {rule}")),
        }
    }
    (entries, strays)
}

/// Returns the marks on our objects. The passage of another backend through the table mangle bears none.
fn marks(saved: &Saved) -> BTreeSet<Mark> {
    let jumps = Table::OURS.into_iter().flat_map(|table| saved.jumps(table));
    let mut marks: BTreeSet<_> = jumps.map(layout::mark).collect();
    let passage_only = ![Table::Raw, Table::Nat].into_iter().any(|table| saved.has_ours(table));
    if passage_only {
        marks.remove(&Mark::Unsigned);
    } else if marks.is_empty() {
        marks.insert(Mark::Unsigned);
    }
    marks
}

/// Returns the first uplink that iptables cannot name.
#[must_use]
pub fn unnameable(base_ruleset: &BaseRuleset) -> Option<&InterfaceName> {
    let marked = base_ruleset.marks.marks().map(|(name, _)| name);
    base_ruleset.uplinks.iter().chain(marked).find(|name| !layout::is_nameable(name))
}

/// Adds the passages that the rules of others in the table mangle require.
fn add_passages(layouts: &mut [Layout], base_ruleset: &BaseRuleset, saved: &Saved) {
    let BaseRuleset { uplinks, owner, .. } = base_ruleset;
    for layout in layouts.iter_mut().filter(|layout| layout.table == Table::Mangle) {
        let places = layout::places(saved, layout.table, uplinks);
        layout.add_passages(&places, owner.as_ref());
    }
}

/// Returns the chain FORWARD of a table of the legacy iptables as a foreign forward chain, or `None` if it does not drop
/// our traffic and has nothing of ours.
#[must_use]
pub fn foreign_chain_state(
    saved: &Saved,
    table: Table,
    uplinks: &BTreeSet<InterfaceName>,
) -> Option<ForeignChainState> {
    let (touched, places) = (saved.has_ours(table), layout::places(saved, table, uplinks));
    let drops = !places.is_empty();
    (touched || drops).then(|| ForeignChainState {
        foreign_chain: ForeignChain::LegacyIptables(table),
        drops,
        open: differences(&layout::of_passages(table, &places), saved).is_empty(),
        touched,
        owned: false,
        parts: BTreeSet::new(),
    })
}

/// Returns the chains of these tables, before and after FORWARD, that drop our traffic whatever its addresses and ports are.
/// No passage is made there.
#[must_use]
pub fn drops_around(
    saved: &Saved,
    tables: &[Table],
    uplinks: &BTreeSet<InterfaceName>,
) -> Vec<String> {
    let chains = [names::iptables::PREROUTING, names::iptables::POSTROUTING];
    let places = tables.iter().flat_map(|table| chains.map(|chain| (*table, chain)));
    let dropping = places.filter(|(table, chain)| {
        passage::drops(&foreign_rule::of_table(saved, *table), chain, uplinks)
    });
    dropping.map(|(table, chain)| format!("{} {table} {chain}", names::iptables::LEGACY)).collect()
}

/// Returns the built-in chains of these tables that may decide about packets: they drop by their policy, or have rules of others.
#[must_use]
pub fn deciding_chains(saved: &Saved, tables: &[Table]) -> Vec<String> {
    let decides = |table: Table, chain: &str, policy: &str| {
        let has_rules = || saved.others(table).any(|rule| rule.chain == chain);
        policy == "DROP" || (policy != saved::NO_POLICY && has_rules())
    };
    let chains = tables.iter().flat_map(|table| {
        let chains = saved.policies(*table);
        chains
            .filter(|(chain, policy)| decides(*table, chain, policy))
            .map(|(chain, _)| (*table, chain))
    });
    chains.map(|(table, chain)| format!("{} {table} {chain}", names::iptables::LEGACY)).collect()
}

/// Reports whether a table has objects of ours.
#[must_use]
pub fn is_touched(saved: &Saved, table: Table) -> bool {
    saved.has_ours(table)
}

/// Returns input that opens our passages through that chain if it drops our traffic, and removes other rules of ours
/// there; `None` if there is nothing to do.
#[must_use]
pub fn open_passage(
    saved: &Saved,
    table: Table,
    uplinks: &BTreeSet<InterfaceName>,
) -> Option<String> {
    let layout = layout::of_passages(table, &layout::places(saved, table, uplinks));
    let needed = !layout.chains.is_empty() || saved.has_ours(table);
    needed.then(|| put(&layout, saved))
}

/// Returns input that removes our objects from that chain's table, or `None` if there are none.
#[must_use]
pub fn close_passage(saved: &Saved, table: Table) -> Option<String> {
    saved.has_ours(table).then(|| put(&Layout::empty(table), saved))
}

/// Returns input that gives one table its layout. A chain that is declared is emptied. Jumps that are as they should be
/// stay.
fn put(layout: &Layout, saved: &Saved) -> String {
    let table = layout.table;
    let surplus: Vec<&str> =
        saved.chains(table).filter(|chain| !layout.chains.contains(chain)).collect();
    let mut misplaced: Vec<&str> = Vec::new();
    for chain in layout.jumping().chain(saved.jumps(table).map(|jump| &*jump.chain)) {
        let stands = layout.placed_jumps(chain) == saved.placed_jumps(table, chain);
        if !stands && !misplaced.contains(&chain) {
            misplaced.push(chain);
        }
    }

    let mut input = vec![format!("*{table}")];
    input.extend(layout.chains.iter().chain(&surplus).map(|chain| format!(":{chain} - [0:0]")));
    let leaving = saved.jumps(table).filter(|jump| misplaced.contains(&&*jump.chain));
    input.extend(leaving.map(|jump| format!("-D {jump}")));
    input.extend(layout.rules.iter().map(|rule| format!("-A {rule}")));
    for chain in misplaced {
        for (ours, (others, jump)) in layout.placed_jumps(chain).into_iter().enumerate() {
            // Rules are counted from 1.
            input.push(match others + ours + 1 {
                1 => format!("-I {jump}"),
                number => format!("-I {chain} {number} {}", jump.body),
            });
        }
    }
    input.extend(surplus.iter().map(|chain| format!("-X {chain}")));
    input.push("COMMIT".to_owned());
    text(&input)
}

/// Returns the differences of one table from its layout, one a line, except for entries.
fn differences(layout: &Layout, saved: &Saved) -> Vec<String> {
    let table = layout.table;
    let mut found = Vec::new();
    for chain in saved.chains(table).filter(|chain| !layout.chains.contains(chain)) {
        found.push(format!("{table}: unexpected chain {chain}"));
    }
    for &chain in &layout.chains {
        if saved.policy(table, chain).is_none() {
            found.push(format!("{table}: no chain {chain}"));
        } else if !layout::holds_entries(chain) {
            let stands = saved.rules(table).iter().filter(|rule| rule.chain == chain);
            found.extend(rule_differences(table, layout.rules_of(chain), stands));
        }
    }
    for chain in layout.jumping().collect::<BTreeSet<_>>() {
        found.extend(jump_differences(layout, saved, chain));
    }
    let expected: Vec<&Rule> =
        layout.jumps.iter().chain(layout.passages.iter().map(|(_, jump)| jump)).collect();
    let unexpected = saved.jumps(table).filter(|jump| !expected.contains(jump));
    found.extend(unexpected.map(|jump| format!("{table}: unexpected: -A {jump}")));
    found
}

/// Returns the differences between the jumps of one chain to ours.
fn jump_differences(layout: &Layout, saved: &Saved, chain: &str) -> Vec<String> {
    let table = layout.table;
    let (wanted, stands) = (layout.placed_jumps(chain), saved.placed_jumps(table, chain));
    let mut found = Vec::new();
    for (index, jump) in &wanted {
        let times = |jumps: &[(usize, &Rule)]| jumps.iter().filter(|(_, one)| one == jump).count();
        let misplaced = match (times(&stands), times(&wanted)) {
            (0, _) => "missing".to_owned(),
            (one, other) if one != other => format!("{one} times"),
            _ if stands.contains(&(*index, jump)) => continue,
            _ if layout.jumps.contains(jump) => "not first".to_owned(),
            _ => "not in its place".to_owned(),
        };
        found.push(format!("{table}: {misplaced}: -A {jump}"));
    }
    if found.is_empty() && stands != wanted && stands.len() == wanted.len() {
        found.push(format!("{table}: out of order: jumps of {chain}"));
    }
    found
}

/// Returns the differences between the rules of one chain.
fn rule_differences<'a>(
    table: Table,
    expected: impl Iterator<Item = &'a Rule>,
    stands: impl Iterator<Item = &'a Rule>,
) -> Vec<String> {
    let expected: Vec<_> = expected.collect();
    let mut rest: Vec<_> = stands.collect();
    let in_order = expected == rest;
    let mut found = Vec::new();
    for rule in &expected {
        match rest.iter().position(|stands| stands == rule) {
            Some(index) => drop(rest.remove(index)),
            None => found.push(format!("{table}: missing: -A {rule}")),
        }
    }
    found.extend(rest.iter().map(|rule| format!("{table}: unexpected: -A {rule}")));
    if found.is_empty() && !in_order {
        found.extend(expected.first().map(|rule| format!("{table}: out of order: {}", rule.chain)));
    }
    found
}
