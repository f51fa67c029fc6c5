//! What a process that stays has another thread do: making TAPs in advance, and deleting those of instances that are
//! gone. Their slots are nobody's meanwhile, so nothing else depends on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, NodeError};
use crate::store::{Lock, ReservedSlot};
use riklet_core::{
    flows::Flows,
    link::LinkSpec,
    model::{InterfaceName, Slot},
    workload,
};
use riklet_kernel::{Kernel, KernelError};

/// Work on spare slots, to be done by any thread, with a kernel of its own of the same network namespace. Where it is
/// not done, or not to its end, [`Node::repair`] does it.
#[derive(Debug)]
pub struct BackgroundTask {
    work: Work,
    lock: Lock,
}

#[derive(Debug)]
enum Work {
    Prepare(BTreeMap<Slot, LinkSpec>),
    Reap { slots: BTreeSet<Slot>, links: BTreeSet<InterfaceName>, flows: BTreeSet<Flows> },
}

/// A chore that was done, for [`Node::finish`].
#[derive(Debug)]
pub struct TaskOutcome {
    /// Slots whose TAPs are there now.
    pub warm: BTreeSet<Slot>,
    /// Slots whose TAPs and flows are gone now.
    pub free: BTreeSet<Slot>,
    /// Slots whose TAPs could not be made, and why.
    pub failed: BTreeMap<Slot, KernelError>,
    /// Why nothing was deleted.
    pub kept: Option<(BTreeSet<Slot>, KernelError)>,
    _lock: Lock,
}

impl BackgroundTask {
    /// Does it. The kernel's changes are made under the lock of whoever asked for them.
    pub fn run(self, kernel: &mut impl Kernel) -> TaskOutcome {
        let mut done = TaskOutcome {
            warm: BTreeSet::new(),
            free: BTreeSet::new(),
            failed: BTreeMap::new(),
            kept: None,
            _lock: self.lock,
        };
        match self.work {
            Work::Prepare(specs) => {
                for (slot, spec) in specs {
                    match kernel.create_link(&spec) {
                        Ok(()) => drop(done.warm.insert(slot)),
                        Err(error) => drop(done.failed.insert(slot, error)),
                    }
                }
            }
            Work::Reap { slots, links, flows } => {
                let names = links.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
                // They are down already, unless somebody set one up since.
                let reaped = kernel
                    .drain_links(&names)
                    .and_then(|()| kernel.forget_flows(&flows))
                    .and_then(|()| kernel.delete_links(&links));
                match reaped {
                    Ok(()) => done.free = slots,
                    Err(error) => done.kept = Some((slots, error)),
                }
            }
        }
        done
    }
}

impl<K: Kernel> Node<K> {
    /// Reserves so many slots, whose TAPs are to be made; `None` where there is none to reserve, or the node has not
    /// been used yet. The process must be [`Node::resident`], and hand what the chore says to [`Self::finish`].
    ///
    /// # Errors
    /// Where the records cannot be changed.
    pub fn prepare(&mut self, count: usize) -> Result<Option<BackgroundTask>, NodeError> {
        let lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let Some(host) = self.decided(&tx, false)? else {
            return Ok(None);
        };
        let resident = self.resident.get_or_insert_default();
        let avoid = |slot| resident.avoid.contains(&slot);
        let mut specs = BTreeMap::new();
        for slot in tx.spare(count, host.node.pool.capacity(), avoid)? {
            specs.insert(slot, workload::spare(slot, &host.node)?.link);
        }
        host.record(&tx)?;
        tx.commit()?;
        self.keep_store(store);
        if specs.is_empty() {
            return Ok(None);
        }
        let resident = self.resident.get_or_insert_default();
        resident.busy.extend(specs.keys());
        Ok(Some(BackgroundTask { work: Work::Prepare(specs), lock }))
    }

    /// The condemned slots, whose TAPs are to be deleted; `None` where there is none that no chore works on.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn draining(&mut self) -> Result<Option<BackgroundTask>, NodeError> {
        let lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let slots = tx.spares(ReservedSlot::Draining)?;
        let host = self.decided(&tx, false)?;
        drop(tx);
        self.keep_store(store);
        let resident = self.resident.get_or_insert_default();
        let slots: BTreeSet<_> =
            slots.into_iter().filter(|slot| !resident.busy.contains(slot)).collect();
        let Some(host) = host.filter(|_| !slots.is_empty()) else { return Ok(None) };
        let mut links = BTreeSet::new();
        for link in slots.iter().map(|slot| self.kernel.link(&slot.interface())) {
            // Somebody may have deleted ours, and given the name to another.
            links.extend(link?.filter(|link| host.owns(link)).map(|link| link.name));
        }
        self.resident.get_or_insert_default().busy.extend(&slots);
        let addresses = slots.iter().filter_map(|&slot| host.node.pool.addresses(slot));
        let guests = addresses.flat_map(|addresses| addresses.guests());
        let flows = guests.map(|guest| Flows::Guest { guest }).collect();
        Ok(Some(BackgroundTask { work: Work::Reap { slots, links, flows }, lock }))
    }

    /// Records what a chore did. Slots whose TAPs could not be made are not prepared again by this process.
    ///
    /// # Errors
    /// Where the records cannot be changed: then [`Self::repair`] finds the chore undone.
    pub fn finish(&mut self, done: &TaskOutcome) -> Result<(), NodeError> {
        let _lock = self.lock()?;
        let resident = self.resident.get_or_insert_default();
        let kept = done.kept.iter().flat_map(|(slots, _)| slots);
        for slot in done.warm.iter().chain(&done.free).chain(done.failed.keys()).chain(kept) {
            resident.busy.remove(slot);
        }
        resident.avoid.extend(done.failed.keys());
        resident.reaped(&done.free);
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        for &slot in &done.warm {
            tx.warm(slot)?;
        }
        for &slot in &done.free {
            tx.free_spare(slot, ReservedSlot::Draining)?;
        }
        for &slot in done.failed.keys() {
            tx.free_spare(slot, ReservedSlot::Creating)?;
        }
        tx.commit()?;
        self.keep_store(store);
        Ok(())
    }
}
