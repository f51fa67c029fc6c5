//! Plans: the steps from the observed state to the desired state. Pure.
//!
//! A plan leaves no decision to the code that applies it, and can be printed.

mod claim;
mod cut_off;
mod display;
mod firewall;
mod obstacle;
mod order;
mod usable;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState,
    },
    flows::Flows,
    link::{LinkDifference, LinkSpec, LinkState, Remedy, Tap},
    manager::{self, Manager, ManagerFile},
    model::{InterfaceName, Mark, Owner, Pool, Slot},
    routing::{RoutingRule, UplinkRoute},
    shaping::{ShapingState, Twin},
    small::SmallSet,
    workload::{Fragment, alias},
};

use obstacle::{blocked, is_ours, repaired_by};
use order::Changes;

pub use claim::{Adoption, Claim, Holder, Object, claims, lost_owner, other_owners};
pub use cut_off::{Advice, CutOff, cut_offs, firewalld_owns_its_table};
pub use obstacle::{ForeignLink, Obstacle, UnreadableRecord};
pub use usable::{is_usable, unusable};

/// The state that the records ask for.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The backend that enforces the ruleset.
    pub backend: Backend,
    /// The range that the slots' addresses are taken from.
    pub pool: Pool,
    /// The state directory that our objects belong to.
    pub owner: Owner,
    /// The objects of others that are taken over.
    pub adoption: Adoption,
    /// The needs of each instance.
    pub fragments: BTreeMap<Slot, Arc<Fragment>>,
    /// Slots whose record cannot be read. They are left as they are.
    pub unreadable: BTreeMap<Slot, UnreadableRecord>,
    /// Slots that are left as they are, whatever their state: an earlier attempt failed.
    pub untouched: BTreeSet<Slot>,
    /// Slots whose last operation was not completed: it may have changed the firewall without forgetting the flows.
    pub interrupted: BTreeSet<Slot>,
    /// Slots whose instance has just begun: it has sent nothing yet.
    pub beginning: BTreeSet<Slot>,
    /// Slots whose instances are gone, and whose flows may still exist.
    pub draining: BTreeSet<Slot>,
    /// Slots whose instances were taken down: their TAPs are deleted even if a process has them open.
    pub leaving: BTreeSet<Slot>,
    /// The deletion of interfaces that no instance has any more.
    pub deletion: LinkDeletion,
    /// The static part of the firewall; `None` if no object of ours shall remain on the host.
    pub base_ruleset: Option<BaseRuleset>,
    /// Our routing rules.
    pub rules: BTreeSet<RoutingRule>,
    /// Our routes, at most one in each table.
    pub routes: BTreeSet<UplinkRoute>,
    /// The desired values of sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Empty tables of the firewall that existed before us. Used only if no object of ours shall remain.
    pub foreign_tables: BTreeSet<String>,
}

/// The time at which interfaces without an instance are deleted, and their flows forgotten. Deleting takes the kernel
/// about 20 ms, for one interface or for a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkDeletion {
    /// At once.
    #[default]
    Immediate,
    /// Later, by a background task. Those that a process has open are set down now; the others only forward nothing any
    /// more, since the kernel looks through all tracked connections for each interface that goes down
    /// (`masq_device_event` of `net/netfilter/nf_nat_masquerade.c`). Their slots must not be used again before. Veths are deleted at once.
    Deferred,
}

/// The state of the kernel, as far as it was looked at. Objects that were not looked at are missing here, and no step
/// concerns them.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Interfaces named `rik<digits>`.
    pub links: BTreeMap<Slot, LinkState>,
    /// The twins of such interfaces, also of those that do not exist, if all were looked at.
    pub twins: BTreeMap<Slot, Twin>,
    /// The firewall, compared with the desired ruleset.
    pub firewall: FirewallState,
    /// Empty tables of the firewall, if no object of ours shall remain.
    pub empty_tables: BTreeSet<String>,
    /// The foreign forward chains.
    pub foreign_chains: Vec<ForeignChainState>,
    /// The files that tell other programs about our interfaces; `None` if one is missing.
    pub manager_files: BTreeMap<ManagerFile, Option<String>>,
    /// Our routing rules.
    pub rules: BTreeSet<RoutingRule>,
    /// Our routes.
    pub routes: BTreeSet<UplinkRoute>,
    /// The present values of the desired sysctls; one that does not exist is missing.
    pub sysctls: BTreeMap<String, String>,
}

