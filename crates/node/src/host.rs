//! The decisions made for the node, and the present state of the host.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Config, NodeError,
    choices::Choices,
    ipv6::{HostIpv6, with_range},
    overlap::choose_pool,
    uplinks::Routed,
};
use crate::store::{Setting, Settings, Store, Tx};
use riklet_core::{
    firewall::{Backend, BaseRuleset, Confinement},
    forwarding::{self, Forwarding, Recorded},
    link::LinkState,
    model::{InterfaceName, Mark, MarkMask, Mtu, Owner, OwnerError, Pool},
    routing::{RoutingRule, UplinkMarks, UplinkRoute},
    switch,
    workload::{NodeFacts, alias},
};
use riklet_kernel::{Kernel, KernelError, Links, process::ProcessId};

pub use backend::decided_by;
use backend::{choose_backend, refuse_conflict};
pub(crate) use backend::{decision, firewalls};
use forwarded::Forwarded;
pub(crate) use forwarded::{HostInterfaces, look_at_forwarding};

mod backend;
mod forwarded;

/// The MTU of Ethernet (RFC 894), for a host that has no uplink.
const ETHERNET_MTU: u32 = 1500;

/// The node as an operation finds it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) backend: Backend,
    pub(crate) node: NodeFacts,
    /// `None` if no object of ours shall remain.
    pub(crate) base_ruleset: Option<BaseRuleset>,
    /// The routing rules of ours.
    pub(crate) rules: BTreeSet<RoutingRule>,
    /// The routes of ours.
    pub(crate) routes: BTreeSet<UplinkRoute>,
    /// The marks of uplinks to record, if they are not recorded yet.
    marks: Option<String>,
    /// The interfaces with an address to record, if they are not recorded yet.
    addressed: Option<String>,
    /// The desired values of sysctls.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The reaction to a sysctl that cannot be set.
    pub(crate) refused_sysctl: RefusedSysctl,
    /// The firewall's tables that were there before us.
    pub(crate) foreign_tables: BTreeSet<String>,
    /// True if the node has recorded no decision yet.
    pub(crate) first_use: bool,
    /// True if the owner is not recorded yet: this is the first use, or an earlier version made the records.
    must_record_owner: bool,
    /// The decision about forwarding, and the parts of it to record.
    pub(crate) forwarding: Forwarding,
    /// True if the host forwards as a whole.
    globally: bool,
    recorded: Recorded,
    /// The same for IPv6, and the range of its addresses.
    pub(crate) ipv6: HostIpv6,
    /// The process to record as the one that is notified of changes, if it is not recorded yet.
    watcher: Option<ProcessId>,
    choices: Choices,
}

/// The way in which an operation looks at the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survey {
    pub(crate) interfaces: Interfaces,
    /// This process, if it is long-lived and is notified of changes.
    pub(crate) watcher: Option<ProcessId>,
}

/// The reaction of an operation to a sysctl that cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedSysctl {
    /// The operation fails.
    Fail,
    /// The operation continues, with a warning.
    Warn,
}

/// The interfaces of the host that an operation considers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interfaces {
    /// The recorded ones, if they suffice.
    Recorded,
    /// All interfaces.
    Listed,
}

impl Host {
    /// Returns the node with the decisions of its first use; `None` if it was not used yet.
    pub(crate) fn decided(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        survey: Survey,
    ) -> Result<Option<Self>, NodeError> {
        let settings = store.settings()?;
        let Some((backend, pool)) = decision(&settings)? else { return Ok(None) };
        refuse_conflict(config, backend, pool)?;
        let mut host = Self::look(kernel, config, (store, &settings), (backend, pool), survey)?;
        let tables = settings.get(Setting::Tables).unwrap_or_default().split(',');
        host.foreign_tables = tables.filter(|t| !t.is_empty()).map(str::to_owned).collect();
        Ok(Some(host))
    }

