//! The decisions made for the node, and the host as it is at this moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{Config, NodeError, config::FirewallChoice};
use crate::store::{Setting, Store, Tx};
use riklet_core::{
    firewall::{Backend, BaseRuleset, Confinement, FirewallState, Ruleset},
    forwarding::{self, Forwarding, Recorded, Sight},
    link::LinkState,
    model::{InterfaceName, Mark, Mtu, Owner, OwnerError, Pool},
    routing::{self, Routing, RoutingRule, UplinkMarks},
    switch,
    workload::{NodeFacts, alias},
};
use riklet_kernel::{
    Firewall, HostFacts, Kernel, KernelError, Links, Routes, Sysctls, process::ProcessId,
};

/// The MTU of Ethernet (RFC 894), for a host that has no uplink.
const ETHERNET_MTU: u32 = 1500;

/// The node as an operation finds it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) backend: Backend,
    pub(crate) node: NodeFacts,
    /// `None` where nothing of ours shall remain.
    pub(crate) base_ruleset: Option<BaseRuleset>,
    /// The routing rules of ours.
    pub(crate) rules: BTreeSet<RoutingRule>,
    /// The marks of uplinks to record, if that is news.
    marks: Option<String>,
    /// Values that sysctls shall have.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The reaction to a sysctl that cannot be set.
    pub(crate) refused_sysctl: RefusedSysctl,
    /// The firewall's tables that were there before us.
    pub(crate) foreign_tables: BTreeSet<String>,
    /// True if the node has recorded no decision yet.
    pub(crate) first_use: bool,
    /// True if the owner is not recorded yet: this is the first use, or an earlier version made the records.
    must_record_owner: bool,
    /// The decision about forwarding, and what is to be recorded of it.
    pub(crate) forwarding: Forwarding,
    /// True if the host forwards as a whole.
    globally: bool,
    recorded: Recorded,
    /// The process to record as the one that hears of changes, if that is news.
    watcher: Option<ProcessId>,
}

/// The basis of an operation's look at the host, and who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survey {
    pub(crate) interfaces: Interfaces,
    /// This process, where it stays and hears what changes.
    pub(crate) watcher: Option<ProcessId>,
}

/// The reaction of an operation to a sysctl that cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedSysctl {
    /// It fails.
    Fail,
    /// It goes on, with a warning.
    Warn,
}

/// The interfaces of the host that an operation goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interfaces {
    /// Those that are recorded, as long as they suffice.
    Recorded,
    /// All that there are.
    Listed,
}

impl Host {
    /// The node, with what was decided at its first use; `None` where it was not used yet.
    pub(crate) fn decided(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        survey: Survey,
    ) -> Result<Option<Self>, NodeError> {
        let Some((backend, pool)) = decision(store)? else { return Ok(None) };
        refuse_conflict(config, backend, pool)?;
        let tables = store.setting(Setting::Tables)?.unwrap_or_default();
        let tables = tables.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        Self::look(kernel, config, store, (backend, pool), tables, survey).map(Some)
    }

    /// The same, and decides where nothing is decided yet; [`Self::record`] makes the decision last.
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

    /// A node that is used for the first time.
    pub(crate) fn first(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        (backend, pool): (Backend, Pool),
        survey: Survey,
    ) -> Result<Self, NodeError> {
        let tables = kernel.implicit_tables(backend)?;
        let mut host = Self::look(kernel, config, store, (backend, pool), tables, survey)?;
        host.first_use = true;
        Ok(host)
    }

    /// Tells whether an interface bears our mark, or one of an earlier version.
    pub(crate) fn owns(&self, link: &LinkState) -> bool {
        let mark = alias::mark(link.alias.as_deref());
        mark.is_some_and(|mark| mark == Mark::Unsigned || self.node.owner.signed(&mark))
    }

    /// The same host, for an operation that only takes down. Sysctls that are wrong are set for the instances that
    /// stay; those that cannot be written do not stop it.
    pub(crate) fn for_leaving(self) -> Self {
        Self { refused_sysctl: RefusedSysctl::Warn, ..self }
    }

