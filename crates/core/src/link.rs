//! Interfaces: the specification of one of ours, the state of one, and their differences.

mod inside;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    address::{Family, InterfaceName, MacAddress, Slot},
    model::{NamespaceId, NamespacePath},
    shaping::{Bucket, Shaping, ShapingState, Twin},
    small::{SmallMap, SmallSet},
    workload::alias,
};

pub use inside::PeerState;

/// The interface group of live TAPs: 0x52494b, "RIK".
pub const LIVE_GROUP: u32 = 0x0052_494b;
/// The interface group of TAPs that are to be deleted: 0x52494c. It is a label only; others may use it as well.
pub const DRAINING_GROUP: u32 = 0x0052_494c;

/// The specification of one of our interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// `rik<slot>`.
    pub name: InterfaceName,
    /// The alias, which marks the interface as ours and names its owner; at most 255 bytes (`IFALIASZ`).
    pub alias: String,
    /// The host's MAC address.
    pub mac: MacAddress,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The host's addresses and their prefix lengths, one a family.
    pub addresses: SmallSet<IpNet>,
    /// The guest, as a permanent neighbour by each of its addresses: neither ARP nor neighbour discovery is needed, and
    /// neither can be spoofed.
    pub neighbours: SmallMap<IpAddr, MacAddress>,
    /// The host's IPv6 link-local address; `None` if the interface takes no part in IPv6. By it a guest reaches what
    /// the rules of the firewall let it reach, so they stand before it does.
    pub link_local: Option<Ipv6Addr>,
    /// The device: a TAP, or an end of a veth.
    pub device: Device,
    /// The limits of its traffic.
    pub shaping: Shaping,
}

/// The device that an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A TAP, which a VMM opens.
    Tap(Tap),
    /// One end of a veth, whose other end is in another network namespace.
    Veth(Peer),
}

/// The other end of a veth: the interface of a guest, in a network namespace of its own. It is the guest's to change, as
/// its NIC is a virtual machine's: what is not as it was is not repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name and its namespace.
    pub name: PeerName,
    /// The MAC address, which the guard expects.
    pub mac: MacAddress,
    /// Its addresses and their prefix lengths, one a family.
    pub addresses: SmallSet<IpNet>,
    /// The gateways of its default routes, one a family.
    pub gateways: SmallSet<IpAddr>,
}

/// The name of the other end of a veth: that of the interface, and its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// The file that leads to the namespace; `None` if it was lost with the records.
    pub path: Option<NamespacePath>,
    /// The namespace.
    pub namespace: NamespaceId,
    /// The name of the interface in it.
    pub interface: InterfaceName,
}

impl PeerName {
    /// Reports whether both name the same interface of the same namespace, whatever file leads to it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.namespace, &self.interface) == (other.namespace, &other.interface)
    }
}

/// The attributes that only a TAP has (`IFLA_TUN_*` of `<linux/if_link.h>`).
///
/// A process with `CAP_NET_ADMIN` can open any TAP. Others can open `/dev/net/tun`, if its mode allows it, and then the
/// TAPs whose owner they are and whose group they are in: a TAP with neither may be opened by everybody
/// (`tun_not_capable` of `drivers/net/tun.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tap {
    /// The user, by number; `None` is any.
    pub owner: Option<u32>,
    /// The group, by number; `None` is any.
    pub group: Option<u32>,
    /// True if it can have more than one queue. Then it is opened with `IFF_MULTI_QUEUE`, and else without.
    pub multi_queue: bool,
}

impl Tap {
    /// The administrator's number.
    pub const ROOT: u32 = 0;
}

