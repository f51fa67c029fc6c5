//! Observe, plan, apply, until nothing new fails: the only code that changes the system.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Change, NodeError, error::InstanceError, host::Host};
use riklet_core::{
    firewall::{BaseRuleset, BaseState, Confinement, Entry, FirewallState, Ruleset},
    link::LinkState,
    model::{InterfaceName, Protocol, Slot},
    plan::{self, Adoption, Claim, Desired, LinkDeletion, Observed, Plan, Step},
    workload::Fragment,
};
use riklet_kernel::{Kernel, KernelError};

/// How far a converge came.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The steps that were done, in order.
    pub(super) done: Vec<Step>,
    /// The slots that are not as desired, and why.
    pub(super) failed: BTreeMap<Slot, InstanceError>,
    /// The step that was refused and concerns all slots; those after it were not tried.
    pub(super) halted: Option<(Step, KernelError)>,
}

impl Outcome {
    /// Whether all is as desired.
    pub(super) fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.halted.is_none()
    }
}

/// A part of the desired state, and how to look at the same part of the kernel.
pub(super) trait Observe {
    fn desired(&self) -> Desired;

    /// What the kernel has; `None` where looking at this part only is not enough.
    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError>;

    /// What [`Self::converge`] would do first.
    fn preview(&self, kernel: &mut impl Kernel) -> Result<Option<Plan>, NodeError> {
        let observed = self.observe(kernel)?;
        Ok(observed.map(|observed| plan::plan(&self.desired(), &observed)))
    }

    /// The claims of other records on what was found: then there is nothing to converge.
    fn claims(&self, observed: &Observed) -> Vec<Claim> {
        plan::claims_on(&self.desired(), observed)
    }

    /// Makes the kernel, as it was just `found`, as desired. A slot whose own step fails is left as it is, and the others go on; a
    /// step that concerns all ends it. `None` where looking at this part only turned out not to be enough.
    fn converge(
        &self,
        kernel: &mut impl Kernel,
        found: Observed,
    ) -> Result<Option<Outcome>, NodeError> {
        let mut desired = self.desired();
        let mut outcome = Outcome::default();
        let mut observed = found;
        loop {
            let plan = plan::plan(&desired, &observed);
            let blocked = plan.blocked.iter();
            outcome.failed.extend(blocked.map(|(&slot, obstacle)| (slot, obstacle.clone().into())));
            let failed = apply(plan, kernel, &mut outcome);
            if failed.is_empty() {
                return Ok(self.suffices(&outcome).then_some(outcome));
            }
            desired.untouched.extend(failed);
            let Some(again) = self.observe(kernel)? else { return Ok(None) };
            observed = again;
        }
    }

    /// Whether the outcome would not have been better for looking at everything.
    fn suffices(&self, outcome: &Outcome) -> bool;
}

/// Carries out the steps, and returns the slots whose own step failed. Those steps come first in a plan;
/// where one failed, the steps for all are left for the next plan, which leaves the slot out.
fn apply(plan: Plan, kernel: &mut impl Kernel, outcome: &mut Outcome) -> BTreeSet<Slot> {
    let mut failed = BTreeSet::new();
    let mut steps = plan.steps.into_iter().peekable();
    while let Some(step) = steps.next() {
        match step.slot() {
            Some(slot) if failed.contains(&slot) => continue,
            None if !failed.is_empty() => break,
            _ => {}
        }
        if let Step::SetAlias(name, alias) = step {
            let mut aliases = BTreeMap::from([(name, alias)]);
            while let Some(Step::SetAlias(name, alias)) =
                steps.next_if(|step| matches!(step, Step::SetAlias(..)))
            {
                aliases.insert(name, alias);
            }
            failed.extend(set_aliases(aliases, kernel, outcome));
            continue;
        }
        match (do_step(&step, kernel), step.slot()) {
            (Ok(()), _) => note(step, outcome),
            (Err(error), Some(slot)) => {
                failed.insert(slot);
                outcome.failed.insert(slot, error.into());
            }
            (Err(error), None) => {
                outcome.halted = Some((step, error));
                break;
            }
        }
    }
    failed
}

fn note(step: Step, outcome: &mut Outcome) {
    tracing::info!("{step}");
    outcome.done.push(step);
}

/// Carries out the steps that give aliases, which stand beside each other, in one call.
fn set_aliases(
    aliases: BTreeMap<InterfaceName, String>,
    kernel: &mut impl Kernel,
    outcome: &mut Outcome,
) -> BTreeSet<Slot> {
    let mut refused = kernel.set_aliases(&aliases);
    let mut failed = BTreeSet::new();
    for (name, alias) in aliases {
        match (refused.remove(&name), Slot::of_interface(name.as_str())) {
            (Some(error), Some(slot)) => {
                failed.insert(slot);
                outcome.failed.insert(slot, error.into());
            }
            _ => note(Step::SetAlias(name, alias), outcome),
        }
    }
    failed
}

