//! The ruleset in the backend that the caller names.

use std::collections::BTreeSet;

use super::{Linux, iptables, nftables::Nftables};
use crate::{Firewall, ForeignChains, ImplicitTables, KernelError, Refusal};
use riklet_core::firewall::{
    Backend, BaseRuleset, Change, Entry, FirewallState, ForeignChain, ForeignChainState,
    IptablesVariant, Ruleset,
};

impl Firewall for Linux {
    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        let probed = match backend {
            Backend::Nftables => self.nftables().and_then(|nft| nft.probe(base_ruleset, entries)),
            Backend::Iptables(variant) => {
                iptables::probe(&self.launcher, variant, base_ruleset, entries)
            }
        };
        probed.map_err(unreadable(backend))
    }

    fn firewall(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        let state = match backend {
            Backend::Nftables => self.nftables().and_then(|nft| nft.state(expected)),
            Backend::Iptables(variant)
                if self.has_tables(variant).map_err(unreadable(backend))? =>
            {
                iptables::state(variant, expected)
            }
            Backend::Iptables(_) => Ok(FirewallState::absent()),
        };
        state.map_err(unreadable(backend))
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        let changed = match backend {
            Backend::Nftables => self.nftables().and_then(|nft| nft.change(change)),
            Backend::Iptables(variant) => iptables::change(&self.launcher, variant, change),
        };
        changed.map_err(|source| KernelError::ChangeFirewall { backend: backend.as_str(), source })
    }
}

impl ForeignChains for Linux {
    fn foreign_chains(&mut self, backend: Backend) -> Result<Vec<ForeignChainState>, KernelError> {
        let ours = backend == Backend::Iptables(IptablesVariant::Nft);
        let foreign_chains = self.nftables().and_then(|nft| nft.foreign_chains(ours));
        let mut foreign_chains =
            foreign_chains.map_err(|source| KernelError::ListGates { source })?;
        if backend != Backend::Iptables(IptablesVariant::Legacy) {
            let legacy = iptables::legacy_gate();
            foreign_chains.extend(legacy.map_err(|source| KernelError::ListGates { source })?);
        }
        Ok(foreign_chains)
    }

    fn set_passage(&mut self, foreign_chain: &ForeignChain, open: bool) -> Result<(), KernelError> {
        let set = match foreign_chain {
            ForeignChain::Nftables { family, table, chain } => {
                self.nftables().and_then(|nft| nft.set_passage(*family, table, chain, open))
            }
            ForeignChain::LegacyIptables => iptables::set_legacy_gate(&self.launcher, open),
        };
        set.map_err(|source| KernelError::SetGate { foreign_chain: foreign_chain.clone(), source })
    }
}

impl ImplicitTables for Linux {
    fn firewall_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        match backend {
            Backend::Iptables(IptablesVariant::Nft) => {
                self.nftables().and_then(Nftables::tables).map_err(unreadable(backend))
            }
            // The legacy tables are there once they were asked for, and hold nothing; they cannot be deleted.
            Backend::Nftables | Backend::Iptables(IptablesVariant::Legacy) => Ok(BTreeSet::new()),
        }
    }

    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        match backend {
            Backend::Iptables(IptablesVariant::Nft) => {
                self.nftables().and_then(Nftables::empty_tables).map_err(unreadable(backend))
            }
            Backend::Nftables | Backend::Iptables(IptablesVariant::Legacy) => Ok(BTreeSet::new()),
        }
    }

    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        match backend {
            Backend::Iptables(IptablesVariant::Nft) => {
                let removed = self.nftables().and_then(|nft| nft.remove_empty_tables(except));
                removed.map_err(|source| KernelError::ChangeFirewall {
                    backend: backend.as_str(),
                    source,
                })
            }
            Backend::Nftables | Backend::Iptables(IptablesVariant::Legacy) => Ok(()),
        }
    }
}

impl Linux {
    /// Whether iptables has tables to list. Where it has none, listing them would make them.
    fn has_tables(&mut self, variant: IptablesVariant) -> Result<bool, Refusal> {
        match variant {
            IptablesVariant::Nft => Ok(!self.nftables()?.tables()?.is_empty()),
            IptablesVariant::Legacy => Ok(true),
        }
    }
}

fn unreadable(backend: Backend) -> impl FnOnce(Refusal) -> KernelError {
    move |source| KernelError::ReadFirewall { backend: backend.as_str(), source }
}