    /// Returns the node with its decisions, and makes them if it was not used yet. [`Self::record`] records them.
    pub(crate) fn decide(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        survey: Survey,
    ) -> Result<Self, NodeError> {
        if let Some(host) = Self::decided(kernel, config, store, survey)? {
            return Ok(host);
        }
        let pool = choose_pool(kernel, config)?;
        let backend = choose_backend(kernel, config, pool)?;
        Self::first(kernel, config, store, (backend, pool), survey)
    }

    /// Decides for a node that is used for the first time.
    pub(crate) fn first(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        (backend, pool): (Backend, Pool),
        survey: Survey,
    ) -> Result<Self, NodeError> {
        let foreign_tables = kernel.older_tables(backend)?;
        let records = (store, &store.settings()?);
        let mut host = Self::look(kernel, config, records, (backend, pool), survey)?;
        (host.first_use, host.foreign_tables) = (true, foreign_tables);
        Ok(host)
    }

    /// Reports whether [`Self::record`] would write anything.
    pub(crate) fn has_news(&self) -> bool {
        let Forwarding { switched, forgotten, neighbours, .. } = &self.forwarding;
        self.first_use
            || self.must_record_owner
            || self.addressed.is_some()
            || self.choices.has_news()
            || self.marks.is_some()
            || self.watcher.is_some()
            || self.ipv6.has_news()
            || neighbours.is_some()
            || !(switched.is_empty() && forgotten.is_empty())
    }

    /// Returns the traffic that passes because no process is notified of changes.
    pub(crate) fn left_open(&self) -> Confinement {
        self.forwarding.open.clone().with_v6(self.ipv6.forwarding.open.clone())
    }

    /// Reports whether an interface bears our mark, or that of an earlier version.
    pub(crate) fn owns(&self, link: &LinkState) -> bool {
        let mark = alias::mark(link.alias.as_deref());
        mark.is_some_and(|mark| mark == Mark::Unsigned || self.node.owner.signed(&mark))
    }

    /// Returns the host for an operation that only takes instances down. Wrong sysctls are set for the instances that
    /// stay; one that cannot be written does not stop the operation.
    pub(crate) fn for_leaving(self) -> Self {
        Self { refused_sysctl: RefusedSysctl::Warn, ..self }
    }

    /// Returns the host for an operation after which no object of ours shall remain.
    ///
    /// Forwarding is turned off again on the interfaces that we turned it on for, unless the whole host forwards:
    /// another program relies on that.
    pub(crate) fn removed(mut self) -> Self {
        self.base_ruleset = None;
        self.rules.clear();
        self.routes.clear();
        let restored = self.recorded.switched().filter(|_| !self.globally);
        let off = restored.map(|name| (switch::forwarding(&name), forwarding::OFF.to_owned()));
        self.sysctls = off.chain(self.ipv6.restored()).collect();
        self
    }

