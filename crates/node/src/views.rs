//! The parts of the desired state that an operation looks at: some slots, or everything.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    NodeError,
    cache::Cache,
    converge::{LeftFlows, Outcome, Policy, View},
    host::Host,
    known::KnownRules,
    record::{Change, Changes, Interface, fragments},
};
use crate::store::{Phase, Records, ReservedSlot, Store};
use riklet_core::{
    address::Addresses,
    firewall::{
        BaseRuleset, BaseState, Confinement, Entry, FirewallState, ForeignChainState, Ruleset,
    },
    flows::Flows,
    link::LinkState,
    model::{Egress, FlowLimit, PortRange, Protocol, Slot},
    plan::{self, Adoption, Claim, Desired, LinkDeletion, Observed, Step, UnreadableRecord},
    routing::{self, RoutingRule, UplinkMarks, UplinkRoute},
    workload::{self, Fragment},
};
use riklet_kernel::{Kernel, KernelError, Routes, Sysctls};

/// The changed slots. Costs the same however many others there are.
pub(crate) struct ScopedView<'a> {
    host: &'a Host,
    base_ruleset: &'a BaseRuleset,
    changes: &'a Changes,
    /// The time at which the TAPs of instances that are taken down are deleted.
    deletion: LinkDeletion,
    /// Draining slots whose flows must be forgotten as well.
    draining: BTreeSet<Slot>,
    /// True if flows are left to a task.
    leaves_flows: bool,
    /// True if all foreign chains are looked at, and not only those that cannot be changed.
    foreign_chains: bool,
    /// True if the base ruleset is known to stand, and no foreign chain to be in the way.
    rules_stand: bool,
    /// The desired state, from the look for claims to the converge.
    desired: Cell<Option<Box<Desired>>>,
}

impl<'a> ScopedView<'a> {
    /// Creates the view; `None` if no object of ours shall remain, which requires looking at everything.
    pub(crate) fn new(host: &'a Host, changes: &'a Changes) -> Option<Self> {
        let (deletion, draining) = (LinkDeletion::Immediate, BTreeSet::new());
        let base_ruleset = host.base_ruleset.as_ref()?;
        Some(Self {
            host,
            base_ruleset,
            changes,
            deletion,
            draining,
            desired: Cell::default(),
            leaves_flows: false,
            foreign_chains: false,
            rules_stand: false,
        })
    }

    /// Has the first look ask nothing about the firewall, if its rules are known to stand. Has it look at the foreign chains
    /// if somebody has changed rules since the last look at them, and instances stay or come that they may cut off.
    pub(crate) fn with_rules(self, rules: Option<&KnownRules>) -> Self {
        let stays = self.changes.values().any(|change| change.after.is_some());
        let changed = rules.is_some_and(|rules| !rules.foreign_chains_stand());
        Self {
            rules_stand: rules.is_some_and(KnownRules::stand),
            foreign_chains: self.foreign_chains || (stays && changed),
            ..self
        }
    }

    /// Reports whether it looks at all foreign chains.
    pub(crate) const fn has_foreign_chains(&self) -> bool {
        self.foreign_chains
    }

    /// Defers what the cache allows, and looks at the foreign chains if they are in memory. Flows of a draining slot
    /// are forgotten at once if a port that led there leads elsewhere now.
    pub(crate) fn with_cache(self, cache: &Cache, store: &Store) -> Result<Self, NodeError> {
        Ok(Self {
            deletion: cache.link_deletion(),
            draining: cache.clashing(|| self.opened(), store)?,
            leaves_flows: cache.flow_tasks.are_in_use(),
            foreign_chains: cache.looks_at_foreign_chains(),
            ..self
        })
    }

