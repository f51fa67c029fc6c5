//! The table as it was read, compared with the expected ruleset.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    base_ruleset,
    element::{self, Element},
    layout::Layout,
    object::{Chain, Rule, Set, Table},
    policy_chain::{self, FoundPolicies},
};
use crate::firewall::{BaseState, Entry, FirewallState, names::nftables::FILLED};

/// Everything in our table.
#[derive(Debug)]
pub struct FoundTable {
    /// The table itself.
    pub table: Table,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its rules; those of one chain are in order.
    pub rules: Vec<Rule>,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// The elements of each set and map, by its name.
    pub elements: BTreeMap<String, Vec<Element>>,
}

impl FoundTable {
    /// Compares it with the table as it should be, and with the entries that it should have.
    #[must_use]
    pub fn against(&self, expected: &Layout, entries: &BTreeSet<Entry>) -> FirewallState {
        let mut lines = self.table_differences(&expected.table);
        let policies = FoundPolicies::read(
            &expected.table.name,
            &self.chains,
            &self.rules,
            &self.sets,
            &self.elements,
        );
        lines.extend(self.chain_differences(&expected.chains, &policies));
        lines.extend(self.rule_differences(&expected.rules));
        lines.extend(self.set_differences(&expected.sets, &policies));
        lines.extend(self.element_differences(&expected.elements));
        let (mut entries, mut strays) = self.entries(expected, entries);
        strays.extend(policies.strays.iter().map(|(map, element)| stray(map, element)));
        entries.extend(policies.entries);
        let base_ruleset =
            if lines.is_empty() { BaseState::Intact } else { BaseState::Altered(lines) };
        let marks = BTreeSet::from([base_ruleset::mark(&self.table)]);
        FirewallState { base_ruleset, entries, strays, marks }
    }

    fn table_differences(&self, expected: &Table) -> Vec<String> {
        let mut lines = Vec::new();
        if self.table.userdata != expected.userdata {
            lines.push(format!("table {}: made for other settings", expected.name));
        }
        if self.table.flags != expected.flags {
            lines.push(format!("table {}: flags {:#x}", expected.name, self.table.flags));
        }
        // Chains and sets are named one by one; the remaining objects are stateful objects and flow tables.
        let known = u32::try_from(self.chains.len() + self.sets.len()).unwrap_or(u32::MAX);
        if self.table.references > known {
            lines.push(format!("table {}: foreign objects", expected.name));
        }
        lines
    }

    fn chain_differences(&self, expected: &[Chain], policies: &FoundPolicies) -> Vec<String> {
        let mut lines = Vec::new();
        for wanted in expected {
            let found = self.chains.iter().find(|chain| chain.name == wanted.name);
            match found {
                None => lines.push(format!("chain {}: missing", wanted.name)),
                Some(found) if found.base != wanted.base => {
                    lines.push(format!("chain {}: another type, hook or policy", wanted.name));
                }
                Some(_) => {}
            }
        }
        let foreign = |chain: &&Chain| {
            !expected.iter().any(|wanted| wanted.name == chain.name)
                && !policies.names.contains(&chain.name)
        };
        let foreign = self.chains.iter().filter(foreign);
        lines.extend(foreign.map(|chain| format!("chain {}: foreign", chain.name)));
        lines
    }

    fn rule_differences(&self, rules: &[Rule]) -> Vec<String> {
        let mut expected: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for rule in rules {
            expected.entry(&rule.chain).or_default().push(rule);
        }
        let chains = expected.iter().flat_map(|(chain, wanted)| {
            let found: Vec<_> = self.rules.iter().filter(|rule| rule.chain == **chain).collect();
            differences(chain, wanted, &found)
        });
        chains.collect()
    }

    fn set_differences(&self, expected: &[Set], policies: &FoundPolicies) -> Vec<String> {
        let mut lines = Vec::new();
        for wanted in expected {
            match self.sets.iter().find(|set| set.name == wanted.name) {
                None => lines.push(format!("set {}: missing", wanted.name)),
                Some(found) if found != wanted => {
                    lines.push(format!("set {}: another type", wanted.name));
                }
                Some(_) => {}
            }
        }
        let foreign = |set: &&Set| {
            !expected.iter().any(|wanted| wanted.name == set.name)
                && !policies.names.contains(&set.name)
        };
        let foreign = self.sets.iter().filter(foreign);
        lines.extend(foreign.map(|set| format!("set {}: foreign", set.name)));
        lines
    }

    fn element_differences(&self, expected: &BTreeMap<&str, Vec<Element>>) -> Vec<String> {
        let differs = |(set, wanted): &(&&str, &Vec<Element>)| {
            let wanted: BTreeSet<_> = wanted.iter().collect();
            wanted != self.elements.get(**set).into_iter().flatten().collect()
        };
        let differing = expected.iter().filter(differs);
        differing.map(|(set, _)| format!("set {set}: other interfaces")).collect()
    }

    /// Returns the entries, and the elements that belong to none. The elements of an expected entry that is complete
    /// form this entry; any other element is an entry by itself.
    fn entries(
        &self,
        layout: &Layout,
        expected: &BTreeSet<Entry>,
    ) -> (BTreeSet<Entry>, Vec<String>) {
        let of_base_ruleset = |set: &str| {
            let is_base = layout.elements.contains_key(set) || FILLED.contains(&set);
            is_base || policy_chain::holds_policies(set)
        };
        let found = self.elements.iter().filter(|(set, _)| !of_base_ruleset(set));
        let mut rest: BTreeMap<&str, BTreeSet<&Element>> =
            found.map(|(set, elements)| (&**set, elements.iter().collect())).collect();
        let mut entries = BTreeSet::new();
        for entry in expected {
            let Ok((set, elements)) = element::of_entry(entry) else { continue };
            let Some(found) = rest.get_mut(set).filter(|_| elements.len() > 1) else { continue };
            let elements: BTreeSet<Element> = elements.into_iter().collect();
            if elements.iter().all(|element| found.contains(element)) {
                found.retain(|element| !elements.contains(*element));
                entries.insert(*entry);
            }
        }
        let mut strays = Vec::new();
        for (set, elements) in rest {
            for element in elements {
                match element::to_entry(set, element) {
                    Some(entry) => drop(entries.insert(entry)),
                    None => strays.push(stray(set, element)),
                }
            }
        }
        (entries, strays)
    }
}

fn differences(chain: &str, wanted: &[&Rule], found: &[&Rule]) -> Vec<String> {
    let mut left: Vec<_> = found.to_vec();
    let mut lines = Vec::new();
    for rule in wanted {
        match left.iter().position(|other| other.means(rule)) {
            Some(index) => drop(left.remove(index)),
            None => lines.push(format!("{rule}: missing or altered")),
        }
    }
    lines.extend(left.iter().map(|rule| format!("{rule}: foreign or altered")));
    let in_order = wanted.iter().zip(found).all(|(wanted, found)| wanted.means(found));
    if lines.is_empty() && !in_order {
        lines.push(format!("chain {chain}: another order"));
    }
    lines
}

fn stray(set: &str, Element { key, last, data, jump }: &Element) -> String {
    let last = last.as_ref().map(|last| format!("-{last:02x?}")).unwrap_or_default();
    let data = data.as_ref().map(|data| format!(" : {data:02x?}")).unwrap_or_default();
    let jump = jump.as_ref().map(|chain| format!(" : jump {chain}")).unwrap_or_default();
    format!("{set}: element {key:02x?}{last}{data}{jump}")
}
