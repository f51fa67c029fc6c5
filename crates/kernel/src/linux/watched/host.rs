//! Sysctls and uplinks from memory; what the kernel does not tell of is passed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Weak,
};

use ipnet::Ipv4Net;

use super::Watched;
use crate::{
    AccountKind, Conntrack, HostFacts, KernelError, Listener, LockSharing, Routes, Sysctls,
};
use riklet_core::{
    firewall::IptablesVariant,
    flows::Flows,
    model::{AccountName, InterfaceName, Protocol},
    plan::IP_FORWARD,
};

impl Sysctls for Watched {
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

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        self.kernel.forwarding_sysctls()
    }
}

impl Routes for Watched {
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError> {
        self.listen()?;
        if let Some(uplinks) = &self.uplinks {
            return Ok(uplinks.clone());
        }
        let uplinks = self.kernel.uplinks()?;
        self.uplinks = Some(uplinks.clone());
        Ok(uplinks)
    }

    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError> {
        self.kernel.routes()
    }
}

impl Conntrack for Watched {
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError> {
        self.kernel.forget_flows(flows)
    }
}

impl HostFacts for Watched {
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

impl LockSharing for Watched {
    fn share_lock(&mut self, lock: Weak<OwnedFd>) {
        self.kernel.share_lock(lock);
    }
}