    /// Returns the slots that it is about.
    pub(crate) const fn changes(&self) -> &'a Changes {
        self.changes
    }

    /// Returns these flows, and who needs them forgotten: who publishes a port of them, or had one. Flows of draining slots
    /// are those of a port that leads elsewhere now.
    pub(crate) fn left(&self, flows: BTreeSet<Flows>) -> LeftFlows {
        let needs = |(&slot, change): (&Slot, &Change)| {
            let addresses = self.host.node.pool.addresses(slot);
            let guests: Vec<_> = addresses.iter().flat_map(Addresses::guests).collect();
            let opened = change.after.iter().flat_map(|after| &after.entries);
            let opened: BTreeSet<_> = opened.filter_map(Entry::untranslated).collect();
            let needs = flows.iter().any(|flows| match flows {
                Flows::Guest { .. } => change.after.is_some(),
                Flows::Exposed { guest, .. } | Flows::Sent { guest, .. } => guests.contains(guest),
                Flows::Untranslated { .. } => opened.contains(flows),
                Flows::SentByOthers { .. } | Flows::Direct { .. } => false,
            });
            needs.then_some(slot)
        };
        let awaiting = self.changes.iter().filter_map(needs).collect();
        LeftFlows { awaiting, draining: self.draining.clone(), flows }
    }

    /// Returns the ports that lead somewhere else than before.
    fn opened(&self) -> BTreeSet<(Protocol, Option<IpAddr>, PortRange)> {
        let entries = |fragment: &Option<Fragment>| {
            fragment.as_ref().map(|fragment| fragment.entries.clone()).unwrap_or_default()
        };
        let opened = self.changes.values().flat_map(|change| {
            let before: BTreeSet<_> = entries(&change.before).into_iter().collect();
            entries(&change.after).into_iter().filter(move |entry| !before.contains(entry))
        });
        let port = |entry| match entry {
            Entry::Exposure { protocol, host_address, host_ports, .. } => {
                Some((protocol, host_address, host_ports))
            }
            Entry::Hairpin { .. }
            | Entry::Judged { .. }
            | Entry::Policy { .. }
            | Entry::Reach { .. }
            | Entry::Via { .. }
            | Entry::Names { .. }
            | Entry::Pinned { .. } => None,
        };
        opened.filter_map(port).collect()
    }
}

impl View for ScopedView<'_> {
    fn desired(&self) -> Desired {
        if let Some(desired) = self.desired.take() {
            return *desired;
        }
        let after = |(&slot, change): (&Slot, &Change)| Some((slot, change.after.clone()?.into()));
        let fragments = self.changes.iter().filter_map(after).collect();
        let (deletion, draining) = (self.deletion, self.draining.clone());
        let leaving = self.changes.iter().filter(|(_, change)| change.after.is_none());
        let leaving = leaving.map(|(&slot, _)| slot).collect();
        let begins = |change: &&Change| change.before.is_none() && change.after.is_some();
        let beginning = self.changes.iter().filter(|(_, change)| begins(change));
        let beginning = beginning.map(|(&slot, _)| slot).collect();
        Desired { beginning, draining, leaving, deletion, ..desired(self.host, fragments) }
    }

    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError> {
        self.observe_with(kernel, false, |kernel, slot, _| kernel.link(&slot.interface()))
    }

    fn claims(&self, observed: &Observed) -> Vec<Claim> {
        let desired = self.desired();
        let claims = plan::claims_on(&desired, observed);
        self.desired.set(Some(desired.into()));
        claims
    }

    fn policy(&self) -> Policy {
        let (refused_sysctl, leaves_flows) = (self.host.refused_sysctl, self.leaves_flows);
        Policy { refused_sysctl, leaves_flows }
    }

    /// Reports whether the firewall refused nothing: a refusal means that it differs from the records.
    fn suffices(&self, outcome: &Outcome) -> bool {
        !matches!(outcome.halted, Some((Step::Firewall(..), _)))
    }
}

impl ScopedView<'_> {
    /// Observes the kernel when nothing has changed since the slots were taken: interfaces that were found then are not
    /// asked for again.
    pub(crate) fn observe_first(
        &self,
        kernel: &mut impl Kernel,
    ) -> Result<Option<Observed>, NodeError> {
        // What an instance that stays had is asked for: only the base ruleset was looked at after the last change by
        // others. Removing an entry that is missing is refused.
        let stays = |change: &Change| change.before.is_some() && change.after.is_some();
        let stand = self.rules_stand && !self.changes.values().any(stays);
        self.observe_with(kernel, stand, |kernel, slot, change| match &change.interface {
            Interface::Unknown => kernel.link(&slot.interface()),
            Interface::Missing => Ok(None),
            Interface::Present(link) => Ok(Some((**link).clone())),
        })
    }

    fn observe_with<K: Kernel>(
        &self,
        kernel: &mut K,
        rules_stand: bool,
        link: impl Fn(&mut K, Slot, &Change) -> Result<Option<LinkState>, KernelError>,
    ) -> Result<Option<Observed>, NodeError> {
        let before = self.changes.values().filter_map(|change| change.before.as_ref());
        let entries: BTreeSet<Entry> = before.flat_map(|before| &before.entries).copied().collect();
        let backend = self.host.backend;
        if !rules_stand && !kernel.probe_firewall(backend, self.base_ruleset, &entries)? {
            return Ok(None);
        }
        let sysctls = sysctls(self.host, kernel)?;
        let differs = |(name, value): (&String, &String)| {
            self.host.sysctls.get(name).is_some_and(|wanted| wanted != value)
        };
        if sysctls.iter().any(differs) {
            // A program that turns forwarding of the whole host on or off changes every TAP.
            return Ok(None);
        }
        let mut links = BTreeMap::new();
        for (&slot, change) in self.changes {
            links.extend(link(kernel, slot, change)?.map(|link| (slot, link)));
        }
        let base_ruleset = BaseState::Intact;
        let marks = [self.host.node.owner.mark()].into();
        let firewall = FirewallState { base_ruleset, entries, strays: vec![], marks };
        let empty_tables = BTreeSet::new();
        let foreign_chains = if self.foreign_chains {
            foreign_chains(self.host, kernel)?
        } else if rules_stand {
            vec![]
        } else {
            kernel.owned_foreign_chains(&self.base_ruleset.uplinks)?
        };
        let manager_files = if plan::firewalld_owns_its_table(&foreign_chains) {
            kernel.manager_files()?
        } else {
            BTreeMap::new()
        };
        let rules = rules(kernel)?;
        // Only a rule leads to a table of ours. Tables that none leads to are looked at with everything else.
        let needed = self.host.routes.iter().map(|route| route.table);
        let routes = routes(kernel, needed.chain(rules.iter().filter_map(|rule| rule.table)))?;
        let observed = Observed {
            links,
            twins: BTreeMap::new(),
            firewall,
            empty_tables,
            foreign_chains,
            manager_files,
            rules,
            routes,
            sysctls,
        };
        Ok(Some(observed))
    }
}

