//! The ruleset in iptables, by its programs (iptables(8), iptables-restore(8), iptables-save(8)).

pub(super) mod legacy;
mod legacy_rules;
mod matches;
mod program;
#[cfg(test)]
#[cfg(privileged)]
mod tests;

pub(in crate::linux) use program::{KnownVariant, known_variant};

use std::{collections::BTreeSet, sync::Arc};

use self::program::{MISSING, RESTORE};
use super::{
    FirewallBackend, foreign_chains,
    nftables::{Nftables, Object, ObjectChange, is_of_policies},
    watch::Watch,
};
use crate::{Refusal, process::Launcher};
use riklet_core::{
    firewall::{
        BaseRuleset, Change, Entry, FirewallState, ForeignChainState, IptablesVariant, Ruleset,
        iptables::{self, Probe, Saved, Table},
        names,
    },
    model::InterfaceName,
};

/// The tables of others in the legacy variant, if it is the backend.
const FOREIGN: [Table; 2] = [Table::Filter, Table::Security];

/// A variant of iptables.
///
/// The tables that iptables-nft creates are seen, and removed if they are empty, by way of nf_tables.
#[derive(Debug)]
pub(super) struct Iptables<'a> {
    pub(super) variant: IptablesVariant,
    pub(super) launcher: &'a Launcher,
    pub(super) nftables: &'a mut Nftables,
    pub(super) listed: &'a mut Listed,
}

/// The last listing of our tables by iptables-nft, and the number of transactions of nf_tables before it. iptables-nft takes
/// seconds to list a table with thousands of chains.
pub(in crate::linux) type Listed = Option<(u64, Arc<Saved>)>;

impl FirewallBackend for Iptables<'_> {
    fn probe(
        &mut self,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, Refusal> {
        if !self.nftables.probe_policies(base_ruleset, entries)? {
            return Ok(false);
        }
        if self.variant == IptablesVariant::Nft
            && self.nftables.connection()?.is_shut_by_policy()?
        {
            return Ok(false);
        }
        let mut probe = Probe::new(base_ruleset, entries)?;
        if self.variant == IptablesVariant::Legacy
            && program::legacy_tables()?.contains(Table::Filter.as_str())
        {
            probe = probe.with_filter();
        }
        let output = program::run(self.launcher, self.variant, "restore", &RESTORE, &probe.input)?;
        match output.status.code() {
            Some(0) => Ok(probe.is_answered_by(&String::from_utf8_lossy(&output.stdout))),
            Some(code) if MISSING.contains(&code) => Ok(false),
            _ => Err(program::refusal(&output, &probe.input)),
        }
    }

    fn state(&mut self, expected: &Ruleset) -> Result<FirewallState, Refusal> {
        let saved = self.saved()?;
        let state = iptables::state(expected, &saved);
        Ok(match self.nftables.policies(expected)? {
            Some(policies) => state.beside(policies),
            None => state,
        })
    }

    /// Applies a change in one transaction for each table that it concerns: a table that is refused stays as it was, and so do
    /// those after it. What policies say comes first, and goes last: no guest is without.
    fn apply(&mut self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::Delta { remove, add, owner } if !iptables::rewrites(remove) => {
                let input = iptables::delta(remove, add, owner.as_ref())?;
                self.nftables.change_policies(remove, add)?;
                if input.is_empty() { Ok(()) } else { self.restore(&input) }
            }
            Change::Delta { remove, add, owner } => {
                self.nftables.change_policies(remove, add)?;
                let saved = self.saved()?;
                let mut entries = iptables::entries(&saved);
                let mut missing = remove.difference(&entries);
                if let Some(missing) = missing.find(|entry| iptables::is_rule(entry)) {
                    let words = format!("removing {missing}");
                    return Err(Refusal { errno: Some(Refusal::ENOENT), words });
                }
                entries.retain(|entry| !remove.contains(entry));
                entries.extend(add);
                self.restore(&iptables::rewrite(&entries, owner.as_ref())?)
            }
            Change::Reset(ruleset) => {
                if let Some(name) = iptables::unnameable(&ruleset.base_ruleset) {
                    let words = format!("iptables cannot name the interface {name}");
                    return Err(Refusal::words(words));
                }
                self.nftables.reset_policies(ruleset)?;
                let saved = self.saved()?;
                self.restore(&iptables::reset(ruleset, &saved)?)
            }
            Change::Remove => {
                let saved = self.saved()?;
                iptables::remove(&saved).map_or(Ok(()), |input| self.restore(&input))?;
                self.nftables.remove_policies()
            }
        }
    }

    fn can_refuse(&mut self) -> Result<bool, Refusal> {
        matches::has(self.variant, iptables::SOCKET)
    }

    fn can_judge(&mut self) -> Result<bool, Refusal> {
        self.nftables.is_there()
    }

    /// Programs apply our changes, so that only the names of their processes distinguish them from others. Changes by
    /// the legacy variant are not announced at all, apart from those of the table of policies.
    fn watch(&self) -> Watch {
        match self.variant {
            IptablesVariant::Nft => {
                Watch { concerns, program: Some(names::iptables::PROGRAM), announced: true }
            }
            IptablesVariant::Legacy => Watch {
                concerns: is_of_policies,
                program: Some(names::iptables::PROGRAM),
                announced: false,
            },
        }
    }

    fn foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        match self.variant {
            IptablesVariant::Nft => {
                let mut found = foreign_chains::of_nf_tables(self.nftables, true, uplinks)?;
                found.extend(foreign_chains::of_legacy_iptables(&Table::FORWARDING, uplinks)?);
                Ok(found)
            }
            IptablesVariant::Legacy => {
                let mut found = foreign_chains::of_nf_tables(self.nftables, false, uplinks)?;
                found.extend(foreign_chains::of_legacy_iptables(&FOREIGN, uplinks)?);
                Ok(found)
            }
        }
    }

    /// Tables of the legacy variant exist once they were asked for, hold nothing, and cannot be deleted.
    fn older_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        match self.variant {
            IptablesVariant::Nft => self.nftables.connection()?.older_tables(),
            IptablesVariant::Legacy => Ok(BTreeSet::new()),
        }
    }

    fn empty_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        match self.variant {
            IptablesVariant::Nft => self.nftables.connection()?.empty_tables(),
            IptablesVariant::Legacy => Ok(BTreeSet::new()),
        }
    }

    fn remove_empty_tables(&mut self, except: &BTreeSet<String>) -> Result<(), Refusal> {
        match self.variant {
            IptablesVariant::Nft => self.nftables.connection()?.remove_empty_tables(except),
            IptablesVariant::Legacy => Ok(()),
        }
    }
}

