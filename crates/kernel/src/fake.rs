//! A kernel in memory that obeys the laws of the real one: names are unique, what is not there cannot be
//! removed, a firewall transaction is all or nothing, a netlink batch is not. It can refuse an effect, or
//! stop the caller at one as a kill would.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use ipnet::Ipv4Net;

use super::{AccountKind, Kernel, KernelError, Listener, Refusal};
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState, IptablesVariant, Ruleset,
    },
    flows::Flows,
    link::{DRAINING_GROUP, LinkSpec, LinkState, Tap},
    model::{AccountName, InterfaceName, Protocol},
    plan::IP_FORWARD,
};

/// A handle on a kernel in memory. Clones share the kernel, as processes do.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel(Arc<Mutex<System>>);

/// What the kernel holds. Everything may be changed, as an administrator or a crash might.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after the observation that returns it")]
pub struct System {
    pub links: BTreeMap<InterfaceName, LinkState>,
    pub firewall: BTreeMap<Backend, Ruleset>,
    pub foreign_chains: BTreeMap<ForeignChain, bool>,
    pub sysctls: BTreeMap<String, String>,
    pub uplinks: BTreeSet<InterfaceName>,
    pub routes: Vec<Ipv4Net>,
    pub listeners: Vec<Listener>,
    pub iptables: Option<IptablesVariant>,
    pub resolvers: Vec<Ipv4Addr>,
    pub accounts: BTreeMap<(AccountKind, String), u32>,
    /// Flows that were forgotten, in order of the calls.
    pub forgotten: Vec<Flows>,
    /// Effects so far; each part of a batch is one.
    pub effects: usize,
    /// How often everything was listed: all interfaces, the whole firewall, all gates.
    pub listings: usize,
    /// What happens at which effect, counted from 0.
    pub fault: Option<(usize, Fault)>,
}

/// What goes wrong at an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel refuses this one effect (`ENOMEM`).
    Refuse,
    /// The caller is stopped before it, as by SIGKILL: an unwinding that carries [`Stopped`].
    Stop,
}

/// What a [`Fault::Stop`] unwinds with.
#[derive(Debug)]
pub struct Stopped;

impl Default for System {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            firewall: BTreeMap::new(),
            foreign_chains: BTreeMap::new(),
            sysctls: BTreeMap::from([(IP_FORWARD.to_owned(), "0".to_owned())]),
            uplinks: InterfaceName::try_from("eth0").into_iter().collect(),
            routes: Vec::new(),
            listeners: Vec::new(),
            iptables: None,
            resolvers: Vec::new(),
            accounts: BTreeMap::new(),
            forgotten: Vec::new(),
            effects: 0,
            listings: 0,
            fault: None,
        }
    }
}

impl FakeKernel {
    /// A host with the uplink `eth0`, without iptables, that does not forward.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the kernel holds, to look at or to change.
    pub fn system(&self) -> MutexGuard<'_, System> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one effect, and does the fault that is due at it.
    fn effect(&self) -> Result<MutexGuard<'_, System>, Refusal> {
        const ENOMEM: i32 = 12;
        let mut system = self.system();
        let due = system.fault.filter(|(at, _)| *at == system.effects);
        match due {
            Some((_, Fault::Stop)) => {
                drop(system);
                std::panic::resume_unwind(Box::new(Stopped))
            }
            Some((_, Fault::Refuse)) => {
                system.effects += 1;
                Err(Refusal::errno(ENOMEM))
            }
            None => {
                system.effects += 1;
                Ok(system)
            }
        }
    }
}

