//! Background tasks of a long-lived node: creating TAPs in advance, and deleting those of instances that are gone. No
//! instance has their slots meanwhile, so nothing else depends on the task.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeError, host::Interfaces, overlap, session::Operations};
use crate::store::{Lock, ReservedSlot};
use ipnet::IpNet;
use riklet_core::{
    flows::Flows,
    link::LinkSpec,
    model::{InterfaceName, Slot},
    shaping::Twin,
    small::SmallSet,
    workload,
};
use riklet_kernel::{Conntrack, Kernel, KernelError, LinkDeletion, Links, Refusal};

/// Work on reserved slots, to be done by any thread, with its own handle on the kernel in the same network namespace.
/// If it is not done, or not completed, [`WarmNode::repair`](crate::WarmNode::repair) does it.
#[derive(Debug)]
pub struct BackgroundTask {
    work: Work,
    lock: Lock,
}

#[derive(Debug)]
enum Work {
    Create(BTreeMap<Slot, LinkSpec>),
    Delete {
        slots: BTreeSet<Slot>,
        links: BTreeMap<InterfaceName, SmallSet<IpNet>>,
        twins: BTreeSet<InterfaceName>,
        flows: BTreeSet<Flows>,
    },
}

/// The outcome of a background task, for [`WarmNode::finish`](crate::WarmNode::finish).
#[derive(Debug)]
#[non_exhaustive]
pub struct TaskOutcome {
    /// Slots whose TAPs exist now.
    pub ready: BTreeSet<Slot>,
    /// Slots whose TAPs and flows are gone now. One whose flows another task forgets is drained once more after it.
    pub freed: BTreeSet<Slot>,
    /// Slots whose TAPs could not be created, and why.
    pub failed: BTreeMap<Slot, KernelError>,
    /// The slots that were not deleted, and the cause.
    pub kept: Option<(BTreeSet<Slot>, KernelError)>,
    _lock: Lock,
}

