//! What is answered from memory, and what is passed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Weak,
};

use ipnet::Ipv4Net;

use super::{Known, Watched};
use crate::{AccountKind, Kernel, KernelError, Listener};
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState, IptablesVariant, Ruleset,
    },
    flows::Flows,
    link::{LinkSpec, LinkState, Tap},
    model::{AccountName, InterfaceName, Protocol, Slot},
    plan::IP_FORWARD,
};

impl Kernel for Watched {
    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        self.look()?;
        if Slot::of_interface(name.as_str()).is_some() {
            return Ok(self.mirror.link(name).cloned());
        }
        if let Some(known) = self.strangers.get(name) {
            return Ok(known.clone());
        }
        let found = self.kernel.link(name)?;
        self.strangers.insert(name.clone(), found.clone());
        Ok(found)
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.look()?;
        Ok(self.mirror.links().cloned().collect())
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let done = self.kernel.create_link(spec);
        // Of many, what is said would not fit.
        self.listen()?;
        done
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        let failed = self.kernel.set_aliases(aliases);
        for (name, alias) in aliases.iter().filter(|(name, _)| !failed.contains_key(*name)) {
            self.mirror.expect_alias(name, alias);
        }
        failed
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let done = self.kernel.configure_link(spec);
        // It sets what nobody is told of.
        self.mirror.expect(spec);
        self.listen()?;
        done
    }

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        self.kernel.set_owner(name, tap)
    }

    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        self.kernel.delete_link(name)
    }

    fn remove_address(
        &mut self,
        link: &InterfaceName,
        address: Ipv4Net,
    ) -> Result<(), KernelError> {
        self.kernel.remove_address(link, address)
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, BTreeSet<Ipv4Net>>,
    ) -> Result<(), KernelError> {
        let done = self.kernel.drain_links(links);
        self.listen()?;
        done
    }

    fn delete_draining_links(&mut self) -> Result<(), KernelError> {
        self.kernel.delete_draining_links()
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        self.backend = Some(backend);
        self.listen()?;
        if self.is_known(backend, base_ruleset, entries) {
            return Ok(true);
        }
        self.kernel.probe_firewall(backend, base_ruleset, entries)
    }

    fn firewall(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        self.backend = Some(backend);
        self.listen()?;
        if self.is_known(backend, &expected.base_ruleset, &BTreeSet::new())
            && let Some(known) = &self.firewall
        {
            let (base_ruleset, entries) = (BaseState::Intact, known.entries.clone());
            return Ok(FirewallState { base_ruleset, entries, strays: vec![] });
        }
        self.firewall = None;
        let state = self.kernel.firewall(backend, expected)?;
        let whole = state.base_ruleset == BaseState::Intact && state.strays.is_empty();
        self.firewall = whole.then(|| Known {
            backend,
            base_ruleset: expected.base_ruleset.clone(),
            entries: state.entries.clone(),
        });
        // What somebody changed while it was read makes it unknown again.
        self.listen()?;
        Ok(state)
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        self.backend = Some(backend);
        self.listen()?;
        self.iptables_at_work = matches!(backend, Backend::Iptables(_));
        let done = self.kernel.change_firewall(backend, change);
        match done {
            Ok(()) => self.follow(backend, change),
            // What is there is not what we believed.
            Err(_) => self.firewall = None,
        }
        let heard = self.listen();
        self.iptables_at_work = false;
        done.and(heard)
    }

    fn foreign_chains(&mut self, backend: Backend) -> Result<Vec<ForeignChainState>, KernelError> {
        self.listen()?;
        if let Some(foreign_chains) = &self.foreign_chains {
            return Ok(foreign_chains.clone());
        }
        let foreign_chains = self.kernel.foreign_chains(backend)?;
        self.foreign_chains = Some(foreign_chains.clone());
        Ok(foreign_chains)
    }

    fn set_passage(&mut self, foreign_chain: &ForeignChain, open: bool) -> Result<(), KernelError> {
        self.listen()?;
        self.iptables_at_work = true;
        let done = self.kernel.set_passage(foreign_chain, open);
        let heard = self.listen();
        self.iptables_at_work = false;
        self.foreign_chains = None;
        done.and(heard)
    }

    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        if name != IP_FORWARD {
            return self.kernel.sysctl(name);
        }
        self.listen()?;
        if self.forwarding.is_none() {
            self.forwarding = self.kernel.sysctl(name)?;
        }
        Ok(self.forwarding.clone())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        self.kernel.set_sysctl(name, value)
    }

    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.listen()?;
        if let Some(uplinks) = &self.uplinks {
            return Ok(uplinks.clone());
        }
        let uplinks = self.kernel.uplinks()?;
        self.uplinks = Some(uplinks.clone());
        Ok(uplinks)
    }

    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.kernel.share_lock(lock);
    }

    fn firewall_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        self.kernel.firewall_tables(backend)
    }

    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        self.kernel.empty_tables(backend)
    }

    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        self.kernel.remove_empty_tables(backend, except)
    }

    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        self.kernel.forget_flows(flows)
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        self.kernel.forwarding_sysctls()
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        self.kernel.routes()
    }

    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<Ipv4Addr>, u16)>,
    ) -> Result<Vec<Listener>, KernelError> {
        self.kernel.listeners(wanted)
    }

    fn resolvers(&mut self) -> Result<Vec<Ipv4Addr>, KernelError> {
        self.kernel.resolvers()
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        self.kernel.account(kind, name)
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        self.kernel.iptables()
    }
}