/// The view of everything: all objects of ours, and all records.
pub(crate) struct FullView<'a> {
    host: &'a Host,
    fragments: BTreeMap<Slot, Arc<Fragment>>,
    interrupted: BTreeSet<Slot>,
    /// Draining slots whose flows may still exist.
    draining: BTreeSet<Slot>,
    /// Slots whose instances were taken down: their TAPs are deleted even if a process has them open.
    leaving: BTreeSet<Slot>,
    /// Slots whose record cannot be read.
    unreadable: BTreeMap<Slot, UnreadableRecord>,
    /// Slots that a background task works on.
    untouched: BTreeSet<Slot>,
    adoption: Adoption,
}

impl<'a> FullView<'a> {
    /// Creates the view of what the records say. Slots that a background task works on are left to it; with a deferred
    /// `deletion`, so are the draining slots that none works on yet.
    pub(crate) fn new(
        host: &'a Host,
        store: &Store,
        cache: &Cache,
        interrupted: &BTreeSet<Slot>,
        deletion: LinkDeletion,
    ) -> Result<Self, NodeError> {
        let mut untouched = cache.in_progress().clone();
        if deletion == LinkDeletion::Deferred {
            untouched.extend(store.reserved(ReservedSlot::Draining)?);
        }
        let Records { readable, unreadable } = store.all()?;
        let leaving = readable.iter().filter(|record| record.phase == Phase::Removing);
        let mut leaving: BTreeSet<_> = leaving.map(|record| record.slot).collect();
        leaving.extend(store.reserved(ReservedSlot::Draining)?);
        let (removing, unreadable): (Vec<_>, Vec<_>) =
            unreadable.into_iter().partition(|unreadable| unreadable.removing);
        leaving.extend(removing.iter().map(|unreadable| unreadable.slot));
        let unreadable = unreadable.into_iter().map(|u| (u.slot, u.record)).collect();
        let mut fragments = fragments(host, &readable)?;
        for slot in store.reserved(ReservedSlot::Ready)? {
            fragments.insert(slot, workload::reserved(slot, &host.node)?.into());
        }
        let mut draining = BTreeSet::new();
        for state in [ReservedSlot::Creating, ReservedSlot::Draining] {
            let slots = store.reserved(state)?.into_iter();
            draining.extend(slots.filter(|slot| !untouched.contains(slot)));
        }
        let (interrupted, adoption) = (interrupted.clone(), Adoption::Nothing);
        Ok(Self {
            host,
            fragments,
            interrupted,
            draining,
            leaving,
            unreadable,
            untouched,
            adoption,
        })
    }

    /// Creates the view of a node on which no object of ours shall remain.
    pub(crate) fn nothing(host: &'a Host) -> Self {
        let (fragments, interrupted, draining, leaving) = Default::default();
        let (unreadable, untouched, adoption) = Default::default();
        Self { host, fragments, interrupted, draining, leaving, unreadable, untouched, adoption }
    }

    /// Has the view take over objects of other records.
    pub(crate) fn adopting(self, adoption: Adoption) -> Self {
        Self { adoption, ..self }
    }

