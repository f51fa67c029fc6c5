//! Plans: the steps from the observed state to the desired state. Pure.
//!
//! A plan leaves nothing to decide to whoever carries it out, and prints itself.

mod claim;
mod usable;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Entry, FirewallState, ForeignChain,
        ForeignChainState, Ruleset,
    },
    flows::Flows,
    link::{LinkDifference, LinkSpec, LinkState, Remedy, Tap},
    model::{Family, InstanceName, InterfaceName, Mark, Owner, Pool, Protocol, Slot},
    workload::{Fragment, alias},
};

pub use usable::{is_usable, unusable};

pub use claim::{Adoption, Claim, Holder, Object, claims, lost_owner};

/// The state that the records ask for.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The backend that enforces the ruleset.
    pub backend: Backend,
    /// The range that the slots' addresses are cut from.
    pub pool: Pool,
    /// The state directory that what we make belongs to.
    pub owner: Owner,
    /// The objects of others that are taken over.
    pub adoption: Adoption,
    /// The needs of each instance.
    pub fragments: BTreeMap<Slot, Fragment>,
    /// Slots whose instances' records cannot be read. They are left as they are.
    pub unreadable: BTreeMap<Slot, UnreadableRecord>,
    /// Slots that are left as they are, whatever is found there: an earlier attempt failed.
    pub untouched: BTreeSet<Slot>,
    /// Slots whose last operation did not come to its end: it may have changed the firewall, and not have
    /// come to the flows.
    pub interrupted: BTreeSet<Slot>,
    /// Slots whose instances are gone, and whose flows may still be there.
    pub draining: BTreeSet<Slot>,
    /// Slots whose instances were taken down: their TAPs go, whoever has them open.
    pub leaving: BTreeSet<Slot>,
    /// The deletion of interfaces that no instance has any more.
    pub deletion: LinkDeletion,
    /// The static part of the firewall; `None` where nothing of ours shall remain on the host.
    pub base_ruleset: Option<BaseRuleset>,
    /// Values that sysctls shall have.
    pub sysctls: BTreeMap<String, String>,
    /// Empty tables of the firewall that were there before us. Used only where nothing shall remain.
    pub foreign_tables: BTreeSet<String>,
}

/// The time at which interfaces without an instance are deleted, and their flows forgotten. Deleting takes the kernel some 20 ms,
/// of one or of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkDeletion {
    /// At once.
    #[default]
    Immediate,
    /// By somebody else, later: they are set down only. Their slots must not be used again before.
    Deferred,
}

/// The state of the kernel, as far as it was looked at. What was not looked at is missing here, and no step
/// concerns it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Interfaces named `rik<digits>`.
    pub links: BTreeMap<Slot, LinkState>,
    /// The firewall, held against the desired ruleset.
    pub firewall: FirewallState,
    /// Empty tables of the firewall, where nothing of ours shall remain.
    pub empty_tables: BTreeSet<String>,
    /// The foreign forward chains.
    pub foreign_chains: Vec<ForeignChainState>,
    /// The present values of the sysctls that are desired; one that does not exist is not in here.
    pub sysctls: BTreeMap<String, String>,
}

/// One change of the system, small enough to be done or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create an instance's TAP, configured and up.
    CreateLink(LinkSpec),
    /// Give an existing TAP, which is as it must be otherwise, its alias.
    SetAlias(InterfaceName, String),
    /// Make an existing TAP what it must be.
    ConfigureLink(LinkSpec, Vec<LinkDifference>),
    /// Give an existing TAP to its user and its group.
    SetOwner(InterfaceName, Tap, Vec<LinkDifference>),
    /// Delete a TAP that only another can be what it must be. Its creation follows.
    DeleteLink(InterfaceName, Vec<LinkDifference>),
    /// Remove an address that the TAP should not have.
    RemoveAddress(InterfaceName, IpNet),
    /// Change the firewall in one transaction.
    Firewall(Backend, Change),
    /// Let our traffic pass a foreign chain.
    OpenPassage(ForeignChain),
    /// Take what is ours out of a foreign chain.
    ClosePassage(ForeignChain),
    /// Set a sysctl.
    SetSysctl(String, String),
    /// Delete connection tracking entries.
    ForgetFlows(BTreeSet<Flows>),
    /// Take interfaces' addresses away, set them down and mark them to be deleted.
    DrainLinks(BTreeMap<InterfaceName, BTreeSet<IpNet>>),
    /// Deletes the draining interfaces, all in one call.
    DeleteLinks(BTreeSet<InterfaceName>),
    /// Delete the empty tables that the firewall's program created by being called, except these.
    RemoveEmptyTables(Backend, BTreeSet<String>),
}

