//! The table that drops packets of others which only our forwarding makes possible.
//!
//! It belongs to the process that hears when somebody switches forwarding on: the kernel removes it with that process,
//! however that ends, since nobody would lift the confinement then (`NFT_TABLE_F_OWNER`, since Linux 5.12).

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    base_ruleset::{hash, interfaces},
    element,
    expression::{ACCEPT, between, drop, ipv4},
    object::{Base, Chain, Operation, Rule, Set, Table, TableName, comment},
};
use crate::firewall::{
    Confinement,
    names::nftables::{CONFINED, CONFINEMENT_TABLE, FORWARD, TABLE_COMMENT, priority},
};

/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;

/// Returns the name of the table.
#[must_use]
pub fn name() -> TableName {
    TableName::new(NetfilterProtoFamily::Inet, CONFINEMENT_TABLE)
}

/// Reports whether the table as found, if there is one, confines this.
#[must_use]
pub fn stands(found: Option<&Table>, confined: &Confinement) -> bool {
    match found {
        None => confined.is_empty(),
        Some(table) => !confined.is_empty() && table.userdata == userdata(confined),
    }
}

/// Returns the messages that replace the table, or remove it if nothing is confined. The process that sends them owns it.
#[must_use]
pub fn operations(confined: &Confinement) -> Vec<Operation> {
    let table = name();
    // A missing table cannot be deleted, but an existing one can be added.
    let mut operations = vec![table.add(None), table.delete(0)];
    if confined.is_empty() {
        return operations;
    }
    operations.push(table.add_with(OWNER, userdata(confined)));
    let hook = HookNumber::Inet(InetHookNumber::Forward);
    let base = Base { kind: "filter".to_owned(), hook, priority: priority::FILTER, policy: ACCEPT };
    let (chain, base) = (FORWARD.to_owned(), Some(base));
    operations.push(Chain { table: table.clone(), name: chain, base, references: 0 }.add());
    operations.push(set().add(1));
    let pairs: Vec<_> = confined.pairs().map(element::pair).collect();
    operations.extend(
        pairs
            .chunks(element::A_MESSAGE)
            .map(|pairs| element::add(&table, CONFINED, pairs, "adding interfaces".to_owned())),
    );
    let text = comment("what only our forwarding makes possible");
    let parts = [ipv4(), between(CONFINED), drop()];
    operations.push(Rule::new(&table, FORWARD, text, &parts).append());
    operations
}

fn set() -> Set {
    let (flags, data, fields) = (0, None, vec![]);
    let (size, timeout) = (None, None);
    Set {
        table: name(),
        name: CONFINED.to_owned(),
        flags,
        key: interfaces(),
        data,
        fields,
        size,
        timeout,
    }
}

/// Returns the comment of the table, which tells what is confined.
fn userdata(confined: &Confinement) -> Vec<u8> {
    let pairs: Vec<_> = confined.pairs().collect();
    comment(&format!("{TABLE_COMMENT}{:016x}", hash(format!("{pairs:?}").into_bytes())))
}
