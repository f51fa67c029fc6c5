//! The ruleset in nf_tables, by netlink.

mod connection;
mod foreign_chains;
mod notification;
mod pins;
mod policies;
mod policy_chains;
mod tables;
#[cfg(test)]
#[cfg(privileged)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(in crate::linux) use connection::read;
pub(super) use notification::{Generation, Notification, Object, ObjectChange};
pub(super) use policies::is_of_policies;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::connection::Connection;
use super::{FirewallBackend, foreign_chains as foreign, watch::Watch};
use crate::{
    Refusal,
    linux::{opened, pins::SharedPins},
};
use riklet_core::{
    firewall::{
        BaseRuleset, Change, Entry, FirewallState, ForeignChainState, RefusingRule, Ruleset,
        iptables::Table,
        names::{self, nftables::FILLED},
        nftables::{FoundTable, Layout, base_ruleset, policy_chain, refused},
    },
    model::{InterfaceName, Slot},
};

/// The backend for the table `inet riklet`. The connection is opened when it is first needed, and stays open.
#[derive(Debug, Default)]
pub(in crate::linux) struct Nftables {
    connection: Option<Connection>,
    /// The addresses that guests were told for names.
    pins: SharedPins,
}

impl Nftables {
    /// Returns the connection, in the network namespace of the thread that first asked for it.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, Refusal> {
        opened(&mut self.connection, Connection::open)
    }

    /// Returns the number of refused packets by interface and rule.
    pub(in crate::linux) fn refused_packets(
        &mut self,
    ) -> Result<BTreeMap<(u32, RefusingRule), u64>, Refusal> {
        self.connection()?.refused_packets()
    }

    /// Forgets the refused packets of these slots. Before Linux 6.3, and where there are none of our rules, nothing is done.
    pub(in crate::linux) fn forget_refused(&mut self, slots: &BTreeSet<Slot>) {
        let forgotten = self.connection().and_then(|it| it.commit(refused::forget(slots)));
        if let Err(refusal) = forgotten {
            tracing::debug!(%refusal, "the refused packets of a slot are counted on");
        }
    }

    /// Shares what guests were told for names.
    pub(in crate::linux) fn share(&mut self, pins: &SharedPins) {
        self.pins = pins.clone();
    }

    /// Returns what guests were told for names.
    pub(in crate::linux) const fn pins(&self) -> &SharedPins {
        &self.pins
    }

    /// Returns the port by which notifications of the kernel name the connection, or `None` if it was not needed yet.
    pub(in crate::linux) fn port(&self) -> Option<u32> {
        self.connection.as_ref().and_then(Connection::port)
    }
}

impl Nftables {
    /// Compares a table of ours with what it should be, and its entries with these.
    pub(super) fn compare(
        &mut self,
        expected: &Layout,
        entries: &BTreeSet<Entry>,
    ) -> Result<FirewallState, Refusal> {
        let connection = self.connection()?;
        let name = &expected.table.name;
        let Some(table) = connection.table(name)? else {
            return Ok(FirewallState::absent());
        };
        let mut chains = connection.chains(name.family)?;
        chains.retain(|chain| chain.table == *name);
        let rules = connection.rules(name, None)?;
        let sets = connection.sets(name)?;
        let mut elements = BTreeMap::new();
        for set in &sets {
            elements.insert(set.name.clone(), connection.elements(name, &set.name)?);
        }
        Ok(FoundTable { table, chains, rules, sets, elements }.against(expected, entries))
    }
}

impl FirewallBackend for Nftables {
    /// Reports as well whether no firewall of iptables-nft came after ours. The cost does not depend on the
    /// number of entries in the table.
    fn probe(
        &mut self,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal> {
        let connection = self.connection()?;
        let (table, chains) =
            (base_ruleset::table(base_ruleset), base_ruleset::chains(base_ruleset));
        Ok(connection.stands(&table, &chains)?
            && connection.holds(&table.name, entries)?
            && !connection.is_shut_by_policy()?)
    }

    fn state(&mut self, expected: &Ruleset) -> Result<FirewallState, Refusal> {
        self.compare(&base_ruleset::layout(&expected.base_ruleset), &expected.entries)
    }

    /// Applies each change in one transaction: all of it is done, or nothing.
    fn apply(&mut self, change: &Change) -> Result<(), Refusal> {
        let connection = self.connection()?;
        if let Change::Delta { remove, .. } = change {
            // The kernel deletes by key, whatever value a map has for it, so the value is compared first.
            for entry in remove.iter().filter(|entry| entry.named_by_policy().is_none()) {
                if !connection.holds(&base_ruleset::name(), &BTreeSet::from([*entry]))? {
                    let words = format!("removing {entry}");
                    return Err(Refusal { errno: Some(Refusal::ENOENT), words });
                }
            }
        }
        self.change(change, false)
    }

    fn apply_known(&mut self, change: &Change) -> Result<(), Refusal> {
        self.change(change, true)
    }

    /// Returns a watch without a program: our changes are made through one socket, whose port notifications name.
    fn watch(&self) -> Watch {
        Watch::default()
    }

    fn foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        let mut found = foreign::of_nf_tables(self, false, uplinks)?;
        found.extend(foreign::of_legacy_iptables(&Table::FORWARDING, uplinks)?);
        Ok(found)
    }
}

/// Reports whether this is a table of ours, or something in it that matters. The kernel and the daemon's resolver fill some
/// of the sets.
pub(super) fn concerns(object: &Object<'_>) -> bool {
    let is_filled =
        object.chain.is_some_and(|set| FILLED.contains(&set) || policy_chain::holds_pins(set));
    is_ours(object) && !(is_filled && object.change == ObjectChange::Element)
}

/// Reports whether this is a table of ours, or something in it.
pub(super) fn is_ours(object: &Object<'_>) -> bool {
    let ours = [
        names::nftables::TABLE,
        names::nftables::CONFINEMENT_TABLE,
        names::nftables::POLICIES_TABLE,
    ];
    object.family == Object::INET && ours.contains(&object.table)
}