/// The state of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct LinkState {
    /// The name.
    pub name: InterfaceName,
    /// Its alias; `None` if it has none.
    pub alias: Option<String>,
    /// The MAC address; `None` if it has none of six octets.
    pub mac: Option<MacAddress>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// True if it is administratively up (`IFF_UP`).
    pub up: bool,
    /// True if another end is attached, and packets reach it (`IFF_LOWER_UP` and `IFF_RUNNING`; for a TAP: a process
    /// has it open).
    pub carrier: bool,
    /// True if a process has the TAP open (`IFLA_CARRIER`): at once, and also while the TAP is down.
    pub open: bool,
    /// The interface group.
    pub group: u32,
    /// Its addresses.
    pub addresses: SmallSet<IpNet>,
    /// Its permanent neighbours.
    pub neighbours: SmallMap<IpAddr, MacAddress>,
    /// `net.ipv4.conf.<name>.forwarding`: packets that come in by it may be forwarded.
    pub forwarding: bool,
    /// `net.ipv4.conf.<name>.route_localnet`.
    pub route_localnet: bool,
    /// `net.ipv4.conf.<name>.accept_redirects`: ICMP redirects from the guest change the host's routes. Counts only if
    /// that of `all` is 1 as well, since the interface forwards.
    pub accept_redirects: bool,
    /// `net.ipv4.conf.<name>.send_redirects`. The interface sends redirects also if that of `all` is 1.
    pub send_redirects: bool,
    /// True if sources are checked (`net.ipv4.conf.<name>.rp_filter` is not 0): an extra, since udev may set another
    /// value for new interfaces, and the greater of this and that of `all` counts.
    pub rp_filter: bool,
    /// True if ARP answers are for the interface's own addresses only (`net.ipv4.conf.<name>.arp_ignore` is not 0; the
    /// greater of this and that of `all` counts).
    pub arp_ignore: bool,
    /// True if the way back to a source is looked up with the packet's mark
    /// (`net.ipv4.conf.<name>.src_valid_mark`): else the routing rules that keep guests apart would not find the way
    /// back from one guest to another that asked it by an exposure.
    pub src_valid_mark: bool,
    /// True if it takes part in IPv6 (`net.ipv6.conf.<name>.disable_ipv6` is 0).
    pub ipv6: bool,
    /// True if it takes part in IPv6 and learns routes from its guest (`accept_ra` or `accept_redirects` of
    /// `net.ipv6.conf.<name>` is not 0).
    pub learns_routes: bool,
    /// True if it takes part in IPv6 and packets of IPv6 that come in by it may be forwarded
    /// (`net.ipv6.conf.<name>.force_forwarding`). Also true where the kernel has no such switch (before 6.17): the host
    /// forwards as a whole, or not at all.
    pub forwarding_v6: bool,
    /// False if it lacks the guard ([`crate::guard`]) that the kernel could give it.
    pub guarded: bool,
    /// Its attributes as a TAP; `None` if it is not a TAP.
    pub tap: Option<Tap>,
    /// True if it is an end of a veth.
    pub veth: bool,
    /// The limits of its traffic.
    pub shaping: ShapingState,
}

/// An interface that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostInterface {
    /// Its number, which a later interface of the same name does not have.
    pub index: u32,
    /// True if it has an IPv4 address.
    pub addressed: bool,
    /// True if it has an IPv6 address that is not only for its link.
    pub addressed_v6: bool,
    /// True if it is a bridge. This is looked up for interfaces that have an address; others count as none.
    pub bridge: bool,
}

impl HostInterface {
    /// Reports whether clients may ask for an address of this family there.
    #[must_use]
    pub const fn has_address(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.addressed,
            Family::V6 => self.addressed_v6,
        }
    }
}

/// A difference between an interface and its specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkDifference {
    text: String,
    remedy: Remedy,
}

/// The remedy of a [`LinkDifference`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// `set_aliases` of the kernel, even while a process has the TAP open: many in one call.
    SetAlias,
    /// `configure_link` of the kernel, even while a process has the TAP open.
    Configure,
    /// `shape` of the kernel, even while a process has the TAP open.
    Shape,
    /// `set_owner` of the kernel, while no process has the TAP open.
    SetOwner,
    /// A new interface: the kernel sets `IFF_MULTI_QUEUE` at creation only, and takes no user and no group away
    /// (`TUNSETOWNER` and `TUNSETGROUP` refuse -1 with EINVAL).
    Replace,
}

impl LinkDifference {
    /// Returns its remedy.
    #[must_use]
    pub const fn remedy(&self) -> Remedy {
        self.remedy
    }
}

impl fmt::Display for LinkDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl LinkSpec {
    /// Returns the state of an interface that is as specified and that no process has open.
    #[must_use]
    pub fn state(&self) -> LinkState {
        LinkState {
            name: self.name.clone(),
            alias: Some(self.alias.clone()),
            mac: Some(self.mac),
            mtu: self.mtu,
            up: true,
            carrier: false,
            open: false,
            group: LIVE_GROUP,
            addresses: self.all_addresses(),
            neighbours: self.neighbours.clone(),
            forwarding: true,
            route_localnet: true,
            accept_redirects: false,
            send_redirects: false,
            rp_filter: true,
            arp_ignore: true,
            src_valid_mark: true,
            ipv6: self.link_local.is_some(),
            learns_routes: false,
            forwarding_v6: self.link_local.is_some(),
            guarded: true,
            tap: self.tap(),
            veth: self.peer().is_some(),
            shaping: self.shaped(),
        }
    }

