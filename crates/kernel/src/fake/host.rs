use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Weak,
};

use super::FakeKernel;
use crate::{
    AccountKind, HostFacts, KernelError, Listener, ListeningPort, OperationScope, Refusal,
    process::ProcessId,
};
use riklet_core::{
    firewall::IptablesVariant,
    model::{AccountName, InterfaceName, NamespaceId, NamespacePath, PortRange, Protocol, Slot},
};

impl HostFacts for FakeKernel {
    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
    ) -> Result<Vec<Listener>, KernelError> {
        let system = self.observe();
        let hit = |l: &&Listener| {
            wanted.iter().any(|&(protocol, _, ports)| {
                l.protocol == protocol && (ports.first()..=ports.last()).contains(&l.port)
            })
        };
        Ok(system.listeners.iter().filter(hit).cloned().collect())
    }

    fn listening_ports(&mut self) -> Result<BTreeSet<ListeningPort>, KernelError> {
        let system = self.observe();
        let ports = system.listeners.iter().map(|l| (l.protocol, l.address, l.port));
        Ok(ports.collect())
    }

    fn tap_user(&mut self, tap: &InterfaceName, processes: usize) -> Option<String> {
        self.observe().tap_users.get(tap).filter(|_| processes > 0).cloned()
    }

    fn resolvers(&mut self) -> Result<Vec<IpAddr>, KernelError> {
        Ok(self.observe().resolvers.clone())
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        Ok(self.observe().accounts.get(&(kind, name.as_str().to_owned())).copied())
    }

    fn namespace(&mut self, path: &NamespacePath) -> Result<NamespaceId, KernelError> {
        let missing = || KernelError::Namespace {
            path: path.clone(),
            source: Refusal::errno(Refusal::ENOENT),
        };
        self.observe().namespaces.get(path).copied().ok_or_else(missing)
    }

    fn is_alive(&mut self, process: ProcessId) -> Result<bool, KernelError> {
        Ok(self.observe().processes.contains(&process))
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        Ok(self.observe().iptables)
    }
}

impl OperationScope for FakeKernel {
    fn start_operation(&mut self) -> Result<(), KernelError> {
        self.observe();
        Ok(())
    }

    /// Returns a number for the present state of the host.
    fn host_version(&mut self) -> Result<Option<u64>, KernelError> {
        let system = self.observe();
        let others = system.links.iter().filter(|(n, _)| Slot::of_interface(n.as_str()).is_none());
        let links: Vec<_> = others.collect();
        let routing = (&system.rules, &system.answer_paths, &system.next_hops);
        let host = (&system.uplinks, &system.interfaces, &system.sysctls, &system.processes);
        let mut hasher = DefaultHasher::new();
        format!("{links:?} {routing:?} {host:?}").hash(&mut hasher);
        Ok(Some(hasher.finish()))
    }

    fn abandon_firewall(&mut self) -> Result<(), KernelError> {
        // The fake kernel has no owners of tables.
        self.observe();
        Ok(())
    }

    fn share_lock(&mut self, _lock: Weak<OwnedFd>) {
        // An effect of the fake kernel ends with the caller, so no program outlives it.
    }
}
