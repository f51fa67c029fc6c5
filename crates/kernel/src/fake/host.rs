use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Weak,
};

use ipnet::Ipv4Net;

use super::FakeKernel;
use crate::{
    AccountKind, Conntrack, HostFacts, KernelError, Listener, LockSharing, Refusal, Routes, Sysctls,
};
use riklet_core::{
    firewall::IptablesVariant,
    flows::Flows,
    model::{AccountName, InterfaceName, Protocol},
};

impl Sysctls for FakeKernel {
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
}

impl Routes for FakeKernel {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        Ok(self.system().uplinks.clone())
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        Ok(self.system().routes.clone())
    }
}

impl Conntrack for FakeKernel {
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        for flow in flows {
            let mut system = self.effect().map_err(|source| KernelError::ForgetFlows { source })?;
            system.forgotten.push(*flow);
        }
        Ok(())
    }
}

impl HostFacts for FakeKernel {
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

impl LockSharing for FakeKernel {
    fn share_lock(&mut self, _lock: Weak<OwnedFd>) {
        // Its effects end with the caller.
    }
}
