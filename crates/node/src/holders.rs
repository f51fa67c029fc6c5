//! Looks up the instances of slots for those who answer their guests.

use std::collections::{BTreeMap, BTreeSet};

use super::{Instance, Node, NodeError, host};
use crate::store::Store;
use riklet_core::{
    link::LinkState,
    model::{Addresses, Pool, Slot},
    workload::alias,
};
use riklet_kernel::Kernel;

impl<K: Kernel> Node<K> {
    /// Returns the instances that hold these slots, with the addresses and the MTU that their TAPs have. Left out are slots
    /// without an instance, or whose instance is being taken down, TAPs that are not ours, and unreadable records.
    ///
    /// Opens the records for this call only, and waits for no other operation. Changes nothing.
    ///
    /// # Errors
    /// Fails if the records or the kernel cannot be read.
    pub fn holders(
        &mut self,
        slots: &BTreeSet<Slot>,
    ) -> Result<BTreeMap<Slot, Instance>, NodeError> {
        let Some(store) = Store::open_existing(&self.config.state_dir)? else {
            return Ok(BTreeMap::new());
        };
        let Some((_, pool)) = host::decided_by(&store)? else { return Ok(BTreeMap::new()) };
        let (owner, _) = host::owner(&self.config, &store)?;
        let mut found = BTreeMap::new();
        for &slot in slots {
            let Some(record) = store.present(slot)? else { continue };
            let link = self.kernel.link(&slot.interface())?;
            let Some(link) = link.filter(|link| {
                alias::mark(link.alias.as_deref()).is_some_and(|mark| owner.signed(&mark))
            }) else {
                continue;
            };
            let Some(addresses) = addresses(pool, slot, &link) else { continue };
            let instance = Instance::new(record.workload, slot, record.phase, addresses, link.mtu);
            found.insert(slot, instance);
        }
        Ok(found)
    }
}

/// Returns the addresses of a slot. It has those of IPv6 if its TAP has.
fn addresses(pool: Pool, slot: Slot, link: &LinkState) -> Option<Addresses> {
    let Addresses { v4, v6 } = pool.addresses(slot)?;
    let v6 = v6.filter(|ends| link.addresses.contains(&Addresses::network(ends.host.into())));
    Some(Addresses { v4, v6 })
}