    /// Returns the ruleset to compare the firewall with. If no object of ours shall remain, any ruleset does:
    /// everything is removed.
    fn expected(&self) -> Ruleset {
        let (pool, mtu) = (self.host.node.pool, self.host.node.mtu);
        let (owner, confined) = (None, Confinement::default());
        let (uplinks, any_uplink, marks) = (BTreeSet::new(), false, UplinkMarks::default());
        let (egress, flows) = (Egress::default(), FlowLimit::default());
        let nothing = || BaseRuleset {
            pool,
            mtu,
            uplinks,
            any_uplink,
            egress,
            flows,
            confined,
            marks,
            owner,
        };
        Ruleset {
            base_ruleset: self.host.base_ruleset.clone().unwrap_or_else(nothing),
            entries: self.fragments.values().flat_map(|f| &f.entries).copied().collect(),
        }
    }

    /// Returns what the kernel has.
    pub(crate) fn look(&self, kernel: &mut impl Kernel) -> Result<Observed, NodeError> {
        let links = kernel.links()?.into_iter();
        let empty_tables = match self.host.base_ruleset {
            Some(_) => BTreeSet::new(),
            None => kernel.empty_tables(self.host.backend)?,
        };
        let slot = |link: LinkState| Some((Slot::of_interface(link.name.as_str())?, link));
        Ok(Observed {
            links: links.filter_map(slot).collect(),
            twins: kernel.twins()?,
            firewall: kernel.firewall_state(self.host.backend, &self.expected())?,
            empty_tables,
            foreign_chains: foreign_chains(self.host, kernel)?,
            manager_files: kernel.manager_files()?,
            rules: rules(kernel)?,
            routes: routes(kernel, routing::our_tables())?,
            sysctls: sysctls(self.host, kernel)?,
        })
    }
}

impl View for FullView<'_> {
    fn desired(&self) -> Desired {
        let (interrupted, draining) = (self.interrupted.clone(), self.draining.clone());
        let (untouched, leaving) = (self.untouched.clone(), self.leaving.clone());
        let (unreadable, adoption) = (self.unreadable.clone(), self.adoption);
        let desired = desired(self.host, self.fragments.clone());
        Desired { adoption, unreadable, untouched, interrupted, draining, leaving, ..desired }
    }

    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError> {
        self.look(kernel).map(Some)
    }

    fn policy(&self) -> Policy {
        Policy { refused_sysctl: self.host.refused_sysctl, leaves_flows: false }
    }

    fn suffices(&self, _outcome: &Outcome) -> bool {
        true
    }
}

fn desired(host: &Host, fragments: BTreeMap<Slot, Arc<Fragment>>) -> Desired {
    Desired {
        backend: host.backend,
        pool: host.node.pool,
        owner: host.node.owner.clone(),
        adoption: Adoption::Nothing,
        fragments,
        unreadable: BTreeMap::new(),
        untouched: BTreeSet::new(),
        interrupted: BTreeSet::new(),
        beginning: BTreeSet::new(),
        draining: BTreeSet::new(),
        leaving: BTreeSet::new(),
        deletion: LinkDeletion::Immediate,
        base_ruleset: host.base_ruleset.clone(),
        rules: host.rules.clone(),
        routes: host.routes.clone(),
        sysctls: host.sysctls.clone(),
        foreign_tables: host.foreign_tables.clone(),
    }
}

/// Returns the foreign forward chains, as they treat packets from and to the uplinks.
fn foreign_chains(
    host: &Host,
    kernel: &mut impl Kernel,
) -> Result<Vec<ForeignChainState>, KernelError> {
    if let Some(base_ruleset) = &host.base_ruleset {
        return kernel.foreign_chains(host.backend, &base_ruleset.uplinks);
    }
    // All objects of ours are removed, whatever the rules of others are.
    let passages = kernel.passages()?.into_iter();
    let passages = passages.filter(|chain| !chain.is_beside_ruleset_of(host.backend));
    Ok(passages.map(ForeignChainState::touched).collect())
}

/// Returns the routing rules of ours.
fn rules(kernel: &mut impl Routes) -> Result<BTreeSet<RoutingRule>, NodeError> {
    Ok(kernel.rules()?.into_iter().filter(RoutingRule::is_ours).collect())
}

/// Returns our routes in those of these tables that are ours.
fn routes(
    kernel: &mut impl Routes,
    tables: impl Iterator<Item = u32>,
) -> Result<BTreeSet<UplinkRoute>, NodeError> {
    let ours: BTreeSet<_> = routing::our_tables().collect();
    let tables: BTreeSet<_> = tables.filter(|table| ours.contains(table)).collect();
    if tables.is_empty() { Ok(BTreeSet::new()) } else { Ok(kernel.uplink_routes(&tables)?) }
}

/// Returns the present values of the sysctls that matter.
fn sysctls(host: &Host, kernel: &mut impl Sysctls) -> Result<BTreeMap<String, String>, NodeError> {
    let mut found = BTreeMap::new();
    for name in host.sysctls.keys() {
        found.extend(kernel.sysctl(name)?.map(|value| (name.clone(), value)));
    }
    Ok(found)
}
