//! Foreign chains that drop our traffic and that we cannot change. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    firewall::{ForeignChain, ForeignChainState, ForeignFamily},
    manager::{Manager, ManagerFile},
};

/// The table of firewalld.
const FIREWALLD: &str = "firewalld";

/// A foreign chain that cuts functions off: it drops their packets, and only the process that owns its table can change
/// it (`NFT_TABLE_F_OWNER`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CutOff {
    /// The chain.
    pub foreign_chain: ForeignChain,
    /// The remedy for an administrator.
    pub advice: Advice,
}

/// The way in which the owner of a table lets functions' packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice {
    /// firewalld reads our files by a reload. We do not reload it: what it has at run time only would be lost.
    Reload,
    /// firewalld lacks our files, and we cannot write them.
    Install,
    /// The owner is not known.
    AskOwner,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = Manager::Firewalld.directory();
        match self {
            Self::Reload => write!(
                f,
                "run `firewall-cmd --reload`, which reads our zone and policies in {directory}"
            ),
            Self::Install => write!(
                f,
                "copy contrib/firewalld/* to {directory}/, then run `firewall-cmd --reload`"
            ),
            Self::AskOwner => {
                f.write_str("have the owner accept forwarded packets from and to rik*")
            }
        }
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "functions are cut off: the chain {} drops their packets, and only the process that owns its table can change \
             it; {}",
            self.foreign_chain, self.advice
        )
    }
}

/// Returns the foreign chains that cut functions off.
#[must_use]
pub fn cut_offs(
    foreign_chains: &[ForeignChainState],
    manager_files: &BTreeMap<ManagerFile, Option<String>>,
) -> BTreeSet<CutOff> {
    let blocked = foreign_chains.iter().filter(|state| state.is_blocked());
    let cut_off = blocked.map(|ForeignChainState { foreign_chain, .. }| {
        let advice = match manager_files.contains_key(&ManagerFile::FirewalldZone) {
            _ if !is_of_firewalld(foreign_chain) => Advice::AskOwner,
            true => Advice::Reload,
            false => Advice::Install,
        };
        CutOff { foreign_chain: foreign_chain.clone(), advice }
    });
    cut_off.collect()
}

/// Reports whether firewalld owns its table.
#[must_use]
pub fn firewalld_owns_its_table(foreign_chains: &[ForeignChainState]) -> bool {
    foreign_chains.iter().any(|state| state.owned && is_of_firewalld(&state.foreign_chain))
}

fn is_of_firewalld(foreign_chain: &ForeignChain) -> bool {
    matches!(foreign_chain, ForeignChain::Nftables { family: ForeignFamily::Inet, table, .. } if table == FIREWALLD)
}
