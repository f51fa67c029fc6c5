//! Drift: the [`super::healer`] decides when to look at what the kernel reported, and the engine repairs it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    core::Core,
    healer::{Look, Subject},
};
use crate::now;
use riklet_api::chain;
use riklet_core::{
    model::{InterfaceName, Slot},
    plan::{CutOff, Step},
    shaping::Twin,
};
use riklet_sdn::{NodeError, Occupant, Report, Warning, store::ReservedSlot};

/// The pause between looks at state that the kernel does not report.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The surprises for users at the last look.
#[derive(Debug)]
pub(super) struct KnownWarnings {
    pub(super) found: BTreeSet<Warning>,
    /// True if the next look is at everything, and not only at local processes.
    pub(super) stale: bool,
}

impl Core {
    /// Reads the kernel's notifications, and marks what others changed as suspect.
    pub(super) fn listen(&mut self) {
        let now = now();
        if self.local.node.draining() > 0 && self.background.is_idle() {
            self.draining_since = self.draining_since.or(Some(now));
        }
        let changed_by_us = std::mem::take(&mut self.changed_by_us);
        let changes = match self.local.node.kernel().changes() {
            Ok(changes) => changes,
            Err(error) => {
                self.events.error(&error);
                self.healer.failed(Subject::All, now);
                return;
            }
        };
        if changes.firewall || changes.uplinks || changes.lost {
            self.healer.suspect(Subject::All, now);
        }
        if changes.foreign_chains || changes.forwarding {
            self.healer.suspect(Subject::Shared, now);
        }
        for moved in &changes.moves {
            self.events.noticed(moved);
        }
        self.causes.extend(changes.causes);
        if !changes.links.is_subset(&changed_by_us) {
            self.local.node.kernel().doubt_firewall();
        }
        for slot in changes.links {
            if changed_by_us.contains(&slot) {
                self.healer.changed_by_us(slot, now);
            } else {
                self.healer.suspect(Subject::Slot(slot), now);
                // Another process may have taken a ready slot, or left a draining one.
                self.refill = true;
                self.least_ready = None;
                self.draining_since = self.draining_since.or(Some(now));
            }
        }
        self.warnings.stale |= changes.translations || changes.lost;
        if now >= self.next_refresh {
            self.next_refresh = now + REFRESH_INTERVAL;
            let whole = self.local.node.kernel().refresh();
            self.healer.suspect(if whole { Subject::All } else { Subject::Shared }, now);
            // Translations change without a notification where the ruleset does.
            self.warnings.stale |= whole;
            self.look_at_shadows();
        }
    }

    /// Repairs drift.
    pub(super) fn heal(&mut self) {
        let now = now();
        let Some(look) = self.healer.take(now) else { return };
        // Deleting their TAPs is work of ours that a look at everything does early.
        let draining = || self.local.node.look_at_records(|s| s.reserved(ReservedSlot::Draining));
        let draining = matches!(look, Look::All).then(draining);
        let draining = draining.and_then(Result::ok).and_then(Result::ok).unwrap_or_default();
        let (healed, subjects) = match &look {
            Look::All => (self.local.node.repair(), vec![Subject::All]),
            Look::Slots(slots) => {
                let subjects = slots.iter().copied().map(Subject::Slot);
                (self.local.node.heal(slots), subjects.chain([Subject::Shared]).collect())
            }
        };
        match healed {
            Ok(mut report) => {
                without_drains(&mut report.done, &draining.into_iter().collect());
                // A look at some slots of records that were not used yet does nothing, and shows nothing.
                if matches!(look, Look::All) || !report.done.is_empty() {
                    self.failed_repair = None;
                }
                self.note_repair(&report, now);
            }
            Err(error) => {
                let cause = cause(&error);
                if self.failed_repair.as_ref() != Some(&cause) {
                    self.events.error(&error);
                    self.failed_repair = Some(cause);
                }
                for subject in subjects {
                    self.healer.failed(subject, now);
                }
            }
        }
    }

    /// Records the repairs as events, and notes them as [`Self::note_changes`] does.
    pub(super) fn note_repair(&mut self, report: &Report, now: Instant) {
        if !report.done.is_empty() {
            self.events.repaired(report);
        }
        self.note_changes(report, now);
    }

