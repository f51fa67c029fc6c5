//! The ruleset as input of `iptables-restore`, and the output of `iptables-save` held against it.
//!
//! Rules are in the words and the order in which `iptables-save` of both variants prints them, so that a
//! comparison is one of texts (tried with 1.8.9).

#![expect(missing_docs, reason = "the words of the backend, for the crate that speaks them")]

mod layout;
mod saved;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

use self::layout::Layout;
pub use self::saved::{Incompatible, Saved};
use super::{
    BaseRuleset, BaseState, Entry, FirewallState, ForeignChain, ForeignChainState, Ruleset,
    names::{self, CHAIN},
};
use crate::model::{InterfaceName, Ipv6Unsupported, Mark, Owner};

/// A table, in the order in which they are committed: nothing leads to a guest before the filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Filter,
    Raw,
    Nat,
}

impl Table {
    const ALL: [Self; 3] = [Self::Filter, Self::Raw, Self::Nat];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => names::iptables::FILTER,
            Self::Raw => names::iptables::RAW,
            Self::Nat => names::iptables::NAT,
        })
    }
}

/// A rule: what stands after `-A`.
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

/// Lines as the input of a program.
fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Input that changes nothing, and what is written in answer where the skeleton and the entries stand.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    pub input: String,
    answer: Vec<String>,
}

