//! Answers about interfaces from the mirror.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::Watched;
use crate::{KernelError, LinkDeletion, Links};
use riklet_core::{
    link::{HostInterface, LinkSpec, LinkState, PeerState, Tap},
    model::{InterfaceName, Slot},
    shaping::Twin,
    small::SmallSet,
};

impl Links for Watched {
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

    fn peer(&mut self, spec: &LinkSpec) -> Result<Option<PeerState>, KernelError> {
        self.kernel.peer(spec)
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.look()?;
        Ok(self.mirror.links().cloned().collect())
    }

    fn host_interfaces(&mut self) -> Result<BTreeMap<InterfaceName, HostInterface>, KernelError> {
        self.catch_up()?;
        if let Some(known) = &self.interfaces {
            return Ok(known.clone());
        }
        let found = self.kernel.host_interfaces()?;
        self.interfaces = Some(found.clone());
        Ok(found)
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let done = self.changing().create_link(spec);
        self.listen_after(1)?;
        done
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let done = self.changing().configure_link(spec);
        // It sets properties of which the kernel does not notify.
        self.mirror.expect(spec);
        self.listen()?;
        done
    }

    fn twins(&mut self) -> Result<BTreeMap<Slot, Twin>, KernelError> {
        self.kernel.twins()
    }

    fn shape(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let done = self.changing().shape(spec);
        self.listen()?;
        // The kernel notifies of twins only.
        self.mirror.mark_unknown(&spec.name);
        done
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        let failed = self.changing().set_aliases(aliases);
        for (name, alias) in aliases.iter().filter(|(name, _)| !failed.contains_key(*name)) {
            self.mirror.expect_alias(name, alias);
        }
        failed
    }

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        self.changing().set_owner(name, tap)
    }

    fn remove_address(&mut self, link: &InterfaceName, address: IpNet) -> Result<(), KernelError> {
        self.changing().remove_address(link, address)
    }
}

impl LinkDeletion for Watched {
    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        self.changing().delete_link(name)
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, SmallSet<IpNet>>,
    ) -> Result<(), KernelError> {
        let done = self.changing().drain_links(links);
        self.listen_after(links.len())?;
        done
    }

    fn retire_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        let done = self.changing().retire_links(names);
        self.listen_after(names.len())?;
        done
    }

    fn delete_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        self.changing().delete_links(names)
    }
}