fn do_step(step: &Step, kernel: &mut impl Kernel) -> Result<(), KernelError> {
    match step {
        Step::CreateLink(spec) => kernel.create_link(spec),
        Step::SetAlias(name, alias) => {
            let aliases = BTreeMap::from([(name.clone(), alias.clone())]);
            kernel.set_aliases(&aliases).into_values().next().map_or(Ok(()), Err)
        }
        Step::ConfigureLink(spec, _) => kernel.configure_link(spec),
        Step::SetOwner(name, tap, _) => kernel.set_owner(name, tap),
        Step::DeleteLink(name, _) => kernel.delete_link(name),
        Step::RemoveAddress(name, address) => kernel.remove_address(name, *address),
        Step::Firewall(backend, change) => kernel.change_firewall(*backend, change),
        Step::OpenPassage(foreign_chain) => kernel.set_passage(foreign_chain, true),
        Step::ClosePassage(foreign_chain) => kernel.set_passage(foreign_chain, false),
        Step::SetSysctl(name, value) => kernel.set_sysctl(name, value),
        Step::ForgetFlows(flows) => kernel.forget_flows(flows),
        Step::DrainLinks(names) => kernel.drain_links(names),
        Step::DeleteLinks(names) => kernel.delete_links(names),
        Step::RemoveEmptyTables(backend, except) => kernel.remove_empty_tables(*backend, except),
    }
}

/// The changed slots only: costs the same however many others there are.
pub(super) struct Named<'a> {
    host: &'a Host,
    base_ruleset: &'a BaseRuleset,
    changes: &'a BTreeMap<Slot, Change>,
    deletion: LinkDeletion,
    draining: BTreeSet<Slot>,
    /// Whether to look at the gates as well.
    foreign_chains: bool,
}

impl<'a> Named<'a> {
    /// `None` where nothing shall remain, which takes looking at everything.
    pub(super) fn new(host: &'a Host, changes: &'a BTreeMap<Slot, Change>) -> Option<Self> {
        let (deletion, draining) = (LinkDeletion::Immediate, BTreeSet::new());
        let base_ruleset = host.base_ruleset.as_ref()?;
        Some(Self { host, base_ruleset, changes, deletion, draining, foreign_chains: false })
    }

    /// The slots that it is about.
    pub(super) const fn changes(&self) -> &'a BTreeMap<Slot, Change> {
        self.changes
    }

    /// Looks at the gates as well.
    pub(super) fn with_foreign_chains(self) -> Self {
        Self { foreign_chains: true, ..self }
    }

    /// When the TAPs of those that leave are deleted, and the slots whose flows must be forgotten besides.
    pub(super) fn deletion(self, deletion: LinkDeletion, draining: BTreeSet<Slot>) -> Self {
        Self { deletion, draining, ..self }
    }

    /// The ports that come.
    pub(super) fn opened(&self) -> BTreeSet<(Protocol, Option<IpAddr>, u16)> {
        let entries = |fragment: &Option<Fragment>| {
            fragment.as_ref().map(|fragment| fragment.entries.clone()).unwrap_or_default()
        };
        let opened = self.changes.values().flat_map(|change| {
            let before = entries(&change.before);
            entries(&change.after).into_iter().filter(move |entry| !before.contains(entry))
        });
        let port = |entry| match entry {
            Entry::Exposure { protocol, host_address, host_port, .. } => {
                Some((protocol, host_address, host_port))
            }
            Entry::Hairpin { .. } => None,
        };
        opened.filter_map(port).collect()
    }
}

impl Observe for Named<'_> {
    fn desired(&self) -> Desired {
        let after = |(&slot, change): (&Slot, &Change)| Some((slot, change.after.clone()?));
        let fragments = self.changes.iter().filter_map(after).collect();
        let (deletion, draining) = (self.deletion, self.draining.clone());
        let leaving = self.changes.iter().filter(|(_, change)| change.after.is_none());
        let leaving = leaving.map(|(&slot, _)| slot).collect();
        Desired { draining, leaving, deletion, ..desired(self.host, fragments) }
    }

    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError> {
        let before = self.changes.values().filter_map(|change| change.before.as_ref());
        let entries: BTreeSet<Entry> = before.flat_map(|before| &before.entries).copied().collect();
        if !kernel.probe_firewall(self.host.backend, self.base_ruleset, &entries)? {
            return Ok(None);
        }
        let sysctls = sysctls(self.host, kernel)?;
        let differs = |(name, value): (&String, &String)| {
            self.host.sysctls.get(name).is_some_and(|wanted| wanted != value)
        };
        if sysctls.iter().any(differs) {
            // Who has the host forward, or not, does the same to every TAP.
            return Ok(None);
        }
        let mut links = BTreeMap::new();
        for &slot in self.changes.keys() {
            links.extend(kernel.link(&slot.interface())?.map(|link| (slot, link)));
        }
        let base_ruleset = BaseState::Intact;
        let marks = [self.host.node.owner.mark()].into();
        let firewall = FirewallState { base_ruleset, entries, strays: vec![], marks };
        let empty_tables = BTreeSet::new();
        let foreign_chains =
            if self.foreign_chains { kernel.foreign_chains(self.host.backend)? } else { vec![] };
        Ok(Some(Observed { links, firewall, empty_tables, foreign_chains, sysctls }))
    }

    /// A firewall that refuses has something else than the records say.
    fn suffices(&self, outcome: &Outcome) -> bool {
        !matches!(outcome.halted, Some((Step::Firewall(..), _)))
    }
}