    /// The same host, where nothing of ours shall remain.
    ///
    /// Interfaces that we switched on are switched off again, but not where the host forwards as a whole: somebody
    /// relies on that.
    pub(crate) fn removed(mut self) -> Self {
        self.base_ruleset = None;
        self.rules.clear();
        let restored = self.recorded.switched().filter(|_| !self.globally);
        let off = restored.map(|name| (switch::forwarding(&name), forwarding::OFF.to_owned()));
        self.sysctls = off.collect();
        self
    }

    fn look(
        kernel: &mut impl Kernel,
        config: &Config,
        store: &Store,
        (backend, pool): (Backend, Pool),
        foreign_tables: BTreeSet<String>,
        survey: Survey,
    ) -> Result<Self, NodeError> {
        let uplinks = match &config.uplinks {
            Some(uplinks) => uplinks.clone(),
            None => kernel.uplinks()?,
        };
        let mut mtu = config.mtu.map(Mtu::bytes);
        if mtu.is_none() {
            for uplink in &uplinks {
                let found = kernel.link(uplink)?.map(|link| link.mtu);
                mtu = mtu.into_iter().chain(found).min();
            }
        }
        let mtu = mtu.map_or(ETHERNET_MTU, |mtu| mtu.min(Mtu::MAX));
        let neighbours = store.setting(Setting::Neighbours)?;
        let recorded = Recorded::new(store.recorded_sysctls()?, neighbours.as_deref());
        let watcher: Option<ProcessId> =
            store.setting(Setting::Watcher)?.and_then(|watcher| watcher.parse().ok());
        let heard = match survey.watcher {
            Some(_) => true,
            None => watcher.is_some_and(|watcher| kernel.is_alive(watcher).unwrap_or(false)),
        };
        let globally = kernel.sysctl(switch::IP_FORWARD)?.as_deref() == Some(forwarding::ON);
        let forwarding = look_at_forwarding(kernel, &recorded, globally, &uplinks, heard, survey)?;
        let on = |name| (switch::forwarding(name), forwarding::ON.to_owned());
        let confined = forwarding.confined.clone();
        let (owner, must_record_owner) = owner(config, store)?;
        let recorded_marks = store.setting(Setting::Marks)?;
        let (marks, routing) = look_at_rules(kernel, config, pool, recorded_marks.as_deref())?;
        let named = Some(marks.to_string()).filter(|marks| Some(marks) != recorded_marks.as_ref());
        let news = named.filter(|marks| !marks.is_empty() || recorded_marks.is_some());
        Ok(Self {
            backend,
            base_ruleset: Some(BaseRuleset {
                pool,
                mtu,
                uplinks,
                any_uplink: config.uplinks.is_none(),
                confined,
                marks,
                owner: Some(owner.clone()),
            }),
            node: NodeFacts { pool, mtu, owner },
            rules: routing.rules,
            marks: news,
            sysctls: forwarding.needed.iter().map(on).collect(),
            refused_sysctl: RefusedSysctl::Fail,
            foreign_tables,
            first_use: false,
            must_record_owner,
            forwarding,
            globally,
            recorded,
            watcher: survey.watcher.filter(|_| survey.watcher != watcher),
        })
    }

    /// Says what stays as an earlier version left it.
    pub(crate) fn warn_of_inheritance(&self) {
        if self.recorded.is_inherited() && self.globally {
            tracing::warn!(
                "{} stays 1: an earlier version of this program set it, and others may rely on it by \
                 now; functions do not need it",
                switch::IP_FORWARD
            );
        }
    }

    /// Records what was decided, and what is about to be changed and must be restored.
    pub(crate) fn record(&self, tx: &Tx<'_>) -> Result<(), NodeError> {
        if self.first_use {
            let tables: Vec<_> = self.foreign_tables.iter().map(String::as_str).collect();
            tx.set_setting(Setting::Backend, self.backend.as_str())?;
            tx.set_setting(Setting::Pool, &self.node.pool.to_string())?;
            tx.set_setting(Setting::Tables, &tables.join(","))?;
        }
        if self.must_record_owner {
            tx.set_setting(Setting::Owner, &self.node.owner.to_string())?;
        }
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
        if let Some(watcher) = self.watcher {
            tx.set_setting(Setting::Watcher, &watcher.to_string())?;
        }
        Ok(())
    }
}