    /// Returns the shaping as specified.
    #[must_use]
    pub fn shaped(&self) -> ShapingState {
        let Shaping { to_guest, from_guest } = self.shaping;
        ShapingState { to_guest, from_guest, twin: from_guest.and_then(|_| self.twin()) }
    }

    /// Returns the twin that the interface has if what its guest sends is limited. Its mark is that of the interface.
    #[must_use]
    pub fn twin(&self) -> Option<Twin> {
        Some(Twin { alias: Some(alias::signature_of(&self.alias)?.to_owned()) })
    }

    /// Returns the differences of the interface, except for addresses that it should not have
    /// ([`Self::stray_addresses`]).
    #[must_use]
    pub fn differences(&self, state: &LinkState) -> Vec<LinkDifference> {
        let mut found = match &self.device {
            Device::Tap(tap) => tap_differences(*tap, state.tap.as_ref()),
            Device::Veth(peer) => veth_difference(peer, state).into_iter().collect(),
        };
        if state.alias.as_deref() != Some(&self.alias) {
            let text = format!("alias {:?}", self.alias);
            found.push(LinkDifference { text, remedy: Remedy::SetAlias });
        }
        // Most interfaces have no difference: words are made only for those that have.
        let mut note = |differs: bool, text: &dyn Fn() -> String| {
            if differs {
                found.push(LinkDifference { text: text(), remedy: Remedy::Configure });
            }
        };
        let mac = self.mac_beside(state);
        note(state.mac != Some(mac), &|| format!("MAC address {mac}"));
        note(state.mtu != self.mtu, &|| format!("MTU {} instead of {}", self.mtu, state.mtu));
        note(state.group != LIVE_GROUP, &|| format!("group {LIVE_GROUP:#x}"));
        note(!state.forwarding, &|| "forwarding 1".to_owned());
        note(!state.route_localnet, &|| "route_localnet 1".to_owned());
        note(state.accept_redirects, &|| "accept_redirects 0".to_owned());
        note(state.send_redirects, &|| "send_redirects 0".to_owned());
        note(!state.rp_filter, &|| "rp_filter 1".to_owned());
        note(!state.arp_ignore, &|| "arp_ignore 1".to_owned());
        note(!state.src_valid_mark, &|| "src_valid_mark 1".to_owned());
        let ipv6 = if self.link_local.is_some() { "IPv6" } else { "no IPv6" };
        note(state.ipv6 != self.link_local.is_some(), &|| ipv6.to_owned());
        // These mean nothing while IPv6 is off, and are set before it is on.
        let on_both = state.ipv6 && self.link_local.is_some();
        note(on_both && state.learns_routes, &|| "no routes learned by IPv6".to_owned());
        note(on_both && !state.forwarding_v6, &|| "force_forwarding 1".to_owned());
        note(!state.guarded, &|| "guard".to_owned());
        note(!state.up, &|| "up".to_owned());
        for address in self.all_addresses().difference(&state.addresses) {
            note(true, &|| format!("address {address}"));
        }
        for (neighbour, mac) in self.neighbours.iter() {
            let known = state.neighbours.get(neighbour);
            note(known != Some(mac), &|| format!("neighbour {neighbour} at {mac}"));
        }
        found.extend(self.shaping_differences(&state.shaping));
        found
    }

    /// Returns the differences of the shaping. What a guest sends is limited only if the twin is as it must be; a twin that
    /// nothing needs is a difference as well.
    fn shaping_differences(&self, state: &ShapingState) -> impl Iterator<Item = LinkDifference> {
        let wanted = self.shaped();
        let text = |what: &str, bucket: Option<Bucket>| {
            let text =
                bucket.map_or_else(|| format!("no limit of {what}"), |b| format!("{what} {b}"));
            LinkDifference { text, remedy: Remedy::Shape }
        };
        let ingress = wanted.to_guest != state.to_guest;
        let egress = wanted.from_guest != state.from_guest || wanted.twin != state.twin;
        let ingress = ingress.then(|| text("ingress", wanted.to_guest));
        ingress.into_iter().chain(egress.then(|| text("egress", wanted.from_guest)))
    }

