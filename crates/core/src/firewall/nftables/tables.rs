//! The tables that iptables-nft creates when it is called.

use std::collections::BTreeSet;

use netlink_packet_core::NLM_F_NONREC;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{ChainMessage, NfTablesMessage, TableMessage},
};

use super::{
    expression::ACCEPT,
    object::{Chain, Operation, Table},
};
use crate::firewall::names;

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

/// Returns the names of the tables that iptables-nft creates, such as `nat`, and of their base chains, such as `nat OUTPUT`.
#[must_use]
pub fn implicit(tables: Vec<Table>, chains: &[Chain]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for table in of_iptables(tables) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        found.extend(within.filter(|chain| chain.base.is_some()).map(chain_name));
        found.insert(table.name.name);
    }
    found
}

/// Returns the names, as [`implicit`] has them, of the tables that hold nothing but idle base chains, and of the idle base
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
        let table = &*table.name.name;
        let jumps = |chain: &&Chain| names::iptables::JUMPS.contains(&(table, &chain.name));
        found.extend(idle.into_iter().filter(jumps).map(chain_name));
    }
    found
}

/// Returns those of the empty tables and chains that were not there before.
///
/// `before` is what [`implicit`] returned. What an earlier version recorded has no chains: those of a table that was there
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

fn is_idle(chain: &Chain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.policy == ACCEPT) && chain.references == 0
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