/// A change of the system, small enough to be either done or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create an instance's TAP, configured and up.
    CreateLink(LinkSpec),
    /// Give an existing TAP, which is as it must be otherwise, its alias.
    SetAlias(InterfaceName, String),
    /// Configure an existing TAP as it must be.
    ConfigureLink(LinkSpec, Vec<LinkDifference>),
    /// Limit the traffic of an existing TAP as it must be.
    Shape(LinkSpec, Vec<LinkDifference>),
    /// Give an existing TAP to its user and its group.
    SetOwner(InterfaceName, Tap, Vec<LinkDifference>),
    /// Delete a TAP that has to be replaced. Its creation follows.
    DeleteLink(InterfaceName, Vec<LinkDifference>),
    /// Remove an address that the TAP should not have.
    RemoveAddress(InterfaceName, IpNet),
    /// Change the firewall in one transaction.
    Firewall(Backend, Change),
    /// Let our traffic pass a foreign chain, for packets that come in or leave by these uplinks.
    OpenPassage(ForeignChain, BTreeSet<InterfaceName>),
    /// Remove our rules from a foreign chain.
    ClosePassage(ForeignChain),
    /// Tell another program about our interfaces, by this text in its file.
    WriteManagerFile(ManagerFile, String),
    /// Remove that file.
    RemoveManagerFile(ManagerFile),
    /// Add a route, in place of any other of its table.
    AddRoute(UplinkRoute),
    /// Remove one of our routes.
    RemoveRoute(UplinkRoute),
    /// Add a routing rule.
    AddRule(RoutingRule),
    /// Remove one of our routing rules.
    RemoveRule(RoutingRule),
    /// Set a sysctl.
    SetSysctl(String, String),
    /// Delete connection tracking entries.
    ForgetFlows(BTreeSet<Flows>),
    /// Take interfaces' addresses away, set them down and mark them to be deleted.
    DrainLinks(BTreeMap<InterfaceName, SmallSet<IpNet>>),
    /// Takes interfaces that no process has open out of service, and marks them to be set down and deleted.
    RetireLinks(BTreeSet<InterfaceName>),
    /// Deletes the draining interfaces, and twins that nothing needs, all in one call.
    DeleteLinks(BTreeSet<InterfaceName>),
    /// Delete the empty tables that the firewall's program created by being called, except these.
    RemoveEmptyTables(Backend, BTreeSet<String>),
}

impl Step {
    /// Returns the slot of the one instance that the step is for; `None` if it is for all of them.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::CreateLink(spec) | Self::ConfigureLink(spec, _) | Self::Shape(spec, _) => {
                Slot::of_interface(spec.name.as_str())
            }
            Self::SetAlias(name, _)
            | Self::SetOwner(name, ..)
            | Self::DeleteLink(name, _)
            | Self::RemoveAddress(name, _) => Slot::of_interface(name.as_str()),
            _ => None,
        }
    }
}

/// The steps to take, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps; none if the kernel is as desired.
    pub steps: Vec<Step>,
    /// Slots that nothing can be done for, and why.
    pub blocked: BTreeMap<Slot, Obstacle>,
    /// Objects that belong to other records. If there are any, there are no steps.
    pub claims: Vec<Claim>,
    /// Foreign chains that cut functions off, and that no step can change.
    pub cut_offs: BTreeSet<CutOff>,
}

impl Plan {
    /// Reports whether there is no step, no slot is blocked or claimed, and functions are not cut off.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { steps, blocked, claims, cut_offs } = self;
        steps.is_empty() && blocked.is_empty() && claims.is_empty() && cut_offs.is_empty()
    }
}

