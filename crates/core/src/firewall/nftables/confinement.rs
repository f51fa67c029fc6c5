//! The table that drops packets of others which only our forwarding makes possible.
//!
//! It belongs to the process that hears when somebody switches forwarding on: the kernel removes it with that process,
//! however that ends, since nobody would lift the confinement then (`NFT_TABLE_F_OWNER`, since Linux 5.12).

use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{HookNumber, InetHookNumber},
};

use super::{
    base_ruleset::hash,
    element,
    expression::{ACCEPT, between, drop, of_family},
    object::{Base, Chain, Operation, Rule, Set, Table, TableName, comment},
    sets::interfaces,
};
use crate::firewall::{
    Confinement,
    names::nftables::{CONFINED, CONFINED_V6, CONFINEMENT_TABLE, FORWARD, TABLE_COMMENT, priority},
};
use crate::model::Family;

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
    let pairs: Vec<_> = confined.pairs().map(element::pair).collect();
    let pairs_v6: Vec<_> = confined.pairs_v6().map(element::pair).collect();
    let of_v6 = confined.v6().map(|_| (CONFINED_V6, Family::V6, pairs_v6));
    let families = [(CONFINED, Family::V4, pairs)].into_iter().chain(of_v6);
    for (id, (name, family, pairs)) in (1..).zip(families) {
        operations.push(set(name).add(id));
        let add = |pairs| element::add(&table, name, pairs, "adding interfaces".to_owned());
        operations.extend(pairs.chunks(element::A_MESSAGE).map(add));
        let text = comment("what only our forwarding makes possible");
        let parts = [of_family(family), between(name), drop()];
        operations.push(Rule::new(&table, FORWARD, text, &parts).append());
    }
    operations
}

fn set(name: &str) -> Set {
    let (flags, data, fields) = (0, None, vec![]);
    let (size, timeout) = (None, None);
    Set {
        table: self::name(),
        name: name.to_owned(),
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
    let v6 = confined.v6().map(|v6| format!("{:?}", v6.pairs().collect::<Vec<_>>()));
    let text = format!("{pairs:?}{}", v6.unwrap_or_default());
    comment(&format!("{TABLE_COMMENT}{:016x}", hash(text.into_bytes())))
}
