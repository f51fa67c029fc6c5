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

/// Keeps those of them that hold nothing but empty base chains with policy accept.
pub fn empty(tables: Vec<Table>, chains: &[Chain]) -> impl Iterator<Item = Table> {
    of_iptables(tables).filter(|table| {
        let mut within = chains.iter().filter(|chain| chain.table == table.name);
        // A table counts its chains, sets and other objects.
        let nothing_else = usize::try_from(table.references) == Ok(within.clone().count());
        let idle = |chain: &Chain| {
            let accepts = chain.base.as_ref().is_some_and(|base| base.policy == ACCEPT);
            accepts && chain.references == 0
        };
        !table.is_owned() && nothing_else && within.all(idle)
    })
}

/// Deletes the empty ones, except those named.
///
/// Each chain is deleted by itself, and the table not recursively: if somebody adds something meanwhile, the
/// whole transaction is refused (`EBUSY`).
#[must_use]
pub fn remove_empty(
    tables: Vec<Table>,
    chains: &[Chain],
    except: &BTreeSet<String>,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    for table in empty(tables, chains).filter(|table| !except.contains(&table.name.name)) {
        let within = chains.iter().filter(|chain| chain.table == table.name);
        operations.extend(within.map(|c| table.name.delete_chain(&c.name, NLM_F_NONREC)));
        operations.push(table.name.delete(NLM_F_NONREC));
    }
    operations
}
