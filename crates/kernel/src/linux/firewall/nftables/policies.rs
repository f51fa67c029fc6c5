//! The table of policies, where the rest of the firewall is iptables.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::{Connection, Nftables, Object, concerns, pins::PinnedSets};
use crate::Refusal;
use riklet_core::firewall::{
    BaseRuleset, Entry, EntryError, EntryTable, FirewallState, Ruleset,
    names::nftables::POLICIES_TABLE,
    nftables::{PolicyChange, policies},
};

impl Nftables {
    /// Reports whether the kernel has nf_tables.
    pub(in super::super) fn is_there(&mut self) -> Result<bool, Refusal> {
        /// The errors of a kernel without the protocol, or without this part of it (`nfnetlink_rcv_msg` of
        /// net/netfilter/nfnetlink.c).
        const UNKNOWN: [Errno; 3] = [Errno::PROTONOSUPPORT, Errno::INVAL, Errno::OPNOTSUPP];
        match self.connection().and_then(Connection::transactions) {
            Err(refusal)
                if UNKNOWN.iter().any(|errno| refusal.errno == Some(errno.raw_os_error())) =>
            {
                Ok(false)
            }
            asked => asked.map(|_| true),
        }
    }

    /// Reports whether the table and these entries are in place, as far as they belong there. A kernel without nf_tables has
    /// what it can have.
    pub(in super::super) fn probe_policies(
        &mut self,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal> {
        let entries = policies::of(entries);
        if !self.is_there()? {
            return Ok(entries.is_empty());
        }
        let connection = self.connection()?;
        let expected = policies::layout(base_ruleset);
        Ok(connection.stands(&expected.table, &expected.chains)?
            && connection.holds(&expected.table.name, &entries)?)
    }

    /// Returns the state of the table; `None` if the kernel has no nf_tables.
    pub(in super::super) fn policies(
        &mut self,
        expected: &Ruleset,
    ) -> Result<Option<FirewallState>, Refusal> {
        if !self.is_there()? {
            return Ok(None);
        }
        let entries = policies::of(&expected.entries);
        self.compare(&policies::layout(&expected.base_ruleset), &entries).map(Some)
    }

    /// Replaces the table, in one transaction. A kernel without nf_tables refuses rulesets with policies only.
    pub(in super::super) fn reset_policies(&mut self, ruleset: &Ruleset) -> Result<(), Refusal> {
        if self.is_there()? {
            let sets = PinnedSets::of_reset(&ruleset.entries);
            let operations = policies::reset(ruleset)?;
            return self.commit_with_pins(&policies::name(), &sets, &BTreeMap::new(), operations);
        }
        if policies::of(&ruleset.entries).is_empty() {
            Ok(())
        } else {
            Err(EntryError::Policy.into())
        }
    }

    /// Removes those of the entries that stand in the table, and adds others, in one transaction.
    pub(in super::super) fn change_policies(
        &mut self,
        remove: &BTreeSet<Entry>,
        add: &BTreeSet<Entry>,
    ) -> Result<(), Refusal> {
        let (mut some, table) = (remove.iter().chain(add), policies::name());
        if !some.any(|entry| entry.table() == EntryTable::Policies) {
            return Ok(());
        }
        let connection = self.connection()?;
        let references = connection.references(&table, &PolicyChange::new(remove, add), false)?;
        let operations = policies::delta(remove, add, &references)?;
        let sets = PinnedSets::of_delta(remove, add);
        self.commit_with_pins(&table, &sets, &references, operations)
    }

    /// Removes the table, if there is one.
    pub(in super::super) fn remove_policies(&mut self) -> Result<(), Refusal> {
        if !self.is_there()? {
            return Ok(());
        }
        let (table, none) = (policies::name(), BTreeSet::new());
        if self.connection()?.table(&table)?.is_none() {
            return Ok(());
        }
        let sets = PinnedSets::of_reset(&none);
        self.commit_with_pins(&table, &sets, &BTreeMap::new(), policies::remove())
    }
}

/// Reports whether this is the table of policies, or something in it that matters.
pub(in super::super) fn is_of_policies(object: &Object<'_>) -> bool {
    object.table == POLICIES_TABLE && concerns(object)
}
