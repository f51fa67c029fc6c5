//! Passes requests for facts about the host on: the kernel does not notify of them.

use std::{collections::BTreeSet, net::IpAddr, os::fd::OwnedFd, sync::Weak};

use super::Watched;
use crate::{
    AccountKind, HostFacts, KernelError, Listener, ListeningPort, OperationScope,
    process::ProcessId,
};
use riklet_core::{
    firewall::IptablesVariant,
    model::{AccountName, InterfaceName, NamespaceId, NamespacePath, PortRange, Protocol},
};

impl HostFacts for Watched {
    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
    ) -> Result<Vec<Listener>, KernelError> {
        self.kernel.listeners(wanted)
    }

    fn listening_ports(&mut self) -> Result<BTreeSet<ListeningPort>, KernelError> {
        self.kernel.listening_ports()
    }

    fn tap_user(&mut self, tap: &InterfaceName, processes: usize) -> Option<String> {
        self.kernel.tap_user(tap, processes)
    }

    fn resolvers(&mut self) -> Result<Vec<IpAddr>, KernelError> {
        self.kernel.resolvers()
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        self.kernel.account(kind, name)
    }

    fn namespace(&mut self, path: &NamespacePath) -> Result<NamespaceId, KernelError> {
        self.kernel.namespace(path)
    }

    fn is_alive(&mut self, process: ProcessId) -> Result<bool, KernelError> {
        self.kernel.is_alive(process)
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        self.kernel.iptables()
    }
}

impl OperationScope for Watched {
    fn start_operation(&mut self) -> Result<(), KernelError> {
        self.listen()?;
        self.in_operation = true;
        Ok(())
    }

    fn host_version(&mut self) -> Result<Option<u64>, KernelError> {
        self.catch_up()?;
        Ok(Some(self.version))
    }

    fn abandon_firewall(&mut self) -> Result<(), KernelError> {
        self.kernel.abandon_firewall()
    }

    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.kernel.share_lock(lock);
    }
}
