//! Decides whether a new instance may have a slot, by the interface that exists there. Pure.

use std::collections::BTreeSet;

use super::{Desired, Observed};
use crate::{
    link::LinkState,
    model::{InstanceName, Slot},
    workload::alias,
};

/// Returns whether a new instance of this name may have the slot of an interface: it must bear a mark, and no VMM may
/// have it open, except one of an instance of the same name. If other records claim it, [`plan`](super::plan) reports
/// that.
#[must_use]
pub fn is_usable(link: &LinkState, name: &InstanceName) -> bool {
    let alias = link.alias.as_deref();
    let is_its_own = || alias.and_then(alias::parse).is_some_and(|marked| marked.name == *name);
    alias::mark(alias).is_some() && (!link.open || is_its_own())
}

/// Returns the slots whose interfaces no new instance may have, of those that no instance has.
#[must_use]
pub fn unusable(desired: &Desired, observed: &Observed) -> BTreeSet<Slot> {
    let vacant = |slot: &Slot| {
        !desired.fragments.contains_key(slot)
            && !desired.leaving.contains(slot)
            && !desired.untouched.contains(slot)
    };
    let taken = |link: &LinkState| link.open || alias::mark(link.alias.as_deref()).is_none();
    let found = observed.links.iter().filter(|(slot, link)| vacant(slot) && taken(link));
    found.map(|(&slot, _)| slot).collect()
}