/// An interface has the name that a slot needs, and is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the interface {name} exists and is not ours: its alias is {}", alias.as_deref().unwrap_or("empty"))]
pub struct ForeignLink {
    /// The interface.
    pub name: InterfaceName,
    /// Its alias.
    pub alias: Option<String>,
}

/// Nobody knows what an instance needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of {name} cannot be read: {reason}")]
pub struct UnreadableRecord {
    /// The instance.
    pub name: InstanceName,
    /// The fault of its record.
    pub reason: String,
}

/// The reason why nothing can be done for a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The record of its instance cannot be read. The slot is left as it is.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
    /// Its interface's name is taken.
    #[error(transparent)]
    Foreign(#[from] ForeignLink),
    /// Its TAP must be made anew, which would cut a running guest off. The slot is left as it is.
    #[error("a VMM has the TAP {name} open, which cannot be changed to {}", list(differences))]
    InUse {
        /// The TAP.
        name: InterfaceName,
        /// The differences that cannot be mended.
        differences: Vec<LinkDifference>,
    },
    /// A VMM has a TAP of ours open that no record knows. It is not deleted, nor given to another instance.
    #[error(
        "a VMM has the TAP {name} open, and it is no instance's by the records: its alias is {alias}"
    )]
    Unrecorded {
        /// The TAP.
        name: InterfaceName,
        /// Its alias.
        alias: String,
    },
}

impl Step {
    /// The one instance that the step is for; `None` where it is for all of them.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::CreateLink(spec) | Self::ConfigureLink(spec, _) => {
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
    /// The steps; none where the kernel has what is desired.
    pub steps: Vec<Step>,
    /// Slots that nothing can be done for, and why.
    pub blocked: BTreeMap<Slot, Obstacle>,
    /// Objects that belong to other records. If there are any, there are no steps.
    pub claims: Vec<Claim>,
}

impl Plan {
    /// Tells whether nothing is to be done and nothing stands in the way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty() && self.claims.is_empty()
    }
}

/// Returns the steps from `observed` to `desired`.
///
/// Where the base ruleset differs, the whole ruleset is replaced: then `desired` must have
/// all instances, not some.
///
/// Nothing is done where something belongs to other records: they share the firewall and the slots with ours.
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
        .map(|(&slot, fragment)| (slot, fragment))
        .collect();
    let leaving = leaving_links(desired, &untouched, &fragments, observed);
    let links = fragments.iter().flat_map(|(slot, fragment)| link_steps(*slot, fragment, observed));
    let draining = |slot: &Slot| {
        let addresses = observed.links.get(slot).map(|link| link.addresses.clone());
        (slot.interface(), addresses.unwrap_or_default())
    };
    let drain =
        (!leaving.is_empty()).then(|| Step::DrainLinks(leaving.iter().map(draining).collect()));
    let delete = (!leaving.is_empty() && desired.deletion == LinkDeletion::Immediate)
        .then(|| Step::DeleteLinks(leaving.iter().map(|slot| slot.interface()).collect()));
    let mut entries: BTreeSet<Entry> =
        fragments.values().flat_map(|fragment| &fragment.entries).copied().collect();
    entries.extend(entries_left_alone(desired.pool, &untouched, observed));
    let begun = fragments.iter().filter(|(slot, _)| desired.interrupted.contains(slot));
    let interrupted: Vec<(Slot, &Fragment)> = begun.map(|(&slot, &f)| (slot, f)).collect();
    let (firewall, flows) = firewall_steps(desired, entries, &interrupted, &leaving, observed);
    let foreign_chains = gate_steps(desired, observed);
    let sysctls = sysctl_steps(desired, observed);

    let mut steps = Vec::new();
    if desired.base_ruleset.is_some() {
        // The firewall stands before forwarding is enabled; TAPs before ports lead to them.
        steps.extend(links);
        steps.extend(firewall);
        steps.extend(foreign_chains);
        steps.extend(sysctls);
        // A guest that still sends would begin a flow anew while its flows are forgotten.
        steps.extend(drain);
        steps.extend(flows);
        steps.extend(delete);
    } else {
        // Forwarding ends, and the TAPs are down, before the firewall that confined both goes.
        steps.extend(drain);
        steps.extend(sysctls);
        steps.extend(foreign_chains);
        steps.extend(firewall);
        steps.extend(flows);
        steps.extend(delete);
    }
    Plan { steps, blocked, claims }
}

/// The claims of other records on what was observed, in a state directory that has records.
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