/// The firewall's backend and the pool that were decided at the first use; `None` where the node was not used yet.
pub(crate) fn decision(store: &Store) -> Result<Option<(Backend, Pool)>, NodeError> {
    let backend = store.setting(Setting::Backend)?;
    let pool = store.setting(Setting::Pool)?;
    let (Some(backend), Some(pool)) = (backend, pool) else { return Ok(None) };
    let backend = Backend::from_name(&backend)
        .ok_or(NodeError::Setting { what: "firewall", value: backend })?;
    let pool = pool.parse().map_err(|_wrong| NodeError::Setting { what: "pool", value: pool })?;
    Ok(Some((backend, pool)))
}

/// Asks for what the decision needs, and no more: nothing is listed that is recorded, unless `survey` says so.
fn look_at_forwarding(
    kernel: &mut (impl Links + Sysctls),
    recorded: &Recorded,
    globally: bool,
    uplinks: &BTreeSet<InterfaceName>,
    heard: bool,
    survey: Survey,
) -> Result<Forwarding, NodeError> {
    let mut listed = None;
    if survey.interfaces == Interfaces::Listed || recorded.needs_list(globally) {
        listed = Some(kernel.host_interfaces()?);
    }
    let mut needed = recorded.needed(Sight { globally, uplinks, interfaces: listed.as_ref() });
    let mut off = switched_off(kernel, &needed)?;
    if listed.is_none() && !off.is_empty() {
        // Somebody has the host forward, or not, or an interface came: nothing is as it was recorded.
        listed = Some(kernel.host_interfaces()?);
        needed = recorded.needed(Sight { globally, uplinks, interfaces: listed.as_ref() });
        off = switched_off(kernel, &needed)?;
    }
    let known: BTreeSet<_> = recorded.switched().collect();
    off.retain(|name| !known.contains(name));
    let sight = Sight { globally, uplinks, interfaces: listed.as_ref() };
    Ok(recorded.decide(sight, heard, needed, off))
}

/// Asks for the routing rules, and for the way of what the host sends from addresses with a rule of their own.
fn look_at_rules(
    kernel: &mut impl Routes,
    config: &Config,
    pool: Pool,
    recorded: Option<&str>,
) -> Result<(UplinkMarks, Routing), KernelError> {
    let rules = kernel.rules()?;
    let mut tables = BTreeMap::new();
    for source in routing::sources(&rules) {
        let path = kernel.answer_path(source)?;
        // What main says holds without a mark.
        if let Some(path) = path.filter(|path| path.table != routing::MAIN) {
            tables.entry(path.uplink).or_insert(path.table);
        }
    }
    let marks = UplinkMarks::new(config.mark_mask.unwrap_or_default(), tables.keys(), recorded);
    let routing = routing::decide(pool.v4(), &rules, &marks, &tables);
    if let Some(rule) = &routing.unanswered {
        tracing::warn!(
            "the routing rule {rule} comes first, and may take packets to functions elsewhere: \
             `riklet-sdn doctor` says more"
        );
    }
    Ok((marks, routing))
}

/// Those of the interfaces whose switches are off. One that is not there has none.
fn switched_off(
    kernel: &mut impl Sysctls,
    names: &BTreeSet<InterfaceName>,
) -> Result<BTreeSet<InterfaceName>, KernelError> {
    let mut off = BTreeSet::new();
    for name in names {
        if kernel.sysctl(&switch::forwarding(name))?.as_deref() == Some(forwarding::OFF) {
            off.insert(name.clone());
        }
    }
    Ok(off)
}

fn refuse_conflict(config: &Config, backend: Backend, pool: Pool) -> Result<(), NodeError> {
    let decided = |what, configured: String, recorded: String| {
        Err(NodeError::Decided { what, configured, recorded })
    };
    if !config.firewall.allows(backend) {
        return decided("firewall", config.firewall.as_str().to_owned(), backend.to_string());
    }
    match config.pool {
        Some(configured) if configured != pool => {
            decided("pool", configured.to_string(), pool.to_string())
        }
        _ => Ok(()),
    }
}