/// Returns the steps from `observed` to `desired`.
///
/// If the base ruleset differs, the whole ruleset is replaced: then `desired` must have all instances, not some.
///
/// If any object belongs to other records, nothing is done: they share the firewall and the slots with ours.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let claims = claims_on(desired, observed);
    if !claims.is_empty() {
        return Plan { claims, ..Plan::default() };
    }
    let blocked = blocked(desired, observed);
    let in_use = blocked.iter().filter(|(_, why)| !matches!(why, Obstacle::Foreign(_)));
    let untouched: BTreeSet<Slot> =
        desired.untouched.iter().chain(in_use.map(|(slot, _)| slot)).copied().collect();
    let fragments: BTreeMap<Slot, &Fragment> = desired
        .fragments
        .iter()
        .filter(|(slot, _)| !blocked.contains_key(slot) && !untouched.contains(slot))
        .map(|(&slot, fragment)| (slot, &**fragment))
        .collect();
    let leaving = leaving_links(desired, &untouched, &fragments, observed);
    let links = fragments.iter().flat_map(|(slot, fragment)| {
        link_steps(*slot, &first_spec(*slot, fragment, observed), observed)
    });
    let ipv6 = fragments.iter().filter_map(|(slot, fragment)| ipv6_step(*slot, fragment, observed));
    let drain = drain_steps(desired.deletion, &leaving, observed);
    let twins = leaving_twins(&leaving, &untouched, &fragments, observed);
    let deleted: BTreeSet<_> = match desired.deletion {
        LinkDeletion::Immediate => {
            leaving.iter().map(|slot| slot.interface()).chain(twins).collect()
        }
        LinkDeletion::Deferred => veths(&leaving, observed),
    };
    let delete = (!deleted.is_empty()).then_some(Step::DeleteLinks(deleted));
    let mut entries: BTreeSet<Entry> =
        fragments.values().flat_map(|fragment| &fragment.entries).copied().collect();
    entries.extend(entries_left_alone(desired.pool, &untouched, observed));
    let begun = fragments.iter().filter(|(slot, _)| desired.interrupted.contains(slot));
    let interrupted: Vec<(Slot, &Fragment)> = begun.map(|(&slot, &f)| (slot, f)).collect();
    let (firewall, flows) = firewall::steps(desired, entries, &interrupted, &leaving, observed);
    let cut_offs = match desired.base_ruleset {
        Some(_) => cut_offs(&observed.foreign_chains, &observed.manager_files),
        None => BTreeSet::new(),
    };

    let changes = Changes {
        links: links.collect(),
        ipv6: ipv6.collect(),
        drain: drain.collect(),
        delete,
        firewall,
        flows,
        foreign_chains: foreign_chain_steps(desired, observed),
        routing: routing_steps(desired, observed),
        sysctls: sysctl_steps(desired, observed),
        managers: manager_steps(desired, observed),
    };
    let steps = changes.in_order(desired.base_ruleset.is_some());
    Plan { steps, blocked, claims, cut_offs }
}

/// Returns the steps that take the TAPs of leaving slots out of service: of those that are deleted later, only the ones
/// that a VMM has open are set down at once.
fn drain_steps(
    deletion: LinkDeletion,
    leaving: &BTreeSet<Slot>,
    observed: &Observed,
) -> impl Iterator<Item = Step> + use<> {
    let is_drained = |slot: &&Slot| {
        let is_open = || observed.links.get(slot).is_some_and(|link| link.open);
        deletion == LinkDeletion::Immediate || is_open()
    };
    let (drained, retired): (Vec<&Slot>, Vec<&Slot>) = leaving.iter().partition(is_drained);
    let with_addresses = |slot: &Slot| {
        let addresses = observed.links.get(slot).map(|link| &link.addresses);
        (slot.interface(), addresses.into_iter().flatten().copied().collect())
    };
    let retire = (!retired.is_empty())
        .then(|| Step::RetireLinks(retired.iter().map(|slot| slot.interface()).collect()));
    let drain = (!drained.is_empty())
        .then(|| Step::DrainLinks(drained.into_iter().map(with_addresses).collect()));
    retire.into_iter().chain(drain)
}

/// Returns the claims of other records on the observed objects, for a state directory that has records.
#[must_use]
pub fn claims_on(desired: &Desired, observed: &Observed) -> Vec<Claim> {
    claims(&desired.owner, true, desired.adoption, &marked(observed, desired.backend))
}

/// Returns the observed objects that bear a mark.
fn marked(observed: &Observed, backend: Backend) -> Vec<(Object, Mark)> {
    let links = observed.links.values().filter_map(|link| {
        Some((Object::Link(link.name.clone()), alias::mark(link.alias.as_deref())?))
    });
    let firewall = observed.firewall.marks.iter();
    links.chain(firewall.map(|mark| (Object::Firewall(backend), mark.clone()))).collect()
}

