//! Foreign forward chains, of nf_tables and of the legacy iptables, which nf_tables does not show.

use super::{iptables, nftables::Nftables};
use crate::{Refusal, process::Launcher};
use riklet_core::firewall::{ForeignChain, ForeignChainState};

/// Returns the foreign chains of nf_tables. To iptables-nft, the table `ip filter` is its own.
pub(super) fn of_nf_tables(
    nftables: &mut Nftables,
    iptables_nft_is_ours: bool,
) -> Result<Vec<ForeignChainState>, Refusal> {
    nftables.connection()?.foreign_chains(iptables_nft_is_ours)
}

/// Returns the chain FORWARD of the legacy iptables, if it can drop our traffic or has something of ours.
pub(super) fn of_legacy_iptables() -> Result<Option<ForeignChainState>, Refusal> {
    iptables::legacy::foreign_chain()
}

/// Opens or closes our passage through one chain.
pub(super) fn set_passage(
    nftables: &mut Nftables,
    launcher: &Launcher,
    foreign_chain: &ForeignChain,
    open: bool,
) -> Result<(), Refusal> {
    match foreign_chain {
        ForeignChain::Nftables { family, table, chain } => {
            nftables.connection()?.set_passage(*family, table, chain, open)
        }
        ForeignChain::LegacyIptables => iptables::legacy::set_passage(launcher, open),
    }
}
