use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::Ipv4Net;

use super::firewall::LEGACY;
use crate::{AccountKind, Listener, Refusal, process::ProcessId};
use riklet_core::{
    firewall::{Backend, ForeignChain, IptablesVariant, Ruleset, Translation},
    flows::Flows,
    link::{HostInterface, LinkState, PeerState},
    manager::ManagerFile,
    model::{InterfaceName, NamespaceId, NamespacePath, Slot},
    routing::{AnswerPath, HostRoute, NextHop, RoutingRule, UplinkRoute},
    shaping::Twin,
    switch,
};

/// A handle on a kernel in memory. Clones share the kernel, as processes do.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel(Arc<Mutex<System>>, Arc<Mutex<Transactions>>);

/// The transactions of the firewall, and a hash of the rules after the last one.
#[derive(Debug, Clone, Copy, Default)]
struct Transactions {
    count: u64,
    rules: u64,
}

/// The contents of the kernel. A test may change everything, as an administrator or a crash might.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after the observation that returns it")]
pub struct System {
    /// The interfaces. Their twins are in `twins`.
    pub links: BTreeMap<InterfaceName, LinkState>,
    /// The twins of interfaces, whether these exist or not.
    pub twins: BTreeMap<Slot, Twin>,
    pub firewall: BTreeMap<Backend, Ruleset>,
    /// The table of policies beside iptables: the base ruleset that it was made for, and its entries.
    pub policies: Option<Ruleset>,
    /// True if the kernel has nf_tables.
    pub nf_tables: bool,
    pub foreign_chains: BTreeMap<ForeignChain, bool>,
    /// The foreign chains whose table another process owns.
    pub owned_chains: BTreeSet<ForeignChain>,
    /// Tables that calling iptables-nft created, all of them empty.
    pub implicit_tables: BTreeSet<String>,
    pub sysctls: BTreeMap<String, String>,
    /// The files of each manager that the host has.
    pub manager_files: BTreeMap<ManagerFile, Option<String>>,
    /// True if `/proc/sys` is mounted read-only.
    pub sysctls_are_read_only: bool,
    pub interfaces: BTreeMap<InterfaceName, HostInterface>,
    pub uplinks: BTreeSet<InterfaceName>,
    pub routes: Vec<HostRoute>,
    pub rules: Vec<RoutingRule>,
    pub answer_paths: BTreeMap<Ipv4Net, AnswerPath>,
    pub next_hops: BTreeMap<InterfaceName, NextHop>,
    pub uplink_routes: BTreeSet<UplinkRoute>,
    pub listeners: Vec<Listener>,
    /// The processes that have TAPs open, as `name (pid 123)`.
    pub tap_users: BTreeMap<InterfaceName, String>,
    pub translations: BTreeSet<Translation>,
    /// Addresses that the host does not have; it has all others.
    pub absent_addresses: BTreeSet<IpAddr>,
    pub iptables: Option<IptablesVariant>,
    pub resolvers: Vec<IpAddr>,
    pub accounts: BTreeMap<(AccountKind, String), u32>,
    /// The network namespaces of guests, by the files that lead to them.
    pub namespaces: BTreeMap<NamespacePath, NamespaceId>,
    /// The other ends of veths, by the interfaces of the node.
    pub peers: BTreeMap<InterfaceName, PeerState>,
    /// The processes that run; the one that made the kernel is among them.
    pub processes: BTreeSet<ProcessId>,
    /// The flows that were forgotten, in the order of the calls.
    pub forgotten: Vec<Flows>,
    /// The number of effects so far; each part of a batch is one.
    pub effects: usize,
    /// The number of listings so far: of all interfaces, the whole firewall, all foreign chains, or all routes.
    pub listings: usize,
    /// The number of times so far that the firewall was asked whether it has the base ruleset and some entries.
    pub probes: usize,
    /// The number of times so far that translations of others were searched for.
    pub searches: usize,
    /// The fault, and the effect at which it happens, counted from 0.
    pub fault: Option<(usize, Fault)>,
}

/// A fault at an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The kernel refuses this one effect (`ENOMEM`).
    Refuse,
    /// The caller is stopped before it, as by SIGKILL: an unwinding that carries [`Stopped`].
    Stop,
}

/// The payload of the unwinding that [`Fault::Stop`] starts.
#[derive(Debug)]
pub struct Stopped;

impl System {
    /// Returns the interface of this name, with its twin.
    pub(super) fn shaped(&self, link: &LinkState) -> LinkState {
        let slot = Slot::of_interface(link.name.as_str());
        let twin = slot.and_then(|slot| self.twins.get(&slot)).cloned();
        let mut link = link.clone();
        // Without its twin, what the guest sends goes nowhere.
        link.shaping.from_guest = link.shaping.from_guest.filter(|_| twin.is_some());
        link.shaping.twin = twin;
        link
    }

