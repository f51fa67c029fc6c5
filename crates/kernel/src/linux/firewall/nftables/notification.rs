//! Notifications of nf_tables (`NFNLGRP_NFTABLES`): the objects of a transaction, and at its end who made it.

use crate::linux::{netlink::read_u32, watched::Message};

/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` of `<linux/netfilter/nf_tables.h>`.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETED_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETED_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETED_RULE: u16 = 8;
const NEW_ELEMENT: u16 = 12;
const DELETED_ELEMENT: u16 = 14;
const NEW_GENERATION: u16 = 15;
/// `sizeof(struct nfgenmsg)`; its first byte is the family.
const GENERAL: usize = 4;
/// The table is the first attribute of every object.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const ELEMENT_SET: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const GENERATION_PROCESS: u16 = 2;
const GENERATION_NAME: u16 = 3;

/// A notification of nf_tables.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux::firewall) enum Notification<'a> {
    /// A transaction changed this object.
    Object(Object<'a>),
    /// The transaction that changed the objects before this is committed.
    Committed(Generation<'a>),
}

/// An object that was added, changed or deleted.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux::firewall) struct Object<'a> {
    pub(in crate::linux::firewall) change: ObjectChange,
    /// `NFPROTO_*`.
    pub(in crate::linux::firewall) family: u8,
    pub(in crate::linux::firewall) table: &'a str,
    /// The chain, the chain of the rule, or the set of the element.
    pub(in crate::linux::firewall) chain: Option<&'a str>,
    /// True if it is a base chain.
    pub(in crate::linux::firewall) hooked: bool,
}

/// A kind of object, and what happened to it as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::linux::firewall) enum ObjectChange {
    NewTable,
    DeletedTable,
    /// A chain that was added, changed or deleted.
    Chain,
    /// A rule that was added or deleted.
    Rule,
    /// An element of a set or a map that was added or deleted.
    Element,
    /// A set, or anything else.
    Other,
}

/// The end of a transaction, with the process that made it.
#[derive(Debug, Clone, Copy)]
pub(in crate::linux::firewall) struct Generation<'a> {
    /// The process' name, as in `/proc/PID/comm`.
    pub(in crate::linux::firewall) name: &'a str,
    pub(in crate::linux::firewall) process: u32,
}

impl Object<'_> {
    /// `NFPROTO_INET`.
    pub(in crate::linux::firewall) const INET: u8 = 1;
    /// `NFPROTO_IPV4`.
    pub(in crate::linux::firewall) const IPV4: u8 = 2;
}

impl<'a> Notification<'a> {
    /// Reads a notification; `None` if it is of another subsystem, or of no table.
    pub(in crate::linux::firewall) fn read(message: Message<'a>) -> Option<Self> {
        if message.kind >> 8 != SUBSYSTEM {
            return None;
        }
        let kind = message.kind & 0xff;
        if kind == NEW_GENERATION {
            let name = message.text(GENERAL, GENERATION_NAME).unwrap_or("?");
            let process = message.attribute(GENERAL, GENERATION_PROCESS);
            let process =
                process.and_then(|p| read_u32(p, 0)).map(u32::from_be).unwrap_or_default();
            return Some(Self::Committed(Generation { name, process }));
        }
        let (change, chain) = match kind {
            NEW_TABLE => (ObjectChange::NewTable, None),
            DELETED_TABLE => (ObjectChange::DeletedTable, None),
            NEW_CHAIN | DELETED_CHAIN => (ObjectChange::Chain, message.text(GENERAL, CHAIN_NAME)),
            NEW_RULE | DELETED_RULE => (ObjectChange::Rule, message.text(GENERAL, RULE_CHAIN)),
            NEW_ELEMENT | DELETED_ELEMENT => {
                (ObjectChange::Element, message.text(GENERAL, ELEMENT_SET))
            }
            _ => (ObjectChange::Other, None),
        };
        Some(Self::Object(Object {
            change,
            family: message.body().first().copied().unwrap_or_default(),
            table: message.text(GENERAL, TABLE)?,
            chain,
            hooked: change == ObjectChange::Chain
                && message.attribute(GENERAL, CHAIN_HOOK).is_some(),
        }))
    }
}
