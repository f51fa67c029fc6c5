//! The chain FORWARD of the legacy iptables as a foreign chain.

use super::program::{legacy_tables, restore, saved};
use crate::{Refusal, process::Launcher};
use riklet_core::firewall::{
    ForeignChainState, IptablesVariant,
    iptables::{self, Saved},
    names,
};

/// Returns the chain, or `None` if it drops nothing and has nothing of ours.
pub(in super::super) fn foreign_chain() -> Result<Option<ForeignChainState>, Refusal> {
    Ok(saved_filter()?.as_ref().and_then(iptables::foreign_chain_state))
}

/// Opens or closes our passage. A chain that does not exist needs neither.
pub(in super::super) fn set_passage(launcher: &Launcher, open: bool) -> Result<(), Refusal> {
    match saved_filter()?.and_then(|saved| iptables::set_passage(open, &saved)) {
        Some(input) => restore(launcher, IptablesVariant::Legacy, &input),
        None => Ok(()),
    }
}

/// Returns what the legacy variant has, if it has the table filter and there is a program that tells.
fn saved_filter() -> Result<Option<Saved>, Refusal> {
    if !legacy_tables()?.contains(names::iptables::FILTER) {
        return Ok(None);
    }
    match saved(IptablesVariant::Legacy) {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}
