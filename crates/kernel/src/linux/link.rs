//! Changes interfaces by rtnetlink(7), and creates TAPs by `/dev/net/tun`.

mod message;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
};

use ipnet::IpNet;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};
use rustix::net::netdevice;

pub(super) use self::message::{Part, address_message, delete, set_link, set_up, slot};
use self::message::{UP, drain, move_to, retire, set_alias};
use super::{
    Linux,
    guard::Filters,
    netlink::NetlinkRequest,
    opened,
    route::Route,
    sysctl,
    tap::{self, NewTap},
};
use crate::{AccountKind, KernelError, LinkDeletion, Links, Refusal};
use riklet_core::{
    guard::interface_number,
    link::{Device, HostInterface, LinkSpec, LinkState, PeerState, Tap},
    model::{Family, InterfaceName, Slot},
    shaping::Twin,
    small::SmallSet,
    switch,
};

/// The number of requests in one `send`. An answer takes about 1 KiB of the receive buffer, which has 208 KiB unless
/// `net.core.rmem_default` was changed.
const BATCH: usize = 64;

impl Route {
    /// Creates an interface as specified.
    pub(super) fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        match &spec.device {
            Device::Tap(tap) => self.create_tap(spec, *tap),
            Device::Veth(peer) => self.create_veth(spec, peer),
        }
    }

    fn create_tap(&mut self, spec: &LinkSpec, wanted: Tap) -> Result<(), KernelError> {
        let created = NewTap::create(&spec.name, wanted.multi_queue, interface_number(slot(spec)));
        let tap = created.map_err(|source| {
            let (name, step) = (spec.name.clone(), "TUNSETIFF");
            KernelError::CreateLink { name, step, source }
        })?;
        self.furnish(tap, spec, wanted)
    }

    /// Configures a new TAP as specified, and makes it persistent.
    fn furnish(&mut self, tap: NewTap, spec: &LinkSpec, wanted: Tap) -> Result<(), KernelError> {
        let refused =
            |step| move |source| KernelError::CreateLink { name: spec.name.clone(), step, source };
        tap.set_owner(&wanted).map_err(|(kind, source)| match kind {
            AccountKind::User => refused("TUNSETOWNER")(source),
            AccountKind::Group => refused("TUNSETGROUP")(source),
        })?;
        // Until the TAP had its user, anybody who may open `/dev/net/tun` could open another queue of it, and read the
        // packets to the guest. From now on the kernel refuses that.
        if wanted.multi_queue && self.queues(&spec.name).map_err(refused("queues"))? != 1 {
            // The open queue would keep the TAP alive after our descriptor is closed.
            self.delete_link(&spec.name)?;
            let words = "somebody opened it before it had its user".to_owned();
            return Err(refused("queues")(Refusal { errno: Some(Refusal::EBUSY), words }));
        }
        self.configure(spec, Filters::Kept, |part, source| refused(part)(source))?;
        tap.persist().map_err(refused("TUNSETPERSIST"))
    }

    /// Configures an interface as specified.
    pub(super) fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let name = || spec.name.clone();
        let refused = |part, source| KernelError::ConfigureLink { name: name(), part, source };
        let index = self.index(&spec.name).map_err(|source| refused("interface", source))?;
        let hooked = self.hooked(index).map_err(|source| refused("guard", source))?;
        let guarded = self.has_guard_of(hooked, slot(spec), &spec.addresses);
        let guarded = guarded.map_err(|source| refused("guard", source))?;
        if !guarded {
            self.remove_hooks(index).map_err(|source| refused("guard", source))?;
        }
        let filters = if guarded { Filters::Kept } else { Filters::Replaced };
        self.configure(spec, filters, refused)?;
        // What the guest sends was led elsewhere by the hooks that were removed.
        if guarded || spec.shaping.from_guest.is_none() { Ok(()) } else { self.shape(spec) }
    }

    /// Sets the aliases of interfaces.
    pub(super) fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        let all: Vec<_> = aliases.iter().collect();
        let requests = all.iter().map(|(name, alias)| (*name, set_alias(name, alias)));
        let refused = self.send_for_each(&requests.collect::<Vec<_>>());
        let part = "alias";
        let error = |(name, source): (&InterfaceName, Refusal)| {
            (name.clone(), KernelError::ConfigureLink { name: name.clone(), part, source })
        };
        refused.into_iter().map(error).collect()
    }

    /// Sends a message for each of these interfaces, and returns those that were refused.
    fn send_for_each<'a>(
        &mut self,
        messages: &[(&'a InterfaceName, RouteNetlinkMessage)],
    ) -> Vec<(&'a InterfaceName, Refusal)> {
        let mut refused = Vec::new();
        for batch in messages.chunks(BATCH) {
            let request = |(_, message): &(_, RouteNetlinkMessage)| NetlinkRequest {
                message: message.clone(),
                flags: 0,
            };
            let results = match self.socket.send_each(batch.iter().map(request).collect()) {
                Ok(results) => results,
                Err(refusal) => batch.iter().map(|_| Err(refusal.clone())).collect(),
            };
            let results = batch.iter().zip(results);
            refused.extend(results.filter_map(|((name, _), result)| Some((*name, result.err()?))));
        }
        refused
    }

    /// Removes an address.
    pub(super) fn remove_address(
        &mut self,
        link: &InterfaceName,
        address: IpNet,
    ) -> Result<(), KernelError> {
        let refused = |source| KernelError::RemoveAddress { name: link.clone(), address, source };
        let index = self.index(link).map_err(refused)?;
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        let results = self.socket.send_each(vec![NetlinkRequest { message, flags: 0 }]);
        results.and_then(|results| results.into_iter().collect()).map_err(refused)
    }

    /// Removes addresses, and sets interfaces down, into the draining group.
    pub(super) fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, SmallSet<IpNet>>,
    ) -> Result<(), KernelError> {
        let mut removed = Vec::new();
        for (name, addresses) in links.iter().filter(|(_, addresses)| !addresses.is_empty()) {
            // An interface that does not exist has no addresses.
            if let Ok(index) = self.index(name) {
                let message =
                    |&address| RouteNetlinkMessage::DelAddress(address_message(index, address));
                removed.extend(addresses.iter().map(|address| (name, message(address))));
            }
        }
        // A missing address needs no removal, and one whose removal is refused is deleted with the interface.
        let _gone = self.send_for_each(&removed);
        let requests: Vec<_> = links.keys().map(|name| (name, drain(name))).collect();
        self.send_to_existing(&requests)
    }

    /// Takes interfaces out of service that stay up.
    pub(super) fn retire_links(
        &mut self,
        names: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        let requests: Vec<_> = names.iter().map(|name| (name, retire(name))).collect();
        self.send_to_existing(&requests)
    }

    /// Sends a message that takes it out of service for each of these interfaces that exists.
    fn send_to_existing(
        &mut self,
        requests: &[(&InterfaceName, RouteNetlinkMessage)],
    ) -> Result<(), KernelError> {
        let gone = |refusal: &Refusal| refusal.errno == Some(Refusal::ENODEV);
        let mut refused = self.send_for_each(requests).into_iter();
        refused.find(|(_, refusal)| !gone(refusal)).map_or(Ok(()), |(name, source)| {
            Err(KernelError::DrainLink { name: name.clone(), source })
        })
    }

    /// Deletes one interface.
    pub(super) fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        let by_name = LinkAttribute::IfName(name.as_str().to_owned());
        self.delete(by_name)
            .map_err(|source| KernelError::DeleteLink { name: name.clone(), source })
    }

    /// Deletes interfaces together, which the kernel does only for a group. They are moved to a group that no other
    /// interface is in, and deleted in the same `send` as the last of them is moved.
    pub(super) fn delete_links(
        &mut self,
        names: &BTreeSet<InterfaceName>,
    ) -> Result<(), KernelError> {
        let group = unused_group();
        let refused = |source| KernelError::DeleteLinks { source };
        let names: Vec<_> = names.iter().collect();
        for (index, batch) in names.chunks(BATCH).enumerate() {
            let mut messages: Vec<_> = batch.iter().map(|name| move_to(name, group)).collect();
            if (index + 1) * BATCH >= names.len() {
                messages.push(delete(LinkAttribute::Group(group)));
            }
            let requests = messages.into_iter().map(|message| NetlinkRequest { message, flags: 0 });
            let results = self.socket.send_each(requests.collect()).map_err(refused)?;
            results.into_iter().try_for_each(unless_gone).map_err(refused)?;
        }
        Ok(())
    }

    /// Deletes the selected interfaces. Succeeds if there are none.
    fn delete(&mut self, selector: LinkAttribute) -> Result<(), Refusal> {
        let results =
            self.socket.send_each(vec![NetlinkRequest { message: delete(selector), flags: 0 }]);
        unless_gone(results.and_then(|results| results.into_iter().collect()))
    }

    /// Turns IPv6 off or on, for which rtnetlink has no request, then sends all parts in one `send`. Fails with the first
    /// part that is refused; the others are done all the same.
    pub(super) fn configure(
        &mut self,
        spec: &LinkSpec,
        filters: Filters,
        refused: impl Fn(&'static str, Refusal) -> KernelError,
    ) -> Result<(), KernelError> {
        let unreachable = |refusal| refused("interface", refusal);
        let index = self.index(&spec.name).map_err(unreachable)?;
        let mut parts = message::parts(index, spec, filters);
        if spec.link_local.is_some() {
            // No frame of IPv6 reaches the host before the guard stands, and no address is made before that is refused.
            let rest = parts.iter().position(|part| part.name == UP).unwrap_or(parts.len());
            let rest = parts.split_off(rest);
            self.send_parts(parts, &refused)?;
            enable_ipv6(&spec.name)?;
            return self.send_parts(rest, &refused);
        }
        let disabled = disable_ipv6(&spec.name)?;
        self.send_parts(parts, &refused)?;
        if !disabled {
            // IPv6 may have been absent because the MTU was below 1280, and the MTU may have grown.
            disable_ipv6(&spec.name)?;
        }
        Ok(())
    }

    /// Sends all parts in one `send`. Fails with the first part that is refused; the others are done all the same.
    pub(super) fn send_parts<E>(
        &mut self,
        parts: Vec<Part>,
        refused: impl Fn(&'static str, Refusal) -> E,
    ) -> Result<(), E> {
        let mut described = Vec::new();
        let mut requests = Vec::new();
        for part in parts {
            described.push((part.name, part.excused));
            requests.push(part.request);
        }
        let results = self.socket.send_each(requests).map_err(|r| refused("interface", r))?;
        for ((name, excused), result) in described.into_iter().zip(results) {
            match result {
                Err(refusal)
                    if !excused.iter().any(|e| refusal.errno == Some(e.raw_os_error())) =>
                {
                    return Err(refused(name, refusal));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn index(&self, name: &InterfaceName) -> Result<u32, Refusal> {
        Ok(netdevice::name_to_index(&self.socket, name.as_str())?)
    }
}

/// Turns IPv6 off. Returns `false` if there is none: in the kernel, or with an MTU below 1280.
///
/// With IPv6, a guest could announce itself as a router (RFC 4861, section 6.2). The host would take its default
/// route and its prefixes from the guest (`accept_ra` of Documentation/networking/ip-sysctl.rst), and send it its own
/// traffic.
fn disable_ipv6(name: &InterfaceName) -> Result<bool, KernelError> {
    match sysctl::set(&switch::disable_ipv6(name.as_str()), "1") {
        Ok(()) => Ok(true),
        Err(error) if error.refusal().errno == Some(Refusal::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns IPv6 on. Before that, the interface stops learning routes from its guest, and forwards where the kernel has a
/// switch for it.
///
/// The switch `forwarding` is left alone: setting it for any interface removes the default routes that the host has
/// learned from router advertisements (`addrconf_fixup_forwarding` of `net/ipv6/addrconf.c`).
fn enable_ipv6(name: &InterfaceName) -> Result<(), KernelError> {
    for learned in switch::learned_routes_v6(name.as_str()) {
        sysctl::set(&learned, "0")?;
    }
    match sysctl::set(&switch::of(Family::V6, name), "1") {
        Err(error) if error.refusal().errno == Some(Refusal::ENOENT) => {}
        set => set?,
    }
    sysctl::set(&switch::disable_ipv6(name.as_str()), "0")
}

/// Turns the refusal of an interface that does not exist (`ENODEV`) into success.
fn unless_gone(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno == Some(Refusal::ENODEV) => Ok(()),
        result => result,
    }
}

/// Returns a group number that is most likely unused: 30 random bits, above the numbers that people choose.
fn unused_group() -> u32 {
    const HIGH: u32 = 1 << 30;
    // Each hasher is seeded at random (std::hash::RandomState).
    let random = RandomState::new().build_hasher().finish();
    HIGH | u32::try_from(random & u64::from(HIGH - 1)).unwrap_or_default()
}

impl Links for Linux {
    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError> {
        self.route(|source| KernelError::ReadLink { name: name.clone(), source })?.link(name)
    }

    fn peer(&mut self, spec: &LinkSpec) -> Result<Option<PeerState>, KernelError> {
        self.route(|source| KernelError::ReadLink { name: spec.name.clone(), source })?.peer(spec)
    }

    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.route(|source| KernelError::ListLinks { source })?.links()
    }

    fn twins(&mut self) -> Result<BTreeMap<Slot, Twin>, KernelError> {
        let failed = |source| KernelError::ListLinks { source };
        self.route(failed)?.twins().map_err(failed)
    }

    fn host_interfaces(&mut self) -> Result<BTreeMap<InterfaceName, HostInterface>, KernelError> {
        self.route(|source| KernelError::ListLinks { source })?.host_interfaces()
    }

    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let step = "open a socket of rtnetlink";
        self.route(|source| KernelError::CreateLink { name: spec.name.clone(), step, source })?
            .create_link(spec)
    }

    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let part = "open a socket of rtnetlink";
        self.route(|source| KernelError::ConfigureLink { name: spec.name.clone(), part, source })?
            .configure_link(spec)
    }

    fn shape(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let part = "open a socket of rtnetlink";
        self.route(|source| KernelError::Shape { name: spec.name.clone(), part, source })?
            .shape(spec)
    }

    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError> {
        match opened(&mut self.route, Route::open) {
            Ok(route) => route.set_aliases(aliases),
            Err(source) => {
                let part = "open a socket of rtnetlink";
                let refused = |name: &InterfaceName| {
                    let (name, source) = (name.clone(), source.clone());
                    KernelError::ConfigureLink { name, part, source }
                };
                aliases.keys().map(|name| (name.clone(), refused(name))).collect()
            }
        }
    }

    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError> {
        tap::set_owner(name, tap).map_err(|(kind, source)| KernelError::SetOwner {
            name: name.clone(),
            kind,
            source,
        })
    }

    fn remove_address(&mut self, link: &InterfaceName, address: IpNet) -> Result<(), KernelError> {
        self.route(|source| KernelError::RemoveAddress { name: link.clone(), address, source })?
            .remove_address(link, address)
    }
}

impl LinkDeletion for Linux {
    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLink { name: name.clone(), source })?
            .delete_link(name)
    }

    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, SmallSet<IpNet>>,
    ) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLinks { source })?.drain_links(links)
    }

    fn retire_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLinks { source })?.retire_links(names)
    }

    fn delete_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError> {
        self.route(|source| KernelError::DeleteLinks { source })?.delete_links(names)?;
        let slots = names.iter().filter_map(|name| Slot::of_interface(name.as_str())).collect();
        self.nftables.forget_refused(&slots);
        Ok(())
    }
}

#[cfg(test)]
#[cfg(privileged)]
mod tests;
