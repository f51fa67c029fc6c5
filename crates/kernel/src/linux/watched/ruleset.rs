//! What notifications of nf_tables say of what is ours. Pure.

use super::feed::Message;
use crate::linux::netlink::read_u32;
use riklet_core::firewall::{
    Backend, ForeignChain, ForeignChainState, ForeignFamily, IptablesVariant,
};

/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` of `<linux/netfilter/nf_tables.h>`.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETED_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETED_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETED_RULE: u16 = 8;
const NEW_GENERATION: u16 = 15;
/// `sizeof(struct nfgenmsg)`; its first byte is the family.
const GENERAL: usize = 4;
const INET: u8 = 1;
const IPV4: u8 = 2;
/// The table is the first attribute of every object.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const GENERATION_PROCESS: u16 = 2;
const GENERATION_NAME: u16 = 3;
/// What the names of our chains in other tables begin with.
const OURS: &str = "RIKLET";
/// The chains that iptables has of itself, and our chains are jumped to from.
const BUILT_IN: [&str; 4] = ["PREROUTING", "OUTPUT", "FORWARD", "POSTROUTING"];

/// What a transaction of somebody else touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Touched {
    /// What is ours.
    pub(super) firewall: bool,
    /// What is, or may become, a gate.
    pub(super) foreign_chains: bool,
}

/// Transactions, as they are told of: each object that they touched, and at the end who it was.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    under_way: Touched,
    /// What others touched since it was last asked what must be forgotten.
    fresh: Touched,
    /// What others touched since it was last asked what changed.
    touched: Touched,
    causes: Vec<String>,
}

/// What has to be known to tell what is ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours<'a> {
    /// Who enforces the ruleset, as far as is known.
    pub(super) backend: Option<Backend>,
    /// The port of our own socket.
    pub(super) port: Option<u32>,
    /// Whether a program of iptables is at work for us.
    pub(super) iptables_at_work: bool,
    /// The gates that are known.
    pub(super) foreign_chains: &'a [ForeignChainState],
}

impl Transactions {
    /// Takes note of a notification.
    pub(super) fn hear(&mut self, message: Message<'_>, ours: Ours<'_>) {
        if message.kind >> 8 != SUBSYSTEM {
            return;
        }
        let kind = message.kind & 0xff;
        let by_us = ours.port == Some(message.port);
        if kind == NEW_GENERATION {
            self.end(message, by_us, ours);
        } else if !by_us {
            let touched = touched(kind, message, ours);
            self.under_way.firewall |= touched.firewall;
            self.under_way.foreign_chains |= touched.foreign_chains;
        }
    }

    fn end(&mut self, message: Message<'_>, by_us: bool, ours: Ours<'_>) {
        let touched = std::mem::take(&mut self.under_way);
        let name = message.text(GENERAL, GENERATION_NAME).unwrap_or("?");
        if by_us || ours.iptables_at_work && name.starts_with("iptables") {
            return;
        }
        for place in [&mut self.fresh, &mut self.touched] {
            place.firewall |= touched.firewall;
            place.foreign_chains |= touched.foreign_chains;
        }
        if touched.firewall {
            let process = message.attribute(GENERAL, GENERATION_PROCESS);
            let process =
                process.and_then(|p| read_u32(p, 0)).map(u32::from_be).unwrap_or_default();
            self.causes.push(format!("{name} (pid {process}) changed our part of the firewall"));
        }
    }

    /// What others touched since this was last asked, and who it was.
    pub(super) fn take(&mut self) -> (Touched, Vec<String>) {
        (std::mem::take(&mut self.touched), std::mem::take(&mut self.causes))
    }

    /// What must be forgotten for what others touched.
    pub(super) fn take_fresh(&mut self) -> Touched {
        std::mem::take(&mut self.fresh)
    }
}

fn touched(kind: u16, message: Message<'_>, ours: Ours<'_>) -> Touched {
    let family = message.body().first().copied().unwrap_or_default();
    let Some(table) = message.text(GENERAL, TABLE) else { return Touched::default() };
    if family == INET && table == "riklet" {
        let firewall = !matches!(ours.backend, Some(Backend::Iptables(_)));
        return Touched { firewall, foreign_chains: false };
    }
    let chain = match kind {
        NEW_CHAIN | DELETED_CHAIN => message.text(GENERAL, CHAIN_NAME),
        NEW_RULE | DELETED_RULE => message.text(GENERAL, RULE_CHAIN),
        _ => None,
    };
    let iptables = ours.backend == Some(Backend::Iptables(IptablesVariant::Nft))
        && family == IPV4
        && matches!(table, "filter" | "nat" | "raw");
    let named = |chain: &str| chain.starts_with(OURS) || BUILT_IN.contains(&chain);
    let firewall = iptables && (kind == DELETED_TABLE || chain.is_some_and(named));
    Touched {
        firewall,
        foreign_chains: touches_gate(kind, family, table, chain, message, ours.foreign_chains),
    }
}

fn touches_gate(
    kind: u16,
    family: u8,
    table: &str,
    chain: Option<&str>,
    message: Message<'_>,
    foreign_chains: &[ForeignChainState],
) -> bool {
    let wanted = match family {
        INET => ForeignFamily::Inet,
        IPV4 => ForeignFamily::Ip,
        _ => return false,
    };
    let of_gate = |chain: Option<&str>| {
        foreign_chains.iter().any(|state| match &state.foreign_chain {
            ForeignChain::Nftables { family, table: of, chain: named } => {
                *family == wanted && of == table && chain.is_none_or(|chain| chain == named)
            }
            ForeignChain::LegacyIptables => false,
        })
    };
    let ours = chain.is_some_and(|chain| chain.starts_with(OURS));
    match kind {
        // A table of its own with another owner.
        NEW_TABLE | DELETED_TABLE => of_gate(None),
        NEW_CHAIN | DELETED_CHAIN => {
            ours || of_gate(chain) || message.attribute(GENERAL, CHAIN_HOOK).is_some()
        }
        NEW_RULE | DELETED_RULE => ours || chain.is_some() && of_gate(chain),
        _ => false,
    }
}
