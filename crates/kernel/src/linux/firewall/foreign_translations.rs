//! Translations of others, of nf_tables and of the legacy iptables.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::{
    iptables,
    nftables::{Connection, Nftables},
};
use crate::Refusal;
use riklet_core::firewall::{
    Ban, Side, TranslatedPorts, Translation, Wanted,
    iptables::{Saved, Table, bans as iptables_bans, translations},
    nftables::{
        AskedPorts, Rule,
        foreign_chain::Missing,
        foreign_translation::{FollowedTable, filter_tables, nat_tables},
    },
};

/// The number of chains and sets that are worth reading for ports that nobody asks for yet.
const MOST: usize = 16;

/// The chains of others that translate destinations, and those of their rules that were read.
#[derive(Debug)]
pub(in crate::linux) struct Translations {
    tables: Vec<FollowedTable>,
    legacy: Option<Saved>,
}

impl Translations {
    /// Lists the chains. Their rules are read when they are needed.
    pub(in crate::linux) fn read(nftables: &mut Nftables) -> Result<Self, Refusal> {
        let connection = nftables.connection()?;
        let mut tables = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            tables.extend(nat_tables(&connection.chains(family)?));
        }
        Ok(Self { tables, legacy: iptables::legacy::existing(&[Table::Nat])? })
    }

    /// Returns the translations of these ports. Rules for other ports are left out, and so nothing else can be searched.
    pub(in crate::linux) fn search_once(
        self,
        nftables: &mut Nftables,
        wanted: &Wanted,
    ) -> Result<BTreeSet<Translation>, Refusal> {
        let mut found = BTreeSet::new();
        let asked = AskedPorts::of(wanted);
        let rule = |message: &[u8]| {
            let misses = asked.misses(message);
            (!misses).then(|| Rule::read(message)).flatten()
        };
        for mut table in self.tables {
            let search = |table: &mut FollowedTable| table.search(wanted);
            found.extend(follow(&mut table, nftables.connection()?, rule, search)?);
        }
        found.extend(self.legacy.iter().flat_map(|saved| translations(saved, wanted)));
        Ok(found)
    }

    /// Returns the translations of these ports.
    pub(in crate::linux) fn search(
        &mut self,
        nftables: &mut Nftables,
        wanted: &Wanted,
    ) -> Result<BTreeSet<Translation>, Refusal> {
        let mut found = BTreeSet::new();
        for table in &mut self.tables {
            let search = |table: &mut FollowedTable| table.search(wanted);
            found.extend(follow(table, nftables.connection()?, Rule::read, search)?);
        }
        found.extend(self.legacy.iter().flat_map(|saved| translations(saved, wanted)));
        Ok(found)
    }

    /// Returns the ports of all translations; `None` if they stand in too many chains and sets, or the legacy
    /// iptables may have some.
    pub(in crate::linux) fn ports(
        &mut self,
        nftables: &mut Nftables,
    ) -> Result<Option<TranslatedPorts>, Refusal> {
        if iptables::legacy::may_translate()? {
            return Ok(None);
        }
        let (all, mut left) = (TranslatedPorts::all(), MOST);
        let mut found = BTreeSet::new();
        for table in &mut self.tables {
            loop {
                let (some, missing) = table.search(&all);
                if missing == Missing::default() {
                    found.extend(some);
                    break;
                }
                match left.checked_sub(missing.chains.len() + missing.sets.len()) {
                    Some(rest) => left = rest,
                    None => return Ok(None),
                }
                learn(table, nftables.connection()?, Rule::read, missing)?;
            }
        }
        Ok(Some(TranslatedPorts::of(&found)))
    }
}

/// Returns the bans in chains that packets of guests pass.
pub(in crate::linux) fn bans(nftables: &mut Nftables) -> Result<BTreeSet<Ban>, Refusal> {
    let mut found = BTreeSet::new();
    let connection = nftables.connection()?;
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
        let chains = connection.chains(family)?;
        for side in [Side::Source, Side::Destination] {
            for mut table in filter_tables(&chains, side) {
                found.extend(follow(&mut table, connection, Rule::read, FollowedTable::bans)?);
            }
        }
    }
    let tables = [Table::Filter, Table::Mangle, Table::Security, Table::Raw];
    let legacy = iptables::legacy::existing(&tables)?;
    found.extend(legacy.iter().flat_map(|saved| iptables_bans(saved, &tables)));
    Ok(found)
}

/// Reads what is needed of a table, rules by `rule`, and returns what is found there.
fn follow<T>(
    table: &mut FollowedTable,
    connection: &mut Connection,
    rule: impl Fn(&[u8]) -> Option<Rule>,
    mut find: impl FnMut(&mut FollowedTable) -> (T, Missing),
) -> Result<T, Refusal> {
    loop {
        let (found, missing) = find(table);
        if missing == Missing::default() {
            return Ok(found);
        }
        learn(table, connection, &rule, missing)?;
    }
}

/// Reads parts of a table, rules by `rule`.
fn learn(
    table: &mut FollowedTable,
    connection: &mut Connection,
    rule: impl Fn(&[u8]) -> Option<Rule>,
    missing: Missing,
) -> Result<(), Refusal> {
    let name = table.name().clone();
    for (chain, rules) in connection.rules_of(&name, missing.chains, rule)? {
        table.learn_chain(chain, rules);
    }
    if !missing.sets.is_empty() {
        let known = connection.sets(&name)?;
        for set in missing.sets {
            let found = connection.foreign_set(&name, &set, &known)?;
            table.learn_set(set, found);
        }
    }
    Ok(())
}