    /// Adds an interface of the host's, with an address, that forwards as the host does.
    pub fn add_interface(&mut self, name: &InterfaceName) {
        let index = self.interfaces.values().map(|interface| interface.index).max();
        let interface = HostInterface {
            index: index.unwrap_or(1) + 1,
            addressed: true,
            addressed_v6: false,
            bridge: false,
        };
        self.interfaces.insert(name.clone(), interface);
        let value = self.sysctls.get(switch::IP_FORWARD).cloned().unwrap_or_default();
        self.sysctls.insert(switch::forwarding(name), value);
    }

    /// Removes such an interface, and its sysctls with it.
    pub fn remove_interface(&mut self, name: &InterfaceName) {
        self.interfaces.remove(name);
        self.sysctls.remove(&switch::forwarding(name));
    }

    /// Sets a sysctl, and returns whether there is one of this name. A change of the switch of the whole host sets
    /// those of all interfaces.
    pub fn write_sysctl(&mut self, name: &str, value: &str) -> bool {
        let Some(present) = self.sysctls.get_mut(name) else { return false };
        let changed = present != value;
        value.clone_into(present);
        if changed && name == switch::IP_FORWARD {
            let switches = self.sysctls.iter_mut();
            for (_, of) in switches.filter(|(name, _)| switch::interface(name).is_some()) {
                value.clone_into(of);
            }
            self.links.values_mut().for_each(|link| link.forwarding = value == "1");
        }
        true
    }
}

impl Default for System {
    fn default() -> Self {
        let mut system = Self {
            links: BTreeMap::new(),
            twins: BTreeMap::new(),
            firewall: BTreeMap::new(),
            policies: None,
            nf_tables: true,
            foreign_chains: BTreeMap::new(),
            owned_chains: BTreeSet::new(),
            implicit_tables: BTreeSet::new(),
            sysctls: BTreeMap::from([(switch::IP_FORWARD.to_owned(), "0".to_owned())]),
            manager_files: [(ManagerFile::Networkd, None)].into(),
            sysctls_are_read_only: false,
            interfaces: BTreeMap::new(),
            uplinks: InterfaceName::try_from("eth0").into_iter().collect(),
            routes: Vec::new(),
            rules: Vec::new(),
            answer_paths: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            uplink_routes: BTreeSet::new(),
            listeners: Vec::new(),
            tap_users: BTreeMap::new(),
            translations: BTreeSet::new(),
            absent_addresses: BTreeSet::new(),
            iptables: None,
            resolvers: Vec::new(),
            accounts: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            peers: BTreeMap::new(),
            processes: ProcessId::current().into_iter().collect(),
            forgotten: Vec::new(),
            effects: 0,
            listings: 0,
            probes: 0,
            searches: 0,
            fault: None,
        };
        for uplink in system.uplinks.clone() {
            system.add_interface(&uplink);
        }
        system
    }
}

impl FakeKernel {
    /// Returns a host with the uplink `eth0`, without iptables, that does not forward.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the contents of the kernel, to read or to change them past the kernel, as an administrator or a crash
    /// might. The methods of the traits use `observe`, `list` and `effect` instead.
    pub fn system(&self) -> MutexGuard<'_, System> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of transactions of the firewall so far. What was changed past the kernel since the last call
    /// counts as one.
    pub(super) fn transactions(&self, system: &System) -> u64 {
        // The legacy iptables makes none.
        let firewall: Vec<_> = system.firewall.iter().filter(|(of, _)| **of != LEGACY).collect();
        let rules = (firewall, &system.policies, &system.foreign_chains, &system.owned_chains);
        let mut hasher = DefaultHasher::new();
        let others = (&system.implicit_tables, &system.translations);
        format!("{rules:?} {others:?}").hash(&mut hasher);
        let mut known = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = hasher.finish();
        known.count += u64::from(known.rules != rules);
        known.rules = rules;
        known.count
    }

    /// Counts this number of transactions.
    pub(super) fn count_transactions(&self, count: u64) {
        let mut known = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        known.count += count;
    }

    /// Returns the contents of the kernel, only to be read.
    pub(super) fn observe(&self) -> impl Deref<Target = System> + '_ {
        self.system()
    }

    /// Counts one listing of everything, and returns the contents of the kernel, only to be read.
    pub(super) fn list(&self) -> impl Deref<Target = System> + '_ {
        let mut system = self.system();
        system.listings += 1;
        system
    }

    /// Counts one effect, and causes the fault that is due at it. The returned guard is the only way for a method of a
    /// trait to change something, so that no effect is without a fault point.
    pub(super) fn effect(&self) -> Result<MutexGuard<'_, System>, Refusal> {
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