impl Probe {
    /// Asks for the chains of the skeleton and for the first rule of each chain that jumps to them. What
    /// it costs does not depend on how many exposures there are, except for `entries`: with iptables-nft,
    /// `-S` reads the named chain only, and `-C` the whole chain of the rule. A jump that stands twice is
    /// not seen; it is without effect.
    ///
    /// # Errors
    /// Where an entry is one of IPv6.
    pub fn new(
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<Self, Ipv6Unsupported> {
        let (mut input, mut answer) = (Vec::new(), Vec::new());
        for layout in layout::of_skeleton(base_ruleset) {
            input.push(format!("*{}", layout.table));
            for jump in &layout.jumps {
                input.push(format!("-S {} 1", jump.chain));
                answer.push(format!("-A {jump}"));
            }
            for chain in layout.chains.iter().filter(|chain| !layout::holds_entries(chain)) {
                input.push(format!("-S {chain}"));
                answer.push(format!("-N {chain}"));
                answer.extend(layout.rules_of(chain).map(|rule| format!("-A {rule}")));
            }
            if layout.table == Table::Nat {
                input.extend(entry_lines("-C", entries)?);
            }
            input.push("COMMIT".to_owned());
        }
        Ok(Self { input: text(&input), answer })
    }

    /// Whether this output of a successful run says that all stands.
    pub fn is_answered_by(&self, output: &str) -> bool {
        output.lines().map(str::trim_end).filter(|line| !line.is_empty()).eq(&self.answer)
    }
}

/// Input that removes entries and adds entries, all in one table and so in one transaction.
///
/// It fails where a rule to be removed, or a chain to be added to, is missing, or where one of the checked
/// jumps is: whoever flushes a table takes that too. The jumps to [`CHAIN`] itself are not checked: with
/// iptables-nft, that reads all exposures (50 ms for 10,000; [`Probe`] sees them in 1 ms). An entry that is
/// there already is added once more: iptables has no keys. The second one is without effect, and [`state`]
/// reports it.
///
/// # Errors
/// Where an entry is one of IPv6.
pub fn delta(
    remove: &BTreeSet<Entry>,
    add: &BTreeSet<Entry>,
    owner: Option<&Owner>,
) -> Result<String, Ipv6Unsupported> {
    let to_exposures = format!(" {CHAIN}");
    let mut input = Vec::new();
    for table in Table::ALL {
        input.push(format!("*{table}"));
        let jumps = layout::jumps(table, owner);
        let checked = jumps.iter().filter(|jump| !jump.body.ends_with(&to_exposures));
        input.extend(checked.map(|jump| format!("-C {jump}")));
        if table == Table::Nat {
            input.extend(entry_lines("-D", remove)?);
            input.extend(entry_lines("-A", add)?);
        }
        input.push("COMMIT".to_owned());
    }
    Ok(text(&input))
}

/// A line for the rule of each entry.
fn entry_lines(operation: &str, entries: &BTreeSet<Entry>) -> Result<Vec<String>, Ipv6Unsupported> {
    let line = |entry| layout::of_entry(entry).map(|rule| format!("{operation} {rule}"));
    entries.iter().map(line).collect()
}

/// Input that makes of what is there what must be, whatever is there of ours; everything else stays.
///
/// # Errors
/// Where an entry is one of IPv6.
pub fn reset(ruleset: &Ruleset, saved: &Saved) -> Result<String, Ipv6Unsupported> {
    Ok(layout::of_ruleset(ruleset)?.iter().map(|layout| put(layout, saved)).collect())
}

/// Input that removes everything of ours; `None` where there is nothing.
#[must_use]
pub fn remove(saved: &Saved) -> Option<String> {
    // The other way round: nothing leads to a guest any more when the filter goes.
    let touched = Table::ALL.into_iter().rev().filter(|&table| saved.has_ours(table));
    let input: String = touched.map(|table| put(&Layout::empty(table), saved)).collect();
    (!input.is_empty()).then_some(input)
}

/// What stands of ours, held against what is expected.
#[must_use]
pub fn state(expected: &Ruleset, saved: &Saved) -> FirewallState {
    let mut entries = BTreeSet::new();
    let mut strays = Vec::new();
    if !Table::ALL.into_iter().any(|table| saved.has_ours(table)) {
        return FirewallState::absent();
    }
    for rule in saved.rules(Table::Nat).iter().filter(|rule| layout::holds_entries(&rule.chain)) {
        match layout::entry_of(rule) {
            Some(entry) if entries.insert(entry) => {}
            _ => strays.push(format!("-A {rule}")),
        }
    }
    let base_ruleset = layout::of_skeleton(&expected.base_ruleset);
    let differences: Vec<_> =
        base_ruleset.iter().flat_map(|layout| differences(layout, saved)).collect();
    let base_ruleset =
        if differences.is_empty() { BaseState::Intact } else { BaseState::Altered(differences) };
    FirewallState { base_ruleset, entries, strays, marks: marks(saved) }
}

/// The marks on what is ours. The passage that another backend has in the chain FORWARD bears none.
fn marks(saved: &Saved) -> BTreeSet<Mark> {
    let jumps = Table::ALL.into_iter().flat_map(|table| saved.jumps(table));
    let mut marks: BTreeSet<_> = jumps.map(layout::mark).collect();
    let passage_only = ![Table::Raw, Table::Nat].into_iter().any(|table| saved.has_ours(table));
    if passage_only {
        marks.remove(&Mark::Unsigned);
    } else if marks.is_empty() {
        marks.insert(Mark::Unsigned);
    }
    marks
}

/// The first uplink that iptables cannot name.
#[must_use]
pub fn unnameable(base_ruleset: &BaseRuleset) -> Option<&InterfaceName> {
    base_ruleset.uplinks.iter().find(|name| !layout::is_nameable(name))
}

/// The chain FORWARD of the legacy iptables as a gate; `None` where it lets everything pass and has
/// nothing of ours.
#[must_use]
pub fn foreign_chain_state(saved: &Saved) -> Option<ForeignChainState> {
    let forward = names::iptables::FORWARD;
    let touched = saved.has_ours(Table::Filter);
    let matters = touched
        || saved.policy(Table::Filter, forward).is_some_and(|policy| policy != "ACCEPT")
        || saved.first(Table::Filter, forward).is_some();
    matters.then(|| ForeignChainState {
        foreign_chain: ForeignChain::LegacyIptables,
        open: differences(&layout::of_gate(), saved).is_empty(),
        touched,
    })
}

/// Input that opens the gate, or closes it; `None` where it has no table, or nothing of ours to close.
#[must_use]
pub fn set_passage(open: bool, saved: &Saved) -> Option<String> {
    if open {
        let present = saved.policy(Table::Filter, names::iptables::FORWARD).is_some();
        present.then(|| put(&layout::of_gate(), saved))
    } else {
        saved.has_ours(Table::Filter).then(|| put(&Layout::empty(Table::Filter), saved))
    }
}

/// Input that makes one table what the layout says. A chain that is declared is emptied; a jump stays
/// where it stands as it should, so that no packet misses it.
fn put(layout: &Layout, saved: &Saved) -> String {
    let table = layout.table;
    let surplus: Vec<&str> =
        saved.chains(table).filter(|chain| !layout.chains.contains(chain)).collect();
    let misplaced = |jump: &Rule| {
        layout.jumps_in(&jump.chain).ne(saved.jumps_in(table, &jump.chain))
            || saved.first(table, &jump.chain) != Some(jump)
    };

    let mut input = vec![format!("*{table}")];
    input.extend(layout.chains.iter().chain(&surplus).map(|chain| format!(":{chain} - [0:0]")));
    let leaving = saved.jumps(table).filter(|jump| misplaced(jump));
    input.extend(leaving.map(|jump| format!("-D {jump}")));
    input.extend(layout.rules.iter().map(|rule| format!("-A {rule}")));
    let arriving = layout.jumps.iter().filter(|jump| misplaced(jump));
    input.extend(arriving.map(|jump| format!("-I {jump}")));
    input.extend(surplus.iter().map(|chain| format!("-X {chain}")));
    input.push("COMMIT".to_owned());
    text(&input)
}

/// In what one table differs from its layout, one line a difference; entries aside.
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
    for jump in &layout.jumps {
        match saved.jumps_in(table, &jump.chain).filter(|stands| *stands == jump).count() {
            0 => found.push(format!("{table}: missing: -A {jump}")),
            1 if saved.first(table, &jump.chain) == Some(jump) => {}
            1 => found.push(format!("{table}: not first: -A {jump}")),
            count => found.push(format!("{table}: {count} times: -A {jump}")),
        }
    }
    let unexpected = saved.jumps(table).filter(|jump| !layout.jumps.contains(jump));
    found.extend(unexpected.map(|jump| format!("{table}: unexpected: -A {jump}")));
    found
}

/// In what the rules of one chain differ.
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
