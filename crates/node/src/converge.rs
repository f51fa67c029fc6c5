//! Observes, plans and applies until nothing new fails: the only code that changes the system.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    NodeError,
    error::InstanceError,
    host::{Host, RefusedSysctl},
    known::KnownRules,
    record::Changes,
    session::{Context, Session},
    views::{FullView, ScopedView},
};
use crate::store::Store;
use riklet_core::{
    flows::Flows,
    model::{InterfaceName, Slot},
    plan::{self, Claim, CutOff, Desired, LinkDeletion, Observed, Plan, Step},
};
use riklet_kernel::{Kernel, KernelError, Links};

/// The result of a converge: how far the kernel followed the records.
#[derive(Debug)]
pub(crate) struct Converged<'a> {
    pub(crate) outcome: Outcome,
    /// The changed slots; `None` if everything was looked at.
    pub(crate) scope: Option<&'a Changes>,
    /// The time at which the TAPs of the instances that left are deleted.
    pub(crate) deletion: LinkDeletion,
    /// The slots that no new instance may have; `None` if not all were looked at.
    pub(crate) unusable: Option<BTreeSet<Slot>>,
    /// The rules before.
    pub(crate) rules: Option<KnownRules>,
    /// The flows that are left to a task.
    pub(crate) left: Option<LeftFlows>,
}

/// Flows that an operation leaves to a task.
#[derive(Debug)]
pub(crate) struct LeftFlows {
    pub(crate) flows: BTreeSet<Flows>,
    /// The changed slots that the flows have to be forgotten for.
    pub(crate) awaiting: BTreeSet<Slot>,
    /// The draining slots whose flows they are.
    pub(crate) draining: BTreeSet<Slot>,
}

/// The part of the desired state that an operation concerns, and the state of the kernel in it before the records
/// changed.
pub(crate) enum Sight<'a> {
    /// The changed slots.
    Scoped(ScopedView<'a>, Observed, Option<KnownRules>),
    /// Everything.
    Full(FullView<'a>, Observed, Option<KnownRules>),
}

impl Sight<'_> {
    /// Returns the state of the kernel.
    pub(crate) const fn found(&self) -> &Observed {
        let (Self::Scoped(_, found, _) | Self::Full(_, found, _)) = self;
        found
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Looks at the kernel before the change of the records is committed.
    ///
    /// Looks at the changed slots only, if that is enough: if every earlier operation was completed, and the firewall
    /// equals the records. `rules` are those before the operation, as far as they are known.
    pub(crate) fn look<'a>(
        &mut self,
        store: &Store,
        host: &'a Host,
        changes: &'a Changes,
        (interrupted, rules): (&BTreeSet<Slot>, Option<KnownRules>),
    ) -> Result<Sight<'a>, NodeError> {
        if interrupted.is_empty()
            && let Some(view) = ScopedView::new(host, changes)
        {
            let view = view.with_cache(self.cache, store)?.with_rules(rules.as_ref());
            if let Some(found) = view.observe_first(self.kernel)? {
                self.refuse(view.claims(&found))?;
                let all = view.has_foreign_chains();
                let rules = rules.map(|rules| rules.looked_at(&found, all));
                return Ok(Sight::Scoped(view, found, rules));
            }
        }
        let view = FullView::new(host, store, self.cache, interrupted, LinkDeletion::Immediate)?;
        self.sight_of_all(view, rules)
    }

    /// Looks at everything. These rules were known before.
    pub(crate) fn sight_of_all<'a>(
        &mut self,
        view: FullView<'a>,
        rules: Option<KnownRules>,
    ) -> Result<Sight<'a>, NodeError> {
        let found = self.look_at_all(&view)?;
        let rules = rules.map(|rules| rules.looked_at(&found, true));
        Ok(Sight::Full(view, found, rules))
    }

    /// Looks at everything.
    pub(crate) fn look_at_all(&mut self, view: &FullView<'_>) -> Result<Observed, NodeError> {
        let found = view.look(self.kernel)?;
        self.refuse(view.claims(&found))?;
        Ok(found)
    }
}

impl<K: Kernel> Session<'_, K> {
    /// Converges the kernel from the state that was just observed to the records. Looks at everything if the changed
    /// slots turn out not to be enough.
    pub(crate) fn converge<'a>(
        &mut self,
        host: &Host,
        sight: Sight<'a>,
        interrupted: &BTreeSet<Slot>,
    ) -> Result<Converged<'a>, NodeError> {
        let Self { context, store, .. } = self;
        let (view, found, rules) = match sight {
            Sight::Full(view, found, rules) => (view, found, rules),
            Sight::Scoped(view, found, rules) => {
                if let Some(mut outcome) = view.converge(context.kernel, found)? {
                    let deletion = context.cache.link_deletion();
                    let scope = Some(view.changes());
                    let left = outcome.left.take().map(|flows| view.left(flows));
                    return Ok(Converged { outcome, scope, deletion, unusable: None, rules, left });
                }
                let (cache, deletion) = (&*context.cache, LinkDeletion::Immediate);
                let view = FullView::new(host, store, cache, interrupted, deletion)?;
                let found = context.look_at_all(&view)?;
                (view, found, None)
            }
        };
        let unusable = Some(plan::unusable(&view.desired(), &found));
        let outcome = view.converge(context.kernel, found)?.unwrap_or_default();
        let deletion = LinkDeletion::Immediate;
        Ok(Converged { outcome, scope: None, deletion, unusable, rules, left: None })
    }
}

