//! Slots that nothing can be done for. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{Adoption, Desired, Observed, display::list};
use crate::{
    link::{LinkDifference, LinkSpec, LinkState, Remedy},
    model::{InstanceName, InterfaceName, Mark, Owner, Slot},
    workload::{Fragment, alias},
};

/// An interface has the name that a slot needs, and is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the interface {name} exists and is not ours: its alias is {}", alias.as_deref().unwrap_or("empty"))]
pub struct ForeignLink {
    /// The interface.
    pub name: InterfaceName,
    /// Its alias.
    pub alias: Option<String>,
}

/// The needs of an instance are unknown, since its record cannot be read.
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
    /// A foreign interface has the slot's name.
    #[error(transparent)]
    Foreign(#[from] ForeignLink),
    /// Its TAP must be replaced, which would cut off a running guest. The slot is left as it is.
    #[error("a VMM has the TAP {name} open, which cannot be changed to {}", list(differences))]
    InUse {
        /// The TAP.
        name: InterfaceName,
        /// The differences that cannot be repaired.
        differences: Vec<LinkDifference>,
    },
    /// A VMM has a TAP of ours open that no record has. It is neither deleted nor given to another instance.
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

/// Returns the obstacles.
pub(super) fn blocked(desired: &Desired, observed: &Observed) -> BTreeMap<Slot, Obstacle> {
    let wanted = desired.fragments.iter().filter(|(slot, _)| !desired.untouched.contains(slot));
    let obstacle = |(slot, fragment): (&Slot, &Arc<Fragment>)| {
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
    let differences = repaired_by(spec.differences(link), Remedy::Replace);
    (link.open && !differences.is_empty()).then_some(Obstacle::InUse { name, differences })
}

/// Reports whether an interface that no instance has is ours to delete. One that names no owner may belong to any
/// records of an earlier version.
pub(super) fn is_ours(desired: &Desired, link: &LinkState) -> bool {
    match alias::mark(link.alias.as_deref()) {
        None => false,
        Some(Mark::Unsigned) => {
            let leaves = |slot| desired.leaving.contains(&slot);
            desired.adoption != Adoption::Nothing
                || Slot::of_interface(link.name.as_str()).is_some_and(leaves)
        }
        // If other records have a claim, nothing is done at all.
        Some(Mark::Signed { .. }) => true,
    }
}

/// Returns those of the differences that this remedy repairs.
pub(super) fn repaired_by(differences: Vec<LinkDifference>, remedy: Remedy) -> Vec<LinkDifference> {
    differences.into_iter().filter(|difference| difference.remedy() == remedy).collect()
}
