//! Changes the kernel to what the records say, without a request for any instance.

use std::collections::BTreeSet;

use super::{
    NodeError, Report,
    host::{Host, Interfaces},
    record::{Change, Changes, fragment},
    session::{Context, Operations, Session, unsettled},
    views::FullView,
};
use crate::store::{Phase, ReservedSlot, StoreError, Tx};
use riklet_core::{
    model::Slot,
    plan::{Adoption, LinkDeletion},
    workload::{self, Fragment},
};
use riklet_kernel::Kernel;

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn repair(&mut self) -> Result<Report, NodeError> {
        self.session()?.reconcile(&BTreeSet::new(), Adoption::Nothing)
    }

    pub(crate) fn heal(&mut self, slots: &BTreeSet<Slot>) -> Result<Report, NodeError> {
        self.session()?.heal(slots)
    }

    pub(crate) fn initialize(&mut self) -> Result<(), NodeError> {
        let mut session = self.session()?;
        let (tx, context) = session.begin()?;
        let host = context.decide(&tx, Interfaces::Listed)?;
        host.record(&tx)?;
        context.commit(tx)
    }
}

impl<K: Kernel> Session<'_, K> {
    /// Changes everything to what the records say. Slots that were just `recovered` from the kernel stay as they are:
    /// no operation on them was interrupted.
    pub(crate) fn reconcile(
        &mut self,
        recovered: &BTreeSet<Slot>,
        adoption: Adoption,
    ) -> Result<Report, NodeError> {
        let (tx, context) = self.begin()?;
        let Some(host) = context.decided_or_unclaimed(&tx, Interfaces::Listed)? else {
            context.kernel.abandon_firewall()?;
            return Ok(Report::default());
        };
        let unsettled = unsettled(&tx, context.cache)?;
        let interrupted = unsettled.slots().filter(|slot| !recovered.contains(slot)).collect();
        let (cache, deletion) = (&*context.cache, LinkDeletion::Immediate);
        let view = FullView::new(&host, &tx, cache, &interrupted, deletion)?.adopting(adoption);
        let rules = context.known_rules(&tx, &host)?;
        let sight = context.sight_of_all(view, rules)?;
        host.record(&tx)?;
        context.commit(tx)?;
        let converged = self.converge(&host, sight, &interrupted)?;
        Ok(self.commit_outcome(converged, &[])?.report())
    }

    pub(crate) fn heal(&mut self, slots: &BTreeSet<Slot>) -> Result<Report, NodeError> {
        let (tx, context) = self.begin()?;
        let Some(host) = context.decided(&tx, Interfaces::Listed)? else {
            context.kernel.abandon_firewall()?;
            return Ok(Report::default());
        };
        let interrupted = context.interrupted(&tx)?;
        let (mut changes, mut free) = (Changes::new(), BTreeSet::new());
        for &slot in slots {
            match context.shall_be(&host, &tx, slot)? {
                Shall::Be(fragment) => {
                    let (before, after) = (Some((*fragment).clone()), Some(*fragment));
                    changes.insert(slot, Change { before, after, ..Change::default() });
                }
                Shall::Wait => {}
                Shall::BeFree => drop(free.insert(slot)),
                Shall::NotBe => {
                    drop(tx);
                    return self.reconcile(&BTreeSet::new(), Adoption::Nothing);
                }
            }
        }
        if !free.is_empty() {
            // These slots may have been passed over for a foreign interface that is gone.
            tx.set_passed_over(&tx.passed_over()?.difference(&free).copied().collect())?;
        }
        host.record(&tx)?;
        let rules = context.known_rules(&tx, &host)?;
        let sight = context.look(&tx, &host, &changes, (&interrupted, rules))?;
        context.commit(tx)?;
        let converged = self.converge(&host, sight, &interrupted)?;
        Ok(self.commit_outcome(converged, &[])?.report())
    }
}

/// The state that the records ask for in a slot.
enum Shall {
    /// The slot has these objects.
    Be(Box<Fragment>),
    /// A background task works on the slot, or will; or there is nothing to do.
    Wait,
    /// No instance has the slot, and it has no interface.
    BeFree,
    /// The slot has an interface that leaked or is foreign.
    NotBe,
}

impl<K: Kernel> Context<'_, K> {
    fn shall_be(&mut self, host: &Host, tx: &Tx<'_>, slot: Slot) -> Result<Shall, NodeError> {
        if self.cache.in_progress().contains(&slot) {
            return Ok(Shall::Wait);
        }
        let holder = match tx.holder(slot) {
            Err(StoreError::Unreadable(_)) => return Ok(Shall::Wait),
            holder => holder?,
        };
        Ok(match (holder, tx.reserved_state(slot)?) {
            (Some(record), _) if record.phase == Phase::Removing => Shall::Wait,
            (Some(record), _) => Shall::Be(fragment(host, &record)?.into()),
            (None, Some(ReservedSlot::Ready)) => {
                Shall::Be(workload::reserved(slot, &host.node)?.into())
            }
            (None, Some(ReservedSlot::Draining)) => Shall::Wait,
            _ if self.kernel.link(&slot.interface())?.is_none() => Shall::BeFree,
            _ => Shall::NotBe,
        })
    }
}