impl Kernel for FakeKernel {
    fn share_lock(&mut self, _lock: Weak<OwnedFd>) {
        // Its effects end with the caller.
    }

    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        Ok(self.system().links.get(name).cloned())
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        let mut system = self.system();
        system.listings += 1;
        let named = system.links.values();
        Ok(named
            .filter(|l| riklet_core::model::Slot::of_interface(l.name.as_str()).is_some())
            .cloned()
            .collect())
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::CreateLink { name: spec.name.clone(), step: "TUNSETIFF", source };
        let mut system = self.effect().map_err(refused)?;
        if system.links.contains_key(&spec.name) {
            return Err(refused(Refusal::errno(Refusal::EBUSY)));
        }
        system.links.insert(spec.name.clone(), spec.state());
        Ok(())
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        let mut failed = BTreeMap::new();
        for (name, alias) in aliases {
            let done = self.effect().and_then(|mut system| {
                let link = system.links.get_mut(name);
                link.ok_or(Refusal::errno(Refusal::ENODEV))?.alias = Some(alias.clone());
                Ok(())
            });
            if let Err(source) = done {
                let refused =
                    KernelError::ConfigureLink { name: name.clone(), part: "alias", source };
                failed.insert(name.clone(), refused);
            }
        }
        failed
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let refused = |part| {
            move |source| KernelError::ConfigureLink { name: spec.name.clone(), part, source }
        };
        let wanted = spec.state();
        let parts: [(&str, Part); 3] = [
            ("link", |link, wanted| {
                let (addresses, neighbours) = (link.addresses.clone(), link.neighbours.clone());
                let (carrier, tap) = (link.carrier, link.tap);
                *link = LinkState { carrier, addresses, neighbours, tap, ..wanted.clone() };
            }),
            ("address", |link, wanted| link.addresses.extend(&wanted.addresses)),
            ("neighbour", |link, wanted| link.neighbours.extend(&wanted.neighbours)),
        ];
        for (part, change) in parts {
            let mut system = self.effect().map_err(refused(part))?;
            let link = system.links.get_mut(&spec.name);
            change(link.ok_or_else(|| refused(part)(Refusal::errno(Refusal::ENODEV)))?, &wanted);
        }
        Ok(())
    }

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        let parts: [(AccountKind, Option<u32>, Place); 2] = [
            (AccountKind::User, tap.owner, |tap| &mut tap.owner),
            (AccountKind::Group, tap.group, |tap| &mut tap.group),
        ];
        for (kind, wanted, place) in parts {
            let refused = |source| KernelError::SetOwner { name: name.clone(), kind, source };
            let missing = || refused(Refusal::errno(Refusal::ENODEV));
            let mut system = self.effect().map_err(refused)?;
            let link = system.links.get_mut(name).ok_or_else(missing)?;
            let found = link.tap.as_mut().ok_or_else(missing)?;
            if link.carrier && !found.multi_queue {
                return Err(refused(Refusal::errno(Refusal::EBUSY)));
            }
            *place(found) = wanted.or(*place(found));
        }
        Ok(())
    }

    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        let refused = |source| KernelError::DeleteLink { name: name.clone(), source };
        self.effect().map_err(refused)?.links.remove(name);
        Ok(())
    }

    fn remove_address(
        &mut self,
        link: &InterfaceName,
        address: Ipv4Net,
    ) -> Result<(), KernelError> {
        const EADDRNOTAVAIL: i32 = 99;
        let refused = |source| KernelError::RemoveAddress { name: link.clone(), address, source };
        let mut system = self.effect().map_err(refused)?;
        let found = system.links.get_mut(link).is_some_and(|l| l.addresses.remove(&address));
        found.then_some(()).ok_or_else(|| refused(Refusal::errno(EADDRNOTAVAIL)))
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, BTreeSet<Ipv4Net>>,
    ) -> Result<(), KernelError> {
        for (name, addresses) in links {
            let refused = |source| KernelError::CondemnLink { name: name.clone(), source };
            let mut system = self.effect().map_err(refused)?;
            if let Some(link) = system.links.get_mut(name) {
                link.up = false;
                link.group = DRAINING_GROUP;
                link.neighbours.clear();
                link.addresses.retain(|address| !addresses.contains(address));
            }
        }
        Ok(())
    }

    fn delete_draining_links(&mut self) -> Result<(), KernelError> {
        let mut system = self.effect().map_err(|source| KernelError::DeleteLinks { source })?;
        system.links.retain(|_, link| link.group != DRAINING_GROUP);
        Ok(())
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        let system = self.system();
        let ruleset = system.firewall.get(&backend);
        let stands = ruleset
            .is_some_and(|r| r.base_ruleset == *base_ruleset && r.entries.is_superset(entries));
        Ok(stands && system.foreign_chains.values().all(|open| *open))
    }

    fn firewall(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        let mut system = self.system();
        system.listings += 1;
        let Some(ruleset) = system.firewall.get(&backend) else {
            return Ok(FirewallState::absent());
        };
        let base_ruleset = if ruleset.base_ruleset == expected.base_ruleset {
            BaseState::Intact
        } else {
            BaseState::Altered(vec!["the skeleton differs".to_owned()])
        };
        Ok(FirewallState { base_ruleset, entries: ruleset.entries.clone(), strays: vec![] })
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        let refused = |source| KernelError::ChangeFirewall { backend: backend.as_str(), source };
        let mut system = self.effect().map_err(refused)?;
        match change {
            Change::Reset(ruleset) => {
                system.firewall.insert(backend, ruleset.clone());
            }
            Change::Remove => {
                system.firewall.remove(&backend);
            }
            Change::Delta { remove, add } => {
                let ruleset = system.firewall.get_mut(&backend);
                let missing = || refused(Refusal::errno(Refusal::ENOENT));
                let ruleset = ruleset.ok_or_else(missing)?;
                if !ruleset.entries.is_superset(remove) {
                    return Err(missing());
                }
                let mut entries: BTreeSet<Entry> =
                    ruleset.entries.difference(remove).copied().collect();
                let taken: BTreeSet<_> = entries.iter().map(key).collect();
                if add.iter().any(|entry| taken.contains(&key(entry))) {
                    return Err(refused(Refusal::errno(Refusal::EEXIST)));
                }
                entries.extend(add);
                ruleset.entries = entries;
            }
        }
        Ok(())
    }

    fn firewall_tables(&mut self, _backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        Ok(BTreeSet::new())
    }

    fn empty_tables(&mut self, _backend: Backend) -> Result<BTreeSet<String>, KernelError> {
        Ok(BTreeSet::new())
    }

    fn remove_empty_tables(
        &mut self,
        _backend: Backend,
        _except: &BTreeSet<String>,
    ) -> Result<(), KernelError> {
        Ok(())
    }

    fn foreign_chains(&mut self, _backend: Backend) -> Result<Vec<ForeignChainState>, KernelError> {
        let mut system = self.system();
        system.listings += 1;
        let state = |(foreign_chain, open): (&ForeignChain, &bool)| ForeignChainState {
            foreign_chain: foreign_chain.clone(),
            open: *open,
            touched: *open,
        };
        Ok(system.foreign_chains.iter().map(state).collect())
    }

    fn set_passage(&mut self, foreign_chain: &ForeignChain, open: bool) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::SetGate { foreign_chain: foreign_chain.clone(), source };
        let mut system = self.effect().map_err(refused)?;
        if let Some(state) = system.foreign_chains.get_mut(foreign_chain) {
            *state = open;
        }
        Ok(())
    }

    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        for flow in flows {
            let mut system = self.effect().map_err(|source| KernelError::ForgetFlows { source })?;
            system.forgotten.push(*flow);
        }
        Ok(())
    }

    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        Ok(self.system().sysctls.get(name).cloned())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::SetSysctl { name: name.into(), value: value.into(), source };
        let mut system = self.effect().map_err(refused)?;
        let present = system.sysctls.get_mut(name);
        value.clone_into(present.ok_or_else(|| refused(Refusal::errno(Refusal::ENOENT)))?);
        Ok(())
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        Ok(self.system().sysctls.clone())
    }

    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        Ok(self.system().uplinks.clone())
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        Ok(self.system().routes.clone())
    }

    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<Ipv4Addr>, u16)>,
    ) -> Result<Vec<Listener>, KernelError> {
        let system = self.system();
        let hit = |l: &&Listener| {
            wanted.iter().any(|&(protocol, _, port)| (l.protocol, l.port) == (protocol, port))
        };
        Ok(system.listeners.iter().filter(hit).cloned().collect())
    }

    fn resolvers(&mut self) -> Result<Vec<Ipv4Addr>, KernelError> {
        Ok(self.system().resolvers.clone())
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        Ok(self.system().accounts.get(&(kind, name.as_str().to_owned())).copied())
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        Ok(self.system().iptables)
    }
}

/// One message of a netlink batch.
type Part = fn(&mut LinkState, &LinkState);

/// Where a TAP keeps its user or its group.
type Place = fn(&mut Tap) -> &mut Option<u32>;

/// What of an entry is unique.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Port(Protocol, Option<Ipv4Addr>, u16),
    Guest(Ipv4Addr),
}

fn key(entry: &Entry) -> Key {
    match *entry {
        Entry::Exposure { protocol, host_address, host_port, .. } => {
            Key::Port(protocol, host_address, host_port)
        }
        Entry::Hairpin { guest } => Key::Guest(guest),
    }
}
