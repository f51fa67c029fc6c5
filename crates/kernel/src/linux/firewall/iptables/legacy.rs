//! The chain FORWARD of the legacy iptables as a foreign chain.

use super::program::{legacy_tables, restore, saved};
use crate::{Refusal, process::Launcher};
use riklet_core::{
    firewall::{
        ForeignChainState, IptablesVariant,
        iptables::{self, Saved},
        names,
    },
    model::InterfaceName,
};
use std::collections::BTreeSet;

/// Returns the chain, or `None` if it neither drops our traffic nor has objects of ours.
pub(in super::super) fn foreign_chain(
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Option<ForeignChainState>, Refusal> {
    Ok(saved_filter()?.and_then(|saved| iptables::foreign_chain_state(&saved, uplinks)))
}

/// Opens our passages for these uplinks, or closes them. A chain that does not exist needs neither.
pub(in super::super) fn set_passage(
    launcher: &Launcher,
    open: Option<&BTreeSet<InterfaceName>>,
) -> Result<(), Refusal> {
    let input = saved_filter()?.and_then(|saved| match open {
        Some(uplinks) => iptables::open_passage(&saved, uplinks),
        None => iptables::close_passage(&saved),
    });
    match input {
        Some(input) => restore(launcher, IptablesVariant::Legacy, &input),
        None => Ok(()),
    }
}

/// Returns the contents of the legacy variant, if it has the table filter and its program is installed.
fn saved_filter() -> Result<Option<Saved>, Refusal> {
    if !legacy_tables()?.contains(names::iptables::FILTER) {
        return Ok(None);
    }
    match saved(IptablesVariant::Legacy) {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}
