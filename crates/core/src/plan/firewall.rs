//! The steps that change the firewall, and the flows that end with its rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Desired, LinkDeletion, Observed, Step, rules_stand};
use crate::{
    firewall::{BaseRuleset, BaseState, Change, Entry, Ruleset, nftables::tables::left_over},
    flows::Flows,
    model::{Family, Slot},
    reach::{self, Block},
    workload::Fragment,
};

/// Returns the step that changes the firewall, and the one that makes flows follow it.
pub(super) fn steps(
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
    let intact = rules_stand(observed);
    let mut flows = flows(desired, &opened, &remove, &restarted, leaving);
    if !intact {
        flows.extend(begun_in_a_gap(desired, observed));
    }
    let flows = (!flows.is_empty()).then_some(Step::ForgetFlows(flows));
    let Some(base_ruleset) = &desired.base_ruleset else {
        return (removal(desired, observed), flows);
    };
    let change = if !intact {
        Some(Change::Reset(Ruleset { base_ruleset: base_ruleset.clone(), entries }))
    } else if add.is_empty() && remove.is_empty() {
        None
    } else {
        let named: BTreeSet<_> =
            add.iter().chain(&remove).filter_map(Entry::named_by_policy).collect();
        let is_anew =
            |entry: &&Entry| entry.named_by_policy().is_some_and(|place| named.contains(&place));
        let whole = |some: BTreeSet<Entry>, all: &BTreeSet<Entry>| {
            some.into_iter().chain(all.iter().filter(is_anew).copied()).collect()
        };
        let (remove, add) = (whole(remove, there), whole(add, &entries));
        Some(Change::Delta { remove, add, owner: base_ruleset.owner.clone() })
    };
    let change = change.map(|change| Step::Firewall(desired.backend, change));
    (change.into_iter().collect(), flows)
}

/// Returns the steps that remove all our objects from the firewall. If a process was killed after the first step, the
/// second is still planned.
fn removal(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let backend = desired.backend;
    let ours_stands = observed.firewall.base_ruleset != BaseState::Absent;
    let ours_is_left = left_over(&observed.empty_tables, &desired.foreign_tables).next().is_some();
    let remove = ours_stands.then_some(Step::Firewall(backend, Change::Remove));
    let tables = (ours_stands || ours_is_left)
        .then(|| Step::RemoveEmptyTables(backend, desired.foreign_tables.clone()));
    remove.into_iter().chain(tables).collect()
}

/// Returns the flows to forget: established flows keep the translation that they began with, so those concerned must
/// begin anew.
///
/// `restarted` are slots for which it is not known what was changed. `leaving` are slots whose flows are forgotten with
/// them.
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
    let new: BTreeSet<IpAddr> = desired.beginning.iter().flat_map(guests).collect();
    let now = match desired.deletion {
        LinkDeletion::Immediate => gone.clone(),
        LinkDeletion::Deferred => restarted.iter().flat_map(guests).collect(),
    };
    let guests = now.iter().map(|&guest| Flows::Guest { guest });
    let withdrawn = remove.iter().filter_map(|entry| match *entry {
        Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports }
            if !gone.contains(&guest) =>
        {
            Some(Flows::Exposed { protocol, host_address, host_ports, guest, guest_ports })
        }
        _ => None,
    });
    let opened = add.iter().filter_map(Entry::untranslated);
    let ended = ended(desired, add.iter().chain(remove), &(&gone | &new));
    guests.chain(withdrawn).chain(opened).chain(ended).collect()
}

/// Returns the flows that the policies no longer allow, of guests whose policy has entries among these.
fn ended<'a>(
    desired: &Desired,
    changed: impl Iterator<Item = &'a Entry>,
    silent: &BTreeSet<IpAddr>,
) -> BTreeSet<Flows> {
    let mut guests: BTreeMap<IpAddr, Vec<&Entry>> = changed
        .filter(|entry| {
            matches!(entry, Entry::Policy { .. } | Entry::Reach { .. } | Entry::Pinned { .. })
        })
        .map(Entry::guest)
        .filter(|guest| !silent.contains(guest))
        .map(|guest| (guest, vec![]))
        .collect();
    let Some(base_ruleset) = desired.base_ruleset.as_ref().filter(|_| !guests.is_empty()) else {
        return BTreeSet::new();
    };
    for entry in desired.fragments.values().flat_map(|fragment| &fragment.entries) {
        if let Some(entries) = guests.get_mut(&entry.guest()) {
            entries.push(entry);
        }
    }
    let ended = |(guest, entries): (IpAddr, Vec<&Entry>)| refused(guest, &entries, base_ruleset);
    guests.into_iter().flat_map(ended).collect()
}

/// Returns the flows that a guest with these entries may not have sent.
fn refused(guest: IpAddr, entries: &[&Entry], base_ruleset: &BaseRuleset) -> Vec<Flows> {
    let family = Family::of(guest);
    let at = |host| {
        let blocks = reach::refused(entries.iter().copied(), base_ruleset.egress, family, host);
        blocks.into_iter().map(move |to| Flows::Sent { guest, host, to })
    };
    at(false).chain(at(true)).collect()
}

/// Returns the flows that the rules do not allow, of guests that were there before the rules: other rules stood, or none.
/// Flows that they allow go on.
fn begun_in_a_gap(desired: &Desired, observed: &Observed) -> BTreeSet<Flows> {
    let Some(base_ruleset) = &desired.base_ruleset else { return BTreeSet::new() };
    let stayed =
        |slot: &Slot| observed.links.contains_key(slot) && !desired.beginning.contains(slot);
    let staying = desired.fragments.iter().filter(|(slot, _)| stayed(slot));
    let (mut with_policy, mut families) = (BTreeMap::<IpAddr, Vec<&Entry>>::new(), BTreeSet::new());
    for (_, fragment) in staying {
        families.extend(fragment.addresses.guests().map(Family::of));
        let entries = fragment.entries.iter();
        let of_policy =
            entries.filter(|entry| matches!(entry, Entry::Policy { .. } | Entry::Reach { .. }));
        for entry in of_policy {
            with_policy.entry(entry.guest()).or_default().push(entry);
        }
    }
    let pools = [Some(desired.pool.v4().into()), desired.pool.v6().map(IpNet::from)];
    let pools = pools.into_iter().flatten();
    let pools = pools.filter(|pool: &IpNet| families.contains(&Family::of_network(*pool)));
    let of_all = pools.flat_map(|guests| {
        let others = [false, true].into_iter().flat_map(move |host| {
            let family = Family::of_network(guests);
            let blocks = reach::refused([], base_ruleset.egress, family, host).into_iter();
            blocks.map(move |to| Flows::SentByOthers { guests, host, to })
        });
        [Flows::Direct { guests }].into_iter().chain(others)
    });
    // A guest that may reach everything is none of the others either.
    let marked =
        with_policy.keys().map(|&guest| Flows::Sent { guest, host: false, to: Block::NOTHING });
    let with_policy =
        with_policy.iter().flat_map(|(&guest, entries)| refused(guest, entries, base_ruleset));
    of_all.chain(marked).chain(with_policy).collect()
}