fn blocked(desired: &Desired, observed: &Observed) -> BTreeMap<Slot, Obstacle> {
    let wanted = desired.fragments.iter().filter(|(slot, _)| !desired.untouched.contains(slot));
    let obstacle = |(slot, fragment): (&Slot, &Fragment)| {
        let link = observed.links.get(slot)?;
        Some((*slot, obstacle(&desired.owner, &fragment.link, link)?))
    };
    let mut found: BTreeMap<_, _> = wanted.filter_map(obstacle).collect();
    let unreadable = desired.unreadable.iter();
    found.extend(unreadable.map(|(&slot, record)| (slot, record.clone().into())));
    if desired.base_ruleset.is_some() {
        let kept = |slot: &Slot| {
            desired.fragments.contains_key(slot)
                || desired.unreadable.contains_key(slot)
                || desired.untouched.contains(slot)
                || desired.leaving.contains(slot)
        };
        let unrecorded = observed.links.iter().filter(|(slot, _)| !kept(slot));
        let open = unrecorded.filter(|(_, link)| link.open && is_ours(desired, link));
        found.extend(open.map(|(&slot, link)| (slot, Obstacle::unrecorded(link))));
    }
    found
}

impl Obstacle {
    fn unrecorded(link: &LinkState) -> Self {
        let alias = link.alias.clone().unwrap_or_default();
        Self::Unrecorded { name: link.name.clone(), alias }
    }
}

fn obstacle(owner: &Owner, spec: &LinkSpec, link: &LinkState) -> Option<Obstacle> {
    let name = link.name.clone();
    let Some(mark) = alias::mark(link.alias.as_deref()) else {
        return Some(ForeignLink { name, alias: link.alias.clone() }.into());
    };
    let named = |alias: &str| alias::parse(alias).map(|marked| marked.name);
    let taken_over = !owner.signed(&mark) && mark != Mark::Unsigned;
    if taken_over && link.open && link.alias.as_deref().and_then(named) != named(&spec.alias) {
        return Some(Obstacle::unrecorded(link));
    }
    let differences = mended_by(spec.differences(link), Remedy::Replace);
    (link.open && !differences.is_empty()).then_some(Obstacle::InUse { name, differences })
}

fn mended_by(differences: Vec<LinkDifference>, remedy: Remedy) -> Vec<LinkDifference> {
    differences.into_iter().filter(|difference| difference.remedy() == remedy).collect()
}

/// Tells whether an interface that no instance has is ours to delete. One that names no owner may be of any earlier version's
/// records.
fn is_ours(desired: &Desired, link: &LinkState) -> bool {
    match alias::mark(link.alias.as_deref()) {
        None => false,
        Some(Mark::Unsigned) => {
            let leaves = |slot| desired.leaving.contains(&slot);
            desired.adoption != Adoption::Nothing
                || Slot::of_interface(link.name.as_str()).is_some_and(leaves)
        }
        // Where another has a claim, nothing is done at all.
        Some(Mark::Signed { .. }) => true,
    }
}

/// The slots whose interfaces are ours and belong to no instance.
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

fn link_steps(slot: Slot, fragment: &Fragment, observed: &Observed) -> Vec<Step> {
    let spec = &fragment.link;
    let Some(state) = observed.links.get(&slot) else {
        return vec![Step::CreateLink(spec.clone())];
    };
    let name = || spec.name.clone();
    let by = |remedy| {
        let differences = mended_by(spec.differences(state), remedy);
        (!differences.is_empty()).then_some(differences)
    };
    if let Some(differences) = by(Remedy::Replace) {
        return vec![Step::DeleteLink(name(), differences), Step::CreateLink(spec.clone())];
    }
    // The owner comes first: where a VMM has the TAP open it is refused, and the rest stays as it is, too.
    let owner = by(Remedy::SetOwner).map(|d| Step::SetOwner(name(), spec.tap, d));
    let strays = spec.stray_addresses(state).into_iter();
    let strays = strays.map(|address| Step::RemoveAddress(name(), address));
    let alias = by(Remedy::SetAlias);
    let rest = match by(Remedy::Configure) {
        Some(rest) => {
            let differences = alias.into_iter().flatten().chain(rest).collect();
            Some(Step::ConfigureLink(spec.beside(state), differences))
        }
        None => alias.map(|_| Step::SetAlias(name(), spec.alias.clone())),
    };
    owner.into_iter().chain(strays).chain(rest).collect()
}

