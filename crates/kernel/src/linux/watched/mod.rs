//! A kernel that answers from memory, for a long-lived process.
//!
//! It listens to the kernel's notifications. They are queued before the call that makes a change returns: once the
//! queue is drained, the memory equals the kernel, and nothing needs to be asked again.
//!
//! The kernel does not notify of `route_localnet`, `disable_ipv6`, `arp_ignore` and the redirects of an interface, of
//! the alias and the group of an interface that is down, and of the legacy iptables. [`Watched::refresh`] forgets
//! these.

mod conntrack;
mod feed;
mod firewall;
mod host;
mod links;
mod listen;
mod managers;
mod mirror;
mod routes;
mod sysctls;
#[cfg(test)]
#[cfg(privileged)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
};

use ipnet::Ipv4Net;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

pub(super) use feed::Message;

use self::{feed::Feed, firewall::Known, mirror::Mirror};
use super::{
    Linux,
    firewall::{
        confinement::Keeper,
        foreign_translations::Translations,
        watch::{Touched, Transactions, Watch},
    },
};
use crate::{KernelError, Links, Routes};
use riklet_core::{
    firewall::ForeignChainState,
    link::{HostInterface, LinkState},
    model::{InterfaceName, Slot},
    routing::{AnswerPath, NextHop, RoutingRule, UplinkRoute, our_tables, sources},
};

/// `RTNLGRP_*` of `<linux/rtnetlink.h>`: `LINK`, `NEIGH`, `IPV4_IFADDR`, `IPV4_ROUTE`, `IPV4_RULE`, `IPV4_NETCONF`,
/// `NEXTHOP`, `IPV6_IFADDR`, `IPV6_RULE` and `IPV6_NETCONF`.
const ROUTE_GROUPS: [u32; 10] = [1, 3, 5, 7, 8, 24, 32, 9, 19, 25];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUPS: [u32; 1] = [7];
/// The number of interfaces that one refresh asks for again, which takes about 20 ms.
const STALE: usize = 256;

/// The changes since the last call of [`Watched::changes`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[non_exhaustive]
pub struct Changes {
    /// Our interfaces that changed, by this or any other process.
    pub links: BTreeSet<Slot>,
    /// Another program changed our objects in the firewall.
    pub firewall: bool,
    /// Another program changed a chain that is, or may become, a foreign forward chain.
    pub foreign_chains: bool,
    /// Another program changed rules that may decide which packets it translates.
    pub translations: bool,
    /// The uplinks, their MTU, the default routes of other interfaces, the routing rules, or the routes that these lead
    /// answers to changed.
    pub uplinks: bool,
    /// Forwarding was turned on or off, for the host or for an interface that is not ours; or such an interface was
    /// added or removed, or got or lost an address.
    pub forwarding: bool,
    /// Notifications were lost.
    pub lost: bool,
    /// The other processes that changed our objects in the firewall, each as a text that names it.
    pub causes: Vec<String>,
    /// The changes of the host's routes that matter, each as a text.
    pub moves: Vec<String>,
}

/// The ways to the Internet.
#[derive(Debug, PartialEq, Eq, Default)]
struct Uplinks {
    /// The interfaces of the default route, each with its MTU.
    mtus: BTreeMap<InterfaceName, Option<u32>>,
    /// The interfaces with a default route, whatever its metric.
    hops: BTreeMap<InterfaceName, NextHop>,
    /// The paths of answers from the sources that have rules of their own.
    answers: BTreeMap<Ipv4Net, Option<AnswerPath>>,
    /// Our routes.
    routes: BTreeSet<UplinkRoute>,
}