    fn look(
        kernel: &mut impl Kernel,
        config: &Config,
        (store, settings): (&Store, &Settings),
        (backend, pool): (Backend, Pool),
        survey: Survey,
    ) -> Result<Self, NodeError> {
        let choices = Choices::resolve(kernel, config, settings, survey.interfaces)?;
        let uplinks = match &choices.uplinks {
            Some(uplinks) => uplinks.clone(),
            None => kernel.uplinks()?,
        };
        let mtu = mtu_of_taps(kernel, &choices, &uplinks)?;
        let watcher: Option<ProcessId> =
            settings.get(Setting::Watcher).and_then(|watcher| watcher.parse().ok());
        // A process hears of changes: this one, or the recorded one.
        let heard = survey.watcher.is_some()
            || watcher.is_some_and(|watcher| kernel.is_alive(watcher).unwrap_or(false));
        // Any of them may get an uplink's traffic: by a change of routes that no operation hears of, or from its clients.
        let with_route: BTreeSet<_> =
            kernel.default_interfaces()?.into_iter().take(MOST_ASKED).collect();
        let clients = (&uplinks, &with_route, heard);
        let records = (&choices, settings, store);
        let Forwarded { globally, recorded, forwarding, ipv6, listed } =
            Forwarded::look(kernel, records, (backend, mtu), clients, survey)?;
        let pool = match ipv6.range {
            Some(range) => with_range(pool, range)?,
            None => pool.without_v6(),
        };
        let on = |name| (switch::forwarding(name), forwarding::ON.to_owned());
        let sysctls = forwarding.needed.iter().map(on).chain(ipv6.sysctls.clone()).collect();
        let confined = forwarding.confined.clone().with_v6(ipv6.forwarding.confined.clone());
        let (owner, must_record_owner) = owner_by(settings, config, store)?;
        let policies = kernel.can_judge(backend)?;
        let lists = (settings, listed);
        let leading = (&uplinks, with_route);
        let ways = Ways::look(kernel, lists, choices.mark_mask, pool, leading)?;
        let Ways { routed: Routed { marks, routing, .. }, marks: news, addressed } = ways;
        Ok(Self {
            backend,
            base_ruleset: Some(BaseRuleset {
                pool,
                mtu,
                uplinks,
                any_uplink: choices.uplinks.is_none(),
                egress: choices.egress,
                flows: choices.flows,
                confined,
                marks,
                owner: Some(owner.clone()),
            }),
            node: NodeFacts { pool, mtu, owner, backend, policies },
            rules: routing.rules,
            routes: routing.routes,
            marks: news,
            addressed,
            sysctls,
            refused_sysctl: RefusedSysctl::Fail,
            foreign_tables: BTreeSet::new(),
            first_use: false,
            must_record_owner,
            forwarding,
            globally,
            recorded,
            ipv6,
            watcher: survey.watcher.filter(|_| survey.watcher != watcher),
            choices,
        })
    }

    /// Warns of settings that stay as an earlier version left them.
    pub(crate) fn warn_of_inheritance(&self) {
        if self.recorded.is_inherited() && self.globally {
            tracing::warn!(
                "{} stays 1: an earlier version of this program set it, and others may rely on it by \
                 now; functions do not need it",
                switch::IP_FORWARD
            );
        }
    }

    /// Records the decisions, and the settings that are about to be changed and must be restored.
    pub(crate) fn record(&self, tx: &Tx<'_>) -> Result<(), NodeError> {
        if self.first_use {
            let tables: Vec<_> = self.foreign_tables.iter().map(String::as_str).collect();
            tx.set_setting(Setting::Backend, self.backend.as_str())?;
            tx.set_setting(Setting::Pool, &self.node.pool.without_v6().to_string())?;
            tx.set_setting(Setting::Tables, &tables.join(","))?;
        }
        if self.must_record_owner {
            tx.set_setting(Setting::Owner, &self.node.owner.to_string())?;
        }
        self.choices.record(tx)?;
        self.ipv6.record(tx)?;
        self.warn_of_inheritance();
        for name in &self.forwarding.forgotten {
            tx.forget_sysctl(name)?;
        }
        for name in &self.forwarding.switched {
            tx.record_sysctl(&switch::forwarding(name), forwarding::OFF)?;
        }
        if let Some(neighbours) = &self.forwarding.neighbours {
            tx.set_setting(Setting::Neighbours, neighbours)?;
        }
        if let Some(marks) = &self.marks {
            tx.set_setting(Setting::Marks, marks)?;
        }
        if let Some(addressed) = &self.addressed {
            tx.set_setting(Setting::Addressed, addressed)?;
        }
        if let Some(watcher) = self.watcher {
            tx.set_setting(Setting::Watcher, &watcher.to_string())?;
        }
        Ok(())
    }
}

/// The ways of answers, and what of them is to be recorded.
struct Ways {
    routed: Routed,
    marks: Option<String>,
    addressed: Option<String>,
}

