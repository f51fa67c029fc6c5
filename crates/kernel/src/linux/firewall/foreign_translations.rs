//! Translations of others, of nf_tables and of the legacy iptables.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::{
    iptables,
    nftables::{Connection, Nftables},
};
use crate::Refusal;
use riklet_core::firewall::{
    Translation, Wanted,
    iptables::{Saved, Table, translations},
    nftables::{
        foreign_chain::Missing,
        foreign_translation::{NatTable, nat_tables},
    },
};

/// The chains of others that translate destinations, and those of their rules that were read.
#[derive(Debug)]
pub(in crate::linux) struct Translations {
    tables: Vec<NatTable>,
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

    /// Returns the translations of these ports.
    pub(in crate::linux) fn search(
        &mut self,
        nftables: &mut Nftables,
        wanted: &Wanted,
    ) -> Result<BTreeSet<Translation>, Refusal> {
        let mut found = BTreeSet::new();
        for table in &mut self.tables {
            found.extend(search(table, nftables.connection()?, wanted)?);
        }
        found.extend(self.legacy.iter().flat_map(|saved| translations(saved, wanted)));
        Ok(found)
    }
}

fn search(
    table: &mut NatTable,
    connection: &mut Connection,
    wanted: &Wanted,
) -> Result<BTreeSet<Translation>, Refusal> {
    loop {
        let (found, missing) = table.search(wanted);
        if missing == Missing::default() {
            return Ok(found);
        }
        let name = table.name().clone();
        for chain in missing.chains {
            let rules = connection.rules(&name, Some(&chain))?;
            table.learn_chain(chain, rules);
        }
        if !missing.sets.is_empty() {
            let known = connection.sets(&name)?;
            for set in missing.sets {
                let found = connection.foreign_set(&name, &set, &known)?;
                table.learn_set(set, found);
            }
        }
    }
}