/// Reads the backend's present state, only to see that it can be read: what is decided stays, and
/// iptables-nft refuses a whole table because of one rule that only `nft` can write.
fn try_to_read(
    kernel: &mut impl Firewall,
    backend: Backend,
    pool: Pool,
) -> Result<(), KernelError> {
    kernel.firewall_state(backend, &any_ruleset(pool)).map(drop)
}

/// A ruleset to look at a firewall with, of which only that it can be read matters, or whose it is.
fn any_ruleset(pool: Pool) -> Ruleset {
    let (confined, owner) = (Confinement::default(), None);
    let (mtu, uplinks, any_uplink) = (ETHERNET_MTU, BTreeSet::new(), false);
    let marks = UplinkMarks::default();
    let base_ruleset = BaseRuleset { pool, mtu, uplinks, any_uplink, confined, marks, owner };
    Ruleset { base_ruleset, entries: BTreeSet::new() }
}

/// The owner of what this state directory records, and whether that is not recorded yet.
pub(crate) fn owner(config: &Config, store: &Store) -> Result<(Owner, bool), NodeError> {
    if let Some(text) = store.setting(Setting::Owner)? {
        let owner = text.parse();
        let wrong = |OwnerError| NodeError::Setting { what: "owner", value: text };
        return Ok((owner.map_err(wrong)?, false));
    }
    let directory = Store::canonical(&config.state_dir);
    Ok((Owner::new(store.random_owner()?, &directory.to_string_lossy()), true))
}

/// The firewalls of ours that the host has, by each backend that can be read.
pub(crate) fn firewalls(
    kernel: &mut impl Kernel,
    config: &Config,
) -> Result<Vec<(Backend, FirewallState)>, NodeError> {
    let pool = config.pool.or_else(|| Pool::candidates().first().copied());
    let Some(pool) = pool else { return Ok(vec![]) };
    let iptables = kernel.iptables()?.map(Backend::Iptables);
    let mut found = Vec::new();
    for backend in [Some(Backend::Nftables), iptables].into_iter().flatten() {
        match kernel.firewall_state(backend, &any_ruleset(pool)) {
            Err(error) if error.refusal().is_incompatible() => {}
            state => found.push((backend, state?)),
        }
    }
    Ok(found)
}

fn choose_backend(
    kernel: &mut (impl Firewall + HostFacts),
    config: &Config,
    pool: Pool,
) -> Result<Backend, NodeError> {
    if config.firewall == FirewallChoice::Nftables {
        return Ok(Backend::Nftables);
    }
    let Some(backend) = kernel.iptables()?.map(Backend::Iptables) else {
        return match config.firewall {
            FirewallChoice::Iptables => Err(NodeError::NoIptables),
            _ => Ok(Backend::Nftables),
        };
    };
    match try_to_read(kernel, backend, pool) {
        Ok(()) => Ok(backend),
        Err(error)
            if error.refusal().is_incompatible() && config.firewall == FirewallChoice::Auto =>
        {
            Ok(Backend::Nftables)
        }
        Err(error) => Err(error.into()),
    }
}

/// The configured pool wins over routes of the host.
fn choose_pool(kernel: &mut impl Routes, config: &Config) -> Result<Pool, NodeError> {
    let routes = kernel.routes()?;
    let covered = |pool: Pool| routes.iter().copied().find(|&route| pool.overlaps(route));
    if let Some(pool) = config.pool {
        if let Some(route) = covered(pool) {
            tracing::warn!(
                "the pool {pool} overlaps the host's route to {route}: addresses there that guests \
                 get are theirs"
            );
        }
        return Ok(pool);
    }
    let mut overlap = None;
    for pool in Pool::candidates() {
        match covered(pool) {
            None => return Ok(pool),
            Some(route) => overlap = overlap.or(Some(NodeError::PoolOverlaps { pool, route })),
        }
    }
    Err(overlap.unwrap_or(NodeError::Setting { what: "pool", value: String::new() }))
}