impl BackgroundTask {
    /// Does the work. Changes the kernel under the lock of the node that created the task.
    pub fn run(self, kernel: &mut (impl Links + LinkDeletion + Conntrack)) -> TaskOutcome {
        let mut outcome = TaskOutcome {
            ready: BTreeSet::new(),
            freed: BTreeSet::new(),
            failed: BTreeMap::new(),
            kept: None,
            _lock: self.lock,
        };
        match self.work {
            Work::Create(specs) => {
                for (slot, spec) in specs {
                    match kernel.create_link(&spec) {
                        Ok(()) => drop(outcome.ready.insert(slot)),
                        Err(error) => drop(outcome.failed.insert(slot, error)),
                    }
                }
            }
            Work::Delete { slots, links, twins, flows } => {
                // A guest that still sends would begin a flow anew, so the interfaces are set down first.
                let deleted = kernel
                    .drain_links(&links)
                    .and_then(|()| kernel.forget_flows(&flows))
                    .and_then(|()| kernel.delete_links(&links.into_keys().chain(twins).collect()));
                match deleted {
                    Ok(()) => outcome.freed = slots,
                    Err(error) => outcome.kept = Some((slots, error)),
                }
            }
        }
        outcome
    }
}

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn reserve(&mut self, count: usize) -> Result<Option<BackgroundTask>, NodeError> {
        let mut session = self.session()?;
        let (tx, context) = session.begin()?;
        let Some(host) = context.decided(&tx, Interfaces::Recorded)? else { return Ok(None) };
        // If our firewall is not as it must be, the owner of the node has to be determined first.
        let stands = match &host.base_ruleset {
            Some(base_ruleset) => {
                context.kernel.probe_firewall(host.backend, base_ruleset, &BTreeSet::new())?
            }
            None => false,
        };
        if !stands {
            return Ok(None);
        }
        let (pool, config) = (host.node.pool, context.config);
        let (cache, kernel) = (&context.cache, &mut *context.kernel);
        // A slot is taken whether the kernel answers or not: the TAP shows what is wrong.
        let unusable = |slot| {
            cache.is_unusable(slot)
                || overlap::is_taken(kernel, config, pool, slot).unwrap_or(false)
        };
        let mut specs = BTreeMap::new();
        for slot in tx.reserve(count, host.node.pool.capacity(), unusable)? {
            specs.insert(slot, workload::reserved(slot, &host.node)?.link);
        }
        host.record(&tx)?;
        context.commit(tx)?;
        if specs.is_empty() {
            return Ok(None);
        }
        context.cache.begin_task(specs.keys());
        Ok(Some(BackgroundTask { work: Work::Create(specs), lock: session.lock }))
    }

    pub(crate) fn drain(&mut self) -> Result<Option<BackgroundTask>, NodeError> {
        let mut session = self.session()?;
        let (tx, context) = session.begin()?;
        let slots = tx.reserved(ReservedSlot::Draining)?.into_iter();
        let cache = &*context.cache;
        let is_free =
            |slot: &Slot| !cache.in_progress().contains(slot) && !cache.flow_tasks.concern(*slot);
        let slots: BTreeSet<_> = slots.filter(is_free).collect();
        let host = context.decided(&tx, Interfaces::Recorded)?;
        context.commit(tx)?;
        let Some(host) = host.filter(|_| !slots.is_empty()) else { return Ok(None) };
        let (mut links, mut twins) = (BTreeMap::new(), BTreeSet::new());
        for &slot in &slots {
            let link = context.kernel.link(&slot.interface())?;
            // Another program may have deleted our interface, and given its name to another.
            let Some(link) = link.filter(|link| host.owns(link)) else { continue };
            twins.extend(link.shaping.twin.map(|_| Twin::name(slot)));
            links.insert(link.name, link.addresses);
        }
        context.cache.begin_task(&slots);
        let addresses = slots.iter().filter_map(|&slot| host.node.pool.addresses(slot));
        let guests = addresses.flat_map(|addresses| addresses.guests());
        let flows = guests.map(|guest| Flows::Guest { guest }).collect();
        let work = Work::Delete { slots, links, twins, flows };
        Ok(Some(BackgroundTask { work, lock: session.lock }))
    }

    pub(crate) fn finish(&mut self, outcome: &TaskOutcome) -> Result<(), NodeError> {
        let mut session = self.session()?;
        let TaskOutcome { ready, freed, failed, kept, _lock } = outcome;
        let kept = kept.iter().flat_map(|(slots, _)| slots);
        let cache = &mut *session.context.cache;
        cache.end_task(ready.iter().chain(freed).chain(failed.keys()).chain(kept));
        // A slot whose name a foreign interface has is passed over as long as that interface exists.
        let is_occupied = |error: &KernelError| {
            matches!(error.refusal().errno, Some(Refusal::EBUSY | Refusal::EEXIST))
        };
        let (occupied, unusable): (Vec<_>, Vec<_>) =
            failed.iter().partition(|(_, error)| is_occupied(error));
        cache.avoid(unusable.into_iter().map(|(slot, _)| slot));
        cache.forget_flows(freed);
        let (tx, context) = session.begin()?;
        let is_free = |slot: &&Slot| !context.cache.flow_tasks.concern(**slot);
        for &slot in ready {
            tx.set_ready(slot)?;
        }
        for &slot in freed.iter().filter(is_free) {
            tx.free_reserved(slot, ReservedSlot::Draining)?;
        }
        for &slot in failed.keys() {
            tx.free_reserved(slot, ReservedSlot::Creating)?;
        }
        if !occupied.is_empty() {
            let mut passed = tx.passed_over()?;
            passed.extend(occupied.into_iter().map(|(slot, _)| slot));
            tx.set_passed_over(&passed)?;
        }
        context.commit(tx)
    }
}
