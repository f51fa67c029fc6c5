//! The chains FORWARD of the legacy iptables as foreign chains.

use super::{
    legacy_rules,
    program::{legacy_tables, restore, saved},
};
use crate::{Refusal, process::Launcher};
use riklet_core::{
    firewall::{
        Entry, ForeignChain, ForeignChainState, IptablesVariant, PortBan,
        iptables::{self, Saved, Table},
        names,
    },
    model::InterfaceName,
};
use std::collections::BTreeSet;

/// Returns the chains of these tables, without those that neither drop our traffic nor have objects of ours.
pub(in super::super) fn foreign_chains(
    tables: &[Table],
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<ForeignChainState>, Refusal> {
    let Some(saved) = existing(tables)? else { return Ok(vec![]) };
    let states =
        tables.iter().filter_map(|table| iptables::foreign_chain_state(&saved, *table, uplinks));
    Ok(states.collect())
}

/// Returns the chains of those of these tables that have objects of ours.
///
/// The program lists only tables that have a chain with our name: it takes long for thousands of rules of others.
pub(in super::super) fn touched(tables: &[Table]) -> Result<Vec<ForeignChain>, Refusal> {
    let used = legacy_tables()?;
    let used = tables.iter().copied().filter(|table| used.contains(table.as_str()));
    let ours = legacy_rules::with_chain(&used.collect::<Vec<_>>(), names::CHAIN)?;
    let Some(saved) = existing(&ours)? else { return Ok(vec![]) };
    let touched = ours.iter().filter(|table| iptables::is_touched(&saved, **table));
    Ok(touched.map(|table| ForeignChain::LegacyIptables(*table)).collect())
}

/// Returns the chains before and after FORWARD that drop our traffic.
pub(in super::super) fn drops_around(
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<String>, Refusal> {
    let saved = existing(&Table::AROUND)?;
    let found = saved.map(|saved| iptables::drops_around(&saved, &Table::AROUND, uplinks));
    Ok(found.unwrap_or_default())
}

/// Returns the chains that may decide about packets, because of others.
pub(in super::super) fn deciding_chains() -> Result<Vec<String>, Refusal> {
    let saved = existing(&Table::ALL)?;
    Ok(saved.map(|saved| iptables::deciding_chains(&saved, &Table::ALL)).unwrap_or_default())
}

/// Returns the rules in these tables that drop packets of these exposures for their ports.
pub(in super::super) fn port_bans(
    tables: &[Table],
    uplinks: &BTreeSet<InterfaceName>,
    exposures: &BTreeSet<Entry>,
) -> Result<BTreeSet<PortBan>, Refusal> {
    let saved = existing(tables)?;
    let found = saved.map(|saved| iptables::port_bans(&saved, tables, uplinks, exposures));
    Ok(found.unwrap_or_default())
}

/// Opens our passages through a table for these uplinks, or closes them. A table that does not exist needs neither.
pub(in super::super) fn set_passage(
    launcher: &Launcher,
    table: Table,
    open: Option<&BTreeSet<InterfaceName>>,
) -> Result<(), Refusal> {
    let input = existing(&[table])?.and_then(|saved| match open {
        Some(uplinks) => iptables::open_passage(&saved, table, uplinks),
        None => iptables::close_passage(&saved, table),
    });
    match input {
        Some(input) => restore(launcher, IptablesVariant::Legacy, &input),
        None => Ok(()),
    }
}

/// Returns two numbers, of which one changes with any rule of the legacy variant that forwarded packets pass. The second is
/// that of the table of our ruleset, and also changes when the table that translates addresses comes.
pub(in super::super) fn version() -> Result<(u64, u64), Refusal> {
    let used = legacy_tables()?;
    let is_used = |table: Table| used.contains(table.as_str());
    let forwarding = Table::FORWARDING.into_iter().filter(|table| is_used(*table));
    let (ours, others): (Vec<_>, Vec<_>) =
        forwarding.partition(|table| Table::OURS.contains(table));
    let ours = legacy_rules::hash(&ours)?;
    Ok((legacy_rules::hash(&others)?, if is_used(Table::Nat) { !ours } else { ours }))
}

/// Reports whether the legacy variant has a table that translates addresses, whose rules have no part in [`version`].
pub(in super::super) fn may_translate() -> Result<bool, Refusal> {
    Ok(legacy_tables()?.contains(Table::Nat.as_str()))
}

/// Returns those of the tables that the legacy variant has, or `None` if it has none of them or its program is not
/// installed.
pub(in super::super) fn existing(tables: &[Table]) -> Result<Option<Saved>, Refusal> {
    let used = legacy_tables()?;
    let used: Vec<_> =
        tables.iter().copied().filter(|table| used.contains(table.as_str())).collect();
    if used.is_empty() {
        return Ok(None);
    }
    match saved(IptablesVariant::Legacy, &used) {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}