/// The Linux kernel, watched.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Watched {
    kernel: Linux,
    route: Feed,
    netfilter: Feed,
    mirror: Mirror,
    /// True if the mirror is complete.
    mirrored: bool,
    /// The interfaces of others that were asked for.
    strangers: BTreeMap<InterfaceName, Option<LinkState>>,
    transactions: Transactions,
    /// The watch of the backend that was last used.
    watch: Watch,
    /// True if a change of ours is being applied.
    applying: bool,
    firewall: Option<Known>,
    /// The foreign forward chains, as they treat packets from and to these uplinks.
    foreign_chains: Option<(BTreeSet<InterfaceName>, Vec<ForeignChainState>)>,
    /// The chains of others that translate.
    translations: Option<Translations>,
    uplinks: Option<BTreeSet<InterfaceName>>,
    /// The uplinks at the last call of `changes`.
    uplinks_before: Option<Uplinks>,
    uplinks_suspected: bool,
    /// The routing rules, until a notification of a change.
    rules: Option<Vec<RoutingRule>>,
    /// The rules at the last call of `changes`, with our changes since.
    rules_before: Option<Vec<RoutingRule>>,
    answer_paths: BTreeMap<Ipv4Net, Option<AnswerPath>>,
    next_hops: BTreeMap<InterfaceName, Option<NextHop>>,
    /// Our routes, by their table.
    uplink_routes: BTreeMap<u32, BTreeSet<UplinkRoute>>,
    /// The switches of forwarding that were asked for, by the names of their sysctls.
    switches: BTreeMap<String, Option<String>>,
    switched: bool,
    /// The interfaces of others.
    interfaces: Option<BTreeMap<InterfaceName, HostInterface>>,
    /// The interfaces of others at the last call of `changes`.
    interfaces_before: Option<BTreeMap<InterfaceName, HostInterface>>,
    interfaces_suspected: bool,
    lost: bool,
    /// The number of times that something about the host was forgotten or changed by us ([`OperationScope::host_version`]).
    ///
    /// [`OperationScope::host_version`]: crate::OperationScope::host_version
    version: u64,
    /// True from the start of an operation until the next call of `changes`.
    in_operation: bool,
    /// True if we have made a change since the notifications were last processed.
    changed: bool,
    /// The number of interfaces that we have created or drained since then.
    unread: usize,
}

impl Watched {
    /// Starts to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Fails if the kernel refuses its notifications.
    pub fn open(mut kernel: Linux) -> Result<Self, KernelError> {
        kernel.keeper = Keeper::Own;
        let failed = |source| KernelError::Listen { source };
        Ok(Self {
            kernel,
            route: Feed::open(NETLINK_ROUTE, &ROUTE_GROUPS).map_err(failed)?,
            netfilter: Feed::open(NETLINK_NETFILTER, &NFTABLES_GROUPS).map_err(failed)?,
            mirror: Mirror::default(),
            mirrored: false,
            strangers: BTreeMap::new(),
            transactions: Transactions::default(),
            watch: Watch::default(),
            applying: false,
            firewall: None,
            foreign_chains: None,
            translations: None,
            uplinks: None,
            uplinks_before: None,
            uplinks_suspected: false,
            rules: None,
            rules_before: None,
            answer_paths: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            uplink_routes: BTreeMap::new(),
            switches: BTreeMap::new(),
            switched: false,
            interfaces: None,
            interfaces_before: None,
            interfaces_suspected: false,
            lost: false,
            version: 0,
            in_operation: false,
            changed: false,
            unread: 0,
        })
    }

