//! Foreign forward chains, of nf_tables and of the legacy iptables, which nf_tables does not show.

use super::{iptables, nftables::Nftables};
use crate::{Refusal, process::Launcher};
use riklet_core::{
    firewall::{Entry, ForeignChain, ForeignChainState, PortBan, iptables::Table},
    model::{Family, InterfaceName},
};
use std::collections::BTreeSet;

/// Returns the foreign chains of nf_tables. To iptables-nft, some tables are its own.
pub(super) fn of_nf_tables(
    nftables: &mut Nftables,
    iptables_nft_is_ours: bool,
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<ForeignChainState>, Refusal> {
    nftables.connection()?.foreign_chains(iptables_nft_is_ours, uplinks)
}

/// Returns the foreign chains of nf_tables whose table another process owns.
pub(super) fn in_owned_tables(
    nftables: &mut Nftables,
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<ForeignChainState>, Refusal> {
    nftables.connection()?.owned_foreign_chains(uplinks)
}

/// Returns the chains of others before and after the hook forward that drop our traffic.
pub(super) fn drops_around(
    nftables: &mut Nftables,
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<String>, Refusal> {
    let mut found = nftables.connection()?.drops_around(uplinks)?;
    found.extend(iptables::legacy::drops_around(uplinks)?);
    Ok(found)
}

/// Returns the chains of others that may decide about packets.
pub(super) fn deciding_chains(
    nftables: &mut Nftables,
    family: Family,
) -> Result<BTreeSet<String>, Refusal> {
    let mut found: BTreeSet<_> =
        nftables.connection()?.deciding_chains(family)?.into_iter().collect();
    if family == Family::V4 {
        found.extend(iptables::legacy::deciding_chains()?);
    }
    Ok(found)
}

/// Returns the rules of others that drop packets of these exposures for their ports.
pub(super) fn port_bans(
    nftables: &mut Nftables,
    uplinks: &BTreeSet<InterfaceName>,
    exposures: &BTreeSet<Entry>,
) -> Result<BTreeSet<PortBan>, Refusal> {
    let mut found = nftables.connection()?.port_bans(uplinks, exposures)?;
    let tables = [Table::Filter, Table::Mangle, Table::Security, Table::Raw];
    found.extend(iptables::legacy::port_bans(&tables, uplinks, exposures)?);
    Ok(found)
}

/// Returns the foreign chains of tables that have objects of ours.
pub(super) fn touched(nftables: &mut Nftables) -> Result<Vec<ForeignChain>, Refusal> {
    let mut found = nftables.connection()?.touched()?;
    found.extend(iptables::legacy::touched(&Table::FORWARDING)?);
    Ok(found)
}

/// Returns the chain FORWARD of each of these tables of the legacy iptables, if it drops our traffic or has objects of
/// ours.
pub(super) fn of_legacy_iptables(
    tables: &[Table],
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<Vec<ForeignChainState>, Refusal> {
    iptables::legacy::foreign_chains(tables, uplinks)
}

/// Opens our passages through one chain, or closes them if there are no uplinks to open them for.
pub(super) fn set_passage(
    nftables: &mut Nftables,
    launcher: &Launcher,
    foreign_chain: &ForeignChain,
    open: Option<&BTreeSet<InterfaceName>>,
) -> Result<(), Refusal> {
    match foreign_chain {
        ForeignChain::Nftables { family, table, .. } => {
            nftables.connection()?.set_passage(*family, table, open)
        }
        ForeignChain::LegacyIptables(table) => {
            iptables::legacy::set_passage(launcher, *table, open)
        }
    }
}
