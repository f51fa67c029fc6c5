//! The question whether the ruleset is in place, for a price that does not depend on the rules of others.

use std::collections::BTreeSet;

use super::{Table, entry_lines, layout, text};
use crate::firewall::{
    BaseRuleset, Entry, EntryError,
    names::{self, PASSAGE_CHAIN},
};

/// Input of `iptables-restore` that changes nothing, with the answer to it if the base ruleset and the entries
/// are in place.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    /// The input.
    pub input: String,
    /// The lines of the answer, without those of the chains that hold entries.
    pub(super) answer: Vec<String>,
    /// Lines that the listings of the chains that hold entries must have.
    pub(super) entries: BTreeSet<String>,
    /// True if the chain FORWARD of the table filter is listed, after everything else.
    filter: bool,
}

impl Probe {
    /// Asks for the chains of the base ruleset, and for the first rules of each chain that jumps to them.
    ///
    /// The table filter, in which other programs have most of their rules, is not named: iptables reads all rules of a
    /// table that is.
    ///
    /// The cost does not depend on the number of exposures, unless there are `entries`: then the chains that hold
    /// entries are listed once. Asking for each entry (`-C`) would compare each with every rule. With iptables-nft,
    /// `-S` reads the named chain only. A duplicate jump is not noticed; the second one has no effect.
    ///
    /// # Errors
    /// Fails if an entry has an IPv6 address.
    pub fn new(base_ruleset: &BaseRuleset, entries: &BTreeSet<Entry>) -> Result<Self, EntryError> {
        let (mut input, mut answer, mut listed) = (Vec::new(), Vec::new(), BTreeSet::new());
        for layout in &layout::of_base_ruleset(base_ruleset) {
            input.push(format!("*{}", layout.table));
            for (index, jump) in layout.jumps.iter().enumerate() {
                let before = layout.jumps.iter().take(index);
                let number = before.filter(|before| before.chain == jump.chain).count() + 1;
                input.push(format!("-S {} {number}", jump.chain));
                answer.push(format!("-A {jump}"));
            }
            for chain in layout.chains.iter().filter(|chain| !layout::holds_entries(chain)) {
                input.push(format!("-S {chain}"));
                answer.push(format!("-N {chain}"));
                answer.extend(layout.rules_of(chain).map(|rule| format!("-A {rule}")));
            }
            let here: BTreeSet<String> =
                entry_lines("-A", layout.table, entries)?.into_iter().collect();
            if !here.is_empty() {
                let holding = layout.chains.iter().filter(|chain| layout::holds_entries(chain));
                input.extend(holding.map(|chain| format!("-S {chain}")));
                listed.extend(here);
            }
            input.push("COMMIT".to_owned());
        }
        Ok(Self { input: text(&input), answer, entries: listed, filter: false })
    }

    /// Asks also whether the chain FORWARD of the table filter drops by its policy and leads to no passage of ours. A rule
    /// that drops is not seen.
    #[must_use]
    pub fn with_filter(mut self) -> Self {
        let (table, chain) = (Table::Filter, names::iptables::FORWARD);
        self.input += &text(&[format!("*{table}"), format!("-S {chain}"), "COMMIT".to_owned()]);
        self.filter = true;
        self
    }

    /// Reports whether this output of a successful run is the answer.
    #[must_use]
    pub fn is_answered_by(&self, output: &str) -> bool {
        // Only the listing of the table filter begins with a policy.
        let forward = output.find("-P ").filter(|_| self.filter).unwrap_or(output.len());
        let (ours, forward) = output.split_at_checked(forward).unwrap_or((output, ""));
        let passage = format!("-j {PASSAGE_CHAIN}");
        if forward.lines().next().is_some_and(|policy| policy.trim_end().ends_with(" DROP"))
            && !forward.lines().any(|line| line.trim_end().ends_with(&passage))
        {
            return false;
        }
        let lines = ours.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let of_entries = |line: &&str| {
            let mut words = line.split(' ').skip(1);
            words.next().is_some_and(layout::holds_entries)
        };
        let (listed, others): (Vec<&str>, Vec<&str>) = lines.partition(of_entries);
        let listed: BTreeSet<&str> = listed.into_iter().collect();
        others == self.answer && self.entries.iter().all(|line| listed.contains(&**line))
    }
}