    /// Returns the files that become readable when something changes.
    #[must_use]
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.route.as_fd(), self.netfilter.as_fd()]
    }

    /// Returns the changes since the last call.
    ///
    /// # Errors
    /// Fails if the kernel does not answer a necessary request; then everything is forgotten.
    pub fn changes(&mut self) -> Result<Changes, KernelError> {
        self.in_operation = false;
        self.listen()?;
        self.learn()?;
        let (touched, causes) = self.transactions.take();
        let Touched { firewall, foreign_chains, translations } = touched;
        let mut moves = Vec::new();
        let mut uplinks = self.uplinks_changed()?;
        if uplinks {
            moves.push("the uplink changed".to_owned());
        }
        if self.rules_changed()? {
            moves.push("the routing rules changed".to_owned());
            uplinks = true;
        }
        let forwarding = self.forwarding_changed()?;
        let lost = std::mem::take(&mut self.lost);
        let links = self.mirror.take_changed();
        let changed =
            Changes { links, firewall, foreign_chains, translations, ..Changes::default() };
        Ok(Changes { uplinks, forwarding, lost, causes, moves, ..changed })
    }

    /// Forgets everything that may change without a notification, but only some interfaces, the next in turn. Returns
    /// whether the firewall was forgotten.
    pub fn refresh(&mut self) -> bool {
        self.mirror.mark_stale(STALE);
        self.forget_switches();
        self.foreign_chains = None;
        self.translations = None;
        self.doubt_firewall()
    }

    /// Forgets the firewall if its changes are not announced. For use when another program may have changed it. Returns
    /// whether it was forgotten.
    pub fn doubt_firewall(&mut self) -> bool {
        let announced = self.watch.is_announced();
        if !announced {
            self.firewall = None;
        }
        !announced
    }

    /// Forgets everything, so that the kernel itself is asked next.
    pub fn forget(&mut self) {
        self.mirrored = false;
        self.forget_switches();
        self.forget_interfaces();
        self.foreign_chains = None;
        self.translations = None;
        self.firewall = None;
        self.forget_uplinks();
        self.forget_strangers();
        self.uplinks_suspected = true;
    }

    /// Returns the kernel for a change.
    const fn changing(&mut self) -> &mut Linux {
        self.changed = true;
        &mut self.kernel
    }

    fn uplinks_changed(&mut self) -> Result<bool, KernelError> {
        if !std::mem::take(&mut self.uplinks_suspected) && self.uplinks_before.is_some() {
            return Ok(false);
        }
        let mut now = Uplinks::default();
        for name in self.uplinks()? {
            let mtu = self.link(&name)?.map(|link| link.mtu);
            now.mtus.insert(name, mtu);
        }
        let interfaces = self.host_interfaces()?;
        let addressed = interfaces.into_iter().filter(|(_, interface)| interface.addressed);
        let names: BTreeSet<_> =
            addressed.map(|(name, _)| name).chain(now.mtus.keys().cloned()).collect();
        for name in names {
            now.hops.extend(self.next_hop(&name)?.map(|hop| (name, hop)));
        }
        for source in sources(&self.rules()?) {
            now.answers.insert(source, self.answer_path(source)?);
        }
        now.routes = self.uplink_routes(&our_tables().collect())?;
        let before = self.uplinks_before.replace(now);
        Ok(before.is_some() && before != self.uplinks_before)
    }

    fn forget_switches(&mut self) {
        self.switches.clear();
        self.version += 1;
    }

    fn forget_interfaces(&mut self) {
        self.interfaces = None;
        self.interfaces_suspected = true;
        self.version += 1;
    }

    fn forget_strangers(&mut self) {
        self.strangers.clear();
        self.version += 1;
    }

    fn forget_uplinks(&mut self) {
        self.version += 1;
        self.uplinks = None;
        self.rules = None;
        self.answer_paths.clear();
        self.next_hops.clear();
        self.uplink_routes.clear();
    }

    fn rules_changed(&mut self) -> Result<bool, KernelError> {
        if self.rules.is_some() && self.rules == self.rules_before {
            return Ok(false);
        }
        let now = self.rules()?;
        let before = self.rules_before.replace(now);
        Ok(before.is_some() && before != self.rules_before)
    }

    fn forwarding_changed(&mut self) -> Result<bool, KernelError> {
        let mut changed = std::mem::take(&mut self.switched);
        if std::mem::take(&mut self.interfaces_suspected) || self.interfaces_before.is_none() {
            let now = self.host_interfaces()?;
            let before = self.interfaces_before.replace(now);
            changed |= before.is_some() && before != self.interfaces_before;
        }
        Ok(changed)
    }
}

/// Reads notifications: those of rtnetlink into a mirror, those of nf_tables into what others touched.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(data: &[u8]) {
    let (mut mirror, mut transactions) = (Mirror::default(), Transactions::default());
    let ours = super::firewall::watch::Ours {
        watch: Watch::default(),
        port: None,
        applying: false,
        foreign_chains: &[],
    };
    for whole in super::netlink::messages(data) {
        let message = Message::new(whole);
        mirror.hear(message);
        transactions.hear(message, ours);
    }
    mirror.catch_up();
    let _found = (mirror.take_changed(), mirror.links().count(), transactions.take());
}