impl Ways {
    /// Looks at the host, given the interfaces if they were listed, the uplinks, and the interfaces with a default route.
    fn look(
        kernel: &mut impl Kernel,
        (settings, listed): (&Settings, Option<HostInterfaces>),
        mask: MarkMask,
        pool: Pool,
        (uplinks, with_route): (&BTreeSet<InterfaceName>, BTreeSet<InterfaceName>),
    ) -> Result<Self, NodeError> {
        let recorded_marks = settings.get(Setting::Marks);
        let listed = match listed {
            None if recorded_marks.is_none() => Some(kernel.host_interfaces()?),
            listed => listed,
        };
        let recorded_addressed = settings.get(Setting::Addressed);
        let addressed = addressed(listed.as_ref(), recorded_addressed);
        let names = addressed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        // Any interface with an address may become an uplink, by a default route that comes later.
        let recorded_uplinks = UplinkMarks::recorded(recorded_marks);
        let candidates = with_route.into_iter().chain(recorded_uplinks).chain(addressed);
        let candidates = candidates.chain(uplinks.iter().cloned()).collect();
        let routed = Routed::look(kernel, mask, pool, &candidates, recorded_marks)?;
        let marks = unless_recorded(&routed.marks.to_string(), recorded_marks);
        if marks.is_some() {
            routed.warn(kernel, uplinks)?;
        }
        let addressed = unless_recorded(&names, recorded_addressed);
        Ok(Self { routed, marks, addressed })
    }
}

/// The number of interfaces that are worth a question in each operation.
const MOST_ASKED: usize = 32;

/// Returns the interfaces of the host that have an address and may lead somewhere, as many as are worth a question. Without
/// a list, returns those that were recorded of the last one.
fn addressed(listed: Option<&HostInterfaces>, recorded: Option<&str>) -> BTreeSet<InterfaceName> {
    let Some(listed) = listed else {
        return recorded.map(|names| read_names(names).collect()).unwrap_or_default();
    };
    let addressed = listed.iter().filter(|(name, found)| found.addressed && name.as_str() != "lo");
    addressed.map(|(name, _)| name.clone()).take(MOST_ASKED).collect()
}

/// Reads names that are separated by spaces. No name has one.
fn read_names(names: &str) -> impl Iterator<Item = InterfaceName> {
    names.split_whitespace().filter_map(|name| name.parse().ok())
}

/// Returns a value if it differs from the recorded one.
fn unless_recorded(value: &str, recorded: Option<&str>) -> Option<String> {
    (recorded != Some(value)).then(|| value.to_owned())
}

/// Returns the MTU of TAPs: the one that a user has set, or the smallest of the uplinks.
fn mtu_of_taps(
    kernel: &mut impl Links,
    choices: &Choices,
    uplinks: &BTreeSet<InterfaceName>,
) -> Result<u32, KernelError> {
    if let Some(chosen) = choices.mtu {
        return Ok(chosen.bytes());
    }
    let mut smallest = None;
    for uplink in uplinks {
        let found = kernel.link(uplink)?.map(|link| link.mtu);
        smallest = smallest.into_iter().chain(found).min();
    }
    Ok(smallest.map_or(ETHERNET_MTU, |mtu| mtu.min(Mtu::MAX)))
}

/// Returns the owner of the objects that this state directory records, and whether it is not recorded yet.
pub(crate) fn owner(config: &Config, store: &Store) -> Result<(Owner, bool), NodeError> {
    owner_by(&store.settings()?, config, store)
}

fn owner_by(
    settings: &Settings,
    config: &Config,
    store: &Store,
) -> Result<(Owner, bool), NodeError> {
    if let Some(text) = settings.get(Setting::Owner) {
        let owner = text.parse();
        let wrong = |OwnerError| NodeError::Setting { what: "owner", value: text.to_owned() };
        return Ok((owner.map_err(wrong)?, false));
    }
    let directory = Store::canonical(&config.state_dir);
    Ok((Owner::new(store.random_owner()?, &directory.to_string_lossy()), true))
}