/// The outcome of a converge.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The steps that were done, in order.
    pub(crate) done: Vec<Step>,
    /// The slots that are not as desired, and why.
    pub(crate) failed: BTreeMap<Slot, InstanceError>,
    /// The step that was refused and concerns all slots; those after it were not tried.
    pub(crate) halted: Option<(Step, KernelError)>,
    /// The foreign chains that cut functions off.
    pub(crate) cut_offs: BTreeSet<CutOff>,
    /// The flows that are left to a task. They count as done.
    pub(crate) left: Option<BTreeSet<Flows>>,
}

impl Outcome {
    /// Reports whether everything is as desired.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.halted.is_none()
    }
}

/// A part of the desired state, and the way to observe the same part of the kernel.
pub(crate) trait View {
    fn desired(&self) -> Desired;

    /// Observes the kernel; `None` if looking at this part only is not enough.
    fn observe(&self, kernel: &mut impl Kernel) -> Result<Option<Observed>, NodeError>;

    /// Plans the first steps of [`Self::converge`].
    fn preview(&self, kernel: &mut impl Kernel) -> Result<Option<Plan>, NodeError> {
        let observed = self.observe(kernel)?;
        Ok(observed.map(|observed| plan::plan(&self.desired(), &observed)))
    }

    /// Returns the claims of other records on the found objects. If there are any, nothing is converged.
    fn claims(&self, observed: &Observed) -> Vec<Claim> {
        plan::claims_on(&self.desired(), observed)
    }

    /// Changes the kernel from the state that was just `found` to the desired state. A slot whose own step fails is
    /// left as it is, and the others go on; a step that concerns all ends it. `None` if looking at this part only
    /// turned out not to be enough.
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
            outcome.cut_offs.clone_from(&plan.cut_offs);
            let failed = apply(plan, kernel, &mut outcome, self.policy());
            if failed.is_empty() {
                return Ok(self.suffices(&outcome).then_some(outcome));
            }
            desired.untouched.extend(failed);
            let Some(again) = self.observe(kernel)? else { return Ok(None) };
            observed = again;
        }
    }

    /// Returns the way to apply the steps.
    fn policy(&self) -> Policy;

    /// Reports whether looking at everything could not have improved the outcome.
    fn suffices(&self, outcome: &Outcome) -> bool;
}

/// The way to apply steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// The reaction to a sysctl that cannot be set.
    pub(crate) refused_sysctl: RefusedSysctl,
    /// True if flows are left to a task where nothing else is left to do.
    pub(crate) leaves_flows: bool,
}

/// Applies the steps, and returns the slots whose own step failed. Those steps come first in a plan; if one failed, the
/// steps for all are left for the next plan, which leaves the slot out.
fn apply(
    plan: Plan,
    kernel: &mut impl Kernel,
    outcome: &mut Outcome,
    policy: Policy,
) -> BTreeSet<Slot> {
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
        let is_last = policy.leaves_flows && steps.peek().is_none() && outcome.is_clean();
        if let (Step::ForgetFlows(flows), true) = (&step, is_last) {
            outcome.left = Some(flows.clone());
            outcome.done.push(step);
            break;
        }
        match (do_step(&step, kernel), step.slot()) {
            (Ok(()), _) => note(step, outcome),
            (Err(error), _)
                if matches!(step, Step::SetSysctl(..))
                    && policy.refused_sysctl == RefusedSysctl::Warn =>
            {
                tracing::warn!("{error}: {}", error.refusal());
            }
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

/// Applies adjacent steps that set aliases in one call.
fn set_aliases(
    aliases: BTreeMap<InterfaceName, String>,
    kernel: &mut impl Links,
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
        Step::Shape(spec, _) => kernel.shape(spec),
        Step::SetOwner(name, tap, _) => kernel.set_owner(name, tap),
        Step::DeleteLink(name, _) => kernel.delete_link(name),
        Step::RemoveAddress(name, address) => kernel.remove_address(name, *address),
        Step::Firewall(backend, change) => kernel.change_firewall(*backend, change),
        Step::OpenPassage(foreign_chain, uplinks) => kernel.open_passage(foreign_chain, uplinks),
        Step::ClosePassage(foreign_chain) => kernel.close_passage(foreign_chain),
        Step::WriteManagerFile(manager, text) => kernel.write_manager_file(*manager, text),
        Step::RemoveManagerFile(manager) => kernel.remove_manager_file(*manager),
        Step::AddRoute(route) => kernel.add_route(route),
        Step::RemoveRoute(route) => kernel.remove_route(route),
        Step::AddRule(rule) => kernel.add_rule(rule),
        Step::RemoveRule(rule) => kernel.remove_rule(rule),
        Step::SetSysctl(name, value) => kernel.set_sysctl(name, value),
        Step::ForgetFlows(flows) => kernel.forget_flows(flows),
        Step::DrainLinks(names) => kernel.drain_links(names),
        Step::RetireLinks(names) => kernel.retire_links(names),
        Step::DeleteLinks(names) => kernel.delete_links(names),
        Step::RemoveEmptyTables(backend, except) => kernel.remove_empty_tables(*backend, except),
    }
}
