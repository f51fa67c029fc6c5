use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{FakeKernel, System};
use crate::{AccountKind, KernelError, LinkDeletion, Links, Refusal};
use riklet_core::{
    link::{DRAINING_GROUP, HostInterface, LinkSpec, LinkState, PeerState, Tap},
    model::{InterfaceName, Slot},
    shaping::{ShapingState, Twin},
    small::SmallSet,
};

/// A message of a netlink batch: a part of the change of one link.
type Part = fn(&mut LinkState, &LinkState);

/// Selects the user or the group of a TAP.
type OwnerField = fn(&mut Tap) -> &mut Option<u32>;

impl Links for FakeKernel {
    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        let system = self.observe();
        Ok(system.links.get(name).map(|link| system.shaped(link)))
    }

    fn peer(&mut self, spec: &LinkSpec) -> Result<Option<PeerState>, KernelError> {
        let system = self.observe();
        Ok(system.links.get(&spec.name).and_then(|_| system.peers.get(&spec.name)).cloned())
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        let system = self.list();
        let named = system.links.values();
        let named = named.filter(|l| Slot::of_interface(l.name.as_str()).is_some());
        Ok(named.map(|link| system.shaped(link)).collect())
    }

    fn twins(&mut self) -> Result<BTreeMap<Slot, Twin>, KernelError> {
        Ok(self.observe().twins.clone())
    }

    fn host_interfaces(&mut self) -> Result<BTreeMap<InterfaceName, HostInterface>, KernelError> {
        Ok(self.list().interfaces.clone())
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let refused =
            |source| KernelError::CreateLink { name: spec.name.clone(), step: "TUNSETIFF", source };
        let mut system = self.effect().map_err(refused)?;
        if let Some(peer) = spec.peer() {
            let is_there = system.namespaces.values().any(|id| *id == peer.name.namespace);
            if !is_there {
                return Err(refused(Refusal::errno(Refusal::ENOENT)));
            }
        }
        if system.links.contains_key(&spec.name) {
            return Err(refused(Refusal::errno(Refusal::EBUSY)));
        }
        let state = LinkState { shaping: ShapingState::default(), ..spec.state() };
        system.links.insert(spec.name.clone(), state);
        let peer = spec.peer().map(|peer| (spec.name.clone(), peer.state(spec.mtu)));
        system.peers.extend(peer);
        Ok(())
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let refused = |part| {
            move |source| KernelError::ConfigureLink { name: spec.name.clone(), part, source }
        };
        let wanted = spec.state();
        let parts: [(&str, Part); 3] = [
            ("link", |link, wanted| {
                let (addresses, neighbours) = (link.addresses.clone(), link.neighbours.clone());
                let (carrier, open) = (link.carrier, link.open);
                let (tap, veth) = (link.tap, link.veth);
                let shaping = link.shaping.clone();
                let wanted = wanted.clone();
                *link = LinkState {
                    carrier,
                    open,
                    addresses,
                    neighbours,
                    tap,
                    veth,
                    shaping,
                    ..wanted
                };
            }),
            ("address", |link, wanted| link.addresses.extend(wanted.addresses.iter().copied())),
            ("neighbour", |link, wanted| {
                link.neighbours.extend(wanted.neighbours.iter().map(|(&a, &m)| (a, m)));
            }),
        ];
        for (part, change) in parts {
            let mut system = self.effect().map_err(refused(part))?;
            let link = system.links.get_mut(&spec.name);
            change(link.ok_or_else(|| refused(part)(Refusal::errno(Refusal::ENODEV)))?, &wanted);
        }
        Ok(())
    }

    fn shape(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let slot = Slot::of_interface(spec.name.as_str()).unwrap_or(Slot::new(0));
        let refused =
            |part| move |source| KernelError::Shape { name: spec.name.clone(), part, source };
        let wanted = spec.shaped();
        let part = |part, change: &mut dyn FnMut(&mut System)| {
            let mut system = self.effect().map_err(refused(part))?;
            if !system.links.contains_key(&spec.name) {
                return Err(refused(part)(Refusal::errno(Refusal::ENODEV)));
            }
            change(&mut system);
            Ok(())
        };
        let shaping = |system: &mut System, change: &dyn Fn(&mut ShapingState)| {
            system.links.get_mut(&spec.name).into_iter().for_each(|l| change(&mut l.shaping));
        };
        part("ingress", &mut |system| shaping(system, &|s| s.to_guest = wanted.to_guest))?;
        if let Some(twin) = &wanted.twin {
            part("twin", &mut |system| {
                system.twins.entry(slot).or_insert(Twin { alias: None });
            })?;
            part("alias", &mut |system| drop(system.twins.insert(slot, twin.clone())))?;
            part("egress", &mut |system| shaping(system, &|s| s.from_guest = wanted.from_guest))
        } else {
            part("egress", &mut |system| shaping(system, &|s| s.from_guest = None))?;
            part("twin", &mut |system| drop(system.twins.remove(&slot)))
        }
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

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        let parts: [(AccountKind, Option<u32>, OwnerField); 2] = [
            (AccountKind::User, tap.owner, |tap| &mut tap.owner),
            (AccountKind::Group, tap.group, |tap| &mut tap.group),
        ];
        for (kind, wanted, place) in parts {
            let refused = |source| KernelError::SetOwner { name: name.clone(), kind, source };
            let missing = || refused(Refusal::errno(Refusal::ENODEV));
            let mut system = self.effect().map_err(refused)?;
            let link = system.links.get_mut(name).ok_or_else(missing)?;
            let found = link.tap.as_mut().ok_or_else(missing)?;
            if link.open && !found.multi_queue {
                return Err(refused(Refusal::errno(Refusal::EBUSY)));
            }
            *place(found) = wanted.or(*place(found));
        }
        Ok(())
    }

    fn remove_address(&mut self, link: &InterfaceName, address: IpNet) -> Result<(), KernelError> {
        const EADDRNOTAVAIL: i32 = 99;
        let refused = |source| KernelError::RemoveAddress { name: link.clone(), address, source };
        let mut system = self.effect().map_err(refused)?;
        let found = system.links.get_mut(link).is_some_and(|l| l.addresses.remove(&address));
        found.then_some(()).ok_or_else(|| refused(Refusal::errno(EADDRNOTAVAIL)))
    }
}

impl LinkDeletion for FakeKernel {
    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        let refused = |source| KernelError::DeleteLink { name: name.clone(), source };
        let mut system = self.effect().map_err(refused)?;
        system.links.remove(name);
        system.peers.remove(name);
        Ok(())
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, SmallSet<IpNet>>,
    ) -> Result<(), KernelError> {
        for (name, addresses) in links {
            let refused = |source| KernelError::DrainLink { name: name.clone(), source };
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

    fn retire_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        for name in names {
            let refused = |source| KernelError::DrainLink { name: name.clone(), source };
            let mut system = self.effect().map_err(refused)?;
            if let Some(link) = system.links.get_mut(name) {
                (link.group, link.forwarding) = (DRAINING_GROUP, false);
            }
        }
        Ok(())
    }

    fn delete_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        let mut system = self.effect().map_err(|source| KernelError::DeleteLinks { source })?;
        system.links.retain(|name, _| !names.contains(name));
        system.peers.retain(|name, _| !names.contains(name));
        system.twins.retain(|slot, _| !names.contains(&Twin::name(*slot)));
        Ok(())
    }
}