/// The step that changes the firewall, and the one that makes flows follow it.
fn firewall_steps(
    desired: &Desired,
    entries: BTreeSet<Entry>,
    interrupted: &[(Slot, &Fragment)],
    leaving: &BTreeSet<Slot>,
    observed: &Observed,
) -> (Vec<Step>, Option<Step>) {
    let there = &observed.firewall.entries;
    let add: BTreeSet<Entry> = entries.difference(there).copied().collect();
    let remove: BTreeSet<Entry> = there.difference(&entries).copied().collect();
    let begun = interrupted.iter().flat_map(|(_, fragment)| &fragment.entries);
    let opened: BTreeSet<Entry> = add.iter().chain(begun).copied().collect();
    let interrupted = interrupted.iter().map(|(slot, _)| *slot);
    let restarted: BTreeSet<Slot> = interrupted.chain(desired.draining.iter().copied()).collect();
    let flows = flows(desired, &opened, &remove, &restarted, leaving);
    let flows = (!flows.is_empty()).then_some(Step::ForgetFlows(flows));
    let Some(base_ruleset) = &desired.base_ruleset else {
        return (firewall_removal(desired, observed), flows);
    };
    let intact =
        observed.firewall.base_ruleset == BaseState::Intact && observed.firewall.strays.is_empty();
    let change = if !intact {
        Some(Change::Reset(Ruleset { base_ruleset: base_ruleset.clone(), entries }))
    } else if add.is_empty() && remove.is_empty() {
        None
    } else {
        Some(Change::Delta { remove, add, owner: base_ruleset.owner.clone() })
    };
    let change = change.map(|change| Step::Firewall(desired.backend, change));
    (change.into_iter().collect(), flows)
}

/// The steps that leave nothing of ours in the firewall. Where the first of them was the last of a process
/// that was killed, the second is still to be done.
fn firewall_removal(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let backend = desired.backend;
    let ours_stands = observed.firewall.base_ruleset != BaseState::Absent;
    let ours_is_left = !observed.empty_tables.is_subset(&desired.foreign_tables);
    let remove = ours_stands.then_some(Step::Firewall(backend, Change::Remove));
    let tables = (ours_stands || ours_is_left)
        .then(|| Step::RemoveEmptyTables(backend, desired.foreign_tables.clone()));
    remove.into_iter().chain(tables).collect()
}

/// Established flows keep the translation that they began with; those concerned must begin anew.
///
/// `restarted`: slots of which nobody knows what was changed for them. `leaving`: slots whose flows go with them.
fn flows(
    desired: &Desired,
    add: &BTreeSet<Entry>,
    remove: &BTreeSet<Entry>,
    restarted: &BTreeSet<Slot>,
    leaving: &BTreeSet<Slot>,
) -> BTreeSet<Flows> {
    let guests = |slot: &Slot| {
        desired.pool.addresses(*slot).into_iter().flat_map(|addresses| addresses.guests())
    };
    let gone: BTreeSet<IpAddr> = restarted.iter().chain(leaving).flat_map(guests).collect();
    let now = match desired.deletion {
        LinkDeletion::Immediate => gone.clone(),
        LinkDeletion::Deferred => restarted.iter().flat_map(guests).collect(),
    };
    let guests = now.iter().map(|&guest| Flows::Guest { guest });
    let withdrawn = remove.iter().filter_map(|entry| match *entry {
        Entry::Exposure { protocol, host_address, host_port, guest, guest_port }
            if !gone.contains(&guest) =>
        {
            Some(Flows::Exposed { protocol, host_address, host_port, guest, guest_port })
        }
        _ => None,
    });
    // A client that keeps its port would go on to speak to what was there before, or be refused for as long
    // as it tries. Not so with TCP: a refusal (RST) ends the flow, and a connection that stands may stay.
    let opened = add.iter().filter_map(|entry| match *entry {
        Entry::Exposure { protocol, host_address, host_port, guest, .. }
            if protocol != Protocol::Tcp =>
        {
            let (family, address, port) = (Family::of(guest), host_address, host_port);
            Some(Flows::Untranslated { family, protocol, address, port })
        }
        _ => None,
    });
    guests.chain(withdrawn).chain(opened).collect()
}

fn gate_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let step = |state: &ForeignChainState| match desired.base_ruleset {
        Some(_) if !state.open => Some(Step::OpenPassage(state.foreign_chain.clone())),
        None if state.touched => Some(Step::ClosePassage(state.foreign_chain.clone())),
        _ => None,
    };
    observed.foreign_chains.iter().filter_map(step).collect()
}