/// Everything: whatever is ours, and whatever is recorded.
pub(super) struct All<'a> {
    host: &'a Host,
    fragments: BTreeMap<Slot, Fragment>,
    interrupted: BTreeSet<Slot>,
    draining: BTreeSet<Slot>,
    /// Slots whose instances were taken down.
    leaving: BTreeSet<Slot>,
    untouched: BTreeSet<Slot>,
    adoption: Adoption,
}

impl<'a> All<'a> {
    pub(super) fn new(
        host: &'a Host,
        fragments: BTreeMap<Slot, Fragment>,
        interrupted: &BTreeSet<Slot>,
    ) -> Self {
        let interrupted = interrupted.clone();
        let (draining, leaving, untouched) = Default::default();
        let adoption = Adoption::Nothing;
        Self { host, fragments, interrupted, draining, leaving, untouched, adoption }
    }

    /// Slots whose instances were taken down: their TAPs go, whoever has them open.
    pub(super) fn with_leaving(self, leaving: BTreeSet<Slot>) -> Self {
        Self { leaving, ..self }
    }

    /// Takes over what belongs to other records.
    pub(super) fn adopting(self, adoption: Adoption) -> Self {
        Self { adoption, ..self }
    }

    /// Slots whose flows may still be there, and those that somebody else is at work on.
    pub(super) fn with_spares(self, draining: BTreeSet<Slot>, untouched: BTreeSet<Slot>) -> Self {
        Self { draining, untouched, ..self }
    }

    /// No instance shall remain.
    pub(super) fn nothing(host: &'a Host) -> Self {
        Self::new(host, BTreeMap::new(), &BTreeSet::new())
    }

    /// The ruleset to hold the firewall against. Where nothing shall remain, any will do: whatever is there
    /// goes.
    fn expected(&self) -> Ruleset {
        let (pool, owner, confined) = (self.host.node.pool, None, Confinement::default());
        let nothing = || BaseRuleset { pool, uplinks: BTreeSet::new(), confined, owner };
        Ruleset {
            base_ruleset: self.host.base_ruleset.clone().unwrap_or_else(nothing),
            entries: self.fragments.values().flat_map(|f| &f.entries).copied().collect(),
        }
    }
}

impl All<'_> {
    /// What the kernel has.
    pub(super) fn look(&self, kernel: &mut impl Kernel) -> Result<Observed, NodeError> {
        let links = kernel.links()?.into_iter();
        let empty_tables = match self.host.base_ruleset {
            Some(_) => BTreeSet::new(),
            None => kernel.empty_tables(self.host.backend)?,
        };
        let slot = |link: LinkState| Some((Slot::of_interface(link.name.as_str())?, link));
        Ok(Observed {
            links: links.filter_map(slot).collect(),
            firewall: kernel.firewall(self.host.backend, &self.expected())?,
            empty_tables,
            foreign_chains: kernel.foreign_chains(self.host.backend)?,
            sysctls: sysctls(self.host, kernel)?,
        })
    }
}

impl Observe for All<'_> {
    fn desired(&self) -> Desired {
        let (interrupted, draining) = (self.interrupted.clone(), self.draining.clone());
        let (untouched, leaving) = (self.untouched.clone(), self.leaving.clone());
        let adoption = self.adoption;
        let desired = desired(self.host, self.fragments.clone());
        Desired { adoption, untouched, interrupted, draining, leaving, ..desired }
    }

    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError> {
        self.look(kernel).map(Some)
    }

    fn suffices(&self, _outcome: &Outcome) -> bool {
        true
    }
}

fn desired(host: &Host, fragments: BTreeMap<Slot, Fragment>) -> Desired {
    Desired {
        backend: host.backend,
        pool: host.node.pool,
        owner: host.node.owner.clone(),
        adoption: Adoption::Nothing,
        fragments,
        untouched: BTreeSet::new(),
        interrupted: BTreeSet::new(),
        draining: BTreeSet::new(),
        leaving: BTreeSet::new(),
        deletion: LinkDeletion::Immediate,
        base_ruleset: host.base_ruleset.clone(),
        sysctls: host.sysctls.clone(),
        foreign_tables: host.foreign_tables.clone(),
    }
}

/// The present values of the sysctls that matter.
fn sysctls(host: &Host, kernel: &mut impl Kernel) -> Result<BTreeMap<String, String>, NodeError> {
    let mut found = BTreeMap::new();
    for name in host.sysctls.keys() {
        found.extend(kernel.sysctl(name)?.map(|value| (name.clone(), value)));
    }
    Ok(found)
}
