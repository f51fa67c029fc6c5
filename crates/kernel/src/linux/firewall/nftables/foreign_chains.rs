//! Foreign forward chains in nf_tables, and our passages through them.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::connection::Connection;
use crate::Refusal;
use riklet_core::{
    firewall::{
        Entry, ForeignChain, ForeignChainState, ForeignFamily, PortBan, names,
        nftables::{
            Rule, Set, Table, TableName, ban, base_ruleset,
            foreign_chain::{self, ForeignTable, Missing},
            foreign_set::ForeignSet,
        },
    },
    model::{Family, InterfaceName},
};

/// The rules of our passage, which the kernel counts as references to it.
const PASSAGE_RULES: u32 = 2;

impl Connection {
    /// Reports whether the chain FORWARD of iptables-nft drops by its policy, and nothing leads to a passage of ours.
    ///
    /// It does not read the rules, of which there may be many: a rule that drops is not seen.
    pub(in super::super) fn is_shut_by_policy(&mut self) -> Result<bool, Refusal> {
        let table = foreign_chain::iptables_filter();
        let forward = self.chain(&table, names::iptables::FORWARD)?.filter(|chain| {
            foreign_chain::filters_forwarded(chain) && foreign_chain::drops_by_policy(chain)
        });
        if forward.is_none() {
            return Ok(false);
        }
        let passage = self.chain(&table, names::PASSAGE_CHAIN)?;
        if passage.is_some_and(|passage| passage.references > PASSAGE_RULES) {
            return Ok(false);
        }
        Ok(self.table(&table)?.is_some_and(|table| !table.is_owned()))
    }

    /// Returns the foreign forward chains, and our other objects in foreign tables.
    ///
    /// `iptables_nft_is_ours`: the backend is iptables-nft, which has tables of its own.
    pub(in super::super) fn foreign_chains(
        &mut self,
        iptables_nft_is_ours: bool,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        self.foreign_chains_of(|_| true, iptables_nft_is_ours, uplinks)
    }

    /// Returns the foreign forward chains whose table another process owns. iptables-nft owns none.
    pub(in super::super) fn owned_foreign_chains(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        self.foreign_chains_of(Table::is_owned, false, uplinks)
    }