/// A sysctl that is not there belongs to an interface that is not.
fn sysctl_steps(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let differs = |(name, value): &(&String, &String)| {
        observed.sysctls.get(*name).is_some_and(|present| present != *value)
    };
    let differing = desired.sysctls.iter().filter(differs);
    differing.map(|(name, value)| Step::SetSysctl(name.clone(), value.clone())).collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for conflict in self.blocked.values() {
            writeln!(f, "! {conflict}")?;
        }
        for claim in &self.claims {
            writeln!(f, "! {claim}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    /// One or more lines, each beginning with `+` (comes), `~` (changes) or `-` (goes); no final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(spec) => {
                let LinkSpec { name, addresses, mtu, mac, neighbours, tap, .. } = spec;
                write!(f, "+ TAP {name}: ")?;
                addresses.iter().try_for_each(|address| write!(f, "address {address}, "))?;
                write!(f, "MAC {mac}, MTU {mtu}")?;
                neighbours.iter().try_for_each(|(a, mac)| write!(f, ", neighbour {a} at {mac}"))?;
                // That of the administrator goes without saying.
                let owner = tap.owner.filter(|&id| id != Tap::ROOT);
                owner.iter().try_for_each(|id| write!(f, ", owner {id}"))?;
                tap.group.iter().try_for_each(|id| write!(f, ", owning group {id}"))?;
                if tap.multi_queue { f.write_str(", several queues") } else { Ok(()) }
            }
            Self::SetAlias(name, alias) => write!(f, "~ TAP {name}: alias {alias:?}"),
            Self::SetOwner(name, _, differences) => {
                write!(f, "~ TAP {name}: {}", list(differences))
            }
            Self::DeleteLink(name, differences) => {
                write!(f, "- TAP {name}: cannot be changed to {}", list(differences))
            }
            Self::ConfigureLink(spec, differences) => {
                write!(f, "~ TAP {}: {}", spec.name, list(differences))
            }
            Self::RemoveAddress(name, address) => write!(f, "- address {address} of {name}"),
            Self::Firewall(_, change) => change.fmt(f),
            Self::OpenPassage(foreign_chain) => {
                write!(f, "+ passage through the foreign chain {foreign_chain}")
            }
            Self::ClosePassage(foreign_chain) => {
                write!(f, "- passage through the foreign chain {foreign_chain}")
            }
            Self::SetSysctl(name, value) => write!(f, "~ sysctl {name} = {value}"),
            Self::ForgetFlows(flows) => {
                let lines: Vec<_> = flows.iter().map(|f| format!("- flows: {f}")).collect();
                join(f, &lines, "\n")
            }
            Self::DrainLinks(names) => {
                let lines: Vec<_> =
                    names.keys().map(|name| format!("- TAP {name}: down")).collect();
                join(f, &lines, "\n")
            }
            Self::DeleteLinks(_) => f.write_str("- condemned TAPs: deleted"),
            Self::RemoveEmptyTables(..) => f.write_str("- firewall: tables left empty"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(ruleset) => {
                let BaseRuleset { pool, uplinks, confined, .. } = &ruleset.base_ruleset;
                let uplinks: Vec<_> = uplinks.iter().map(ToString::to_string).collect();
                let uplinks = if uplinks.is_empty() { "none".into() } else { uplinks.join(", ") };
                write!(f, "~ firewall: all of it, guests {pool}, uplinks {uplinks}")?;
                if !confined.is_empty() {
                    let from: Vec<_> = confined.from().iter().map(ToString::to_string).collect();
                    write!(f, ", nothing else is forwarded from {}", from.join(", "))?;
                }
                ruleset.entries.iter().try_for_each(|entry| write!(f, "\n+ firewall: {entry}"))
            }
            Self::Delta { remove, add, .. } => {
                let removed = remove.iter().map(|entry| format!("- firewall: {entry}"));
                let added = add.iter().map(|entry| format!("+ firewall: {entry}"));
                join(f, &removed.chain(added).collect::<Vec<_>>(), "\n")
            }
            Self::Remove => f.write_str("- firewall: all of it"),
        }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest { guest } => write!(f, "of guest {guest}"),
            Self::Exposed { protocol, host_address, host_port, guest, guest_port } => {
                let (host_address, host_port) = (*host_address, *host_port);
                let (guest, guest_port) = (*guest, *guest_port);
                Entry::Exposure { protocol: *protocol, host_address, host_port, guest, guest_port }
                    .fmt(f)
            }
            Self::Untranslated { protocol, address: Some(address), port, .. } => {
                write!(f, "{protocol} to {}, untranslated", SocketAddr::new(*address, *port))
            }
            Self::Untranslated { family: Family::V4, protocol, address: None, port } => {
                write!(f, "{protocol} to port {port}, untranslated")
            }
            Self::Untranslated { family: Family::V6, protocol, address: None, port } => {
                write!(f, "{protocol} to port {port} by IPv6, untranslated")
            }
        }
    }
}

fn list(differences: &[LinkDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], with: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(with)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