/// Returns the firewall's entries for the slots that are left as they are.
fn entries_left_alone<'a>(
    pool: Pool,
    untouched: &BTreeSet<Slot>,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a Entry> + use<'a> {
    let addresses = untouched.iter().filter_map(|&slot| pool.addresses(slot));
    let guests: BTreeSet<IpAddr> = addresses.flat_map(|addresses| addresses.guests()).collect();
    observed.firewall.entries.iter().filter(move |entry| guests.contains(&entry.guest()))
}

/// Returns the slots whose interfaces are ours and belong to no instance.
fn leaving_links(
    desired: &Desired,
    untouched: &BTreeSet<Slot>,
    fragments: &BTreeMap<Slot, &Fragment>,
    observed: &Observed,
) -> BTreeSet<Slot> {
    let ours = observed.links.iter().filter(|(_, link)| is_ours(desired, link));
    ours.map(|(&slot, _)| slot)
        .filter(|slot| !fragments.contains_key(slot) && !untouched.contains(slot))
        .collect()
}

/// Returns the veths of leaving slots, with their twins. They are deleted at once: the other end is in a namespace of
/// somebody else, who may make an interface of its name there next.
fn veths(leaving: &BTreeSet<Slot>, observed: &Observed) -> BTreeSet<InterfaceName> {
    let links = leaving.iter().filter_map(|slot| Some((*slot, observed.links.get(slot)?)));
    let names = links.filter(|(_, link)| link.veth).flat_map(|(slot, link)| {
        let twin = link.shaping.twin.is_some().then(|| Twin::name(slot));
        [slot.interface()].into_iter().chain(twin)
    });
    names.collect()
}

/// Returns the twins of our interfaces that belong to no instance, and those that are left of interfaces that are gone.
fn leaving_twins(
    leaving: &BTreeSet<Slot>,
    untouched: &BTreeSet<Slot>,
    fragments: &BTreeMap<Slot, &Fragment>,
    observed: &Observed,
) -> BTreeSet<InterfaceName> {
    let of_leaving = leaving.iter().filter_map(|slot| {
        let link = observed.links.get(slot)?;
        link.shaping.twin.is_some().then_some(*slot)
    });
    let kept = |slot: &Slot| {
        let stays = observed.links.contains_key(slot) && !leaving.contains(slot);
        stays || fragments.contains_key(slot) || untouched.contains(slot)
    };
    let ours = observed.twins.iter().filter(|(slot, twin)| twin.is_ours() && !kept(slot));
    of_leaving.chain(ours.map(|(slot, _)| *slot)).map(Twin::name).collect()
}

/// Returns the specification of an interface for the steps before those of the firewall: without IPv6 if a guest that
/// has it would reach the host while the rules do not stand.
fn first_spec<'a>(slot: Slot, fragment: &'a Fragment, observed: &Observed) -> Cow<'a, LinkSpec> {
    let spec = &fragment.link;
    let is_on = observed.links.get(&slot).is_some_and(|link| link.ipv6);
    if spec.link_local.is_none() || is_on || rules_stand(observed) {
        return Cow::Borrowed(spec);
    }
    Cow::Owned(spec.without_ipv6())
}

/// Returns the step that gives an interface IPv6, once the rules stand, if [`first_spec`] left it out.
fn ipv6_step(slot: Slot, fragment: &Fragment, observed: &Observed) -> Option<Step> {
    let Cow::Owned(first) = first_spec(slot, fragment, observed) else { return None };
    let (spec, state) = (&fragment.link, observed.links.get(&slot));
    let differences = spec.differences(&first.state());
    let spec = state.map_or_else(|| spec.clone(), |state| spec.beside(state));
    Some(Step::ConfigureLink(spec, differences))
}

/// Reports whether the firewall's rules are as they must be, single entries aside.
fn rules_stand(observed: &Observed) -> bool {
    observed.firewall.base_ruleset == BaseState::Intact && observed.firewall.strays.is_empty()
}