    /// Notes what was changed, and for how long each subject backs off if it drifts again.
    pub(super) fn note_changes(&mut self, report: &Report, now: Instant) {
        let mut repaired = BTreeSet::new();
        for step in &report.done {
            let shared = match step {
                Step::Firewall(..) => Subject::All,
                _ => Subject::Shared,
            };
            repaired.insert(step.slot().map_or(shared, Subject::Slot));
            self.changed_by_us.extend(step.slot());
        }
        for subject in repaired {
            if let Some(pause) = self.healer.repaired(subject, now) {
                self.events.backs_off(subject.slot(), pause);
            }
        }
        self.note_cut_offs(report);
        for failure in &report.failures {
            self.announce_failure(failure);
            self.healer.failed(Subject::Slot(failure.slot), now);
        }
    }

    /// Records as events which exposures began to take packets of others, and which no longer do. The kernel does not notify
    /// of listeners. Translations of others and the host's addresses are looked at only after something has changed,
    /// since that costs as much as there are records.
    fn look_at_shadows(&mut self) {
        let found = if std::mem::take(&mut self.warnings.stale) {
            self.local.node.warnings()
        } else {
            let others = self.warnings.found.iter().filter(|warning| !is_process(warning)).cloned();
            let others: Vec<_> = others.collect();
            let processes = self.local.node.shadowed_processes();
            processes.map(|found| found.into_iter().map(Warning::Shadows).chain(others).collect())
        };
        match found {
            Ok(found) => self.note_warnings(found.into_iter().collect()),
            Err(error) => self.events.error(&error),
        }
    }

    fn note_warnings(&mut self, found: BTreeSet<Warning>) {
        let before = std::mem::replace(&mut self.warnings.found, found);
        for warning in self.warnings.found.difference(&before) {
            self.events.warned(warning);
        }
        for warning in before.difference(&self.warnings.found) {
            self.events.noticed(&format!("no longer: {warning}"));
        }
    }

    /// Records as events which foreign chains began to cut functions off, and which no longer do.
    fn note_cut_offs(&mut self, report: &Report) {
        let cut_offs = report.warnings.iter().filter_map(|warning| match warning {
            Warning::CutOff(cut_off) => Some(cut_off.clone()),
            _ => None,
        });
        let before = std::mem::replace(&mut self.cut_offs, cut_offs.collect());
        for cut_off in self.cut_offs.difference(&before) {
            self.events.cut_off(cut_off);
        }
        let chains: BTreeSet<_> =
            self.cut_offs.iter().map(|cut_off| &cut_off.foreign_chain).collect();
        for CutOff { foreign_chain, .. } in &before {
            if !chains.contains(foreign_chain) {
                self.events.noticed(&format!("{foreign_chain} no longer cuts functions off"));
            }
        }
    }
}

/// Removes the steps that only delete the TAPs of these slots. Flows that are left to be forgotten are the rest of an
/// operation, which may go on: nobody else makes any.
fn without_drains(steps: &mut Vec<Step>, draining: &BTreeSet<Slot>) {
    let are_draining = |mut names: Box<dyn Iterator<Item = &InterfaceName> + '_>| {
        names.all(|n| Twin::slot_of_either(n.as_str()).is_some_and(|s| draining.contains(&s)))
    };
    let deletes = |step: &Step| match step {
        Step::DrainLinks(names) => are_draining(Box::new(names.keys())),
        Step::DeleteLinks(names) => are_draining(Box::new(names.iter())),
        _ => false,
    };
    steps.retain(|step| !deletes(step));
    if steps.iter().all(|step| matches!(step, Step::ForgetFlows(_))) {
        steps.clear();
    }
}

fn is_process(warning: &Warning) -> bool {
    matches!(warning, Warning::Shadows(shadow) if matches!(shadow.occupant, Occupant::Process(_)))
}

/// Returns the text by which one cause of failed repairs is told from another. How many objects others claim may change
/// with every look.
fn cause(error: &NodeError) -> String {
    match error {
        NodeError::Claimed { claims, .. } => {
            claims.first().map(|claim| format!("{:?}", claim.holder)).unwrap_or_default()
        }
        error => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::flows::Flows;

    #[test]
    fn the_rest_of_an_operation_is_no_repair() {
        let guest = [10, 231, 0, 2].into();
        let flows = || Step::ForgetFlows([Flows::Guest { guest }].into());
        let names = ["rik3", "rik3-egress"].map(|name| name.parse().unwrap());
        let deletes = || Step::DeleteLinks(names.clone().into());
        let draining = [Slot::of_interface("rik3").unwrap()].into();
        for rest in [vec![flows()], vec![deletes()], vec![deletes(), flows()]] {
            let mut steps = rest;
            without_drains(&mut steps, &draining);
            assert_eq!(steps, []);
        }
        // Somebody else has made a slot's TAP unfit.
        let mut steps = vec![deletes(), flows()];
        without_drains(&mut steps, &BTreeSet::new());
        assert_eq!(steps, [deletes(), flows()]);
    }
}
