//! Translates a change into the messages of one transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    base_ruleset,
    element::{self, Element},
    object::{Operation, TableName},
    policy_chain::{self, PolicyChange},
};
use crate::{
    address::Ipv6Unsupported,
    firewall::{Change, Entry},
};

/// Returns the messages of the transaction that makes the change. `references` are the references of those chains of a
/// [`PolicyChange`] that exist.
///
/// # Errors
/// Fails if an entry has an IPv6 address.
pub fn operations(
    change: &Change,
    references: &BTreeMap<String, u32>,
) -> Result<Vec<Operation>, Ipv6Unsupported> {
    let table = base_ruleset::name();
    // A missing table cannot be deleted, but an existing one can be added, so the table is added before it is deleted.
    let remove = [table.add(None), table.delete(0)];
    Ok(match change {
        Change::Reset(ruleset) => {
            let base_ruleset = base_ruleset::add(&ruleset.base_ruleset);
            remove
                .into_iter()
                .chain(base_ruleset)
                .chain(add_many(&table, &ruleset.entries)?)
                .collect()
        }
        Change::Delta { remove, add, .. } => delta(&table, remove, add, references)?,
        Change::Remove => remove.into(),
    })
}

/// Removes entries from a table, then adds entries. Each has messages of its own, so that a refusal names the entry. What
/// policies name is replaced as a whole.
pub(super) fn delta(
    table: &TableName,
    remove: &BTreeSet<Entry>,
    add: &BTreeSet<Entry>,
    references: &BTreeMap<String, u32>,
) -> Result<Vec<Operation>, Ipv6Unsupported> {
    let policies = PolicyChange::new(remove, add).operations(table, references);
    let remove = remove.iter().map(|entry| {
        let (set, elements) = element::of_entry(entry)?;
        let delete =
            |some: &[Element]| element::delete(table, set, some, format!("removing {entry}"));
        Ok(elements.chunks(element::A_MESSAGE).map(delete).collect::<Vec<_>>())
    });
    let add = add.iter().map(|entry| {
        let (set, elements) = element::of_entry(entry)?;
        let add = |some: &[Element]| element::add(table, set, some, format!("adding {entry}"));
        Ok(elements.chunks(element::A_MESSAGE).map(add).collect::<Vec<_>>())
    });
    let rest = remove.chain(add).collect::<Result<Vec<_>, _>>()?.concat();
    Ok([rest, policies].concat())
}

/// Adds entries to a table, many in each message.
pub(super) fn add_many(
    table: &TableName,
    entries: &BTreeSet<Entry>,
) -> Result<Vec<Operation>, Ipv6Unsupported> {
    let mut sets: BTreeMap<&str, Vec<(&Entry, Element)>> = BTreeMap::new();
    for entry in entries {
        let (set, elements) = element::of_entry(entry)?;
        let members = sets.entry(set).or_default();
        members.extend(elements.into_iter().map(|element| (entry, element)));
    }
    let mut operations = policy_chain::add_many(table, entries);
    for (set, members) in sets {
        for chunk in members.chunks(element::A_MESSAGE) {
            let what = match chunk {
                [(first, _), .., (last, _)] => format!("adding {first} to {last}"),
                [(only, _)] => format!("adding {only}"),
                [] => String::new(),
            };
            let elements: Vec<_> = chunk.iter().map(|(_, element)| element.clone()).collect();
            operations.push(element::add(table, set, &elements, what));
        }
    }
    Ok(operations)
}
