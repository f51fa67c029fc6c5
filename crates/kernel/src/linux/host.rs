//! Facts about the host, each read in a module of its own.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Linux, account, firewall::iptables, listeners, namespace, resolvers, tap_user};
use crate::{AccountKind, HostFacts, KernelError, Listener, ListeningPort, process::ProcessId};
use riklet_core::{
    firewall::IptablesVariant,
    model::{AccountName, InterfaceName, NamespaceId, NamespacePath, PortRange, Protocol},
};

impl HostFacts for Linux {
    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
    ) -> Result<Vec<Listener>, KernelError> {
        listeners::listeners(&mut self.diag, wanted)
    }

    fn listening_ports(&mut self) -> Result<BTreeSet<ListeningPort>, KernelError> {
        listeners::ports(&mut self.diag)
    }

    fn tap_user(&mut self, tap: &InterfaceName, processes: usize) -> Option<String> {
        tap_user::tap_user(tap, processes)
    }

    fn resolvers(&mut self) -> Result<Vec<IpAddr>, KernelError> {
        resolvers::resolvers()
    }

    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError> {
        account::id(kind, name)
    }

    fn namespace(&mut self, path: &NamespacePath) -> Result<NamespaceId, KernelError> {
        namespace::id(path)
    }

    fn is_alive(&mut self, process: ProcessId) -> Result<bool, KernelError> {
        let alive = process.is_alive();
        alive.map_err(|error| KernelError::Process { pid: process.pid(), source: error.into() })
    }

    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError> {
        iptables::known_variant(&mut self.iptables)
    }
}
