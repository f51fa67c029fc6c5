//! The real kernel: of the network namespace that the calling thread is in when it first asks.

mod account;
mod conntrack;
mod iptables;
mod link;
mod link_state;
mod listeners;
mod netlink;
mod nftables;
mod resolvers;
mod route;
pub mod stats;
mod sysctl;
pub mod tap;
pub mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Weak,
};

use ipnet::Ipv4Net;

use super::{AccountKind, Kernel, KernelError, Listener, Refusal};
use crate::process::Launcher;
use conntrack::Conntrack;
use nftables::Nftables;
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, Change, Entry, FirewallState, ForeignChain, ForeignChainState,
        IptablesVariant, Ruleset,
    },
    flows::Flows,
    link::{LinkSpec, LinkState, Tap},
    model::{AccountName, InterfaceName, Protocol},
};
use route::Route;

/// The Linux kernel. Its sockets are opened when they are first needed, in the network namespace of the
/// thread that needs them, and stay with that namespace.
#[derive(Debug, Default)]
pub struct Linux {
    route: Option<Route>,
    nftables: Option<Nftables>,
    conntrack: Option<Conntrack>,
    launcher: Launcher,
}

impl Linux {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn route(
        &mut self,
        wrap: impl FnOnce(Refusal) -> KernelError,
    ) -> Result<&mut Route, KernelError> {
        opened(&mut self.route, Route::open).map_err(wrap)
    }

    /// All interfaces named `rik<digits>`, by their indices.
    fn links_by_index(&mut self) -> Result<BTreeMap<u32, LinkState>, KernelError> {
        self.route(|source| KernelError::ListLinks { source })?.links_by_index()
    }

    /// By which nf_tables names us to others; `None` where nothing was asked of it yet.
    fn nftables_port(&self) -> Option<u32> {
        self.nftables.as_ref().and_then(Nftables::port)
    }

    fn nftables(&mut self) -> Result<&mut Nftables, Refusal> {
        opened(&mut self.nftables, Nftables::open)
    }
}

fn opened<T>(
    place: &mut Option<T>,
    open: impl FnOnce() -> Result<T, Refusal>,
) -> Result<&mut T, Refusal> {
    let value = match place.take() {
        Some(value) => value,
        None => open()?,
    };
    Ok(place.insert(value))
}

fn unreadable(backend: Backend) -> impl FnOnce(Refusal) -> KernelError {
    move |source| KernelError::ReadFirewall { backend: backend.as_str(), source }
}

impl Kernel for Linux {
    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.launcher = Launcher::keeping(lock);
    }

    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        self.route(|source| KernelError::ReadLink { name: name.clone(), source })?.link(name)
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.route(|source| KernelError::ListLinks { source })?.links()
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let step = "open a socket of rtnetlink";
        self.route(|source| KernelError::CreateLink { name: spec.name.clone(), step, source })?
            .create_link(spec)
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        match opened(&mut self.route, Route::open) {
            Ok(route) => route.set_aliases(aliases),
            Err(source) => {
                let part = "open a socket of rtnetlink";
                let refused = |name: &InterfaceName| {
                    let (name, source) = (name.clone(), source.clone());
                    KernelError::ConfigureLink { name, part, source }
                };
                aliases.keys().map(|name| (name.clone(), refused(name))).collect()
            }
        }
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let part = "open a socket of rtnetlink";
        self.route(|source| KernelError::ConfigureLink { name: spec.name.clone(), part, source })?
            .configure_link(spec)
    }

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        tap::set_owner(name, tap).map_err(|(kind, source)| KernelError::SetOwner {
            name: name.clone(),
            kind,
            source,
        })
    }

    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLink { name: name.clone(), source })?
            .delete_link(name)
    }

    fn remove_address(
        &mut self,
        link: &InterfaceName,
        address: Ipv4Net,
    ) -> Result<(), KernelError> {
        self.route(|source| KernelError::RemoveAddress { name: link.clone(), address, source })?
            .remove_address(link, address)
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, BTreeSet<Ipv4Net>>,
    ) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLinks { source })?.drain_links(links)
    }

    fn delete_draining_links(&mut self) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLinks { source })?.delete_draining_links()
    }

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

    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        opened(&mut self.conntrack, Conntrack::open)
            .map_err(|source| KernelError::ForgetFlows { source })?
            .forget(flows)
    }

    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        sysctl::read(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        sysctl::write(name, value)
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        sysctl::forwarding()
    }

    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.route(|source| KernelError::Routes { source })?.uplinks()
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        self.route(|source| KernelError::Routes { source })?.routes()
    }

    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<Ipv4Addr>, u16)>,
    ) -> Result<Vec<Listener>, KernelError> {
        listeners::listeners(wanted)
    }

    fn resolvers(&mut self) -> Result<Vec<Ipv4Addr>, KernelError> {
        resolvers::resolvers()
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        account::id(kind, name)
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        iptables::variant()
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