    /// Returns the same specification for an interface that takes no part in IPv6.
    #[must_use]
    pub fn without_ipv6(&self) -> Self {
        let addresses = self.addresses.iter().filter(|network| network.addr().is_ipv4());
        let neighbours = self.neighbours.iter().filter(|(address, _)| address.is_ipv4());
        Self {
            addresses: addresses.copied().collect(),
            neighbours: neighbours.map(|(&address, &mac)| (address, mac)).collect(),
            link_local: None,
            ..self.clone()
        }
    }

    /// Returns its attributes as a TAP; `None` if it is no TAP.
    #[must_use]
    pub fn tap(&self) -> Option<Tap> {
        if let Device::Tap(tap) = self.device { Some(tap) } else { None }
    }

    /// Returns its other end; `None` if it is no end of a veth.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        if let Device::Veth(peer) = &self.device { Some(peer) } else { None }
    }

    /// Returns the addresses that the interface has and should not have.
    #[must_use]
    pub fn stray_addresses(&self, state: &LinkState) -> Vec<IpNet> {
        state.addresses.difference(&self.all_addresses()).copied().collect()
    }

    /// Returns the specification for changing this interface: its MAC address stays, if it may.
    #[must_use]
    pub fn beside(&self, state: &LinkState) -> Self {
        Self { mac: self.mac_beside(state), ..self.clone() }
    }

    /// Returns the MAC address that the interface shall have. An address from a version without the common one stays as
    /// long as the instance: its guest has it in its neighbour table. An interface that no instance has had gets the
    /// common one, as every new interface does.
    fn mac_beside(&self, state: &LinkState) -> MacAddress {
        let former = Slot::of_interface(self.name.as_str()).map(Slot::former_host_mac);
        let instance = |alias: &str| alias::parse(alias).map(|marked| marked.name);
        if state.mac == Some(self.mac) || state.mac != former {
            return self.mac;
        }
        let named = state.alias.as_deref().and_then(instance);
        let stays = named.is_some() && named == instance(&self.alias);
        former.filter(|_| stays).unwrap_or(self.mac)
    }

    fn all_addresses(&self) -> SmallSet<IpNet> {
        let link_local = self.link_local.map(|address| IpNet::new_assert(address.into(), 64));
        self.addresses.iter().copied().chain(link_local).collect()
    }
}

fn tap_differences(wanted: Tap, state: Option<&Tap>) -> Vec<LinkDifference> {
    let Some(state) = state else {
        return vec![LinkDifference { text: "a TAP".to_owned(), remedy: Remedy::Replace }];
    };
    let account = |what: &str, id: Option<u32>, found: Option<u32>| {
        let (text, remedy) = match id {
            _ if id == found => return None,
            Some(id) => (format!("{what} {id}"), Remedy::SetOwner),
            None => (format!("no {what}"), Remedy::Replace),
        };
        Some(LinkDifference { text, remedy })
    };
    let queues = (wanted.multi_queue != state.multi_queue).then(|| {
        let text = if wanted.multi_queue { "several queues" } else { "one queue" };
        LinkDifference { text: text.to_owned(), remedy: Remedy::Replace }
    });
    let owner = account("owner", wanted.owner, state.owner);
    let group = account("owning group", wanted.group, state.group);
    owner.into_iter().chain(group).chain(queues).collect()
}

/// Returns the difference of an interface that is not an end of this veth. Its alias tells where its other end is.
fn veth_difference(peer: &Peer, state: &LinkState) -> Option<LinkDifference> {
    let replace = |text: String| Some(LinkDifference { text, remedy: Remedy::Replace });
    if !state.veth {
        return replace("a veth".to_owned());
    }
    // It is in this group until both ends are complete, and what is done at the other end is not looked at.
    if state.group == DRAINING_GROUP {
        return replace("a complete veth".to_owned());
    }
    let found = state.alias.as_deref().and_then(alias::parse).and_then(|marked| marked.peer);
    if found.is_some_and(|found| found.is_same(&peer.name)) {
        return None;
    }
    let PeerName { namespace, interface, .. } = &peer.name;
    replace(format!("a veth to {interface} in {namespace}"))
}
