//! The tables that iptables-nft creates when it is called.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::NLM_F_NONREC;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{ChainMessage, NfTablesMessage, TableMessage},
};

use super::{
    expression::ACCEPT,
    object::{Chain, Operation, Rule, Table, TableName},
};
use crate::firewall::names::{self, is_our_chain};

/// Returns the request for all tables of a family.
#[must_use]
pub fn get_tables(family: NetfilterProtoFamily) -> NetfilterMessage {
    let message = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// Returns the request for all chains of a family.
#[must_use]
pub fn get_chains(family: NetfilterProtoFamily) -> NetfilterMessage {
    let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// Keeps the tables that iptables-nft creates.
pub fn of_iptables(tables: Vec<Table>) -> impl Iterator<Item = Table> {
    tables.into_iter().filter(|table| {
        table.name.family == NetfilterProtoFamily::IPv4
            && names::iptables::TABLES.contains(&&*table.name.name)
    })
}

/// Returns the names of the tables that iptables-nft creates.
#[must_use]
pub fn implicit(tables: Vec<Table>) -> BTreeSet<String> {
    of_iptables(tables).map(|table| table.name.name).collect()
}

/// Returns the base chains, by table, that may hold nothing but jumps to chains of ours. Their rules tell.
#[must_use]
pub fn perhaps_ours(tables: &[Table], chains: &[Chain]) -> Vec<(TableName, BTreeSet<String>)> {
    let mut found = Vec::new();
    for table in of_iptables(tables.to_vec()) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        if within.clone().any(|chain| is_our_chain(&chain.name)) {
            let jumping = within.filter(|chain| accepts(chain) && is_jumping(chain));
            let jumping = jumping.map(|chain| chain.name.clone()).collect();
            found.push((table.name, jumping));
        }
    }
    found
}

/// Returns the names of the tables that iptables-nft creates, such as `nat`, and of their base chains, such as `nat OUTPUT`,
/// without those that hold nothing but objects of ours.
///
/// `read` are the rules of the chains that are [`perhaps_ours`], with the table.
#[must_use]
pub fn older(
    tables: Vec<Table>,
    chains: &[Chain],
    read: &[(TableName, BTreeMap<String, Vec<Rule>>)],
) -> BTreeSet<String> {
    let leads_to_us = |rule: &Rule| rule.target().is_some_and(is_our_chain);
    let is_ours = |chain: &Chain| {
        let mut of_table = read.iter().filter(|(table, _)| *table == chain.table);
        let rules = of_table.find_map(|(_, chains)| chains.get(&chain.name));
        is_our_chain(&chain.name) || rules.is_some_and(|rules| rules.iter().all(leads_to_us))
    };
    let mut found = BTreeSet::new();
    for table in of_iptables(tables) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        let has_more = usize::try_from(table.references) != Ok(within.clone().count());
        let others: Vec<_> = within.clone().filter(|chain| !is_ours(chain)).collect();
        if others.is_empty() && !has_more && within.count() > 0 {
            continue;
        }
        found.extend(others.into_iter().filter(|chain| chain.base.is_some()).map(chain_name));
        found.insert(table.name.name);
    }
    found
}

/// Returns the names, as [`older`] has them, of the tables that hold nothing but idle base chains, and of the idle base
/// chains that may be due to a jump of ours. Idle ones have policy accept and no rule, and no rule leads to them.
#[must_use]
pub fn empty(tables: Vec<Table>, chains: &[Chain]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for table in of_iptables(tables).filter(|table| !table.is_owned()) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        // A table counts its chains, sets and other objects.
        let nothing_else = usize::try_from(table.references) == Ok(within.clone().count());
        let idle: Vec<_> = within.clone().filter(|chain| is_idle(chain)).collect();
        if nothing_else && idle.len() == within.count() {
            found.insert(table.name.name.clone());
        }
        found.extend(idle.into_iter().filter(|chain| is_jumping(chain)).map(chain_name));
    }
    found
}

/// Returns those of the empty tables and chains that were not there before.
///
/// `before` is what [`older`] returned. What an earlier version recorded has no chains: those of a table that was there
/// are then taken for older than us.
pub fn left_over<'a>(
    empty: &'a BTreeSet<String>,
    before: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a String> {
    empty.iter().filter(|name| {
        let unknown = name.split_once(' ').is_some_and(|(table, _)| {
            let of_table = format!("{table} ");
            before.contains(table) && !before.iter().any(|known| known.starts_with(&of_table))
        });
        !before.contains(*name) && !unknown
    })
}

fn chain_name(chain: &Chain) -> String {
    format!("{} {}", chain.table.name, chain.name)
}

/// Reports whether a chain is one of those that jump to ours.
fn is_jumping(chain: &Chain) -> bool {
    names::iptables::JUMPS.contains(&(&*chain.table.name, &*chain.name))
}

fn accepts(chain: &Chain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.policy == ACCEPT)
}

fn is_idle(chain: &Chain) -> bool {
    accepts(chain) && chain.references == 0
}

/// Deletes the empty tables and chains, except those that were there before.
///
/// Each chain is deleted by itself, and the table not recursively: if another program adds something meanwhile, the
/// whole transaction is refused (`EBUSY`).
#[must_use]
pub fn remove_empty(
    tables: Vec<Table>,
    chains: &[Chain],
    before: &BTreeSet<String>,
) -> Vec<Operation> {
    let empty = empty(tables.clone(), chains);
    let left_over: BTreeSet<_> = left_over(&empty, before).collect();
    let mut operations = Vec::new();
    for table in of_iptables(tables) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        let goes_whole = left_over.contains(&table.name.name);
        let within = within.filter(|chain| goes_whole || left_over.contains(&chain_name(chain)));
        operations.extend(within.map(|c| table.name.delete_chain(&c.name, NLM_F_NONREC)));
        if goes_whole {
            operations.push(table.name.delete(NLM_F_NONREC));
        }
    }
    operations
}