    /// Returns the foreign chains of tables that have objects of ours. Rules are not read: one that leads to a chain of ours
    /// is in a table that has the chain.
    pub(in super::super) fn touched(&mut self) -> Result<Vec<ForeignChain>, Refusal> {
        let mut found = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let (tables, chains) = (self.tables(family)?, self.chains(family)?);
            let tables = foreign_chain::candidates(tables, &chains, false);
            found.extend(tables.iter().flat_map(ForeignTable::touched));
        }
        Ok(found)
    }

    /// Returns the chains of others before and after the hook forward that drop our traffic.
    pub(in super::super) fn drops_around(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<String>, Refusal> {
        let mut found = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let (tables, chains) = (self.tables(family)?, self.chains(family)?);
            for mut table in foreign_chain::candidates_around(tables, &chains) {
                self.complete(&mut table)?;
                found.extend(table.dropping(uplinks));
            }
        }
        Ok(found)
    }

    /// Returns the base chains of others that may decide about packets of this family.
    pub(in super::super) fn deciding_chains(
        &mut self,
        family: Family,
    ) -> Result<Vec<String>, Refusal> {
        let own = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let families = [own, NetfilterProtoFamily::Inet, NetfilterProtoFamily::NetDev];
        let mut found = Vec::new();
        for family in families {
            for chain in self.chains(family)? {
                if chain.base.is_none() || base_ruleset::is_ours(&chain.table) {
                    continue;
                }
                let rules = self.rules(&chain.table, Some(&chain.name))?;
                if foreign_chain::decides(&chain, &rules) {
                    found.push(format!("{} {}", chain.table, chain.name));
                }
            }
        }
        Ok(found)
    }

    /// Returns the rules of others that drop packets of these exposures for their ports.
    pub(in super::super) fn port_bans(
        &mut self,
        uplinks: &BTreeSet<InterfaceName>,
        exposures: &BTreeSet<Entry>,
    ) -> Result<BTreeSet<PortBan>, Refusal> {
        let mut found = BTreeSet::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let (tables, chains) = (self.tables(family)?, self.chains(family)?);
            let around = foreign_chain::candidates_around(tables.clone(), &chains);
            let candidates = foreign_chain::candidates(tables, &chains, false);
            for table in candidates.into_iter().chain(around) {
                let mut table = table.asking_for_ports();
                self.complete_by(&mut table, Rule::read)?;
                found.extend(table.port_bans(uplinks, exposures));
            }
        }
        Ok(found)
    }

    fn foreign_chains_of(
        &mut self,
        which: impl Fn(&Table) -> bool,
        iptables_nft_is_ours: bool,
        uplinks: &BTreeSet<InterfaceName>,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        let mut states = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let mut tables = self.tables(family)?;
            tables.retain(&which);
            if tables.is_empty() {
                continue;
            }
            let chains = self.chains(family)?;
            for mut table in foreign_chain::candidates(tables, &chains, iptables_nft_is_ours) {
                self.complete(&mut table)?;
                states.extend(table.states(uplinks));
            }
        }
        Ok(states)
    }

    /// Opens our passages through the chains of one table, or closes them.
    pub(in super::super) fn set_passage(
        &mut self,
        family: ForeignFamily,
        table: &str,
        open: Option<&BTreeSet<InterfaceName>>,
    ) -> Result<(), Refusal> {
        let name = foreign_chain::table(family, table);
        let Some(table) = self.table(&name)? else {
            let missing = Refusal { errno: Some(Refusal::ENOENT), words: format!("table {name}") };
            return if open.is_some() { Err(missing) } else { Ok(()) };
        };
        let table = self.foreign_table(table)?;
        self.commit(match open {
            Some(uplinks) => table.open(uplinks),
            None => table.close(),
        })
    }

    fn foreign_table(&mut self, table: Table) -> Result<ForeignTable, Refusal> {
        let chains = self.chains(table.name.family)?;
        let mut table = ForeignTable::new(table, &chains, foreign_chain::filters_forwarded);
        self.complete(&mut table)?;
        Ok(table)
    }

    /// Reads only the parts of a table that are needed to understand it: most of its chains may be for other hooks.
    fn complete(&mut self, table: &mut ForeignTable) -> Result<(), Refusal> {
        // Rules that decide about single addresses or ports only have no expressions.
        self.complete_by(table, |message| ban::read(message).or_else(|| Rule::read(message)))
    }

    /// Does the same as [`Self::complete`], and reads rules by `rule`.
    fn complete_by(
        &mut self,
        table: &mut ForeignTable,
        rule: impl Fn(&[u8]) -> Option<Rule>,
    ) -> Result<(), Refusal> {
        let name = table.name().clone();
        loop {
            let missing = table.missing();
            if missing == Missing::default() {
                return Ok(());
            }
            table.rules.extend(self.rules_of(&name, missing.chains, &rule)?);
            if !missing.sets.is_empty() {
                let known = self.sets(&name)?;
                for set in missing.sets {
                    let found = self.foreign_set(&name, &set, &known)?;
                    table.sets.insert(set, found);
                }
            }
        }
    }

    /// Returns a set with its elements. A set that was deleted meanwhile counts as empty: the rules that used it are
    /// deleted as well.
    pub(in super::super) fn foreign_set(
        &mut self,
        table: &TableName,
        name: &str,
        known: &[Set],
    ) -> Result<ForeignSet, Refusal> {
        let Some(set) = known.iter().find(|set| set.name == name) else {
            return Ok(ForeignSet::default());
        };
        let elements = self.foreign_elements(table, name)?;
        Ok(ForeignSet::new(set, elements))
    }
}
