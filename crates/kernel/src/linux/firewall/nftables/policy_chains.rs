//! The chains of policies, which are looked up one by one: nothing here lists them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Connection, Nftables, pins::PinnedSets};
use crate::Refusal;
use riklet_core::firewall::{
    Change,
    nftables::{
        Chain, PolicyChain, PolicyChange, Table, TableName, base_ruleset, operations, policy_chain,
    },
};

impl Nftables {
    /// Makes a change of the table. `known` tells that what it removes is there.
    pub(super) fn change(&mut self, change: &Change, known: bool) -> Result<(), Refusal> {
        let table = base_ruleset::name();
        let connection = self.connection()?;
        let (references, sets) = match change {
            Change::Delta { remove, add, .. } => {
                let policies = PolicyChange::new(remove, add);
                let references = connection.references(&table, &policies, known)?;
                (references, PinnedSets::of_delta(remove, add))
            }
            Change::Reset(ruleset) => (BTreeMap::new(), PinnedSets::of_reset(&ruleset.entries)),
            Change::Remove => (BTreeMap::new(), PinnedSets::of_reset(&BTreeSet::new())),
        };
        let operations = operations(change, &references)?;
        self.commit_with_pins(&table, &sets, &references, operations)
    }
}

impl Connection {
    /// Reports whether a table and its chains are as they should be, apart from chains of policies. The cost does not depend on
    /// the number of these.
    pub(super) fn stands(&mut self, table: &Table, chains: &[Chain]) -> Result<bool, Refusal> {
        let Some(found) = self.table(&table.name)? else { return Ok(false) };
        let mut found_chains = Vec::new();
        for chain in chains {
            let Some(found) = self.chain(&chain.table, &chain.name)? else { return Ok(false) };
            found_chains.push(found);
        }
        Ok(policy_chain::stand((table, chains), (&found, &found_chains)))
    }

    /// Reports whether a chain of a policy has its rules, and its sets their elements. Costs what the policy has.
    pub(super) fn has_policy_chain(
        &mut self,
        table: &TableName,
        chain: &PolicyChain,
    ) -> Result<bool, Refusal> {
        if !chain.has_rules(table, &self.rules(table, Some(chain.name()))?) {
            return Ok(false);
        }
        for (set, elements) in chain.sets(table) {
            if !self.has_elements(table, &set.name, &elements)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the references of those chains of a change of policies that exist. `known` tells that what is removed is there,
    /// and that chains are as their names say; otherwise it is asked.
    ///
    /// Refused with `ENOENT` if something is not there, or a chain that a guest would be led to is altered.
    pub(super) fn references(
        &mut self,
        table: &TableName,
        change: &PolicyChange,
        known: bool,
    ) -> Result<BTreeMap<String, u32>, Refusal> {
        let missing = |words| Err(Refusal { errno: Some(Refusal::ENOENT), words });
        for (guest, chain) in change.leaving().filter(|_| !known) {
            let (map, element) = chain.lead(guest);
            if !self.has_elements(table, map, &[element])? {
                return missing(format!("removing the policy of {guest}"));
            }
        }
        let mut references = BTreeMap::new();
        for (name, chain) in change.chains() {
            let Some(found) = self.chain(table, name)? else { continue };
            if !known && change.joins(name) && !self.has_policy_chain(table, chain)? {
                return missing(format!("chain {table} {name} is altered"));
            }
            references.insert(name.to_owned(), found.references);
        }
        Ok(references)
    }
}
