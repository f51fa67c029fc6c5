//! A table as it should be, apart from the elements that entries are.

use std::collections::BTreeMap;

use super::{
    element::{self, Element},
    object::{Chain, Operation, Rule, Set, Table},
};

/// Everything in a table of ours that does not depend on instances.
#[derive(Debug)]
pub struct Layout {
    /// The table itself.
    pub table: Table,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its rules; those of one chain are in order.
    pub rules: Vec<Rule>,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// The elements of the sets that hold no entries, by name.
    pub elements: BTreeMap<&'static str, Vec<Element>>,
}

impl Layout {
    /// Adds everything, if there is no such table.
    pub(super) fn add(&self) -> Vec<Operation> {
        let Self { table, chains, rules, sets, elements } = self;
        let mut operations = vec![table.name.add(Some(table.userdata.clone()))];
        operations.extend(chains.iter().map(Chain::add));
        operations.extend((1..).zip(sets).map(|(id, set)| set.add(id)));
        for (set, elements) in elements {
            operations.extend(elements.chunks(element::A_MESSAGE).map(|some| {
                element::add(&table.name, set, some, format!("adding elements to {set}"))
            }));
        }
        operations.extend(rules.iter().map(Rule::append));
        operations
    }
}