impl Iptables<'_> {
    /// Returns the contents of our tables, those that exist.
    fn saved(&mut self) -> Result<Arc<Saved>, Refusal> {
        let list = |existing: &BTreeSet<String>| {
            let tables = Table::OURS.into_iter().filter(|table| existing.contains(table.as_str()));
            program::saved(self.variant, &tables.collect::<Vec<_>>()).map(Arc::new)
        };
        if self.variant == IptablesVariant::Legacy {
            return list(&program::legacy_tables()?);
        }
        let connection = self.nftables.connection()?;
        let transactions = connection.transactions()?;
        if let Some((_, saved)) = self.listed.as_ref().filter(|(then, _)| *then == transactions) {
            return Ok(saved.clone());
        }
        let saved = list(&connection.implicit_tables()?)?;
        *self.listed = Some((transactions, saved.clone()));
        Ok(saved)
    }

    fn restore(&self, input: &str) -> Result<(), Refusal> {
        program::restore(self.launcher, self.variant, input)
    }
}

/// Reports whether a change of this object of nf_tables changes our objects in the tables of iptables-nft, or the
/// position of our passage: any chain of the table mangle may decide about that.
fn concerns(object: &Object<'_>) -> bool {
    let ours = |chain| {
        names::is_our_chain(chain)
            || names::iptables::JUMPING.contains(&chain)
            || object.table == names::iptables::MANGLE
    };
    let in_iptables = object.family == Object::IPV4
        && names::iptables::OUR_TABLES.contains(&object.table)
        && match object.change {
            ObjectChange::DeletedTable => true,
            ObjectChange::Chain | ObjectChange::Rule => object.chain.is_some_and(ours),
            ObjectChange::NewTable | ObjectChange::Element | ObjectChange::Other => false,
        };
    in_iptables || is_of_policies(object)
}
