//! Tables as iptables lists them, parsed.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use super::{Rule, Table};
use crate::firewall::names::{CHAIN, is_our_chain};

/// The tables, as iptables listed them.
#[derive(Debug, Default)]
pub struct Saved(BTreeMap<Table, SavedTable>);

#[derive(Debug, Default)]
struct SavedTable {
    /// The policy of every chain: `-`, unless the chain is built in.
    policies: BTreeMap<String, String>,
    rules: Vec<Rule>,
}

/// A table that the answer to [`list`] lacks.
#[derive(Debug, PartialEq, Eq)]
pub struct Unanswered(pub Table);

/// The policy of a chain that is not built in.
pub(super) const NO_POLICY: &str = "-";
/// The beginning of the line before the rules of a table, in the input of [`list`]; with `--verbose`, `iptables-restore`
/// repeats comments in its output.
const HEADING: &str = "# *";

/// Returns input of `iptables-restore --noflush --verbose` that lists these tables, and changes nothing. [`Saved::parse`]
/// reads the output.
///
/// `iptables-save` would read the rules of all tables, also if it is asked for one (iptables-nft 1.8.9).
#[must_use]
pub fn list(tables: impl IntoIterator<Item = Table>) -> String {
    let lines = |table| format!("{HEADING}{table}\n*{table}\n-S\nCOMMIT\n");
    tables.into_iter().map(lines).collect()
}

impl Saved {
    /// Parses the output of the input that [`list`] returned for these tables; the output of `iptables-save` is read as
    /// well.
    ///
    /// # Errors
    /// Fails if a table is missing.
    pub fn parse(asked: impl IntoIterator<Item = Table>, output: &str) -> Result<Self, Unanswered> {
        let mut tables: BTreeMap<Table, SavedTable> = BTreeMap::new();
        let mut current = None;
        for line in output.lines().map(str::trim_end) {
            let heading = line.strip_prefix(HEADING).or_else(|| line.strip_prefix('*'));
            if let Some(name) = heading {
                current = Table::ALL.into_iter().find(|table| table.as_str() == name);
                if let Some(table) = current {
                    tables.entry(table).or_default();
                }
            } else if let Some(table) = current {
                tables.entry(table).or_default().read(line);
            }
        }
        match asked.into_iter().find(|table| !tables.contains_key(table)) {
            Some(missing) => Err(Unanswered(missing)),
            None => Ok(Self(tables)),
        }
    }

    /// Reports whether the table has a chain of ours, or a jump to one.
    pub(super) fn has_ours(&self, table: Table) -> bool {
        self.chains(table).next().is_some() || self.jumps(table).next().is_some()
    }

    /// Returns the policy of a chain, or `None` if there is no such chain.
    pub(super) fn policy(&self, table: Table, chain: &str) -> Option<&str> {
        self.0.get(&table)?.policies.get(chain).map(String::as_str)
    }

    /// Returns our chains.
    pub(super) fn chains(&self, table: Table) -> impl Iterator<Item = &str> {
        let chains = self.0.get(&table).into_iter().flat_map(|table| table.policies.keys());
        chains.map(String::as_str).filter(|chain| is_our_chain(chain))
    }

    /// Returns all rules; those of one chain are in order.
    pub(super) fn rules(&self, table: Table) -> &[Rule] {
        self.0.get(&table).map_or(&[], |table| &table.rules)
    }

    /// Returns all chains with their policies, which are `-` unless a chain is built in.
    pub(super) fn policies(&self, table: Table) -> impl Iterator<Item = (&str, &str)> {
        let policies = self.0.get(&table).into_iter().flat_map(|table| &table.policies);
        policies.map(|(chain, policy)| (&**chain, &**policy))
    }

    /// Returns the rules that are neither in a chain of ours nor lead to one.
    pub(super) fn others(&self, table: Table) -> impl Iterator<Item = &Rule> {
        let others = |rule: &&Rule| !is_our_chain(&rule.chain) && !leads_to_ours(&rule.body);
        self.rules(table).iter().filter(others)
    }

    /// Returns the jumps from this chain to ours, each with the number of rules of others before it.
    pub(super) fn placed_jumps(&self, table: Table, chain: &str) -> Vec<(usize, &Rule)> {
        let mut others = 0;
        let mut jumps = Vec::new();
        for rule in self.rules(table).iter().filter(|rule| rule.chain == chain) {
            if leads_to_ours(&rule.body) {
                jumps.push((others, rule));
            } else {
                others += 1;
            }
        }
        jumps
    }

    /// Returns the rules that jump from chains of others to ours.
    pub(super) fn jumps(&self, table: Table) -> impl Iterator<Item = &Rule> {
        let jumps = |rule: &&Rule| !is_our_chain(&rule.chain) && leads_to_ours(&rule.body);
        self.rules(table).iter().filter(jumps)
    }
}

impl SavedTable {
    fn read(&mut self, line: &str) {
        let declared = line.strip_prefix(':').or_else(|| line.strip_prefix("-P "));
        if let Some((chain, rest)) = declared.and_then(|rest| rest.split_once(' ')) {
            let policy = rest.split(' ').next().unwrap_or_default();
            self.policies.insert(chain.to_owned(), policy.to_owned());
        } else if let Some(chain) = line.strip_prefix("-N ") {
            self.policies.insert(chain.to_owned(), NO_POLICY.to_owned());
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let (chain, body) = rest.split_once(' ').unwrap_or((rest, ""));
            self.rules.push(Rule { chain: chain.to_owned(), body: body.to_owned() });
        }
    }
}

/// Reports whether these are the words with which iptables-nft refuses a table because of rules that only `nft`
/// can write.
#[must_use]
pub fn is_incompatible(words: &str) -> bool {
    words.contains("is incompatible, use 'nft' tool")
}

/// Reports whether a rule leads to a chain of ours. Most rules of others do not have the name at all.
fn leads_to_ours(body: &str) -> bool {
    body.contains(CHAIN) && target(body).is_some_and(|target| is_our_chain(&target))
}

/// Returns the chain or the extension that a rule leads to. Quoted text is not taken for one.
fn target(body: &str) -> Option<String> {
    let mut chars = body.chars().peekable();
    let mut previous = String::new();
    while let Some(word) = word(&mut chars) {
        if matches!(&*previous, "-j" | "-g") {
            return Some(word);
        }
        previous = word;
    }
    None
}

/// Returns the words of a rule. A quoted one keeps its first quote, so that it equals no option.
pub(super) fn words(body: &str) -> Vec<String> {
    let mut chars = body.chars().peekable();
    std::iter::from_fn(|| word(&mut chars)).collect()
}

/// Returns the next word. A quoted word keeps its first quote, so that it equals no option.
fn word(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    while chars.next_if_eq(&' ').is_some() {}
    let quoted = chars.next_if_eq(&'"').is_some();
    let mut word = String::from(if quoted { "\"" } else { "" });
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted => return Some(word),
            ' ' if !quoted => return Some(word),
            '\\' => word.extend(chars.next()),
            c => word.push(c),
        }
    }
    (!word.is_empty()).then_some(word)
}