fn link_steps(slot: Slot, spec: &LinkSpec, observed: &Observed) -> Vec<Step> {
    let anew = |needed: bool| {
        let shape = || {
            let nothing = LinkState { shaping: ShapingState::default(), ..spec.state() };
            Step::Shape(spec.clone(), repaired_by(spec.differences(&nothing), Remedy::Shape))
        };
        let shape = (needed || !spec.shaping.is_none()).then(shape);
        [Step::CreateLink(spec.clone())].into_iter().chain(shape)
    };
    let Some(state) = observed.links.get(&slot) else {
        return anew(observed.twins.contains_key(&slot)).collect();
    };
    let name = || spec.name.clone();
    let by = |remedy| {
        let differences = repaired_by(spec.differences(state), remedy);
        (!differences.is_empty()).then_some(differences)
    };
    if let Some(differences) = by(Remedy::Replace) {
        let delete = Step::DeleteLink(name(), differences);
        return [delete].into_iter().chain(anew(state.shaping.twin.is_some())).collect();
    }
    // The owner is set first: if a VMM has the TAP open, this is refused, and the rest stays unchanged as well.
    let owner = spec.tap().zip(by(Remedy::SetOwner));
    let owner = owner.map(|(tap, differences)| Step::SetOwner(name(), tap, differences));
    let strays = spec.stray_addresses(state).into_iter();
    let strays = strays.map(|address| Step::RemoveAddress(name(), address));
    let shape = by(Remedy::Shape).map(|d| Step::Shape(spec.clone(), d));
    let alias = by(Remedy::SetAlias);
    let rest = match by(Remedy::Configure) {
        Some(rest) => {
            let differences = alias.into_iter().flatten().chain(rest).collect();
            Some(Step::ConfigureLink(spec.beside(state), differences))
        }
        None => alias.map(|_| Step::SetAlias(name(), spec.alias.clone())),
    };
    owner.into_iter().chain(strays).chain(shape).chain(rest).collect()
}

fn foreign_chain_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let step = |state: &ForeignChainState| match &desired.base_ruleset {
        Some(base_ruleset) if !state.open && state.drops => {
            let uplinks = base_ruleset.uplinks.clone();
            Some(Step::OpenPassage(state.foreign_chain.clone(), uplinks))
        }
        Some(_) if state.open => None,
        _ if state.touched => Some(Step::ClosePassage(state.foreign_chain.clone())),
        _ => None,
    };
    let changeable = observed.foreign_chains.iter().filter(|state| !state.owned);
    changeable.filter_map(step).collect()
}

/// Returns the steps for the files of other programs. Files without our mark are left alone. A file of another owner
/// belongs to records that are gone or taken over: otherwise there would be a claim. A firewalld that does not own its
/// table needs no files, since a passage is enough.
fn manager_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let owns = firewalld_owns_its_table(&observed.foreign_chains);
    let step = |(&file, found): (&ManagerFile, &Option<String>)| {
        let signed = found.as_deref().map(manager::owner);
        if desired.base_ruleset.is_none() {
            let ours = signed.flatten() == Some(desired.owner.id());
            return ours.then_some(Step::RemoveManagerFile(file));
        }
        let text = file.text(&desired.owner);
        let needed = found.is_some() || owns || file.manager() != Manager::Firewalld;
        let is_strange = matches!(signed, Some(None));
        let differs = needed && !is_strange && found.as_deref() != Some(&*text);
        differs.then_some(Step::WriteManagerFile(file, text))
    };
    observed.manager_files.iter().filter_map(step).collect()
}

/// Returns the steps for routing rules and the routes that they lead to. A new rule is added before the one that it
/// replaces is removed. A rule has its route as long as it exists.
fn routing_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let routes = desired.routes.difference(&observed.routes).cloned().map(Step::AddRoute);
    let rules = desired.rules.difference(&observed.rules).cloned().map(Step::AddRule);
    let old_rules = observed.rules.difference(&desired.rules).cloned().map(Step::RemoveRule);
    let replaced = |route: &&UplinkRoute| desired.routes.iter().any(|r| r.table == route.table);
    let old_routes = observed.routes.iter().filter(|route| !replaced(route)).cloned();
    routes.chain(rules).chain(old_rules).chain(old_routes.map(Step::RemoveRoute)).collect()
}

/// Returns the steps for sysctls. A missing sysctl belongs to a missing interface, and is left out.
fn sysctl_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let differs = |(name, value): &(&String, &String)| {
        observed.sysctls.get(*name).is_some_and(|present| present != *value)
    };
    let differing = desired.sysctls.iter().filter(differs);
    differing.map(|(name, value)| Step::SetSysctl(name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
